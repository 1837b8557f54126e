"""What every lab's DNS holds before anyone uses it: zones, delegations, the lab's own names; pure."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from lab.internet import dnssec
from lab.internet.authoritative import RecordSet
from lab.internet.names import (
    ACCOUNT_ZONES,
    ACME_NAME,
    CHALLENGE_ZONE,
    COLLEAGUES_MX,
    COLLEAGUES_OCTET,
    NAMESERVERS,
    PARENT_ZONE,
    RECEIVER_MX,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.addresses import Pair, Plan


def own_names(plan: Plan) -> dict[str, Pair]:
    """The names of the lab's services, each with an A, an AAAA and both PTR records."""
    return {
        NAMESERVERS[0]: plan.ns1,
        NAMESERVERS[1]: plan.ns2,
        ACME_NAME: plan.acme,
        "api.lab.test": plan.api,
        "resolver.lab.test": plan.resolver,
        RECEIVER_MX: plan.receiver,
        COLLEAGUES_MX: plan.address(COLLEAGUES_OCTET),
    }


def zones(plan: Plan) -> dict[str, list[RecordSet]]:
    """Every zone and the record sets that are in it from the start, those of the account's records excepted."""
    signed = (PARENT_ZONE, *ACCOUNT_ZONES, *plan.reverse_zones)
    content = {zone: [RecordSet(zone, "NS", tuple(f"{name}." for name in NAMESERVERS))] for zone in signed}
    for child in ACCOUNT_ZONES:
        content[PARENT_ZONE].append(RecordSet(child, "NS", tuple(f"{name}." for name in NAMESERVERS)))
        content[PARENT_ZONE].append(RecordSet(child, "DS", (dnssec.ds(child),)))
    content[PARENT_ZONE].append(RecordSet(CHALLENGE_ZONE, "NS", (f"{NAMESERVERS[0]}.",)))
    for name, server in zip(NAMESERVERS, (plan.ns1, plan.ns2), strict=True):
        content[PARENT_ZONE].append(RecordSet(name, "A", (server.ipv4,)))
        content[PARENT_ZONE].append(RecordSet(name, "AAAA", (server.ipv6,)))
    for name, pair in own_names(plan).items():
        for zone, address in zip(plan.reverse_zones, pair, strict=True):
            content[zone].append(RecordSet(ip_address(address).reverse_pointer, "PTR", (f"{name}.",)))
    return content


def account_records(plan: Plan) -> Iterator[dict[str, Any]]:
    """The records the account's zones start with, as one would send them to the Cloudflare API."""
    for name, pair in own_names(plan).items():
        yield {"type": "A", "name": name, "content": pair.ipv4, "ttl": 300}
        yield {"type": "AAAA", "name": name, "content": pair.ipv6, "ttl": 300}
    for mx in (RECEIVER_MX, COLLEAGUES_MX):
        zone = mx.partition(".")[2]
        yield {"type": "MX", "name": zone, "content": mx, "priority": 10, "ttl": 300}
        yield {"type": "TXT", "name": zone, "content": '"v=spf1 mx -all"', "ttl": 300}


def trust_anchors(plan: Plan) -> list[str]:
    """DS records a validating resolver starts from; the lab has no root, so each top zone is its own island."""
    return [f"{zone}. IN DS {dnssec.ds(zone)}" for zone in (PARENT_ZONE, *plan.reverse_zones)]
