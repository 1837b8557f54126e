"""What is asked of rspamd over the wire, and what its answers become."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from components.chasquid.policy import rspamd
from components.chasquid.policy.message import ACCEPT, DEFER, REFUSE, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TO = ("a@example.com", "b@example.com")
MAIL = Request("[2001:db8::1]:4711", "mx.client.test", "ü@client.test", TO, "", True, True, b"A: b\n\nx\n")


@pytest.fixture
def scanner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], list[bytes]]]:
    """Lets rspamd give this answer; returns what it was sent, once the message is there."""
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []
    threads: list[threading.Thread] = []

    def connect(connection: http.client.HTTPConnection) -> None:
        assert (connection.host, connection.port, connection.timeout) == ("127.0.0.1", 11333, rspamd.SECONDS)
        connection.sock = ours

    def serve(answer: bytes) -> None:
        data = b""
        while not data.endswith(MAIL.message):
            data += theirs.recv(65536)
        heard.append(data)
        theirs.sendall(answer)
        theirs.close()

    def answering(answer: bytes) -> list[bytes]:
        threads.append(threading.Thread(target=serve, args=(answer,)))
        threads[0].start()
        return heard

    monkeypatch.setattr(http.client.HTTPConnection, "connect", connect)
    yield answering
    threads[0].join()
    ours.close()


def reply(action: str, score: object = 7.26, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nConnection: close\r\n\r\n%b" % (
        status.encode(),
        json.dumps({"action": action, "score": score, "required_score": 15}).encode(),
    )


def test_rspamd_hears_the_envelope_and_the_whole_message(scanner: Callable[[bytes], list[bytes]]) -> None:
    heard = scanner(reply("no action"))
    assert rspamd.judge(MAIL).status == ACCEPT
    head, _, message = heard[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /checkv2 HTTP/1.1"
    assert message == MAIL.message
    assert set(lines) >= {
        b"IP: 2001:db8::1",
        b"Helo: mx.client.test",
        "From: ü@client.test".encode(),
        b"Rcpt: a@example.com",
        b"Rcpt: b@example.com",
        b"Content-Length: 8",
    }


@pytest.mark.parametrize(
    ("action", "status", "text"),
    [
        ("no action", ACCEPT, ""),
        ("add header", ACCEPT, "X-Spam-Status: Yes, score=7.3 required=15.0"),
        ("rewrite subject", ACCEPT, "X-Spam-Status: Yes, score=7.3 required=15.0"),
        ("soft reject", DEFER, "4.7.1"),
        ("greylist", DEFER, "4.7.1"),
        ("reject", REFUSE, "5.7.1"),
    ],
)
def test_each_action_has_its_verdict(
    scanner: Callable[[bytes], list[bytes]], action: str, status: int, text: str
) -> None:
    scanner(reply(action))
    verdict = rspamd.judge(MAIL)
    assert (verdict.status, verdict.text[: len(text) or None]) == (status, text)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
        reply("no action", score="high"),
        reply("no action", score=None),
        reply("no action", status="500 Sorry"),
    ],
)
def test_without_a_whole_answer_the_message_waits(scanner: Callable[[bytes], list[bytes]], answer: bytes) -> None:
    scanner(answer)
    assert rspamd.judge(MAIL).status == DEFER


@pytest.mark.parametrize("error", [ConnectionRefusedError(), TimeoutError()])
def test_without_rspamd_the_message_waits(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(http.client.HTTPConnection, "connect", refuse)
    assert rspamd.judge(MAIL).status == DEFER
