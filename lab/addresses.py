"""Which addresses, names and folders a lab has, computed from its name and index; touches no machine."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NamedTuple

DEFAULT_LAB: Final = "dev"
LAST_INDEX: Final = 200
RECEIVER: Final = "check@receiver.test"

# Where the guest of the lab's services finds what its machine lends it.
GUEST_CODE: Final = "/srv/mailroom/code"
"""Read-only; holds the package `lab`, so `PYTHONPATH` needs this folder and the next one."""
GUEST_SITE_PACKAGES: Final = "/srv/mailroom/site-packages"
"""Read-only; the site-packages of the checkout's virtual environment."""
GUEST_MAIL: Final = "/srv/mailroom/mail"
"""Writable; received messages, seen on the machine as `Folders.mail`."""

VPS_OCTETS: Final[tuple[int, ...]] = (*range(10, 14), *range(16, 20), *range(40, 53), *range(56, 100))
"""Last octets a VPS may have; the gaps are the lab's own services."""


class Pair(NamedTuple):
    """The two addresses of one machine or service; the last parts read the same (`.10` and `::10`)."""

    ipv4: str
    ipv6: str


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """One endpoint outside the lab that guests may reach: a package mirror (or the proxy in front of it)."""

    name: str
    port: int
    ipv4: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything about a lab that follows from its name and index.

    Index 0 is the default lab with its fixed documentation prefixes; the others live in the benchmark range
    198.18.0.0/16 (RFC 2544). Neither is private: RFC 6724 prefers IPv4 to a unique local address, and spam
    filters wave private ranges through.
    """

    name: str
    index: int
    mirrors: tuple[Mirror, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.index <= LAST_INDEX:
            raise ValueError(f"lab index {self.index} is outside 0..{LAST_INDEX}")

    @property
    def ipv4(self) -> IPv4Network:
        """The network of the guests."""
        return IPv4Network(f"198.18.{self.index}.0/24" if self.index else "198.51.100.0/24")

    @property
    def ipv6(self) -> IPv6Network:
        """The network of the guests."""
        return IPv6Network(f"2001:db8:{0x100 + self.index:x}::/64" if self.index else "2001:db8:99::/64")

    def address(self, octet: int) -> Pair:
        """Both addresses of one number: 10 is `198.51.100.10` and `2001:db8:99::10`."""
        return Pair(str(self.ipv4[octet]), f"{self.ipv6.network_address}{octet}")

    @property
    def gateway(self) -> Pair:
        """The bridge all guests are attached to, their default route."""
        return self.address(1)

    @property
    def vps(self) -> Pair:
        """The first VPS."""
        return self.address(10)

    @property
    def acme(self) -> Pair:
        """The ACME certificate authority."""
        return self.address(14)

    @property
    def api(self) -> Pair:
        """The Cloudflare v4 API and the provider's API."""
        return self.address(15)

    @property
    def receiver(self) -> Pair:
        """The mail exchanger that judges messages."""
        return self.address(25)

    @property
    def resolver(self) -> Pair:
        """The validating resolver."""
        return self.address(53)

    @property
    def ns1(self) -> Pair:
        """The authoritative server that sees changes at once."""
        return self.address(54)

    @property
    def ns2(self) -> Pair:
        """The authoritative server that can lag."""
        return self.address(55)

    @property
    def services(self) -> tuple[Pair, ...]:
        """All addresses of the guest that runs the lab's services."""
        return (self.resolver, self.ns1, self.ns2, self.acme, self.api, self.receiver)

    @property
    def uplink_machine(self) -> Pair:
        """The machine's end of the link to the lab; pulumi, scripts and tests come from here."""
        return Pair(f"198.19.{self.index}.1", f"2001:db8:ff:{self.index:x}::1")

    @property
    def uplink_lab(self) -> Pair:
        """The lab's end of the link to the machine."""
        return Pair(f"198.19.{self.index}.2", f"2001:db8:ff:{self.index:x}::2")

    @property
    def clients(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Networks whose hosts may ask the lab's resolver and APIs."""
        uplink4 = IPv4Network(f"198.19.{self.index}.0/30")
        uplink6 = IPv6Network(f"2001:db8:ff:{self.index:x}::/64")
        return (self.ipv4, self.ipv6, uplink4, uplink6)

    @property
    def reverse_zones(self) -> tuple[str, str]:
        """The zones of the PTR records, IPv4 (/24) and IPv6 (/64), without the final dot."""
        octets = str(self.ipv4.network_address).split(".")[:3]
        nibbles = self.ipv6.network_address.exploded.replace(":", "")[:16]
        return (".".join(reversed(octets)) + ".in-addr.arpa", ".".join(reversed(nibbles)) + ".ip6.arpa")

    @property
    def cloudflare_api(self) -> str:
        """Base URL of the Cloudflare v4 API."""
        return f"http://{self.api.ipv4}:8080/client/v4"

    @property
    def provider_api(self) -> str:
        """Base URL of the hosting provider's API (reverse DNS)."""
        return f"http://{self.api.ipv4}:8080/provider"

    @property
    def contabo_api(self) -> str:
        """Base URL of Contabo's API."""
        return f"http://{self.api.ipv4}:8080/contabo"

    @property
    def contabo_login(self) -> str:
        """Where Contabo's API hands out its tokens."""
        return f"{self.contabo_api}/auth/realms/contabo/protocol/openid-connect/token"

    @property
    def hetzner_api(self) -> str:
        """Base URL of the Hetzner Cloud API."""
        return f"http://{self.api.ipv4}:8080/hetzner/v1"

    @property
    def acme_directory(self) -> str:
        """The ACME directory; its certificate is for this name and signed by the lab's CA."""
        return "https://acme.lab.test:14000/dir"

    @property
    def acme_management(self) -> str:
        """The management API of the ACME server (its issuing root is at `/roots/0`)."""
        return f"https://{self.acme.ipv4}:15000"

    @property
    def netns(self) -> str:
        """The network namespace of the bridge."""
        return f"mailroom-{self.name}"

    @property
    def uplink_interface(self) -> str:
        """The interface on the machine that leads into the lab (a name has at most 15 characters)."""
        return f"mailroom{self.index}"
