"""Who made a backup: an Ed25519 signature with a key that follows from the stack's passphrase.

age says who can read a backup, not who wrote it: anybody may know a recipient. The public half, the signer, is no
secret; passphrases can be tried against it, as slowly as scrypt is.
"""

from __future__ import annotations

import base64
import json

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

COST = 2**16  # scrypt's N; with r = 8 it takes 64 MiB


def key_of(passphrase: str, stack: str) -> Ed25519PrivateKey:
    """The key that signs the backups of a stack: the same on every machine that knows the passphrase."""
    scrypt = Scrypt(salt=f"mailroom backup of {stack}".encode(), length=32, n=COST, r=8, p=1)
    return Ed25519PrivateKey.from_private_bytes(scrypt.derive(passphrase.encode()))


def signer_of(key: Ed25519PrivateKey) -> str:
    """Its public half as people keep it: 43 characters."""
    return base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).decode().rstrip("=")


def sign(content: bytes, key: Ed25519PrivateKey) -> bytes:
    """The content behind a line with its signer and signature."""
    head = {"signer": signer_of(key), "signature": base64.b64encode(key.sign(content)).decode()}
    return json.dumps(head).encode() + b"\n" + content


def signer_told(signed: bytes) -> str:
    """Who signed it by its own word, which proves nothing."""
    try:
        return str(json.loads(signed.partition(b"\n")[0])["signer"])[:50]
    except (KeyError, TypeError, ValueError):
        return "nobody"


def content_of(signed: bytes, signer: str) -> bytes | None:
    """The content, if this signer signed it."""
    head, _, content = signed.partition(b"\n")
    try:
        public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(f"{signer}="))
        public.verify(base64.b64decode(json.loads(head)["signature"]), content)
    except (InvalidSignature, KeyError, TypeError, ValueError):
        return None
    return content
