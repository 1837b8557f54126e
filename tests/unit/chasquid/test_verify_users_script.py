"""Proving logins: every user, again until chasquid has re-read its files, and never a password in a message."""

from __future__ import annotations

import base64
import datetime as dt
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import FakeHost

HOSTNAME = "smtp.example.com"
USERS = {"alice@example.com": "CANARY-1", "bob@example.com": "CANARY-2"}


@pytest.fixture
def certificate(host: FakeHost) -> Path:
    """A self-made pair where chasquid has it."""
    folder = host.path(f"etc/mailroom/certs/0-{HOSTNAME}")
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOSTNAME)])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    signed = builder.sign(key, hashes.SHA256())
    (folder / "fullchain.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "privkey.pem").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return folder


@pytest.fixture
def server(host: FakeHost, certificate: Path) -> Iterator[list[bytes]]:
    """Port 465 of a server that knows alice only; gives what it was sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "fullchain.pem", certificate / "privkey.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    sent: list[bytes] = []

    def serve(raw: socket.socket) -> None:
        try:
            with context.wrap_socket(raw, server_side=True) as connection, connection.makefile("rb") as lines:
                connection.sendall(b"220 smtp.example.com ESMTP\r\n")
                for line in lines:
                    sent.append(line)
                    known = base64.b64encode(b"\0alice@example.com\0CANARY-1") in line
                    refused = not line.startswith(b"EHLO") and not known
                    connection.sendall(b"535 no\r\n" if refused else b"235 ok\r\n" if known else b"250 hello\r\n")
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(raw,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    host.monkeypatch.setattr(host.modules["verify_users"], "PORT", listener.getsockname()[1])
    yield sent
    listener.close()


def verify(host: FakeHost, users: dict[str, str]) -> Any:
    host.monkeypatch.setattr(host.modules["verify_users"], "RELOAD_LIMIT", 0)
    return host.run("verify_users", {"hostname": HOSTNAME, "users": users})


@pytest.mark.usefixtures("server")
def test_a_right_password_is_proven(host: FakeHost) -> None:
    assert verify(host, {"alice@example.com": "CANARY-1"}).stdout == "ok: 1 login proven\n"


@pytest.mark.usefixtures("server")
def test_who_cannot_log_in_is_named_without_any_password(host: FakeHost) -> None:
    answer = verify(host, USERS)
    assert answer.status == 1
    assert "bob@example.com" in answer.stderr
    assert "alice" not in answer.stderr
    assert "CANARY" not in answer.stderr + answer.stdout


def test_no_password_is_sent_to_a_server_with_another_certificate(
    host: FakeHost, server: list[bytes], certificate: Path
) -> None:
    other = (certificate / "fullchain.pem").read_bytes()
    begin = b"-----BEGIN CERTIFICATE-----\n"
    (certificate / "fullchain.pem").write_bytes(begin + b"AAAA" + other[len(begin) + 4 :])
    assert verify(host, USERS).status == 1
    assert server == []


def test_users_that_fail_are_tried_again_and_the_others_not(host: FakeHost, certificate: Path) -> None:
    tried: list[str] = []

    def can_log_in(address: str, *_: object) -> bool:
        tried.append(address)
        return address.startswith("alice") or tried.count(address) == 3

    host.monkeypatch.setattr(host.modules["verify_users"], "can_log_in", can_log_in)
    assert certificate.is_dir()
    assert host.run("verify_users", {"hostname": HOSTNAME, "users": USERS}).stdout == "ok: 2 logins proven\n"
    assert sorted(tried) == ["alice@example.com", *["bob@example.com"] * 3]


def test_nobody_to_prove_needs_no_server_and_no_certificate(host: FakeHost) -> None:
    assert verify(host, {}).stdout == "ok: nothing to do\n"
