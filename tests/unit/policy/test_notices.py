"""Mail to the postmaster: once a day a topic, never in the way, and known again when it comes back in."""

from __future__ import annotations

import queue
import socketserver
import threading
from typing import TYPE_CHECKING, Any

import pytest

from components.chasquid.policy import notices

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import EmailMessage


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[EmailMessage]:
    """What waits for delivery."""
    waiting: queue.Queue[EmailMessage] = queue.Queue(100)
    monkeypatch.setattr(notices, "_waiting", waiting)
    return waiting.queue  # type: ignore[return-value]


def test_a_notice_names_its_host_so_that_receivers_trust_it(sent: list[EmailMessage], settings: dict[str, Any]) -> None:
    notices.tell("subject", "text", settings)
    assert sent[0]["From"] == "Mailroom <postmaster@smtp.example.com>"
    assert sent[0]["To"] == "postmaster@example.com"
    assert sent[0]["Auto-Submitted"] == "auto-generated"


def test_a_full_queue_drops_notices_instead_of_waiting(sent: list[EmailMessage], settings: dict[str, Any]) -> None:
    for number in range(150):
        notices.tell(str(number), "text", settings)
    assert len(sent) == 100


@pytest.mark.parametrize(
    ("remote", "known"), [("127.0.0.1:5", True), ("192.0.2.1:5", False), ("127.0.0.12:5", False), ("", False)]
)
def test_only_a_notice_from_this_host_is_known_again(
    sent: list[EmailMessage], settings: dict[str, Any], remote: str, known: bool
) -> None:
    notices.tell("subject", "text", settings)
    assert notices.is_own(f" {sent[0]['Message-ID']} ", remote) is known
    assert not notices.is_own("<other@smtp.example.com>", remote)


ANSWERS = {b"QUIT": b"221 bye"}


class Server(socketserver.ThreadingTCPServer):
    """Says yes to everything, and to each message what it has to say; keeps every byte."""

    daemon_threads, block_on_close = True, False

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *replies: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.replies, self.got = list(replies), b""
        monkeypatch.setattr(notices, "PORT", self.server_address[1])
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Session(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            self.server.got += line
            if line == b"data\r\n":
                self.wfile.write(b"354 go\r\n")
                while (line := self.rfile.readline()) not in {b".\r\n", b""}:
                    self.server.got += line
                self.wfile.write(self.server.replies.pop(0) + b"\r\n")
            else:
                self.wfile.write(ANSWERS.get(line[:4], b"250 ok") + b"\r\n")


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch, sent: list[EmailMessage]) -> list[float]:
    """The delivering thread; gives its pauses."""
    pauses: list[float] = []
    monkeypatch.setattr(notices.time, "sleep", pauses.append)
    notices.start()
    return pauses


def until(condition: Callable[[], object]) -> None:
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come to pass")


def test_a_notice_goes_out_with_the_null_sender_and_proper_line_ends(
    monkeypatch: pytest.MonkeyPatch, thread: list[float], settings: dict[str, Any]
) -> None:
    with Server(monkeypatch, b"250 ok") as server:
        notices.tell("subj\u00e9ct\nX: y", "two\nlines of t\u00e9xt\n.\n", settings)
        until(lambda: not server.replies)
        server.shutdown()
    assert b"mail FROM:<>" in server.got
    assert b"rcpt TO:<postmaster@example.com>\r\n" in server.got
    assert server.got.count(b"\n") == server.got.count(b"\r\n")
    assert b"\nX: y" not in server.got
    assert thread == []


def test_a_busy_server_is_asked_again_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, thread: list[float], settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with Server(monkeypatch, *[b"451 busy"] * notices.ATTEMPTS, b"250 ok") as server:
        notices.tell("first", "text", settings)
        until(lambda: len(server.replies) == 1)
        notices.tell("second", "text", settings)
        until(lambda: not server.replies)
        server.shutdown()
    assert server.got.count(b"Subject: first") == notices.ATTEMPTS
    assert server.got.count(b"Subject: second") == 1
    assert thread == [notices.PAUSE] * notices.ATTEMPTS
    assert "451" in caplog.messages[0]


def test_a_server_that_says_no_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, thread: list[float], settings: dict[str, Any]
) -> None:
    with Server(monkeypatch, b"554 no", b"250 ok") as server:
        notices.tell("first", "text", settings)
        notices.tell("second", "text", settings)
        until(lambda: not server.replies)
        server.shutdown()
    assert server.got.count(b"Subject: first") == 1
    assert thread == []


def test_a_postmaster_that_the_server_does_not_know_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, thread: list[float], settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(ANSWERS, b"rcpt", b"550 5.1.1 unknown")
    with Server(monkeypatch, b"250 ok") as server:
        notices.tell("first", "text", settings)
        notices.tell("second", "text", settings)
        until(lambda: server.got.count(b"QUIT") == 2)
        server.shutdown()
    assert server.got.count(b"rcpt TO") == 2
    assert thread == []
    assert "5.1.1" in caplog.messages[0]


def test_no_failure_ends_the_thread(
    monkeypatch: pytest.MonkeyPatch, thread: list[float], settings: dict[str, Any]
) -> None:
    notices.tell("to nobody", "text", {**settings, "postmaster": "j\u00fcrgen@example.com"})
    with Server(monkeypatch, b"250 ok") as server:
        notices.tell("second", "text", settings)
        until(lambda: not server.replies)
        server.shutdown()
    assert thread == [notices.PAUSE] * notices.ATTEMPTS
