"""Issues TLS certificates by the lab's CA, for services whose name the outside world is meant to verify."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence

KEYS: Final = Path(__file__).parent.parent / "keys"
CA_CERTIFICATE: Final = KEYS / "ca.pem"
LIFETIME: Final = timedelta(days=90)


def issue(name: str, addresses: Sequence[str], folder: Path) -> None:
    """Write `<name>.pem` (certificate) and `<name>.key` for a host name and the addresses it is also called by."""
    authority = x509.load_pem_x509_certificate(CA_CERTIFICATE.read_bytes())
    authority_key = serialization.load_pem_private_key((KEYS / "ca.key").read_bytes(), password=None)
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{KEYS / 'ca.key'} is no ECDSA key")
    key = ec.generate_private_key(ec.SECP256R1())
    # A clock that is a little behind must not make a new certificate invalid.
    start = datetime.now(UTC) - timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + LIFETIME)
        .add_extension(_names(name, addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = folder / f"{name}.key"
    secret.touch(mode=0o600)
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _names(name: str, addresses: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [x509.DNSName(name), *(x509.IPAddress(ip_address(address)) for address in addresses)]
    )
