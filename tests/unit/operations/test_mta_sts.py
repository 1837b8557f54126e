"""A policy is fetched as senders fetch it: once, from a verified host, without redirects; served on loopback."""

from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from lab.internet import certificates
from operations import mta_sts
from operations.dns import CouldNotTell, Resolver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOMAIN, HOST = "example.com", "mta-sts.example.com"
POLICY = "version: STSv1\nmode: enforce\nmx: mail.example.com\nmax_age: 604800\n"


@dataclass
class Site:
    """The host of a policy, and what it was asked."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/plain; charset=utf-8"})
    text: str = POLICY
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(f"{self.headers['Host']}{self.path}")
            self.send_response(site.status)
            for name, value in {"Content-Length": str(len(site.text)), **site.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(site.text.encode())

        def log_message(self, *args: object) -> None:
            pass

    certificates.issue(HOST, [], tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / f"{HOST}.pem", tmp_path / f"{HOST}.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    real = socket.create_connection

    def connect(address: tuple[str, int], *rest: Any, **named: Any) -> socket.socket:
        assert address[1] == 443
        return real(("127.0.0.1", server.server_port), *rest, **named)

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.CA_CERTIFICATE))
    monkeypatch.setenv("no_proxy", "*")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    records = {f"_mta-sts.{DOMAIN}": ["v=STSv1; id=1"]}
    monkeypatch.setattr(Resolver, "resolve", lambda _, name, kind: records[name] if kind == "TXT" else [])
    return records


def review(*hosts: str) -> list[tuple[str, str]]:
    findings = mta_sts.review(DOMAIN, hosts or ["mail.example.com"], Resolver())
    return [(finding.severity, finding.found) for finding in findings]


def test_a_policy_that_lists_our_host_is_fine_and_was_asked_for_once(site: Site, records: object) -> None:
    assert review() == []
    assert site.asked == [f"{HOST}/.well-known/mta-sts.txt"]


def test_a_policy_without_our_host_is_an_error(site: Site, records: object) -> None:
    assert review("smtp.example.com") == [("error", "mode: enforce, mx: 'mail.example.com'")]


@pytest.mark.parametrize("texts", [[], ["hello"], ["v=STSv1"], ["v=STSv1; id=1", "v=STSv1; id=2"]])
def test_nothing_is_asked_for_where_no_record_tells_of_a_policy(
    site: Site, records: dict[str, list[str]], texts: list[str]
) -> None:
    records[f"_mta-sts.{DOMAIN}"] = texts
    assert review("smtp.example.com") == []
    assert site.asked == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"status": 404}, "the answer 404 (Not Found)"),
        ({"status": 301, "headers": {"Location": f"https://{HOST}/elsewhere"}}, "the answer 301 (Moved Permanently)"),
        ({"headers": {"Content-Type": "text/html"}}, "an answer of type text/html, not text/plain"),
        ({"text": POLICY + "#" * 65536}, "more than 65536 bytes"),
        ({"headers": {"Content-Type": "text/plain", "Content-Length": "999"}}, "an answer that breaks off 933 bytes"),
        ({"text": "hello"}, "a policy with version ''"),
    ],
)
def test_what_is_no_policy_for_senders_is_told_asked_for_once_and_stops_nothing(
    site: Site, records: object, change: dict[str, Any], found: str
) -> None:
    vars(site).update(change)
    ((severity, told),) = review("smtp.example.com")
    assert severity == "warning"
    assert told.startswith(found)
    assert len(site.asked) == 1


def test_a_host_that_nobody_can_verify_is_not_believed(
    site: Site, records: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    ((severity, told),) = review("smtp.example.com")
    assert severity == "warning"
    assert "certificate verify failed" in told
    assert site.asked == []


def test_a_silent_name_server_is_told_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> list[str]:
        raise CouldNotTell("nobody answers")

    monkeypatch.setattr(Resolver, "resolve", silent)
    assert review() == [("warning", "nobody answers")]
