"""Handing in a message over TLS, and what is said when it fails; the server is aiosmtpd on loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from operations.dns import CouldNotTell, Resolver
from operations.submission import Endpoint, compose, log_in, submit
from standards.finding import Problems

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from standards.finding import Finding

HOST, USER, PASSWORD = "smtp.example.test", "i@example.test", "canary päßword"
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@dataclass
class Authority:
    """A CA that signs one certificate and key file per name."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
        certificate = self._sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=0))
        self.file = self.folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType, age: int = 1
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=age))
            .not_valid_after(now + timedelta(days=2 - age))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256())

    def context(self, name: str = HOST, age: int = 1) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        leaf = self._sign(subject, key, x509.SubjectAlternativeName([x509.DNSName(name)]), age=age)
        path = self.folder / "leaf.pem"
        path.write_bytes(
            leaf.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(path)
        return context


class Mailbox:
    """Keeps what comes; refuses what its fields say."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.refuse_rcpt = ""
        self.mechanisms = ["PLAIN", "LOGIN"]

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if self.refuse_rcpt:
            return self.refuse_rcpt
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.messages.append((session, envelope))
        return "250 2.0.0 queued as abc123"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        good = LoginPassword(USER.encode(), PASSWORD.encode())
        return AuthResult(success=data == good, handled=False, auth_data=data.login)


class Server:
    """aiosmtpd in a thread, on a free port, with TLS at once or after STARTTLS."""

    def __init__(self, mailbox: Mailbox, context: ssl.SSLContext, *, implicit: bool, offer: bool = True) -> None:
        self.mailbox, self.context, self.implicit, self.offer = mailbox, context, implicit, offer
        self.loop = asyncio.new_event_loop()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._run)
        self.running = threading.Event()

    def _session(self) -> SMTP:
        without = {"PLAIN", "LOGIN"} - set(self.mailbox.mechanisms)
        options: dict[str, Any] = {
            "auth_exclude_mechanism": without,
            "authenticator": self.mailbox.authenticate,
            "hostname": HOST,
            "loop": self.loop,
        }
        if self.implicit:
            return SMTP(self.mailbox, auth_require_tls=False, **options)
        context = self.context if self.offer else None
        return SMTP(self.mailbox, tls_context=context, auth_require_tls=self.offer, **options)

    def _run(self) -> None:
        ssl_context = self.context if self.implicit else None
        listening = self.loop.create_server(self._session, sock=self.listener, ssl=ssl_context)
        server = self.loop.run_until_complete(listening)
        self.loop.call_soon(self.running.set)
        self.loop.run_forever()
        server.close()
        self.loop.run_until_complete(asyncio.sleep(0.01))
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.01))
        self.loop.close()

    def __enter__(self) -> Self:
        self.thread.start()
        assert self.running.wait(10)  # a stop before the start would be lost
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@dataclass
class Book(Resolver):
    """A resolver that knows one name."""

    found: tuple[str, ...] = ("127.0.0.1",)

    def addresses(self, name: str) -> list[str]:
        if name != HOST:
            raise CouldNotTell(f"nobody knows {name}")
        return list(self.found)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


def serve(
    mailbox: Mailbox, authority: Authority, *, implicit: bool = True, name: str = HOST, age: int = 1, offer: bool = True
) -> Iterator[Endpoint]:
    with Server(mailbox, authority.context(name, age), implicit=implicit, offer=offer) as server:
        yield Endpoint(HOST, server.port, implicit_tls=implicit, resolver=Book(), ca_file=str(authority.file))


@pytest.fixture
def endpoint(request: pytest.FixtureRequest, mailbox: Mailbox, authority: Authority) -> Iterator[Endpoint]:
    yield from serve(mailbox, authority, **getattr(request, "param", {}))


def trouble(endpoint: Endpoint, password: str = PASSWORD) -> Finding:
    message = compose(USER, "check@receiver.test", endpoint, NOW)
    with pytest.raises(Problems) as caught:
        submit(endpoint, message, USER, password)
    (finding,) = caught.value.findings
    assert PASSWORD not in str(caught.value)
    return finding


both_ways = pytest.mark.parametrize("endpoint", [{"implicit": True}, {"implicit": False}], indirect=True)


@both_ways
def test_a_message_is_handed_in_over_tls_and_what_was_seen_is_told(endpoint: Endpoint, mailbox: Mailbox) -> None:
    message = compose(USER, "check@receiver.test", endpoint, NOW)
    accepted = submit(endpoint, message, USER, PASSWORD)
    assert (accepted.address, accepted.port) == ("127.0.0.1", endpoint.port)
    assert accepted.tls_version == "TLSv1.3"
    assert accepted.cipher.startswith("TLS_")
    assert accepted.answer == "250 2.0.0 queued as abc123"
    assert accepted.message_id == message["Message-ID"]
    ((session, envelope),) = mailbox.messages
    assert (envelope.mail_from, envelope.rcpt_tos) == (USER, ["check@receiver.test"])
    assert session.host_name == "[127.0.0.1]"


def test_the_message_is_well_formed_and_explains_itself(endpoint: Endpoint, mailbox: Mailbox) -> None:
    submit(endpoint, compose(USER, "check@receiver.test", endpoint, NOW), USER, PASSWORD)
    received = message_from_bytes(mailbox.messages[0][1].content, policy=policy.default)
    assert not received.defects
    assert received["Date"].datetime == NOW
    assert received["Message-ID"].endswith("@example.test>")
    assert received["From"].addresses[0].addr_spec == USER
    assert received["To"] == "check@receiver.test"
    assert HOST in received["Subject"]
    assert received["MIME-Version"] == "1.0"
    body = received.get_content()
    assert "sent on purpose" in body
    assert "“Show original”" in body


@both_ways
def test_a_wrong_password_is_told_with_the_servers_answer(endpoint: Endpoint, mailbox: Mailbox) -> None:
    finding = trouble(endpoint, "wrong")
    assert finding.id == "submission.login"
    assert finding.found.startswith("535")
    assert mailbox.messages == []


@pytest.mark.parametrize("endpoint", [{"name": "other.test"}, {"name": "other.test", "implicit": False}], indirect=True)
def test_a_certificate_for_another_name_gets_no_password(endpoint: Endpoint) -> None:
    finding = trouble(endpoint)
    assert finding.id == "submission.certificate-name"
    assert HOST in finding.found


@pytest.mark.parametrize("endpoint", [{"age": 3}], indirect=True)
def test_a_certificate_that_has_expired_is_said_to_be_so(endpoint: Endpoint) -> None:
    assert trouble(endpoint).id == "submission.certificate-expired"


def test_a_certificate_of_another_ca_gets_no_password(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other")
    finding = trouble(replace(endpoint, ca_file=str(stranger.file)))
    assert finding.id == "submission.certificate-untrusted"


def test_without_a_ca_file_only_the_systems_cas_are_trusted(endpoint: Endpoint) -> None:
    assert trouble(replace(endpoint, ca_file=None)).id == "submission.certificate-untrusted"


@pytest.mark.parametrize("endpoint", [{"implicit": False, "offer": False}], indirect=True)
def test_without_starttls_no_password_goes_out(endpoint: Endpoint, mailbox: Mailbox) -> None:
    finding = trouble(endpoint)
    assert finding.id == "submission.no-tls"
    assert "STARTTLS" in finding.found


def test_tls_older_than_1_2_is_refused(mailbox: Mailbox, authority: Authority) -> None:
    context = authority.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with Server(mailbox, context, implicit=True) as server:
        finding = trouble(Endpoint(HOST, server.port, implicit_tls=True, resolver=Book(), ca_file=str(authority.file)))
    assert finding.id == "submission.no-tls"


def test_a_port_where_nobody_listens_is_named() -> None:
    finding = trouble(Endpoint(HOST, 1, implicit_tls=True, resolver=Book()))
    assert (finding.id, finding.subject) == ("submission.unreachable", f"{HOST}:1")
    assert "127.0.0.1: Connection refused" in finding.found


def test_the_next_address_is_tried_when_one_does_not_answer(endpoint: Endpoint) -> None:
    twice = replace(endpoint, resolver=Book(found=("127.0.0.9", "127.0.0.1")))
    message = compose(USER, "check@receiver.test", twice, NOW)
    assert submit(twice, message, USER, PASSWORD).address == "127.0.0.1"


def test_a_name_without_an_address_is_named(endpoint: Endpoint) -> None:
    finding = trouble(replace(endpoint, host="nothing.test"))
    assert (finding.id, finding.found) == ("submission.unresolved", "nobody knows nothing.test")


def test_without_a_resolver_the_system_is_asked(endpoint: Endpoint) -> None:
    finding = trouble(replace(endpoint, host="localhost", resolver=None))
    assert finding.id == "submission.certificate-name"


def test_a_refused_recipient_is_told_with_the_servers_answer(endpoint: Endpoint, mailbox: Mailbox) -> None:
    mailbox.refuse_rcpt = "550 5.1.1 no such user"
    finding = trouble(endpoint)
    assert (finding.id, finding.found) == ("submission.rejected", "550 5.1.1 no such user")
    assert "check@receiver.test" in finding.expected


def test_the_literal_of_an_ipv6_connection_is_marked_as_one() -> None:
    from operations.submission import _literal

    class Connection:
        def getsockname(self) -> tuple[str, int]:
            return str(ip_address("2001:db8::1")), 1

    assert _literal(Connection()) == "[IPv6:2001:db8::1]"


@both_ways
def test_a_login_alone_tells_the_certificate_and_sends_nothing(endpoint: Endpoint, mailbox: Mailbox) -> None:
    seen = log_in(endpoint, USER, PASSWORD)
    assert (seen.address, seen.tls_version, seen.issuer) == ("127.0.0.1", "TLSv1.3", "CN=Test CA")
    assert 0 <= (datetime.fromisoformat(seen.expires) - datetime.now(UTC)).days < 2
    assert mailbox.messages == []


def test_a_login_that_is_refused_is_told_without_the_password(endpoint: Endpoint) -> None:
    with pytest.raises(Problems) as caught:
        log_in(endpoint, USER, f"{PASSWORD}!")
    assert [one.id for one in caught.value.findings] == ["submission.login"]
    assert PASSWORD not in str(caught.value)


def test_a_server_without_auth_plain_is_not_blamed_on_the_password(endpoint: Endpoint, mailbox: Mailbox) -> None:
    mailbox.mechanisms = ["LOGIN"]
    with pytest.raises(Problems) as caught:
        log_in(endpoint, USER, PASSWORD)
    (finding,) = caught.value.findings
    assert (finding.id, finding.found) == ("submission.no-auth", "AUTH LOGIN")


def test_an_address_that_is_given_is_the_only_one_tried(endpoint: Endpoint) -> None:
    with pytest.raises(Problems) as caught:
        log_in(replace(endpoint, address="127.0.0.9", port=1), USER, PASSWORD)
    assert caught.value.findings[0].found.startswith("127.0.0.9: ")
