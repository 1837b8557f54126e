"""The signature that covers one-click unsubscribing, verified by another implementation's reading of it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from components.chasquid.policy import signature
from components.chasquid.policy.message import Headers, Request

if TYPE_CHECKING:
    from pathlib import Path

ONE_CLICK = {"List-Unsubscribe": "<https://example.com/u/1>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
FIELDS = {
    "From": "Alice <alice@example.com>",
    "To": "to@receiver.test",
    "Subject": "Our\n news",
    "Date": "Tue, 24 Nov 2026 10:00:00 +0000",
    "Message-ID": "<1@example.com>",
    "MIME-Version": "1.0",
    "Content-Type": "text/plain; charset=utf-8",
}
TOP = "Received: from client\n\tby smtp.example.com (chasquid) with ESMTPSA\nDKIM-Signature: v=1; chasquid's own\n"
BODY = "Hello,  two blanks \n\t.\nümlaut\n\n\n"
RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
Private = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def pem(key: Private, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def record(key: Private) -> bytes:
    """The TXT value of the public key (RFC 6376 section 3.6.1, RFC 8463)."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return b"v=DKIM1; k=ed25519; p=" + base64.b64encode(public)
    return b"v=DKIM1; k=rsa; p=" + base64.b64encode(
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """m1 is RSA, m2 Ed25519, as components/dkim writes them."""
    for domain in ("example.com", "xn--bcher-kva.test"):
        (tmp_path / domain).mkdir()
        (tmp_path / domain / "dkim:m1.pem").write_bytes(pem(RSA))
        (tmp_path / domain / "dkim:m2.pem").write_bytes(pem(ED25519))
    return tmp_path


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    settings["domains"]["xn--bcher-kva.test"] = {"selectors": ["m1"]}
    settings["domains"]["unsigned.test"] = {"selectors": []}
    return settings


def request(fields: dict[str, str], sender: str = "alice@example.com", body: str = BODY) -> Request:
    text = TOP + "".join(f"{name}: {value}\n" for name, value in fields.items()) + "\n" + body
    return Request("192.0.2.1:1", "client", sender, ("to@receiver.test",), sender, True, False, text.encode())


def sign(asked: Request, settings: dict[str, Any], keys: Path) -> list[str]:
    return signature.headers(asked, Headers.parse(asked.message), settings, keys)


def sent(asked: Request, fields: list[str]) -> bytes:
    """The message as chasquid's courier puts it on the wire."""
    return "".join(f"{field}\n" for field in fields).encode().replace(b"\n", b"\r\n") + asked.message.replace(
        b"\n", b"\r\n"
    )


def valid(message: bytes, key: Private = RSA) -> bool:
    return bool(dkim.verify(message, dnsfunc=lambda *_, **__: record(key)))


@pytest.mark.parametrize(("selector", "key"), [("m1", RSA), ("m2", ED25519)])
def test_one_click_is_covered_by_a_signature_that_others_find_valid(
    settings: dict[str, Any], keys: Path, selector: str, key: Private
) -> None:
    settings["domains"]["example.com"]["selectors"] = [selector]
    asked = request(FIELDS | ONE_CLICK)
    (field,) = sign(asked, settings, keys)
    assert valid(sent(asked, [field]), key)
    tags = {name.strip(): value.strip() for name, _, value in (tag.partition("=") for tag in field[15:].split(";"))}
    assert (tags["d"], tags["s"]) == ("example.com", selector)


def test_each_active_key_signs(settings: dict[str, Any], keys: Path) -> None:
    settings["domains"]["example.com"]["selectors"] = ["m1", "m2"]
    assert [" s=m" in field for field in sign(request(FIELDS | ONE_CLICK), settings, keys)] == [True, True]


@pytest.mark.parametrize("name", [*FIELDS, *ONE_CLICK, "Cc", "Reply-To"])
def test_nothing_that_unsubscribing_hangs_on_can_be_changed_or_added(
    settings: dict[str, Any], keys: Path, name: str
) -> None:
    asked = request(FIELDS | ONE_CLICK)
    wire = sent(asked, sign(asked, settings, keys))
    head, _, rest = wire.partition(b"\r\n\r\n")
    assert not valid(head + f"\r\n{name}: another".encode() + b"\r\n\r\n" + rest)
    assert not valid(f"{name}: another\r\n".encode() + wire)
    if name in FIELDS | ONE_CLICK:
        assert not valid(wire.replace(f"\r\n{name}:".encode(), f"\r\nX-{name}:".encode()))


def test_a_changed_body_shows(settings: dict[str, Any], keys: Path) -> None:
    asked = request(FIELDS | ONE_CLICK)
    assert not valid(sent(asked, sign(asked, settings, keys)).replace(b"Hello", b"Hullo"))


def test_what_is_put_on_top_later_does_no_harm(settings: dict[str, Any], keys: Path) -> None:
    asked = request(FIELDS | ONE_CLICK)
    assert valid(b"Received: by the next hop\r\n" + sent(asked, sign(asked, settings, keys)))


def test_a_field_that_is_folded_anew_on_the_way_stays_valid(settings: dict[str, Any], keys: Path) -> None:
    asked = request(FIELDS | ONE_CLICK)
    assert valid(sent(asked, sign(asked, settings, keys)).replace(b"Our\r\n news", b"Our news"))


@pytest.mark.parametrize("missing", ["Date", "Message-ID", "MIME-Version", "Content-Type", "To", "Subject"])
def test_a_field_that_is_not_there_is_no_obstacle(settings: dict[str, Any], keys: Path, missing: str) -> None:
    asked = request({name: value for name, value in (FIELDS | ONE_CLICK).items() if name != missing})
    assert valid(sent(asked, sign(asked, settings, keys)))


def test_the_fields_are_what_chasquid_takes_for_headers(settings: dict[str, Any], keys: Path) -> None:
    (field,) = sign(request(FIELDS | ONE_CLICK), settings, keys)
    first, *others = field.split("\n")
    assert first.startswith("DKIM-Signature: v=1;")
    assert all(line.startswith(" ") and line.strip() for line in others)
    assert "\r" not in field


def test_mail_without_one_click_needs_no_second_signature(settings: dict[str, Any], tmp_path: Path) -> None:
    assert sign(request(FIELDS), settings, tmp_path) == []


def test_a_name_in_any_case_is_signed(settings: dict[str, Any], keys: Path) -> None:
    asked = request(FIELDS | {"list-UNSUBSCRIBE-post": "List-Unsubscribe=One-Click"})
    assert valid(sent(asked, sign(asked, settings, keys)))


def test_an_internationalized_domain_signs_by_its_name_in_dns(settings: dict[str, Any], keys: Path) -> None:
    (field,) = sign(request(FIELDS | ONE_CLICK, sender="a@bücher.test"), settings, keys)
    assert "d=xn--bcher-kva.test;" in field


@pytest.mark.parametrize("sender", ["a@unsigned.test", "a@unknown.test"])
def test_without_a_key_one_click_does_not_leave(settings: dict[str, Any], keys: Path, sender: str) -> None:
    with pytest.raises(signature.Unsigned, match=sender[2:]):
        sign(request(FIELDS | ONE_CLICK, sender=sender), settings, keys)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n",
        pem(RSA)[:200],
        pem(RSA)[:200] + b"\n-----END PRIVATE KEY-----\n",
        pem(RSA, PrivateFormat.TraditionalOpenSSL),
        b"-----BEGIN PRIVATE KEY-----\n%b\n-----END PRIVATE KEY-----\n" % pem(ED25519).split(b"\n")[1][:-8],
        pem(ec.generate_private_key(ec.SECP256R1())),
    ],
)
def test_with_an_unusable_key_one_click_does_not_leave(
    settings: dict[str, Any], keys: Path, content: bytes | None
) -> None:
    path = keys / "example.com" / "dkim:m1.pem"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(signature.Unsigned, match=r"example\.com"):
        sign(request(FIELDS | ONE_CLICK), settings, keys)


@pytest.mark.timeout(20)
def test_a_body_of_blanks_is_signed_in_no_time(settings: dict[str, Any], keys: Path) -> None:
    """dkimpy's relaxed canonicalization takes minutes for it."""
    sign(request(FIELDS | ONE_CLICK, body=" " * 2**20 + "x\n"), settings, keys)
