"""SPF (RFC 7208): the grammar of what a person may add, the text of records, the review of a whole record.

Nothing is looked up here: only the terms as written are judged.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from standards import limits, names
from standards.finding import Finding, Invalid, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

QUALIFIERS: Final = "+-~?"
ENDS: Final = ("-all", "~all", "?all")  # the strictest first
DENY_ALL: Final = "v=spf1 -all"  # a name that never sends (RFC 7208 section 10.1.2)

_LOOKUPS: Final = frozenset({"include", "a", "mx", "ptr", "exists", "redirect"})
# RFC 7208 section 7.1: macro-expand, "%%", "%_", "%-", or any visible character but "%"
_MACRO: Final = r"%\{[slodiphcrtv][0-9]*r?[.\-+,/_=]*\}|%%|%_|%-"
_CLIENT_MACRO: Final = re.compile(r"%\{[ip]", re.IGNORECASE)
_MACRO_STRING: Final = re.compile(rf"(?:{_MACRO}|[\x21-\x24\x26-\x7e])+", re.IGNORECASE)
_TERM: Final = re.compile(r"(?P<qualifier>[+\-~?]?)(?P<name>[A-Za-z][A-Za-z0-9_.-]*)(?P<rest>.*)")
_MODIFIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*=")
_DUAL_CIDR: Final = re.compile(r"(?P<domain>.*?)(?:/(?P<v4>[0-9]{1,2}))?(?://(?P<v6>[0-9]{1,3}))?")

# At or below these lengths a network holds whole providers, so that it authorises strangers.
_STRANGERS_V4: Final = 8
_STRANGERS_V6: Final = 19
# At or below these they hold many networks of one provider, or all of it: rarely meant.
_WIDE_V4: Final = 16
_WIDE_V6: Final = 32
_NARROWEST: Final = {4: 32, 6: 128}

# Includes of services known to have let one customer send with another's domain.
_SHARED: Final[Mapping[str, str]] = {
    "spf.protection.outlook.com": "all customers of Microsoft 365 send from the same addresses",
    "relay.mailchannels.net": "all customers of all its hosting companies send from the same addresses",
    "spf.privateemail.com": "all customers of Private Email send from the same addresses",
    "spf.web-hosting.com": "all shared web servers of the provider may send",
    "websitewelcome.com": "all shared web servers of the provider may send",
    "secureserver.net": "all shared web servers of the provider may send",
    "bluehost.com": "all shared web servers of the provider may send",
}


def _not_a_mechanism(text: str, because: str, fix: str = "") -> Invalid:
    return Invalid(
        f"{names.shown(text)} is not usable in an SPF record: {because}",
        id="spf-mechanism-invalid",
        expected="a mechanism such as ip4:192.0.2.7, ip6:2001:db8::/64, a:www.example.com or mx",
        why="one bad term makes the whole record a permanent error (RFC 7208 section 4.6)",
        fix=fix or "correct the term or take it out",
    )


def mechanism(text: str) -> str:
    """One mechanism as a person may add it, in canonical spelling (RFC 7208 section 12)."""
    match = _TERM.fullmatch(text.strip())
    if match is None:
        raise _not_a_mechanism(text, "it has no mechanism's form")
    qualifier, name, rest = match["qualifier"], match["name"].lower(), match["rest"]
    match name:
        case "ip4" | "ip6":
            return f"{qualifier}{name}:{_network(text, name, rest)}"
        case "a" | "mx":
            return f"{qualifier}{name}{_domain_and_cidr(text, rest)}"
        case "exists":
            return f"{qualifier}{name}:{_domain_spec(text, rest.removeprefix(':'))}"
        case "include":
            raise _not_a_mechanism(text, "includes have their own list", "write its domain into spf.includes")
        case "all":
            raise _not_a_mechanism(text, "it ends a record", 'set spf.all, for example "~all"')
        case "ptr":
            raise _not_a_mechanism(
                text, "RFC 7208 section 5.5 says: do not use ptr", "list the addresses with ip4 and ip6"
            )
        case "redirect" | "exp":
            raise _not_a_mechanism(text, "it is a modifier, and receivers ignore redirect beside all")
    raise _not_a_mechanism(text, f"there is no mechanism {names.shown(name)}")


def _network(text: str, name: str, rest: str) -> str:
    if not rest.startswith(":"):
        raise _not_a_mechanism(text, f"{name} needs ':' and an address")
    parse = ipaddress.IPv4Network if name == "ip4" else ipaddress.IPv6Network
    try:
        network = parse(rest[1:], strict=False)
    except ValueError as error:
        raise _not_a_mechanism(text, f"{names.shown(rest[1:])} is not an address of {name}") from error
    if network.prefixlen == network.max_prefixlen:
        return network.network_address.compressed
    return network.compressed


def _domain_and_cidr(text: str, rest: str) -> str:
    match = _DUAL_CIDR.fullmatch(rest)
    if match is None:  # pragma: no cover  (the first group takes anything)
        raise _not_a_mechanism(text, "its prefix lengths are not readable")
    domain, v4, v6 = match["domain"], match["v4"], match["v6"]
    if int(v4 or 0) > 32 or int(v6 or 0) > 128:  # noqa: PLR2004  (bits of an address)
        raise _not_a_mechanism(text, "the prefix is longer than an address")
    cidr = (f"/{int(v4)}" if v4 else "") + (f"//{int(v6)}" if v6 else "")
    if not domain:
        return cidr
    if not domain.startswith(":"):
        raise _not_a_mechanism(text, "a domain after a mechanism is set off with ':'")
    return f":{_domain_spec(text, domain[1:])}{cidr}"


def included(text: str) -> str:
    """A domain as a person may include it, a macro of RFC 7208 section 7 in it or not; raises `Invalid`."""
    return _domain_spec(f"include:{text.strip()}", text.strip())


def _domain_spec(text: str, spec: str) -> str:
    if "%" in spec:
        if not _MACRO_STRING.fullmatch(spec):
            raise _not_a_mechanism(text, "its macro is not one of RFC 7208 section 7")
        return spec
    try:
        ipaddress.ip_address(spec)
    except ValueError:
        pass
    else:
        kind = "ip6" if ":" in spec else "ip4"
        raise _not_a_mechanism(text, "a name is needed here, not an address", f"write {kind}:{spec}")
    try:
        name = names.dns_name(spec)
    except Invalid as error:
        raise _not_a_mechanism(text, error.found) from error
    if "." not in name:
        raise _not_a_mechanism(text, f"{names.shown(spec)} is not a full domain name")
    return name


def all_term(text: str) -> str:
    """The last term of a record: what happens to mail from elsewhere."""
    value = text.strip().lower()
    if value not in ENDS:
        raise Invalid(
            f"{names.shown(text)} cannot end our SPF record",
            id="spf-all-invalid",
            expected='"~all" (softfail, the default), "-all" or "?all"',
            why="+all (or all alone) lets everybody send in this domain's name",
            fix='write "~all", with quotes: ~ alone means null in YAML',
        )
    return value


def record(mechanisms: Iterable[str], includes: Iterable[str] = (), *, ending: str) -> str:
    """The text of a record from canonical parts, each once, in their order."""
    terms = [*mechanisms, *(f"include:{domain}" for domain in includes)]
    return " ".join(["v=spf1", *dict.fromkeys(terms), ending])


def domain_record(domain: str, mechanisms: Iterable[str], includes: Iterable[str], *, ending: str) -> str:
    """The text of the record at a sending domain; our hosts come first, they answer soonest."""
    return record([f"include:_spf.{domain}", *mechanisms], includes, ending=ending)


def addresses(ipv4: Iterable[str], ipv6: Iterable[str]) -> list[str]:
    """The mechanisms for single addresses."""
    return [*(f"ip4:{address}" for address in ipv4), *(f"ip6:{address}" for address in ipv6)]


def is_record(text: str) -> bool:
    """Whether a receiver takes this TXT value for an SPF record (RFC 7208 section 4.5)."""
    lowered = text.lower()
    return lowered == "v=spf1" or lowered.startswith("v=spf1 ")


def name_of(term: str) -> str:
    """The mechanism or modifier of a term, in lower case."""
    return re.split(r"[:=/]", term.lstrip(QUALIFIERS), maxsplit=1)[0].lower()


def costs_lookup(name: str) -> bool:
    """Whether a mechanism or modifier counts against the limit of DNS queries."""
    return name in _LOOKUPS


def target_of(term: str) -> str:
    """The domain that a term names, in lower case; empty where it means the record's own."""
    name, separator, rest = re.split(r"([:=/])", f"{term.lstrip(QUALIFIERS)}/", maxsplit=1)
    if separator == "/":
        return ""
    spec = rest.removesuffix("/")
    if name.lower() in {"a", "mx"} and (match := _DUAL_CIDR.fullmatch(spec)):
        spec = match["domain"]
    return spec.rstrip(".") if "%" in spec else spec.rstrip(".").lower()


def in_force(text: str) -> list[str]:
    """The terms that count: up to the first `all`, beside which a redirect does not (RFC 7208 sections 5.1 and 6.1)."""
    terms = text.split()[1:]
    names = [name_of(term) for term in terms]
    if "all" not in names:
        return terms
    heeded = terms[: names.index("all") + 1]
    return [term for term, name in zip(heeded, names, strict=False) if name != "redirect"]


def senders(text: str) -> list[str]:
    """The terms in force that let somebody pass, in our spelling; `all` aside."""
    terms = (term for term in in_force(text) if name_of(term) != "all" and not is_unheeded(term))
    return [term for term in dict.fromkeys(map(spelled, terms)) if not refuses(term)]


def is_unheeded(term: str) -> bool:
    """Whether it is a modifier that lets nobody pass, such as `exp`, or one that receivers do not know."""
    return name_of(term) != "redirect" and _MODIFIER.match(term) is not None


def with_hosts(text: str, domain: str, hosts: Sequence[str]) -> str:
    """The text with an `a` for each of `hosts`, where a term names the MX of the domain itself."""
    terms = (_hosts_in(term, domain, hosts) if name_of(term) == "mx" else [term] for term in text.split())
    return " ".join(term for replaced in terms for term in replaced)


def _hosts_in(term: str, domain: str, hosts: Sequence[str]) -> list[str]:
    match = _TERM.fullmatch(term)
    if not hosts or match is None or target_of(term) not in {"", domain}:
        return [term]
    lengths = match["rest"][match["rest"].find("/") :] if "/" in match["rest"] else ""
    return [f"{match['qualifier']}a:{host}{lengths}" for host in hosts]


def spelled(term: str) -> str:
    """A term in the spelling in which two compare; a redirect as the include that it is beside other terms."""
    bare = term.removeprefix("+")
    if name_of(term) in {"include", "redirect"}:
        qualifier = bare[0] if refuses(bare) else ""
        return f"{qualifier}include:{target_of(term)}"
    try:
        return mechanism(bare)
    except Invalid:
        return bare  # refused by name when it is used


def refuses(term: str) -> bool:
    """Whether whom it matches does not pass."""
    return term.startswith(("-", "~", "?"))


def lookups(text: str) -> int:
    """DNS queries that the terms of this one record cost; what includes cost in turn is not counted."""
    return sum(name_of(term) in _LOOKUPS for term in text.split()[1:])


def review(text: str, subject: str) -> list[Finding]:
    """What is wrong with a whole record as written, ours or one found in DNS."""
    terms = text.split()[1:]
    problems = [_stranger(term, subject) for term in terms if authorises_strangers(term)]
    if (count := lookups(text)) > limits.SPF_LOOKUPS:
        problems.append(
            _finding(
                subject,
                "spf-lookups",
                f"{count} terms that cost a DNS query",
                f"at most {limits.SPF_LOOKUPS} (RFC 7208 section 4.6.4)",
                why="receivers stop there with a permanent error and SPF never passes",
                fix="replace includes and a/mx terms by ip4 and ip6, or drop senders no longer used",
            )
        )
    if any(name_of(term) == "ptr" for term in terms):
        problems.append(
            _finding(
                subject,
                "spf-ptr",
                "the record uses ptr",
                "ip4 and ip6 terms (RFC 7208 section 5.5)",
                why="it is slow, unreliable, and large receivers ignore it",
                fix="list the addresses with ip4 and ip6",
            )
        )
    problems += _review_order(terms, subject)
    return problems


def _review_order(terms: Sequence[str], subject: str) -> list[Finding]:
    ends = [position for position, term in enumerate(terms) if name_of(term) == "all"]
    if ends and any("=" not in term for term in terms[ends[0] + 1 :]):
        return [
            _finding(
                subject,
                "spf-after-all",
                f"terms stand after {terms[ends[0]]}",
                "all as the last mechanism",
                why="receivers ignore what follows all (RFC 7208 section 5.1)",
                fix="move all to the end",
            )
        ]
    return []


def authorises_strangers(term: str) -> bool:
    """Whether a term lets people send who have nothing to do with the domain."""
    if term.startswith(("-", "~", "?")):
        return False
    bare = term.lstrip(QUALIFIERS)
    name = name_of(bare)
    if name == "all":
        return True
    if name == "exists":
        return not _CLIENT_MACRO.search(bare)  # the same answer whoever connects
    v4, v6 = _prefixes(bare)
    return v4 <= _STRANGERS_V4 or v6 <= _STRANGERS_V6


def _prefixes(bare: str) -> tuple[int, int]:
    """The IPv4 and IPv6 prefix lengths of a term, the longest where it has none."""
    name = name_of(bare)
    lengths = dict(_NARROWEST)
    if name in {"ip4", "ip6"}:
        try:
            network = ipaddress.ip_network(bare[4:], strict=False)
        except ValueError:
            return lengths[4], lengths[6]
        lengths[network.version] = network.prefixlen
    elif name in {"a", "mx"} and (match := _DUAL_CIDR.fullmatch(bare)):
        lengths = {4: int(match["v4"] or lengths[4]), 6: int(match["v6"] or lengths[6])}
    return lengths[4], lengths[6]


def weaknesses(text: str, domain: str, subject: str, *, mx_elsewhere: bool) -> Iterator[Finding]:
    """Terms of the record of `domain` that may let strangers send; `mx_elsewhere`: its MX hosts are not ours."""
    for term in text.split()[1:]:
        if refuses(term) or authorises_strangers(term):
            continue
        bare = term.lstrip(QUALIFIERS)
        for identifier, why, fix in _doubts(bare, domain, mx_elsewhere=mx_elsewhere):
            yield _finding(
                subject,
                identifier,
                f"{term} may authorise strangers",
                "terms that hold your own senders alone, such as ip4:192.0.2.7",
                why=why,
                fix=fix,
                severity="warning",
            )


def _doubts(bare: str, domain: str, *, mx_elsewhere: bool) -> Iterator[tuple[str, str, str]]:
    """Identifier, reason and fix."""
    name, target = name_of(bare), _DUAL_CIDR.fullmatch(bare.partition(":")[2])
    at_apex = ":" not in bare or (target is not None and target["domain"].lower() == domain)
    v4, v6 = _prefixes(bare)
    if v4 <= _WIDE_V4 or v6 <= _WIDE_V6:
        yield "spf-wide", "a network of this size holds many customers", "name the single hosts that send"
    if name == "a" and at_apex:
        yield (
            "spf-apex",
            f"{domain} usually is the website: behind a proxy its address is the proxy's, else the web server's",
            "take it out; our hosts are in the record already, so name others with ip4 and ip6",
        )
    if name == "mx" and at_apex and mx_elsewhere:
        yield (
            "spf-mx-elsewhere",
            "the hosts in mx belong to who receives this domain's mail, and to that provider's other customers",
            "take it out; if the provider sends for you, add the include it names",
        )
    if name == "exists":
        yield "spf-exists", "whoever answers for that name decides who may send", "name the senders with ip4 and ip6"
    if name == "include" and (reason := _SHARED.get(bare.partition(":")[2].lower())):
        yield (
            "spf-shared",
            f"{reason}, and one could pose as the other",
            "take it out if nothing of yours is sent there; else let that service sign with DKIM for this domain, too",
        )


def _stranger(term: str, subject: str) -> Finding:
    return _finding(
        subject,
        "spf-strangers",
        f"{term} authorises strangers",
        "networks of your own senders, such as ip4:192.0.2.0/24",
        why="anybody with an address there can send mail that passes SPF for this domain",
        fix="name the single hosts or the small network that really sends",
    )


def _finding(
    subject: str, identifier: str, found: str, expected: str, *, why: str, fix: str, severity: Severity = "error"
) -> Finding:
    return Finding(severity=severity, id=identifier, subject=subject, expected=expected, found=found, why=why, fix=fix)
