"""The fixed signing key of every zone of the lab and what follows from it: DS records, PowerDNS's import form.

One key for all zones and both servers: the trust anchors are known before anything runs, and ns1 and ns2 answer
with signatures of the same DNSKEY, as servers of one operator do. A DS covers the owner name, so they differ.
"""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import dns.dnssec
import dns.name
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from dns.dnssectypes import Algorithm

if TYPE_CHECKING:
    from dns.rdtypes.ANY.DNSKEY import DNSKEY

KEY_FILE: Final = Path(__file__).parent.parent / "keys" / "dnssec.key"
KEY_SIGNING_FLAGS: Final = 257


@cache
def _key() -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(KEY_FILE.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{KEY_FILE} holds a {type(key).__name__}, expected an ECDSA P-256 key")
    return key


def dnskey() -> DNSKEY:
    """The public key as zones publish it."""
    return dns.dnssec.make_dnskey(_key().public_key(), Algorithm.ECDSAP256SHA256, KEY_SIGNING_FLAGS)


def ds(zone: str) -> str:
    """The DS record content of a zone (no final dot): `12345 13 2 <digest>`."""
    return dns.dnssec.make_ds(dns.name.from_text(zone), dnskey(), "SHA256").to_text()


def private_key_text() -> str:
    """The private key in the form BIND and PowerDNS import."""
    secret = _key().private_numbers().private_value.to_bytes(32, "big")
    lines = ("Private-key-format: v1.2", "Algorithm: 13 (ECDSAP256SHA256)")
    return "\n".join([*lines, f"PrivateKey: {base64.b64encode(secret).decode()}", ""])
