"""DKIM keys (RFC 6376, 8301, 8463): their records, revoked ones too, their names, and private keys made elsewhere.

Keys are not made here, and a private key that is refused is never repeated.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final, Literal, get_args

from standards import limits, names
from standards.finding import Invalid

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

Stage = Literal["published", "active", "retiring", "revoked"]
Algorithm = Literal["rsa", "ed25519"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
REVOKED: Final = "v=DKIM1; k=rsa; p="  # RFC 6376 section 3.6.1: an empty p= takes the key back
NEW_KEY: Final = "<new RSA-2048 key>"
RSA_INFO: Final = bytes.fromhex("300d06092a864886f70d0101010500")  # RFC 3279: the algorithm of the key that follows
ED25519_INFO: Final = bytes.fromhex("302a300506032b6570032100")  # RFC 8410: what stands before the 32 octets


def record_name(selector: str, domain: str) -> str:
    """Where receivers look for the key."""
    return f"{selector}._domainkey.{domain}"


def key_name(text: str) -> str:
    """A key by its record's name, `<selector>._domainkey.<domain>`, in canonical spelling."""
    selector, found, domain = text.strip().partition("._domainkey.")
    if not found:
        raise Invalid(
            f"{names.shown(text)} is not the name of a DKIM key",
            id="dkim-name-invalid",
            expected="selector, ._domainkey. and domain, such as m1._domainkey.example.com",
            fix="write the name of the key's TXT record",
        )
    return record_name(names.selector(selector), names.fqdn(domain))


def key_record(public_key: str | bytes) -> str:
    """The TXT value for a public key: DER SubjectPublicKeyInfo as bytes, as base64 or as PEM text."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

    der = _der(public_key)
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _not_a_key("the value is not a public key") from error
    algorithm = _algorithm(key)
    # RFC 6376 section 3.6.1 wants the whole structure of RSA, RFC 8463 section 4 the 32 octets alone
    canonical = (
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if algorithm == "rsa"
        else key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    )
    return f"v=DKIM1; k={algorithm}; p={base64.b64encode(canonical).decode('ascii')}"


def record_of(public: str) -> str:
    """The TXT value for a key that was judged before: base64 of DER SubjectPublicKeyInfo, as `public_half` gives it.

    Without the library that loads keys: its import alone would take a fiftieth of every run.
    """
    der = _der(public)
    if der.startswith(ED25519_INFO) and len(der) == len(ED25519_INFO) + 32:
        return f"v=DKIM1; k=ed25519; p={base64.b64encode(der.removeprefix(ED25519_INFO)).decode('ascii')}"
    if der[4:].startswith(RSA_INFO) and len(der) > limits.RSA_BITS_MIN // 8:
        return f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode('ascii')}"
    return key_record(public)  # tells what is wrong with it


def tags(text: str) -> dict[str, str]:
    """The tags of a record, of a repeated one the first; `P` is another than `p` (RFC 6376 section 3.2)."""
    found: dict[str, str] = {}
    for part in text.split(";"):
        tag, equals, value = part.partition("=")
        if equals:
            found.setdefault(tag.strip(), value.strip())
    return found


def published(text: str) -> str | None:
    """The key in a record, base64 without white space; empty for a revoked one, None where the record holds none."""
    key = tags(text).get("p")
    return None if key is None else "".join(key.split())


def _algorithm(key: PublicKeyTypes) -> Algorithm:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if isinstance(key, Ed25519PublicKey):
        return "ed25519"
    if not isinstance(key, RSAPublicKey):
        raise _not_a_key(f"the key is {type(key).__name__.removesuffix('PublicKey')}, neither RSA nor Ed25519")
    if not limits.RSA_BITS_MIN <= key.key_size <= limits.RSA_BITS_MAX:
        raise _not_a_key(f"the RSA key has {key.key_size} bits")
    return "rsa"


def private_key(text: str) -> str:
    """A private key in PEM, of PKCS#1 or PKCS#8, as PKCS#8: the one form that the mail server reads."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = _load(text)
    _algorithm(key.public_key())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def public_half(private: str) -> tuple[Algorithm, str]:
    """Algorithm, and base64 of the SubjectPublicKeyInfo, of a private key in PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = _load(private).public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _algorithm(public), base64.b64encode(der).decode("ascii")


def _load(text: str) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(text.strip().encode(), None)
    except TypeError:
        raise _not_a_private_key("the key is encrypted with a passphrase", "take the passphrase off") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _not_a_private_key("the value is not a private key in PEM", "store the whole file") from None


def _not_a_private_key(found: str, fix: str) -> Invalid:
    name = "m1._domainkey.example.com"
    return Invalid(
        found,
        id="dkim-private-key-invalid",
        expected="a file that begins with -----BEGIN PRIVATE KEY----- or -----BEGIN RSA PRIVATE KEY-----",
        fix=f"{fix}: `pulumi config set --secret --path 'mailroom:dkimKeys[\"{name}\"]' < m1.pem`",
    )


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
        expected=f"an RSA key of {limits.RSA_BITS_MIN} to {limits.RSA_BITS_MAX} bits, or Ed25519",
        why="receivers take shorter RSA keys for broken and need not verify longer ones (RFC 8301), nor any other kind",
        fix="make a new key pair under a new selector",
    )
