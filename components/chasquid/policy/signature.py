"""A second DKIM signature where chasquid's is not enough: RFC 8058 section 4 wants List-Unsubscribe-Post covered.

chasquid signs before it asks the hook and puts nothing but Received and our fields on top, none of which is signed.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dkim
from dkim.asn1 import INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, ASN1FormatError, asn1_parse

from .message import domain_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .message import Headers, Request

KEYS = Path("/etc/mailroom/current/domains")
ONE_CLICK = "List-Unsubscribe-Post"
SIGNED = (
    *("From", "Subject", "Date", "To", "Cc", "Reply-To", "Message-ID", "MIME-Version", "Content-Type"),
    *("List-Unsubscribe", ONE_CLICK),
)
RSA = bytes.fromhex("2a864886f70d010101")  # 1.2.840.113549.1.1.1
ED25519 = bytes.fromhex("2b6570")  # 1.3.101.112, RFC 8410 section 3
PKCS8 = [(SEQUENCE, [(INTEGER,), (SEQUENCE, [(OBJECT_IDENTIFIER,)]), (OCTET_STRING,)])]  # RFC 5208 section 5


class Unsigned(Exception):  # noqa: N818  (says what becomes of the message)
    """Why a message that needs our signature cannot have it now; it must not leave without."""


def headers(request: Request, headers: Headers, settings: Mapping[str, Any], keys: Path = KEYS) -> list[str]:
    """A DKIM-Signature for each active key of the sender's domain, none without one click. Raises `Unsigned`."""
    if not headers.all(ONE_CLICK):
        return []
    domain = domain_of(request.sender)
    selectors = settings["domains"].get(domain, {}).get("selectors", ())
    if not selectors:
        raise Unsigned(f"{domain} has no active DKIM key, and {ONE_CLICK} needs a signature")
    # Each field once more than it is there: none can be added afterwards (RFC 6376 section 8.15).
    names = [name.encode() for name in SIGNED for _ in range(len(headers.all(name)) + 1)]
    try:
        return [sign(request.message, names, domain, selector, keys) for selector in selectors]
    except (OSError, ValueError, dkim.DKIMException) as error:
        raise Unsigned(f"{domain} cannot sign now, and {ONE_CLICK} needs a signature") from error


def sign(message: bytes, names: list[bytes], domain: str, selector: str, keys: Path) -> str:
    """The field, folded with LF as chasquid keeps messages."""
    algorithm, key = private_key((keys / domain / f"dkim:{selector}.pem").read_bytes())
    signed: bytes = dkim.sign(
        message,
        selector.encode(),
        domain.encode(),
        key,
        # "simple" also because dkimpy's "relaxed" takes quadratic time over a body of many blanks
        canonicalize=(b"relaxed", b"simple"),
        signature_algorithm=algorithm,
        include_headers=names,
    )
    return signed.decode("ascii").replace("\r\n", "\n").rstrip("\n")


def private_key(pem: bytes) -> tuple[bytes, bytes]:
    """Algorithm and key for dkimpy, which wants PKCS#1 or a bare seed, from PKCS#8 as chasquid reads it."""
    lines = pem.strip().splitlines()
    if lines[:1] != [b"-----BEGIN PRIVATE KEY-----"]:
        raise ValueError("the key is not PKCS#8 in PEM")
    try:
        ((_, (identifier,), inner),) = asn1_parse(PKCS8, base64.b64decode(b"".join(lines[1:-1])))
    except ASN1FormatError as error:
        raise ValueError("the key is damaged") from error
    if identifier == RSA:
        return b"rsa-sha256", b"-----BEGIN RSA PRIVATE KEY-----\n%b\n-----END RSA PRIVATE KEY-----" % base64.b64encode(
            inner
        )
    if identifier == ED25519:
        return b"ed25519-sha256", base64.b64encode(inner[2:])  # an octet string in the octet string
    raise ValueError("the key is neither RSA nor Ed25519")
