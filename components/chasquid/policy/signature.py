"""A second DKIM signature where chasquid's is not enough: RFC 8058 section 4 wants List-Unsubscribe-Post covered.

chasquid signs before it asks and puts nothing but Received and our fields on top, none of which is signed.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dkim

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
# What stands before the key itself in PKCS#8 (RFC 5208 section 5, RFC 8410 section 7); `..` is a length.
RSA = re.compile(
    rb"\x30\x82..\x02\x01\0\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\0\x04\x82..", re.DOTALL
)
ED25519 = re.compile(rb"\x30\x2e\x02\x01\0\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20")


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
    der = base64.b64decode(b"".join(lines[1:-1]))
    if found := RSA.match(der):
        inner = base64.b64encode(der[found.end() :])
        return b"rsa-sha256", b"-----BEGIN RSA PRIVATE KEY-----\n%b\n-----END RSA PRIVATE KEY-----" % inner
    if found := ED25519.match(der):
        return b"ed25519-sha256", base64.b64encode(der[found.end() :])
    raise ValueError("the key is neither RSA nor Ed25519")
