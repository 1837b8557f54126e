"""ReverseDns: the PTR records of a host, set by the hosting provider's API or, where there is none, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pulumi

from components.reverse_dns.provider import PtrCheck, PtrRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from components.settings import HostSettings


@dataclass(frozen=True, kw_only=True)
class ReverseDnsArgs:
    """`settings` is one entry of mailroom:hosts; `addresses_published` are its A and AAAA records.

    `timeout` is how many seconds the name servers may take to show them. `access` are the values (secret ones
    too) of the setting of the hosting provider, None where a person sets the records.
    """

    settings: HostSettings
    access: Mapping[str, str] | None
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
        opts = pulumi.ResourceOptions(parent=self, depends_on=list(args.addresses_published))
        common: dict[str, Any] = {
            "hostname": host.name,
            "addresses": [address for address in addresses if address],
            "resolver": args.resolver,
            "timeout": args.timeout,
            "opts": opts,
        }
        if args.access is None:
            self.checked = PtrCheck(f"{name}/ptr", **common)
        else:
            provider = host.reverse_dns.provider
            self.checked = PtrRecord(f"{name}/ptr", provider=provider, access=args.access, **common)
        self.register_outputs({})
