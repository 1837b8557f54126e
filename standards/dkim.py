"""DKIM key records (RFC 6376, 8301): the TXT value of a public key, of a revoked key, and their names.

Keys are made elsewhere; private keys never come here.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, Literal, get_args

from standards import limits
from standards.finding import Invalid

Stage = Literal["published", "active", "retiring", "revoked"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
REVOKED: Final = "v=DKIM1; k=rsa; p="  # RFC 6376 section 3.6.1: an empty p= takes the key back
NEW_KEY: Final = "<new RSA-2048 key>"


def record_name(selector: str, domain: str) -> str:
    """Where receivers look for the key."""
    return f"{selector}._domainkey.{domain}"


def key_record(public_key: str | bytes) -> str:
    """The TXT value for an RSA public key: DER SubjectPublicKeyInfo as bytes, as base64 or as PEM text."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

    der = _der(public_key)
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _not_a_key("the value is not a public key") from error
    if not isinstance(key, RSAPublicKey):
        raise _not_a_key(f"the key is {type(key).__name__}, not RSA")
    if not limits.RSA_BITS_MIN <= key.key_size <= limits.RSA_BITS_MAX:
        raise _not_a_key(f"the RSA key has {key.key_size} bits")
    canonical = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"v=DKIM1; k=rsa; p={base64.b64encode(canonical).decode('ascii')}"


def _der(public_key: str | bytes) -> bytes:
    if isinstance(public_key, bytes) and not public_key.startswith(b"-----"):
        return public_key
    text = public_key.decode("ascii") if isinstance(public_key, bytes) else public_key
    body = "".join(line.strip() for line in text.splitlines() if not line.startswith("-----"))
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise _not_a_key("the value is not base64") from error


def _not_a_key(found: str) -> Invalid:
    return Invalid(
        found,
        id="dkim-key-invalid",
        expected=f"an RSA public key of {limits.RSA_BITS_MIN} to {limits.RSA_BITS_MAX} bits, PEM or DER",
        why="receivers must verify RSA up to 4096 bits; other algorithms are not verified everywhere (RFC 8301)",
        fix="make a new key pair under a new selector",
    )
