"""DKIM records from public keys; dkimpy reads them as a receiver does."""

from __future__ import annotations

import base64

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from standards import dkim
from standards.finding import Invalid

DER, SPKI = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def test_der_base64_and_pem_of_one_key_give_one_record(key: rsa.RSAPrivateKey) -> None:
    der = key.public_key().public_bytes(DER, SPKI)
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, SPKI)
    expected = f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode()}"
    assert [dkim.key_record(form) for form in (der, base64.b64encode(der).decode(), pem.decode(), pem)] == [
        expected
    ] * 4


def test_dkimpy_verifies_a_signature_with_the_record(key: rsa.RSAPrivateKey) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    message = b"From: i@example.com\r\nTo: you@example.net\r\nSubject: x\r\n\r\nHello\r\n"
    signature = dkimpy.sign(message, b"m1", b"example.com", private, include_headers=[b"From", b"Subject"])
    record = dkim.key_record(key.public_key().public_bytes(DER, SPKI)).encode()
    zone = {f"{dkim.record_name('m1', 'example.com')}.".encode(): record}
    assert dkimpy.verify(signature + message, dnsfunc=lambda name, **_: zone.get(name))
    assert not dkimpy.verify(signature + message.replace(b"Hello", b"Hallo"), dnsfunc=lambda name, **_: zone.get(name))


def test_dkimpy_takes_the_revoked_record_for_no_key() -> None:
    with pytest.raises(dkimpy.KeyFormatError):
        dkimpy.evaluate_pk(b"m1._domainkey.example.com.", dkim.REVOKED.encode())


def test_base64_with_a_stray_character_is_refused(key: rsa.RSAPrivateKey) -> None:
    text = base64.b64encode(key.public_key().public_bytes(DER, SPKI)).decode()
    with pytest.raises(Invalid, match="not base64"):
        dkim.key_record(f"{text[:50]}!{text[50:]}")


def test_a_weak_key_is_refused() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key().public_bytes(DER, SPKI)
    with pytest.raises(Invalid, match="1024 bits"):
        dkim.key_record(weak)


def test_another_algorithm_is_refused() -> None:
    other = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(DER, SPKI)
    with pytest.raises(Invalid, match="not RSA"):
        dkim.key_record(other)


@pytest.mark.parametrize("text", ["", "not base64!", "AAAA"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        dkim.key_record(text)
