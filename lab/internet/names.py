"""Names and tokens, the same in every lab (each is an internet of its own); addresses are in `lab.addresses`."""

from __future__ import annotations

import hashlib
from typing import Final

PARENT_ZONE: Final = "test"
"""Delegates the zones below, as a registry does."""

ACCOUNT_ZONES: Final = ("example.test", "second.test", "lab.test", "receiver.test", "colleagues.test")
"""Zones of the one Cloudflare account."""

NAMESERVERS: Final = ("ns1.lab.test", "ns2.lab.test")
ACME_NAME: Final = "acme.lab.test"
RECEIVER_MX: Final = "mx.receiver.test"
COLLEAGUES_MX: Final = "mx.colleagues.test"
REFUSED: Final = "refused@receiver.test"
"""The mailbox that takes no mail at all: who forwards to it has a message to bounce."""
COLLEAGUES_OCTET: Final = 26
"""The colleagues' mail exchanger has an address of its own: a second party that is not the judge."""

CLOUDFLARE_TOKEN: Final = "lab-cloudflare-api-token-not-a-secret-000001"  # noqa: S105  (public on purpose)
"""May edit every zone of the account."""
READ_TOKEN: Final = "lab-cloudflare-read-token-not-a-secret-00003"  # noqa: S105  (public on purpose)
"""May read every zone of the account, and edit none."""
ACME_TOKEN: Final = "lab-acme-dns-token-not-a-secret-00000000002"  # noqa: S105  (public on purpose)
"""May list zones and edit TXT records `_acme-challenge.*`, nothing else."""

# All public on purpose: access to the accounts at the two hosting providers.
CONTABO: Final = {
    "clientId": "INT-0000001",
    "clientSecret": "lab-contabo-client-secret-not-a-secret-01",
    "apiUser": "operator@example.test",
    "apiPassword": "lab contabo password, not a secret & odd=1",
}
HETZNER_TOKEN: Final = "labHetznerCloudTokenNotASecret0000000000000000000000000000000001"  # noqa: S105

CHALLENGE_ZONE: Final = "challenges.test"
"""No zone of the account: ns1 alone has it, unsigned, and takes RFC 2136 updates signed with the key below."""
TSIG_NAME: Final = "mailroom-acme"
TSIG_ALGORITHM: Final = "hmac-sha256"
TSIG_SECRET: Final = "bGFiLXRzaWcta2V5LW5vdC1hLXNlY3JldC0wMDAwMDA="  # noqa: S105  (public on purpose)


def zone_id(zone: str) -> str:
    """The Cloudflare id of a zone (no final dot): fixed, so that a tracked stack file can name it."""
    return hashlib.sha256(f"zone:{zone}".encode()).hexdigest()[:32]
