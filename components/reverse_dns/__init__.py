"""ReverseDns: the PTR records of a host, checked where no provider API sets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi

from components.reverse_dns.provider import PtrCheck

if TYPE_CHECKING:
    from collections.abc import Sequence

    from components.settings import HostSettings


@dataclass(frozen=True, kw_only=True)
class ReverseDnsArgs:
    """`settings` is one entry of mailroom:hosts; `addresses_published` are its A and AAAA records.

    `timeout` is how many seconds the name servers may take to show them.
    """

    settings: HostSettings
    resolver: str | None
    timeout: int
    addresses_published: Sequence[pulumi.Resource]


class ReverseDns(pulumi.ComponentResource):
    """The PTR of each address a host sends from equals its name; `checked` is what mail waits for."""

    checked: pulumi.Resource

    def __init__(self, name: str, args: ReverseDnsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mailroom:index:ReverseDns", name, None, opts)
        host = args.settings
        addresses = [host.ipv4, host.ipv6 if host.ipv6_outbound else None]
        self.checked = PtrCheck(
            f"{name}/ptr",
            hostname=host.name,
            addresses=[address for address in addresses if address],
            resolver=args.resolver,
            timeout=args.timeout,
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.addresses_published)),
        )
        self.register_outputs({})
