"""DKIM records from public keys; dkimpy reads them as a receiver does."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from standards import dkim
from standards.finding import Invalid

if TYPE_CHECKING:
    from collections.abc import Callable

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


def test_the_record_of_a_judged_key_is_that_of_the_key_itself(key: rsa.RSAPrivateKey) -> None:
    for private in (key, ed25519.Ed25519PrivateKey.generate()):
        public = base64.b64encode(private.public_key().public_bytes(DER, SPKI)).decode()
        assert dkim.record_of(public) == dkim.key_record(public)


@pytest.mark.parametrize("broken", ["", "AAAA", "no base64", base64.b64encode(b"\0" * 400).decode()])
def test_what_is_no_key_becomes_no_record(broken: str) -> None:
    with pytest.raises(Invalid):
        dkim.record_of(broken)


def test_a_weak_key_becomes_no_record() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key().public_bytes(DER, SPKI)
    with pytest.raises(Invalid, match="1024 bits"):
        dkim.record_of(base64.b64encode(weak).decode())


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
    other = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(DER, SPKI)
    with pytest.raises(Invalid, match="neither RSA nor Ed25519"):
        dkim.key_record(other)


PEM, RAW = serialization.Encoding.PEM, serialization.NoEncryption()
PKCS1, PKCS8 = serialization.PrivateFormat.TraditionalOpenSSL, serialization.PrivateFormat.PKCS8


def test_dkimpy_verifies_an_ed25519_signature_with_the_record() -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    seed = base64.b64encode(private.private_bytes_raw())
    message = b"From: i@example.com\r\nSubject: x\r\n\r\nHello\r\n"
    signature = dkimpy.sign(message, b"e1", b"example.com", seed, signature_algorithm=b"ed25519-sha256",
                            include_headers=[b"From", b"Subject"])  # fmt: skip
    record = dkim.key_record(private.public_key().public_bytes(DER, SPKI)).encode()
    assert dkimpy.verify(signature + message, dnsfunc=lambda name, **_: record)


def test_a_ready_key_of_either_form_becomes_pkcs8_and_keeps_its_public_half(key: rsa.RSAPrivateKey) -> None:
    pkcs8 = key.private_bytes(PEM, PKCS8, RAW).decode()
    assert dkim.private_key(f"\n{key.private_bytes(PEM, PKCS1, RAW).decode()}") == dkim.private_key(pkcs8) == pkcs8
    public = base64.b64encode(key.public_key().public_bytes(DER, SPKI)).decode()
    assert dkim.public_half(pkcs8) == ("rsa", public)


def test_a_ready_ed25519_key_is_taken() -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, RAW).decode()
    assert dkim.private_key(pem) == pem
    assert dkim.public_half(pem)[0] == "ed25519"


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: rsa.generate_private_key(public_exponent=65537, key_size=1024).private_bytes(PEM, PKCS8, RAW), "1024"),
        (lambda: ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, RAW), "neither RSA"),
        (lambda: ed25519.Ed25519PrivateKey.generate().private_bytes(
            PEM, PKCS8, serialization.BestAvailableEncryption(b"x")), "passphrase"),
        (lambda: b"-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n", "not a private key"),
        (lambda: b"canary", "not a private key"),
    ],
)  # fmt: skip
def test_a_ready_key_that_no_receiver_would_trust_is_refused_without_repeating_it(
    make: Callable[[], bytes], found: str
) -> None:
    pem = make().decode()
    with pytest.raises(Invalid, match=found) as caught:
        dkim.private_key(pem)
    told = str(caught.value) + str(caught.value.at("x")) + str(caught.value.__cause__)
    assert "canary" not in told
    assert pem.splitlines()[-2:][0][:20] not in told


@pytest.mark.parametrize("text", ["M1._domainkey.Example.COM.", " m1._domainkey.example.com"])
def test_a_key_is_named_as_its_record_however_it_is_spelled(text: str) -> None:
    assert dkim.key_name(text) == "m1._domainkey.example.com"


@pytest.mark.parametrize("text", ["m1", "example.com/m1", "a.b._domainkey.example.com", "m1._domainkey."])
def test_what_is_no_name_of_a_key_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        dkim.key_name(text)


@pytest.mark.parametrize("text", ["", "not base64!", "AAAA"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        dkim.key_record(text)
