"""What a converged server offers those who encrypt, seen by a scanner that is none of ours, and by raw handshakes."""

from __future__ import annotations

import ssl
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from lab.folders import Folders
from tests.lab.conversation import Session, Start
from tests.lab.live_run import forget
from tests.lab.program import DOMAIN, HOST, INSTALLED, Stack

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from lab.client import Lab

PORTS = {25: ["--starttls-smtp"], 465: [], 587: ["--starttls-smtp"]}
AEAD = ("GCM", "CHACHA20", "CCM")  # as they stand in the names of cipher suites
STRONG_GROUPS = {"x25519", "x448", "secp256r1", "secp384r1", "secp521r1"}
ECDSA_SHA256, RSA_PSS_SHA256 = 0x0403, 0x0804
ECDSA_SHA1, RSA_SHA1 = 0x0203, 0x0201
NO_COMPRESSION, DEFLATE = 0, 1
FATAL, HANDSHAKE_FAILURE = 2, 40
HANDSHAKE, ALERT = 22, 21  # records
SERVER_KEY_EXCHANGE, SERVER_HELLO_DONE = 12, 14  # handshake messages; the first one is signed

Scan = ET.Element


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Iterator[Stack]:
    """A server with a certificate for its own name and one for its domain."""
    vps = lab.fresh_vps(octet=41, installed=INSTALLED)
    made = Stack(lab, vps, drainTimeout=10)
    made.converge()
    yield made
    made.run("destroy", "--yes", "--skip-preview")
    forget(made)
    lab.remove_vps(vps)


@pytest.fixture(scope="module")
def scans(stack: Stack) -> dict[int, Scan]:
    """What sslscan found on each port; it has its own handshakes for what its TLS library does not speak any more."""

    def scan(port: int) -> Scan:
        command = ["sslscan", "--no-colour", "--show-sigs", f"--sni-name={HOST}", "--xml=-", *PORTS[port]]
        done = subprocess.run([*command, f"{stack.vps.ipv4}:{port}"], capture_output=True, check=True, timeout=120)
        found = ET.fromstring(done.stdout).find("ssltest")
        assert found is not None, done.stdout
        return found

    with ThreadPoolExecutor() as pool:
        return dict(zip(PORTS, pool.map(scan, PORTS), strict=True))


@pytest.fixture(params=PORTS)
def scan(scans: dict[int, Scan], request: pytest.FixtureRequest) -> Scan:
    """The scan of one port."""
    return scans[request.param]


def test_nothing_older_than_tls_1_2_is_spoken(scan: Scan) -> None:
    enabled = {
        (protocol.get("type"), protocol.get("version"))
        for protocol in scan.iter("protocol")
        if protocol.get("enabled") == "1"
    }
    assert enabled == {("tls", "1.2"), ("tls", "1.3")}


def test_every_cipher_suite_is_forward_secret_and_strong(scan: Scan) -> None:
    suites = {(str(suite.get("sslversion")), str(suite.get("cipher"))): suite for suite in scan.iter("cipher")}
    assert {version for version, _ in suites} == {"TLSv1.2", "TLSv1.3"}
    for (version, name), suite in suites.items():
        assert version == "TLSv1.3" or name.startswith(("ECDHE-", "DHE-")), name
        assert suite.get("strength") in {"acceptable", "strong"}, name
        assert int(suite.get("bits", 0)) >= 128, name
        assert int(suite.get("ecdhebits") or suite.get("dhebits") or 0) >= 224, name


def test_authenticated_encryption_comes_first(scan: Scan) -> None:
    preferred = {
        suite.get("sslversion"): str(suite.get("cipher"))
        for suite in scan.iter("cipher")
        if suite.get("status") == "preferred"
    }
    assert preferred.keys() == {"TLSv1.2", "TLSv1.3"}
    assert all(any(mode in name for mode in AEAD) for name in preferred.values()), preferred


def test_no_weak_group_is_taken(scan: Scan) -> None:
    groups = {str(group.get("name")).split()[0] for group in scan.iter("group")}
    assert groups
    assert groups <= STRONG_GROUPS


def test_no_client_may_renegotiate_and_no_heartbeat_bleeds(scan: Scan) -> None:
    (renegotiation,) = scan.iter("renegotiation")
    assert renegotiation.get("supported") == "0"
    assert {each.get("vulnerable") for each in scan.iter("heartbleed")} == {"0"}


def test_the_certificate_is_for_the_host_and_its_key_and_signatures_are_strong(scan: Scan) -> None:
    (certificate,) = scan.iter("certificate")
    assert certificate.findtext("altnames") == f"DNS:{HOST}"
    assert certificate.findtext("expired") == "false"
    assert certificate.findtext("self-signed") == "false"
    key = certificate.find("pk")
    assert key is not None
    # For elliptic curves sslscan tells the strength, half the length.
    assert int(key.get("bits", 0)) >= (128 if key.get("type") == "EC" else 2048)
    signatures = {str(each.get("name")) for each in scan.iter("connection-signature-algorithm")}
    assert signatures
    signatures.add(str(certificate.findtext("signature-algorithm")))
    assert not [name for name in signatures if "sha1" in name.lower() or "md5" in name.lower()]


@contextmanager
def before_handshake(stack: Stack, port: int) -> Iterator[socket.socket]:
    """A connection on which the handshake comes next."""
    with Session(stack.vps.ipv4, Start(port), {}) as session:
        if port != 465:
            session.expect("220 ", "greeting")
            session.ask("EHLO client.test", "250")
            session.ask("STARTTLS", "220")
        yield session.connection


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("name", [HOST, DOMAIN, f"mail.{DOMAIN}"])
def test_a_client_that_checks_certificates_is_content(stack: Stack, port: int, name: str) -> None:
    context = ssl.create_default_context(cafile=str(Folders(stack.lab.name).ca_file))
    with before_handshake(stack, port) as plain, context.wrap_socket(plain, server_hostname=name) as encrypted:
        assert encrypted.version() == "TLSv1.3"


@pytest.mark.parametrize("port", PORTS)
def test_the_server_chooses_authenticated_encryption_for_a_client_that_would_not(stack: Stack, port: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    worse, better = "ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES256-SHA", "ECDHE-ECDSA-AES128-GCM-SHA256"
    context.set_ciphers(f"{worse}:{better}:ECDHE-RSA-AES128-GCM-SHA256")
    with before_handshake(stack, port) as plain, context.wrap_socket(plain) as encrypted:
        cipher = encrypted.cipher()
    assert cipher is not None
    assert "GCM" in cipher[0]


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack("!HH", kind, len(body)) + body


def client_hello(*, compressions: bytes, signatures: tuple[int, ...]) -> bytes:
    """A TLS 1.2 ClientHello record (RFC 5246 section 7.4.1.2) with what no library sends any more."""
    suites = struct.pack("!4H", 0xC02B, 0xC02F, 0xC009, 0xC013)  # ECDHE with ECDSA and RSA, GCM and CBC
    groups = struct.pack("!HHH", 4, 0x001D, 0x0017)
    listed = struct.pack(f"!H{len(signatures)}H", 2 * len(signatures), *signatures)
    name = HOST.encode()
    extensions = (
        extension(0, struct.pack("!HBH", len(name) + 3, 0, len(name)) + name)
        + extension(10, groups)
        + extension(11, b"\x01\x00")
        + extension(13, listed)
    )
    body = (
        b"\x03\x03"
        + bytes(range(32))
        + b"\x00"
        + struct.pack("!H", len(suites))
        + suites
        + bytes([len(compressions)])
        + compressions
        + struct.pack("!H", len(extensions))
        + extensions
    )
    handshake = b"\x01" + struct.pack("!I", len(body))[1:] + body
    return b"\x16\x03\x01" + struct.pack("!H", len(handshake)) + handshake


def answers(stack: Stack, port: int, hello: bytes) -> list[tuple[int, bytes]]:
    """The server's records (type and content) until it waits for the client, or has had enough of it."""
    found: list[tuple[int, bytes]] = []
    with before_handshake(stack, port) as plain, plain.makefile("rb") as reader:
        plain.sendall(hello)
        while not found or (found[-1][0], found[-1][1][0]) not in {(HANDSHAKE, SERVER_HELLO_DONE), (ALERT, FATAL)}:
            kind, _version, length = struct.unpack("!BHH", reader.read(5))
            found.append((kind, reader.read(length)))
    return found


@pytest.mark.parametrize("port", PORTS)
def test_nothing_is_compressed(stack: Stack, port: int) -> None:
    """RFC 7525 section 3.3: the length of compressed text tells what is in it (CRIME)."""
    hello = client_hello(compressions=bytes([DEFLATE, NO_COMPRESSION]), signatures=(ECDSA_SHA256, RSA_PSS_SHA256))
    server_hello = answers(stack, port, hello)[0][1]
    session_id = server_hello[38]  # behind type, length, version and random
    assert server_hello[38 + 1 + session_id + 2] == NO_COMPRESSION


@pytest.mark.parametrize("port", PORTS)
def test_the_server_signs_nothing_with_sha_1(stack: Stack, port: int) -> None:
    hello = client_hello(compressions=bytes([NO_COMPRESSION]), signatures=(ECDSA_SHA1, RSA_SHA1))
    records = answers(stack, port, hello)
    assert records[-1] == (ALERT, bytes([FATAL, HANDSHAKE_FAILURE]))
    assert SERVER_KEY_EXCHANGE not in [content[0] for kind, content in records if kind == HANDSHAKE]


@pytest.mark.parametrize("port", PORTS)
def test_no_login_is_offered_or_taken_without_tls(stack: Stack, port: int) -> None:
    with Session(stack.vps.ipv4, Start(port), {}) as session:
        session.send(b"EHLO client.test\r\nAUTH PLAIN AGFsaWNlAHg=\r\n")
        replies = [session.reply() for _ in range(3)]
    if port == 465:
        assert replies == [[], [], []], "the port for TLS speaks nothing else"
    else:
        assert not [line for line in replies[1] if "AUTH" in line]
        assert replies[2][0].startswith("503 5.7.10")
