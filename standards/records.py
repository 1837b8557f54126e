"""The single source of the DNS a stack wants: every record with its value and the reason it exists.

Publishing, checking and printing them is done elsewhere, from this list alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from standards import acme, dkim, dmarc, limits, spf

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from components.settings import DomainSettings, HostSettings, Settings

RecordType = Literal["A", "AAAA", "CNAME", "MX", "TXT"]
Wave = Literal["host", "identity", "mail"]

TTL: Final = 300  # short enough to move a host or correct a mistake within minutes
_PLAIN: Final = re.compile(r'"[ !#-\[\]-~]{0,255}"(?: "[ !#-\[\]-~]{0,255}")*')  # nothing in it is escaped
NO_DKIM_KEYS: Final[Mapping[tuple[str, str], str]] = {}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record as Cloudflare stores it: lower-case full name, quoted TXT strings, MX and CNAME host without dot.

    `key` is its stable logical name, `owner` the host or domain it belongs to, `wave` the step of a run that
    publishes it. `content` is None while its DKIM key (`dkim`: domain and selector) does not exist yet.
    """

    key: str
    name: str
    type: RecordType
    content: str | None
    reason: str
    wave: Wave
    owner: str
    zone_id: str
    ttl: int = TTL
    priority: int | None = None
    dkim: tuple[str, str] | None = None

    @property
    def shown(self) -> str:
        """The content for tables and explanations."""
        return dkim.NEW_KEY if self.content is None else self.content

    @property
    def answer(self) -> str:
        """The content as DNS answers with it, the priority of an MX in front."""
        return self.shown if self.priority is None else f"{self.priority} {self.shown}"

    def comment(self, stack: str) -> str:
        """The reason, cut to what Cloudflare stores, and at the end the mark that makes the record ours."""
        mark = f" mailroom:{stack}"
        room = limits.CLOUDFLARE_COMMENT - len(mark)
        reason = self.reason if len(self.reason) <= room else self.reason[: max(room - 3, 0)] + "..."
        return f"{reason}{mark}"


def quoted(text: str) -> str:
    """A TXT value as quoted strings of at most 255 octets, in dnspython's spelling."""
    octets = text.encode()
    size = limits.TXT_STRING
    strings = [octets[start : start + size] for start in range(0, len(octets), size)] or [b""]
    return " ".join(f'"{"".join(map(_spelled, string))}"' for string in strings)


def _spelled(octet: int) -> str:
    """One octet of a quoted string in a master file (RFC 1035 section 5.1)."""
    if octet in b'"\\':
        return f"\\{octet:c}"
    return chr(octet) if 0x20 <= octet < 0x7F else f"\\{octet:03d}"  # noqa: PLR2004  (printable ASCII)


def unquoted(content: str) -> str:
    """The text a receiver reads in a TXT record's content, quoted or (as some tools store it) not."""
    if not content.startswith('"'):
        return content
    if _PLAIN.fullmatch(content):  # as most are, and ours: each run reads them, and the library takes long to load
        return "".join(content[1:-1].split('" "'))
    import dns.exception
    import dns.rdata
    import dns.rdataclass
    import dns.rdatatype
    import dns.rdtypes.ANY.TXT

    try:
        rdata = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.TXT, content)
    except dns.exception.DNSException:  # a string too long or not closed, as the API keeps what it was sent
        return content.strip('"')
    assert isinstance(rdata, dns.rdtypes.ANY.TXT.TXT)  # noqa: S101  (asked for that type)
    return b"".join(rdata.strings).decode("utf-8", "replace")


def with_dkim_key(record: Record, public_key: str) -> Record:
    """The DKIM record once its public key (base64 of the SubjectPublicKeyInfo, of a key we made or read) is known."""
    return replace(record, content=quoted(dkim.record_of(public_key)))


def wanted_records(settings: Settings, dkim_public: Mapping[tuple[str, str], str] = NO_DKIM_KEYS) -> list[Record]:
    """Every record the stack wants; a DKIM record whose key is not in `dkim_public` has no content yet."""
    records = [record for host in settings.hosts for record in _of_host(host, settings)]
    for domain in settings.domains:
        records += _of_domain(domain, settings)
    records += _leave_for_reports(settings.domains)
    return [
        with_dkim_key(record, dkim_public[record.dkim])
        if record.content is None and record.dkim and record.dkim in dkim_public
        else record
        for record in records
    ]


def sending_addresses(hosts: Sequence[HostSettings]) -> tuple[list[str], list[str]]:
    """The IPv4 and IPv6 addresses our mail leaves from."""
    return (
        [host.ipv4 for host in hosts if host.ipv4],
        [host.ipv6 for host in hosts if host.ipv6 and host.ipv6_outbound],
    )


def zone_of(host: HostSettings, domains: Sequence[DomainSettings]) -> str | None:
    """The zone a host's name is written to: its own setting, else that of the longest domain around it."""
    if host.zone_id:
        return host.zone_id
    around = ours_around(host.name, domains)
    return around.zone_id if around else None


def _of_host(host: HostSettings, settings: Settings) -> Iterator[Record]:
    zone_id = zone_of(host, settings.domains)
    assert zone_id is not None, f"settings let {host.name} pass without a zone"  # noqa: S101
    ipv4, ipv6 = sending_addresses([host])
    for kind, addresses in (("A", ipv4), ("AAAA", ipv6)):
        for address in addresses:
            yield Record(
                key=f"{host.name}/{kind.lower()}",
                name=host.name,
                type="A" if kind == "A" else "AAAA",
                content=address,
                reason="Host name, EHLO name and PTR must lead to this address and back",
                wave="host",
                owner=host.name,
                zone_id=zone_id,
            )
    if all(domain.name != host.name for domain in settings.domains):  # a name has one SPF record
        yield Record(
            key=f"{host.name}/spf",
            name=host.name,
            type="TXT",
            content=quoted("v=spf1 a -all"),
            reason="Bounces have no sender, so receivers check the EHLO name's SPF",
            wave="host",
            owner=host.name,
            zone_id=zone_id,
        )

    if settings.acme.challenge_zone and host.name not in _with_wildcard(settings):  # one name, one CNAME
        yield _challenge(host.name, settings.acme.challenge_zone, "host", zone_id)


def _with_wildcard(settings: Settings) -> set[str]:
    return {domain.name for domain in settings.domains if domain.certificate == "wildcard"}


def _challenge(name: str, zone: str, wave: Wave, zone_id: str) -> Record:
    return Record(
        key=f"{name}/acme-challenge",
        name=acme.challenge_name(name),
        type="CNAME",
        content=acme.challenge_target(name, zone),
        reason="The CA finds the challenge in a zone of its own, all that the host's token may write",
        wave=wave,
        owner=name,
        zone_id=zone_id,
    )


def _of_domain(domain: DomainSettings, settings: Settings) -> Iterator[Record]:
    if settings.acme.challenge_zone and domain.certificate == "wildcard":
        yield _challenge(domain.name, settings.acme.challenge_zone, "identity", domain.zone_id)
    if domain.mail == "none":
        yield from _of_silent_domain(domain)
        return
    yield _txt(
        domain,
        "spf-hosts",
        f"_spf.{domain.name}",
        spf.record(spf.addresses(*sending_addresses(settings.hosts)), ending="-all"),
        "The addresses our hosts send from, for the domain's SPF record to include",
    )
    yield _txt(
        domain,
        "spf",
        domain.name,
        domain_spf(domain),
        "Says which servers may send mail with this domain as envelope sender",
    )
    for key in domain.dkim:
        yield _dkim_key(domain, key.selector, key.stage)
    if domain.mail == "forward":
        for host in settings.hosts:
            yield _mx(domain, f"mx/{host.name}", host.name, 10, "Mail to this domain arrives at our host")
    yield _dmarc(domain, "Says what receivers do with mail that fails SPF and DKIM, and where reports go")


def _of_silent_domain(domain: DomainSettings) -> Iterator[Record]:
    yield _txt(domain, "spf", domain.name, spf.DENY_ALL, "This domain sends no mail")
    yield _mx(domain, "mx", ".", 0, "This domain receives no mail (null MX, RFC 7505)")
    yield _dmarc(domain, "This domain sends no mail: receivers reject what claims to be from it")


def domain_spf(domain: DomainSettings) -> str:
    """The text of the SPF record at a sending domain."""
    return spf.domain_record(domain.name, domain.spf.mechanisms, domain.spf.includes, ending=domain.spf.all)


def report_receivers(domain: DomainSettings) -> list[str]:
    """The domains of others, each once, that reports about a domain are sent to."""
    addresses = (*domain.dmarc.rua, *domain.dmarc.ruf)
    receivers = dict.fromkeys(address.rpartition("@")[2].lower() for address in addresses)
    return [receiver for receiver in receivers if dmarc.needs_leave(domain.name, receiver)]


def ours_around(name: str, domains: Sequence[DomainSettings]) -> DomainSettings | None:
    """The listed domain in whose zone a name is."""
    around = [domain for domain in domains if f".{name}".endswith(f".{domain.name}")]
    return max(around, key=lambda domain: len(domain.name), default=None)


def _leave_for_reports(domains: Sequence[DomainSettings]) -> Iterator[Record]:
    for domain in domains:
        for receiver in report_receivers(domain):
            if ours := ours_around(receiver, domains):
                yield _txt(
                    ours,
                    f"dmarc-report/{domain.name}" + ("" if receiver == ours.name else f"/{receiver}"),
                    dmarc.report_name(domain.name, receiver),
                    dmarc.LEAVE,
                    f"This domain takes the DMARC reports about {domain.name}",
                    "mail",
                )


def _txt(domain: DomainSettings, kind: str, name: str, text: str, reason: str, wave: Wave = "identity") -> Record:
    return Record(
        key=f"{domain.name}/{kind}",
        name=name,
        type="TXT",
        content=quoted(text),
        reason=reason,
        wave=wave,
        owner=domain.name,
        zone_id=domain.zone_id,
    )


def _dkim_key(domain: DomainSettings, selector: str, stage: dkim.Stage) -> Record:
    revoked = stage == "revoked"
    return Record(
        key=f"{domain.name}/dkim/{selector}",
        name=dkim.record_name(selector, domain.name),
        type="TXT",
        content=quoted(dkim.REVOKED) if revoked else None,
        reason="This DKIM key is taken back: nothing signs with it any more"
        if revoked
        else "Public key that proves the DKIM signatures of our hosts",
        wave="mail" if revoked else "identity",  # taken back only when no host signs with it any more
        owner=domain.name,
        zone_id=domain.zone_id,
        dkim=(domain.name, selector),
    )


def _mx(domain: DomainSettings, kind: str, host: str, priority: int, reason: str) -> Record:
    return Record(
        key=f"{domain.name}/{kind}",
        name=domain.name,
        type="MX",
        content=host,
        priority=priority,
        reason=reason,
        wave="mail",
        owner=domain.name,
        zone_id=domain.zone_id,
    )


def _dmarc(domain: DomainSettings, reason: str) -> Record:
    wishes = domain.dmarc
    text = dmarc.record(
        wishes.policy,
        subdomains=wishes.sp,
        nonexistent=wishes.np,
        adkim=wishes.adkim,
        aspf=wishes.aspf,
        rua=wishes.rua,
        ruf=wishes.ruf,
        fo=wishes.fo,
    )
    return _txt(domain, "dmarc", dmarc.record_name(domain.name), text, reason, "mail")
