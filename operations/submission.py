"""Hands one message to a submission port as a careful mail program does, and tells what it saw on the way."""

from __future__ import annotations

import base64
import smtplib
import socket
import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import TYPE_CHECKING

from operations.dns import CouldNotTell, Resolver
from standards.finding import Finding, Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

IMPLICIT_TLS, STARTTLS = 465, 587
CONNECT_SECONDS = 10
ANSWER_SECONDS = 60
HOSTNAME_MISMATCH = 62  # X509_V_ERR_HOSTNAME_MISMATCH
EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
ACCEPTED, READY, LOGGED_IN = 250, 220, 235


@dataclass(frozen=True)
class Endpoint:
    """Where to submit: the name that the certificate must carry, and how to find and trust it.

    `implicit_tls` as on port 465; otherwise STARTTLS as on 587. `ca_file` replaces the system's CAs, `address` what
    DNS says.
    """

    host: str
    port: int
    implicit_tls: bool
    resolver: Resolver | None = None
    ca_file: str | None = None
    address: str | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Accepted:
    """A message that the server took over, and what the connection was like."""

    address: str
    port: int
    tls_version: str
    cipher: str
    answer: str
    message_id: str


@dataclass(frozen=True)
class Seen:
    """A session that came as far as the login; `expires` is the end of the certificate, ISO 8601."""

    address: str
    tls_version: str
    cipher: str
    issuer: str
    expires: str


def letter(sender: str, recipient: str, subject: str, now: datetime) -> EmailMessage:
    """A well-formed message (RFC 5322) without its text; its Message-ID is in the sender's domain."""
    message = EmailMessage(policy=policy.SMTP)
    message["Date"] = format_datetime(now)
    message["Message-ID"] = make_msgid(domain=sender.partition("@")[2])
    message["From"] = Address("Mailroom test", addr_spec=sender)
    message["To"] = Address(addr_spec=recipient)
    message["Subject"] = subject
    message["Auto-Submitted"] = "auto-generated"
    return message


def compose(sender: str, recipient: str, endpoint: Endpoint, now: datetime) -> EmailMessage:
    """A message that says why it exists."""
    message = letter(sender, recipient, f"Test message of {endpoint.host}, {now:%Y-%m-%d %H:%M} UTC", now)
    message.set_content(_body(sender, endpoint), charset="utf-8", cte="quoted-printable")
    return message


def _body(sender: str, endpoint: Endpoint) -> str:
    return f"""\
This message was sent on purpose, to see how its receiver judges it; nobody needs to answer.

It was handed to {endpoint.host} on port {endpoint.port} by the user {sender}. In the headers of the received
message (in Gmail: the three dots, “Show original”) SPF, DKIM and DMARC should all say PASS, and the last
“Received” line that names {endpoint.host} should mention TLS.
"""


def submit(endpoint: Endpoint, message: EmailMessage, user: str, password: str) -> Accepted:
    """Send `message` as `user`; raises `Problems` with one finding that says what went wrong and what to do.

    The password leaves only through TLS 1.2 or newer, to a certificate that was verified by name.
    """
    with _session(endpoint) as (session, encrypted, address):
        _log_in(endpoint, session, user, password)
        answer = _deliver(endpoint, session, message)
        cipher = encrypted.cipher()
        return Accepted(
            address=address,
            port=endpoint.port,
            tls_version=encrypted.version() or "",
            cipher=cipher[0] if cipher else "",
            answer=answer,
            message_id=str(message["Message-ID"]),
        )


def log_in(endpoint: Endpoint, user: str, password: str) -> Seen:
    """Log in as `user` and leave again; raises `Problems` as `submit` does."""
    from cryptography import x509

    with _session(endpoint) as (session, encrypted, address):
        offered = session.esmtp_features.get("auth", "").upper().split()
        if "PLAIN" not in offered:
            raise _problem(_no_auth(endpoint, offered))
        _log_in(endpoint, session, user, password)
        session.docmd("QUIT")
        cipher = encrypted.cipher()
        certificate = x509.load_der_x509_certificate(encrypted.getpeercert(binary_form=True) or b"")
        return Seen(
            address=address,
            tls_version=encrypted.version() or "",
            cipher=cipher[0] if cipher else "",
            issuer=certificate.issuer.rfc4514_string(),
            expires=certificate.not_valid_after_utc.isoformat(),
        )


@contextmanager
def _session(endpoint: Endpoint) -> Iterator[tuple[smtplib.SMTP, ssl.SSLSocket, str]]:
    """An encrypted, greeted session and the server's address; what breaks in it becomes `Problems`."""
    raw, address = _connect(endpoint)
    session = smtplib.SMTP(local_hostname=_literal(raw), timeout=ANSWER_SECONDS)
    try:
        yield session, _greet(endpoint, session, raw), address
    except ssl.SSLCertVerificationError as error:
        raise _problem(_bad_certificate(endpoint, error)) from None
    except ssl.SSLError as error:
        raise _problem(_no_tls(endpoint, error.reason or str(error))) from None
    except smtplib.SMTPException as error:
        raise _problem(_broke(endpoint, str(error))) from None
    except OSError as error:
        raise _problem(_broke(endpoint, str(error))) from None
    finally:
        session.close()
        raw.close()


def _connect(endpoint: Endpoint) -> tuple[socket.socket, str]:
    failures = []
    for address in [endpoint.address] if endpoint.address else addresses(endpoint):
        try:
            return socket.create_connection((address, endpoint.port), CONNECT_SECONDS), address
        except OSError as error:
            failures.append(f"{address}: {error.strerror or error}")
    raise _problem(_unreachable(endpoint, failures))


def addresses(endpoint: Endpoint) -> list[str]:
    """The addresses of the endpoint's name; raises `Problems` when there are none."""
    try:
        if endpoint.resolver:
            found = endpoint.resolver.addresses(endpoint.host)
        else:
            answers = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
            found = [str(answer[4][0]) for answer in answers]
    except (CouldNotTell, OSError) as error:
        raise _problem(_unresolved(endpoint, str(error))) from None
    if not found:
        raise _problem(_unresolved(endpoint, "no A and no AAAA record"))
    return list(dict.fromkeys(found))


def _literal(connection: socket.socket) -> str:
    """Our EHLO argument (RFC 5321 section 4.1.3): this machine's own name is nobody's business."""
    own = str(connection.getsockname()[0])
    return f"[IPv6:{own}]" if ":" in own else f"[{own}]"


def _context(endpoint: Endpoint) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=endpoint.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _greet(endpoint: Endpoint, session: smtplib.SMTP, raw: socket.socket) -> ssl.SSLSocket:
    """Get to an encrypted, greeted session; the certificate is verified for the endpoint's name."""
    raw.settimeout(ANSWER_SECONDS)
    if endpoint.implicit_tls:
        encrypted = _context(endpoint).wrap_socket(raw, server_hostname=endpoint.host)
        session.sock = encrypted
        _expect(endpoint, READY, session.getreply(), "the greeting")
    else:
        session.sock = raw
        _expect(endpoint, READY, session.getreply(), "the greeting")
        session.ehlo()
        if not session.has_extn("starttls"):
            raise _problem(_no_tls(endpoint, "the server does not offer STARTTLS"))
        _expect(endpoint, READY, session.docmd("STARTTLS"), "STARTTLS")
        encrypted = _context(endpoint).wrap_socket(raw, server_hostname=endpoint.host)
        session.sock = encrypted
        session.file = None  # whatever stands in its buffer came before TLS (RFC 3207 section 4.2)
    code, text = session.ehlo()
    _expect(endpoint, ACCEPTED, (code, text), "EHLO")
    return encrypted


def _log_in(endpoint: Endpoint, session: smtplib.SMTP, user: str, password: str) -> None:
    secret = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    code, text = session.docmd("AUTH", f"PLAIN {secret}")
    if code != LOGGED_IN:
        raise _problem(_login_refused(endpoint, user, _answer(code, text)))


def _deliver(endpoint: Endpoint, session: smtplib.SMTP, message: EmailMessage) -> str:
    sender, recipient = (message[header].addresses[0].addr_spec for header in ("From", "To"))
    _expect(endpoint, ACCEPTED, session.mail(sender), f"the sender {sender}")
    _expect(endpoint, ACCEPTED, session.rcpt(recipient), f"the recipient {recipient}")
    code, text = session.data(message.as_bytes())
    _expect(endpoint, ACCEPTED, (code, text), "the message")
    return _answer(code, text)


def _answer(code: int, text: bytes) -> str:
    return f"{code} {' '.join(text.decode('utf-8', 'replace').split())}"


def _expect(endpoint: Endpoint, code: int, reply: tuple[int, bytes], what: str) -> None:
    if reply[0] != code:
        raise _problem(_rejected(endpoint, what, _answer(*reply)))


def _problem(finding: Finding) -> Problems:
    return Problems("the message was not sent", [finding])


def _unresolved(endpoint: Endpoint, found: str) -> Finding:
    return error_about(
        endpoint,
        "submission.unresolved",
        expected=f"an address of {endpoint.host}",
        found=found,
        why="a mail program finds the server by its name",
        fix=f"look at the A and AAAA records of {endpoint.host}; with a private zone set mailroom:resolver",
    )


def _unreachable(endpoint: Endpoint, failures: list[str]) -> Finding:
    return error_about(
        endpoint,
        "submission.unreachable",
        expected=f"a server that listens on port {endpoint.port}",
        found="; ".join(failures),
        why="mail programs hand in messages there",
        fix=f"on the host: `systemctl status chasquid`; then look for a firewall (the provider's too) on port "
        f"{endpoint.port}",
    )


def _bad_certificate(endpoint: Endpoint, error: ssl.SSLCertVerificationError) -> Finding:
    kinds = {
        HOSTNAME_MISMATCH: ("name", f"the certificate is not for {endpoint.host}", "its names lack the host's"),
        EXPIRED: ("expired", "the certificate has expired", "its renewal failed"),
    }
    untrusted = ("untrusted", f"no CA we trust signed the certificate ({error.verify_message})", "its CA is wrong")
    kind, found, hint = kinds.get(error.verify_code, untrusted)
    trusted = endpoint.ca_file or "a CA of this system's store"
    return error_about(
        endpoint,
        f"submission.certificate-{kind}",
        expected=f"a valid certificate for {endpoint.host}, signed by {trusted}",
        found=found,
        why="mail programs and Gmail refuse to hand a password to such a server",
        fix=f"on the host look at /etc/mailroom/certs/0-{endpoint.host}/fullchain.pem ({hint}), then `pulumi up` "
        "(letsencrypt-staging certificates are trusted nowhere)",
    )


def _no_tls(endpoint: Endpoint, found: str) -> Finding:
    return error_about(
        endpoint,
        "submission.no-tls",
        expected="TLS 1.2 or newer",
        found=found,
        why="a password never goes out unencrypted",
        fix="check that nothing between here and the host answers in its place, and that the port is right",
    )


def _no_auth(endpoint: Endpoint, offered: Sequence[str]) -> Finding:
    return error_about(
        endpoint,
        "submission.no-auth",
        expected="AUTH PLAIN, offered after TLS began",
        found=f"AUTH {' '.join(offered)}" if offered else "no AUTH at all",
        why="mail programs and Gmail log in with it",
        fix="does the port belong to chasquid? 465 and 587 do; port 25 is for other servers",
    )


def _login_refused(endpoint: Endpoint, user: str, answer: str) -> Finding:
    return error_about(
        endpoint,
        "submission.login",
        expected=f"{user} logs in with the password of mailroom:passwords",
        found=answer,
        why="only users with a password may send",
        fix="was the password changed without a `pulumi up`? Run it, or choose another user with --from",
    )


def _rejected(endpoint: Endpoint, what: str, answer: str) -> Finding:
    return error_about(
        endpoint,
        "submission.rejected",
        expected=f"the server accepts {what}",
        found=answer,
        why="the message stayed here",
        fix="its answer says why; on the host `journalctl -u chasquid` says more",
    )


def _broke(endpoint: Endpoint, found: str) -> Finding:
    return error_about(
        endpoint,
        "submission.broken",
        expected="a connection that holds until the message is accepted",
        found=found or "the server closed the connection",
        why="whether the message was accepted is unknown",
        fix="run again; on the host `journalctl -u chasquid` says more",
    )
