"""Judges one message as a strict receiver does: SPF, every DKIM signature, DMARC, reverse DNS; takes no mail."""

from __future__ import annotations

import email
import email.policy
import re
from dataclasses import dataclass
from email.utils import getaddresses
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Protocol

import dkim
import dns.exception
import dns.resolver
import spf
from authheaders.dmarc_lookup import DMARCException, answer_to_dict
from publicsuffixlist import PublicSuffixList

if TYPE_CHECKING:
    from collections.abc import Sequence

SPF_LOOKUP_SECONDS: Final = 20


class Unanswered(Exception):  # noqa: N818  (a result, `temperror`, more than an error)
    """The DNS could not be asked; nothing is known about the name."""


class Lookup(Protocol):
    """Asks the DNS."""

    def __call__(self, name: str, kind: str) -> Sequence[Any]:
        """The record data (dnspython's), empty when the name or type does not exist; raises Unanswered."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What the connection said before the message."""

    mail_from: str
    ehlo: str
    client_ip: str


@dataclass(frozen=True)
class Signature:
    """One DKIM signature, judged alone."""

    selector: str
    domain: str
    result: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a receiver knows about a message; the words are those of RFC 8601."""

    spf: str
    dkim: tuple[Signature, ...]
    dmarc: str
    dmarc_policy: str
    """`none`, `quarantine` or `reject`; `none` too when there is no policy."""
    ptr: tuple[str, ...]
    fcrdns: bool
    message_id: str
    subject: str

    @property
    def rejects(self) -> bool:
        """Whether the sender's own policy asks to refuse the message."""
        return self.dmarc == "fail" and self.dmarc_policy == "reject"


def judge(message: bytes, envelope: Envelope, lookup: Lookup) -> Verdict:
    """Everything there is to know about a message and who brought it."""
    spf_result = _spf(envelope, lookup)
    signatures = _signatures(message, lookup)
    headers = email.message_from_bytes(message, policy=email.policy.compat32)
    dmarc, policy = _dmarc(str(headers["From"] or ""), envelope, spf_result, signatures, lookup)
    ptr, fcrdns = _reverse(envelope.client_ip, lookup)
    return Verdict(
        spf=spf_result,
        dkim=signatures,
        dmarc=dmarc,
        dmarc_policy=policy,
        ptr=ptr,
        fcrdns=fcrdns,
        message_id=str(headers["Message-ID"] or ""),
        subject=str(headers["Subject"] or ""),
    )


def system_lookup(name: str, kind: str) -> Sequence[Any]:
    """Ask the resolver of this machine."""
    try:
        return list(dns.resolver.resolve(name, kind, lifetime=SPF_LOOKUP_SECONDS))
    except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
        return []
    except (dns.exception.DNSException, OSError) as error:
        raise Unanswered(str(error)) from error


def _spf(envelope: Envelope, lookup: Lookup) -> str:
    def answers(name: str, kind: str, *_rest: object) -> list[tuple[tuple[str, str], Any]]:
        try:
            return [((name, kind), _spf_value(data, kind)) for data in lookup(name, kind)]
        except Unanswered as error:
            raise spf.TempError(str(error)) from error

    spf.DNSLookup = answers  # pyspf's only hook; every caller in a process has the same resolver
    result: str = spf.check2(envelope.client_ip, envelope.mail_from, envelope.ehlo)[0]
    return result


def _spf_value(data: Any, kind: str) -> Any:
    if kind == "MX":
        return data.preference, data.exchange.to_text(omit_final_dot=True)
    if kind == "PTR":
        return data.target.to_text(omit_final_dot=True)
    return data.strings if kind in {"TXT", "SPF"} else data.address


def _signatures(message: bytes, lookup: Lookup) -> tuple[Signature, ...]:
    verifier = dkim.DKIM(message)
    count = sum(1 for name, _value in verifier.headers if name.lower() == b"dkim-signature")
    return tuple(_signature(message, index, lookup) for index in range(count))


def _signature(message: bytes, index: int, lookup: Lookup) -> Signature:
    has_key = False

    def text(name: bytes, **_options: object) -> bytes | None:
        nonlocal has_key
        found = lookup(name.decode("ascii").rstrip("."), "TXT")
        has_key = bool(found)
        return b"".join(found[0].strings) if found else None

    verifier = dkim.DKIM(message)
    try:
        # dkimpy calls a missing key a failure; RFC 6376 section 6.1.2 calls it permanent error.
        result = "pass" if verifier.verify(idx=index, dnsfunc=text) else "fail" if has_key else "permerror"
    except Unanswered:
        result = "temperror"
    except dkim.DKIMException:  # a malformed signature
        result = "permerror"
    fields = verifier.signature_fields
    return Signature(fields.get(b"s", b"").decode(), fields.get(b"d", b"").decode().lower(), result)


def _dmarc(
    header_from: str, envelope: Envelope, spf_result: str, signatures: Sequence[Signature], lookup: Lookup
) -> tuple[str, str]:
    addresses = [address for _name, address in getaddresses([header_from]) if "@" in address]
    if len(addresses) != 1:  # RFC 7489 section 6.6.1: no identity to align with
        return "permerror", "none"
    domain = _a_label(addresses[0].rpartition("@")[2])
    try:
        policy, tags = _policy(domain, lookup)
    except Unanswered:
        return "temperror", "none"
    except DMARCException:
        return "permerror", "none"
    if not policy:
        return "none", "none"
    sender = _a_label(envelope.mail_from.rpartition("@")[2] or envelope.ehlo)
    aligned = spf_result == "pass" and _aligned(domain, sender, tags.get("aspf", "r"))
    aligned |= any(
        signature.result == "pass" and _aligned(domain, signature.domain, tags.get("adkim", "r"))
        for signature in signatures
    )
    return "pass" if aligned else "fail", policy


def _policy(domain: str, lookup: Lookup) -> tuple[str, dict[str, str]]:
    """What the domain asks for and its whole record; a subdomain without one has its organization's."""
    tags = _policy_record(domain, lookup)
    if tags:
        return tags.get("p", ""), tags
    organization = _organization(domain)
    tags = _policy_record(organization, lookup) if organization != domain else {}
    return tags.get("sp") or tags.get("p", ""), tags


def _policy_record(domain: str, lookup: Lookup) -> dict[str, str]:
    texts = [b"".join(data.strings).decode("ascii", "replace") for data in lookup(f"_dmarc.{domain}", "TXT")]
    policies = [text for text in texts if re.match(r"v=DMARC1\s*(;|$)", text)]
    # RFC 7489 section 6.6.3: two policies are none.
    return dict(answer_to_dict(policies[0])) if len(policies) == 1 else {}


def _aligned(from_domain: str, other: str, mode: str) -> bool:
    return from_domain == other or (mode != "s" and _organization(from_domain) == _organization(other))


def _organization(domain: str) -> str:
    # authheaders' own function takes `test` for the organization of every domain of the lab.
    return _suffixes().privatesuffix(domain) or domain


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()  # the copy of the package, not of the network


def _a_label(domain: str) -> str:
    try:
        return domain.strip(".").encode("idna").decode().lower()
    except UnicodeError:
        return domain.lower()


def _reverse(client_ip: str, lookup: Lookup) -> tuple[tuple[str, ...], bool]:
    """The names of the address, and whether one of them leads back to it (forward-confirmed reverse DNS)."""
    address = ip_address(client_ip)
    try:
        pointers = lookup(address.reverse_pointer, "PTR")
        names = tuple(sorted(data.target.to_text(omit_final_dot=True).lower() for data in pointers))
        kind = "A" if address.version == 4 else "AAAA"  # noqa: PLR2004  (IPv4)
        back = [ip_address(data.address) for name in names for data in lookup(name, kind)]
    except Unanswered:
        return (), False
    return names, address in back
