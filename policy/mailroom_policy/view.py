"""Resources as the rules read them: plain values, and what a preview does not know yet marked; no rule lives here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from standards import names
from standards.finding import Invalid
from standards.records import unquoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

DNS_RECORD: Final = "cloudflare:index/dnsRecord:DnsRecord"
DNS_RECORDS: Final = (DNS_RECORD, "cloudflare:index/record:Record")  # the older name, which the provider still takes
ADDRESSES: Final = ("A", "AAAA")
REMOTE: Final = "command:remote:"
COMMANDS: Final = ("command:remote:Command", "command:local:Command")


class Unknown:
    """The type of `UNKNOWN`, a value that a preview cannot know."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One resource of the stack; `props` holds secrets in clear, so no value of it belongs into a message unasked.

    `secret_outputs` are the outputs that its options declare to be secret.
    """

    type: str
    name: str
    props: Mapping[str, Any]
    secret_outputs: Collection[str] = ()
    urn: str = ""


@dataclass(frozen=True, kw_only=True)
class DnsRecord:
    """A DNS record of the stack as receivers will read it: names in lower-case A-labels without a dot at their end."""

    resource: Resource
    name: str
    type: str
    content: str  # empty while unknown; TXT unquoted
    proxied: bool
    ttl: float | None


def records(resources: Iterable[Resource]) -> Iterator[DnsRecord]:
    """The DNS records whose name and type are known."""
    for resource in resources:
        name, kind = resource.props.get("name"), resource.props.get("type")
        if resource.type in DNS_RECORDS and isinstance(name, str) and isinstance(kind, str):
            content, ttl = resource.props.get("content"), resource.props.get("ttl")
            text = content.strip() if isinstance(content, str) else ""
            yield DnsRecord(
                resource=resource,
                name=host(name),
                type=kind.upper(),
                content=unquoted(text) if kind.upper() == "TXT" else host(text),
                proxied=resource.props.get("proxied") is True,
                ttl=ttl if isinstance(ttl, int | float) else None,
            )


def may_add_an_address(resource: Resource) -> bool:
    """Whether it is a record that may turn out to be an address of any name."""
    name, kind = resource.props.get("name"), resource.props.get("type")
    return resource.type in DNS_RECORDS and UNKNOWN in (name, kind) and kind in (*ADDRESSES, UNKNOWN)


def host(name: str) -> str:
    """A name or address as it is compared with others."""
    plain = name.strip().rstrip(".").lower()
    wildcard = "*." if plain.startswith("*.") else ""
    for canonical in (names.ip_address, names.dns_name):
        try:
            return wildcard + canonical(plain.removeprefix(wildcard))
        except Invalid:
            continue
    return plain


def payload(resource: Resource) -> Mapping[str, Any] | None:
    """What a step of ours reads on its standard input; None where that is unknown or no JSON object."""
    text = resource.props.get("stdin")
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return found if isinstance(found, Mapping) else None
