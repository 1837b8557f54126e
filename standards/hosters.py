"""What hosting providers do with outgoing mail and reverse DNS, and by what their machines are known; no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, kw_only=True)
class Hoster:
    """One provider; `key` is its name in `reverseDns: {provider: ...}` where it has an API for that.

    `reverse_names` end the names it gives to addresses, `hardware` is in its machines' DMI tables, `port_25` says
    how outgoing mail is allowed, `ptr` where a person sets reverse DNS.
    """

    name: str
    key: str | None = None
    reverse_names: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()
    port_25: str
    ptr: str


HOSTERS = (
    Hoster(
        name="Hetzner",
        key="hetzner",
        reverse_names=("your-server.de", "hetzner.com", "your-cloud.host"),
        hardware=("Hetzner",),
        port_25="ports 25 and 465 are closed for new cloud accounts; after the first paid invoice ask for them in the "
        "console: console.hetzner.com > Limits > Request change > Unblock ports",
        ptr="console.hetzner.com > the server > Networking > the address > Edit Reverse DNS",
    ),
    Hoster(
        name="Contabo",
        key="contabo",
        reverse_names=("contaboserver.net", "contabo.host", "contabo.net"),
        port_25="usually open, with a limit a minute; closed after complaints: write to contabo.com/en/support",
        ptr="the customer panel (my.contabo.com) > Reverse DNS Management",
    ),
    Hoster(
        name="OVHcloud",
        reverse_names=("ovh.net", "ovh.ca", "ovh.us", "ovhcloud.com"),
        port_25="usually open; its anti-spam closes it after complaints: the control panel > Network > Public IP "
        "Addresses > the address > Anti-Spam, or a support ticket",
        ptr="the control panel > Network > Public IP Addresses > Modify the reverse path",
    ),
    Hoster(
        name="DigitalOcean",
        hardware=("DigitalOcean",),
        port_25="ports 25, 465 and 587 are closed on Droplets; ask in a support ticket (cloudsupport.digitalocean.com),"
        " it is seldom granted: docs.digitalocean.com/support/why-is-smtp-blocked/",
        ptr="rename the Droplet to the host's full name: DigitalOcean makes the PTR from it",
    ),
    Hoster(
        name="Vultr",
        reverse_names=("vultrusercontent.com", "vultr.com"),
        hardware=("Vultr",),
        port_25="closed for new accounts; open a ticket that asks for it: my.vultr.com/support/create_ticket/",
        ptr="my.vultr.com > the instance > Settings > IPv4 or IPv6 > Reverse DNS",
    ),
    Hoster(
        name="Amazon EC2",
        reverse_names=("amazonaws.com", "compute.internal"),
        hardware=("Amazon EC2",),
        port_25="closed; ask with the form 'Request to remove email sending limitations': "
        "console.aws.amazon.com/support/contacts?#/rdns-limits",
        ptr="EC2 console > Elastic IPs > Actions > Update reverse DNS",
    ),
    Hoster(
        name="Google Cloud",
        reverse_names=("googleusercontent.com",),
        hardware=("Google",),
        port_25="closed, and no form opens it (cloud.google.com/compute/docs/tutorials/sending-mail): take a host of "
        "another provider",
        ptr="the VM's network interface > Public DNS PTR Record, after the domain is verified",
    ),
    Hoster(
        name="Microsoft Azure",
        reverse_names=("cloudapp.azure.com",),
        # The asset tag of every Azure machine; Hyper-V elsewhere has the same vendor and another tag.
        hardware=("7783-7084-3265-9085-8269-3286-77",),
        port_25="closed unless the subscription is an Enterprise Agreement: the portal > Diagnose and solve > Cannot "
        "send email (SMTP port 25), else take a host of another provider",
        ptr="az network public-ip update --reverse-fqdn",
    ),
    Hoster(
        name="Linode (Akamai)",
        reverse_names=("linodeusercontent.com", "members.linode.com", "linode.com"),
        hardware=("Linode", "Akamai"),
        port_25="ports 25, 465 and 587 are closed for new accounts; open a ticket after A and PTR are set: "
        "cloud.linode.com/support/tickets",
        ptr="cloud.linode.com > the Linode > Network > the address > Edit RDNS (its A record must exist first)",
    ),
    Hoster(
        name="Oracle Cloud",
        hardware=("OracleCloud.com",),
        port_25="closed; a paying account asks by a service request for the SMTP exemption of its tenancy",
        ptr="a service request at Oracle support",
    ),
    Hoster(
        name="Scaleway",
        reverse_names=("scw.cloud", "scaleway.com", "poneytelecom.eu"),
        hardware=("Scaleway",),
        port_25="closed by the security group: verify the account, then console > Security groups > Enable SMTP",
        ptr="console > the flexible IP > Reverse DNS",
    ),
)
UNKNOWN = Hoster(
    name="the hosting provider",
    port_25="ask its support to open outgoing port 25 for this server (often a form named 'unblock SMTP'); say what "
    "you send and that SPF, DKIM and DMARC are set",
    ptr="its panel or support (often named 'reverse DNS' or 'rDNS')",
)


def known_by(reverse_names: Iterable[str], hardware: Iterable[str]) -> Hoster:
    """The provider of a machine, by the names of its addresses and what its DMI tables say; else `UNKNOWN`."""
    names = [name.lower().rstrip(".") for name in reverse_names]
    says = [text.lower() for text in hardware if text]
    for hoster in HOSTERS:
        if any(name == end or name.endswith(f".{end}") for name in names for end in hoster.reverse_names):
            return hoster
    for hoster in HOSTERS:
        if any(text.startswith(mark.lower()) for text in says for mark in hoster.hardware):
            return hoster
    return UNKNOWN
