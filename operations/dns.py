"""What DNS really answers, asked at every authoritative server; standards/ decides what it should answer."""

from __future__ import annotations

import ipaddress
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.resolver
import dns.reversename
from dns.rdtypes.ANY.TXT import TXT
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA

from standards import dmarc
from standards.finding import Finding, Problems, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

QUERY_SECONDS = 2.0
RESOLVE_SECONDS = 8.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
PROGRESS_SECONDS = 5.0
MAX_ALIASES = 4
MAX_CUTS = 8
# One address has one name: a second record here is another machine's, and it gets a share of the traffic.
EXACT_TYPES = frozenset({"A", "AAAA", "PTR", "CNAME"})

# Names and hex digits; base64 and the value of a CAA record mean something else in another case.
CASELESS_TYPES = frozenset({"CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TLSA"})


class CouldNotTell(Exception):  # noqa: N818  (no answer is not a wrong answer)
    """Nothing answered, or what answered has no say in the matter: neither right nor wrong."""

    def __init__(self, reason: str) -> None:
        super().__init__(printable(reason))


@dataclass(frozen=True)
class NameServer:
    """One address of one authoritative server."""

    name: str
    address: str
    port: int = 53


@dataclass(frozen=True)
class Expected:
    """One value that every authoritative server should answer with; TXT values are given unquoted."""

    name: str
    type: str
    value: str

    def __str__(self) -> str:
        return f"{plain(self.name)} {self.type}"


@dataclass(frozen=True)
class Answer:
    """What one server said: canonical values, or why it could not be told."""

    values: tuple[str, ...] = ()
    alias: str | None = None
    problem: str | None = None

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        if self.alias and not self.values:
            return f"an alias (CNAME) to {self.alias}"
        return ", ".join(self.values) or "nothing"


def plain(name: str) -> str:
    """`name` as names are compared here: lower case, without the final dot."""
    return name.lower().rstrip(".")


def canonical(rdtype: str, value: str) -> str:
    """`value` of a record in the one spelling in which answers are compared; TXT stays as it is."""
    if rdtype == "TXT":
        return value
    text = f"{value}." if rdtype in {"CNAME", "NS", "PTR"} and not value.endswith(".") else value
    parsed = dns.rdata.from_text("IN", rdtype, text, origin=dns.name.root, relativize=False)
    return _canonical_rdata(parsed)


def _canonical_rdata(rdata: dns.rdata.Rdata) -> str:
    if isinstance(rdata, TXT):
        return b"".join(rdata.strings).decode("utf-8", "backslashreplace")
    if isinstance(rdata, A | AAAA):
        return ipaddress.ip_address(rdata.address).compressed
    if dns.rdatatype.to_text(rdata.rdtype) not in CASELESS_TYPES:
        return rdata.to_text()
    return " ".join(word.rstrip(".") or "." for word in rdata.to_text().lower().split(" "))


@dataclass
class Resolver:
    """The recursive resolver that finds zones and servers; the machine's own when `address` is None.

    `port` is where it and every authoritative server listen.
    """

    address: str | None = None
    port: int = 53
    _cuts: dict[str, list[NameServer]] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return f"resolver {self.address}" if self.address else "this machine's resolver"

    def resolve(self, name: str, rdtype: str) -> list[str]:
        """Canonical values of `name` as everybody sees them; an empty list when there are none."""
        answer = self._query(dns.name.from_text(name), rdtype)
        rrset = answer.rrset if answer else None
        return sorted(_canonical_rdata(rdata) for rdata in rrset) if rrset else []

    def addresses(self, name: str) -> list[str]:
        """IPv6 and IPv4 addresses of `name`; a family that cannot be resolved counts as absent."""
        found: list[str] = []
        trouble: list[CouldNotTell] = []
        for rdtype in ("AAAA", "A"):
            try:
                found += self.resolve(name, rdtype)
            except CouldNotTell as reason:
                trouble.append(reason)
        if not found and trouble:
            raise trouble[0]
        return found

    def zone_known_to_contain(self, name: dns.name.Name) -> dns.name.Name:
        """The zone of the nearest ancestor that can be asked for without harm.

        Never asks for `name` itself: a resolver remembers that a name does not exist (RFC 2308, RFC 8020),
        and we ask before it is published.
        """
        ancestor = _start_of_search(name)
        while ancestor != dns.name.root:
            answer = self._query(ancestor, "SOA")
            if answer and answer.rrset and answer.rrset.name == ancestor:
                return ancestor
            ancestor = ancestor.parent()
        raise CouldNotTell(f"{self} knows no zone that contains {plain(name.to_text())}")

    def servers_of_zone(self, zone: dns.name.Name) -> list[NameServer]:
        """Every address of every name server of `zone`; IPv4 first, since more machines have it."""
        found = []
        for server in self.resolve(zone.to_text(), "NS"):
            addresses = sorted(self.addresses(server), key=lambda address: ":" in address)
            # A server without an address is kept: it is one that cannot be asked, not one less to ask.
            found += [NameServer(server, address, self.port) for address in addresses or [""]]
        if not found:
            raise CouldNotTell(f"{self} knows no name servers of {plain(zone.to_text())}")
        return found

    def _query(self, name: dns.name.Name, rdtype: str) -> dns.resolver.Answer | None:
        try:
            return self._stub().resolve(name, rdtype, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN:
            return None
        except (dns.exception.DNSException, OSError) as error:
            asked = f"{plain(name.to_text())} {rdtype}"
            raise CouldNotTell(f"{self} does not answer for {asked}: {_one_line(error)}") from error

    def _stub(self) -> dns.resolver.Resolver:
        stub = dns.resolver.Resolver(configure=self.address is None)
        if self.address:
            stub.nameservers = [self.address]
        stub.port = self.port
        stub.lifetime, stub.timeout = RESOLVE_SECONDS, QUERY_SECONDS
        return stub

    def authoritative(self, name: str) -> list[NameServer]:
        """Remembered `authoritative_servers`."""
        key = plain(name)
        if key not in self._cuts:
            self._cuts[key] = authoritative_servers(name, self)
        return self._cuts[key]


def _start_of_search(name: dns.name.Name) -> dns.name.Name:
    labels = name.labels
    if name.is_subdomain(dns.reversename.ipv6_reverse_domain):
        return dns.name.Name(labels[-19:]) if len(labels) > 19 else name  # noqa: PLR2004  (a /64: 16 digits, ip6.arpa)
    underscores = [place for place, label in enumerate(labels) if label.startswith(b"_")]
    return dns.name.Name(labels[max(underscores, default=0) + 1 :])


def authoritative_servers(name: str, resolver: Resolver) -> list[NameServer]:
    """Every address of every server that is authoritative for `name`; raises `CouldNotTell`."""
    wanted = dns.name.from_text(name)
    zone = resolver.zone_known_to_contain(wanted)
    for _ in range(MAX_CUTS):
        servers = resolver.servers_of_zone(zone)
        deeper = _deeper_zone(servers, zone, wanted)
        if deeper is None:
            return servers
        zone = deeper
    raise CouldNotTell(f"too many delegations on the way to {plain(name)}")


def _deeper_zone(servers: Sequence[NameServer], zone: dns.name.Name, name: dns.name.Name) -> dns.name.Name | None:
    for server in servers:
        try:
            response = _exchange(server, name, "SOA")
        except CouldNotTell:
            continue
        for rrset in itertools.chain(response.answer, response.authority):
            is_cut = rrset.rdtype in (dns.rdatatype.SOA, dns.rdatatype.NS)
            if is_cut and name.is_subdomain(rrset.name) and len(rrset.name) > len(zone):
                return rrset.name
        return None
    return None


def _exchange(server: NameServer, name: dns.name.Name, rdtype: str) -> dns.message.Message:
    """One question without recursion: over UDP, over TCP when the answer does not fit."""
    if not server.address:
        raise CouldNotTell("has no address")
    query = dns.message.make_query(name, rdtype, flags=0, use_edns=0, payload=1232)
    try:
        response, _ = dns.query.udp_with_fallback(query, server.address, QUERY_SECONDS, port=server.port)
    except dns.exception.Timeout as error:
        raise CouldNotTell(f"no answer at {server.address}") from error
    except (dns.exception.DNSException, OSError, EOFError) as error:
        raise CouldNotTell(f"no answer at {server.address} ({_one_line(error)})") from error
    return response


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def look(server: NameServer, name: str, rdtype: str) -> Answer:
    """What `server` says about `name`; never raises for what DNS can do."""
    owner = dns.name.from_text(name)
    try:
        response = _exchange(server, owner, rdtype)
    except CouldNotTell as reason:
        return Answer(problem=str(reason))
    if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Answer(problem=f"answers {dns.rcode.to_text(response.rcode())}")
    if not response.flags & dns.flags.AA:
        # A cache in between (some networks redirect port 53) would show yesterday's records as today's.
        return Answer(problem="answers without authority (a delegation or a cache in between)")
    return _read(response, owner, rdtype)


def _read(response: dns.message.Message, owner: dns.name.Name, rdtype: str) -> Answer:
    values: list[str] = []
    alias = None
    for rrset in response.answer:
        if rrset.name == owner and rrset.rdtype == dns.rdatatype.from_text(rdtype):
            values += [_canonical_rdata(rdata) for rdata in rrset]
        elif rrset.name == owner and rrset.rdtype == dns.rdatatype.CNAME:
            alias = _canonical_rdata(rrset[0])
    return Answer(values=tuple(sorted(values)), alias=alias)


def ask(server: NameServer, name: str, rdtype: str) -> list[str]:
    """Canonical values of `name` at `server`, asked directly; raises `CouldNotTell` without an answer."""
    answer = look(server, name, rdtype)
    if answer.problem:
        raise CouldNotTell(f"{server.name}: {answer.problem}")
    return list(answer.values)


def by_server(servers: Iterable[NameServer]) -> dict[str, list[NameServer]]:
    """The addresses of each server, under its name."""
    grouped: dict[str, list[NameServer]] = {}
    for server in servers:
        grouped.setdefault(server.name, []).append(server)
    return grouped


def look_at_any(addresses: Sequence[NameServer], name: str, rdtype: str) -> Answer:
    """The first answer of a server's addresses: this machine may lack IPv4 or IPv6."""
    answers = []
    for address in addresses:
        answer = look(address, name, rdtype)
        if not answer.problem:
            return answer
        answers.append(answer)
    return answers[0]


def look_everywhere(name: str, rdtype: str, resolver: Resolver) -> dict[str, Answer]:
    """What each authoritative server says about `name`; raises `CouldNotTell` when none is known."""
    servers = by_server(resolver.authoritative(name))
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = pool.map(lambda addresses: look_at_any(addresses, name, rdtype), servers.values())
        return dict(zip(servers, answers, strict=True))


@dataclass
class _Watch:
    """All expected values of one name and type, and how far the servers are."""

    name: str
    type: str
    values: set[str]
    answers: dict[str, Answer] = field(default_factory=dict)
    trouble: str = ""

    def shown_by(self, answer: Answer) -> bool:
        if answer.problem:
            return False
        found = set(answer.values)
        return found == self.values if self.type in EXACT_TYPES else found >= self.values

    @property
    def lagging(self) -> list[str]:
        return [server for server, answer in self.answers.items() if not self.shown_by(answer)]

    @property
    def visible(self) -> bool:
        return bool(self.answers) and not self.lagging

    def look(self, resolver: Resolver) -> None:
        try:
            self.answers = look_everywhere(self.name, self.type, resolver)
            self.trouble = ""
        except CouldNotTell as reason:
            self.trouble = str(reason)

    def progress(self, seconds: float) -> str:
        if not self.answers:
            return f"waiting for {self.name} {self.type}: {self.trouble} ({seconds:.0f} s)"
        have = len(self.answers) - len(self.lagging)
        where = ", ".join(self.lagging)
        return (
            f"waiting for {self.name} {self.type} at {where} "
            f"({have} of {len(self.answers)} servers {'has' if have == 1 else 'have'} it, {seconds:.0f} s)"
        )

    def findings(self, timeout: float) -> list[Finding]:
        if not self.answers:
            return [self._finding("its authoritative servers", self.trouble, timeout)]
        return [self._finding(server, str(self.answers[server]), timeout) for server in self.lagging]

    def _finding(self, server: str, found: str, timeout: float) -> Finding:
        return Finding(
            severity="error",
            id="dns.not-visible",
            subject=f"{self.name} {self.type} at {server}",
            expected=" and ".join(sorted(self.values)),
            found=found,
            why="receivers may ask any of the authoritative servers; one that lags makes them refuse mail",
            fix=f"run again when it has caught up (waited {timeout:.0f} s, the limit is "
            "mailroom:propagationTimeout); when it never does, ask the DNS provider",
        )


def _watches(expected: Iterable[Expected]) -> list[_Watch]:
    watches: dict[tuple[str, str], _Watch] = {}
    for item in expected:
        key = (plain(item.name), item.type)
        watch = watches.setdefault(key, _Watch(*key, values=set()))
        watch.values.add(canonical(item.type, item.value))
    return list(watches.values())


def wait_until_visible(
    expected: Sequence[Expected], resolver: Resolver, timeout: float, log: Callable[[str], None]
) -> None:
    """Return when every authoritative server answers with every expected value.

    For types in `EXACT_TYPES` the expected values must be the only ones. Raises `Problems` after `timeout`
    seconds, naming each record and server with what was found there instead.
    """
    pending = _watches(expected)

    def look() -> Callable[[float], str] | None:
        nonlocal pending
        for watch in pending:
            watch.look(resolver)
        pending = [watch for watch in pending if not watch.visible]
        return pending[0].progress if pending else None

    _repeat(look, timeout, log)
    if pending:
        findings = [finding for watch in pending for finding in watch.findings(timeout)]
        raise Problems("not every authoritative name server shows our records", findings)


def _repeat(look: Callable[[], Callable[[float], str] | None], timeout: float, log: Callable[[str], None]) -> None:
    """Look again until nothing is missing or time is out; what is missing is told by what `look` returns."""
    started = said = time.monotonic()
    pause = FIRST_PAUSE
    while True:
        missing = look()
        now = time.monotonic()
        left = started + timeout - now
        if missing is None or left <= 0:
            return
        if now - said >= PROGRESS_SECONDS:
            said = now
            log(missing(now - started))
        time.sleep(min(pause, left))
        pause = min(pause * 1.6, LONGEST_PAUSE)


def check_leave(domain: str, receiver: str, resolver: Resolver) -> list[Finding]:
    """Whether `receiver`, a domain of others, says that it takes DMARC reports about `domain`; a warning if not."""
    name = dmarc.report_name(domain, receiver)
    try:
        if any(dmarc.is_record(value) for value in resolver.resolve(name, "TXT")):
            return []
        found = "no such record"
    except CouldNotTell as reason:
        found = str(reason)
    return [
        Finding(
            severity="warning",
            id="dmarc.report-leave",
            subject=f"DMARC reports about {domain}",
            expected=f'{name} TXT "{dmarc.LEAVE}"',
            found=found,
            why=f"{receiver} is not among your domains: without this record receivers send it no reports "
            "(RFC 9990 section 4)",
            fix=f"ask who runs {receiver} to publish it, or write an address of your own into dmarc.rua and dmarc.ruf",
        )
    ]


def reverse_name(ip: str) -> str:
    """The name whose PTR record names `ip`: `10.100.51.198.in-addr.arpa.`."""
    return dns.reversename.from_address(ip).to_text()


def check_ptr(ip: str, hostname: str, resolver: Resolver) -> list[Finding]:
    """What keeps `ip` from pointing at `hostname`, and `hostname` back at `ip`; empty when both are right."""
    try:
        owner = _follow_aliases(reverse_name(ip), resolver)
        answers = look_everywhere(owner, "PTR", resolver)
    except CouldNotTell as reason:
        return [_ptr_finding("ptr.no-zone", ip, hostname, f"no reverse zone to ask: {reason}")]
    return _judge_ptr(answers, ip, hostname) + _judge_forward(ip, hostname, resolver)


def wait_for_ptr(
    addresses: Sequence[str], hostname: str, resolver: Resolver, timeout: float, log: Callable[[str], None]
) -> None:
    """Return when `check_ptr` has nothing against any address, whose PTRs were set just now.

    Raises `Problems` after `timeout` seconds with what DNS shows instead.
    """
    pending: dict[str, list[Finding]] = {address: [] for address in addresses}

    def look() -> Callable[[float], str] | None:
        nonlocal pending
        found = {address: check_ptr(address, hostname, resolver) for address in pending}
        pending = {address: findings for address, findings in found.items() if findings}
        if not pending:
            return None
        address, (first, *_) = next(iter(pending.items()))
        return lambda seconds: f"waiting for the reverse DNS of {address}: {first.found} ({seconds:.0f} s)"

    _repeat(look, timeout, log)
    if pending:
        findings = [_lagging(finding, timeout) for findings in pending.values() for finding in findings]
        raise Problems(f"DNS does not show the reverse DNS of {plain(hostname)} that the provider has", findings)


def _lagging(finding: Finding, timeout: float) -> Finding:
    if finding.id not in {"ptr.missing", "ptr.wrong", "ptr.differs"}:
        return finding
    fix = (
        f"run again in an hour (waited {timeout:.0f} s, the limit is mailroom:propagationTimeout); "
        "when it stays so, ask the hosting provider why its name servers do not follow its API"
    )
    return replace(finding, fix=fix)


def _follow_aliases(name: str, resolver: Resolver) -> str:
    """Where the PTR really lives: providers hand small networks out by CNAME (RFC 2317)."""
    for _ in range(MAX_ALIASES):
        answers = look_everywhere(name, "PTR", resolver).values()
        alias = next((answer.alias for answer in answers if answer.alias), None)
        if alias is None:
            return name
        name = alias
    raise CouldNotTell(f"more than {MAX_ALIASES} aliases behind {name}")


def _judge_ptr(answers: dict[str, Answer], ip: str, hostname: str) -> list[Finding]:
    right = (plain(hostname),)
    if all(answer.values == right and not answer.problem for answer in answers.values()):
        return []
    silent = [f"{server} {answer.problem}" for server, answer in answers.items() if answer.problem]
    if silent:
        return [_ptr_finding("ptr.unanswered", ip, hostname, "; ".join(silent))]
    seen = {answer.values for answer in answers.values()}
    if len(seen) > 1:
        each = "; ".join(f"{server} says {answer}" for server, answer in answers.items())
        return [_ptr_finding("ptr.differs", ip, hostname, f"its servers differ: {each}")]
    values = seen.pop()
    if not values:
        return [_ptr_finding("ptr.missing", ip, hostname, "no PTR record")]
    if len(values) > 1:
        return [_ptr_finding("ptr.double", ip, hostname, f"{len(values)} PTR records: {', '.join(values)}")]
    return [_ptr_finding("ptr.wrong", ip, hostname, f"PTR {values[0]}")]


def _ptr_finding(finding_id: str, ip: str, hostname: str, found: str) -> Finding:
    fixes = {
        "ptr.unanswered": "run again; if it stays, ask the hosting provider why its name server is silent",
        "ptr.differs": "wait until the provider's name servers agree (minutes to an hour), then run again",
        "ptr.no-zone": f"ask the hosting provider to delegate the reverse zone of {ip}",
        "ptr.double": f"remove every other reverse DNS name of {ip} at the hosting provider",
    }
    ours = f"set the reverse DNS (PTR) of {ip} to {plain(hostname)} in the hosting provider's panel or API"
    return Finding(
        severity="error",
        id=finding_id,
        subject=ip,
        expected=f"{reverse_name(ip)} PTR {plain(hostname)}.",
        found=found,
        why="big receivers refuse mail from an address whose reverse name is not the server's own",
        fix=fixes.get(finding_id, ours),
    )


def _judge_forward(ip: str, hostname: str, resolver: Resolver) -> list[Finding]:
    rdtype = "AAAA" if ":" in ip else "A"
    wanted = canonical(rdtype, ip)
    try:
        answers = look_everywhere(hostname, rdtype, resolver)
    except CouldNotTell as reason:
        wrong = {"its authoritative servers": str(reason)}
    else:
        wrong = {server: str(answer) for server, answer in answers.items() if wanted not in answer.values}
    return [
        Finding(
            severity="error",
            id="ptr.forward",
            subject=f"{plain(hostname)} {rdtype} at {server}",
            expected=f"{plain(hostname)}. {rdtype} {wanted}",
            found=found,
            why="a reverse name counts only when it leads back to the address (RFC 8601 section 2.7.3)",
            fix=f"publish {plain(hostname)}. {rdtype} {wanted}, or run again when the server has caught up",
        )
        for server, found in wrong.items()
    ]
