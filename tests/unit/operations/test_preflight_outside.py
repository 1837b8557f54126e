"""Knocking at a host's mail ports from here, against listeners on loopback."""

from __future__ import annotations

import errno
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

from components.host import reach
from operations import ssh
from operations.preflight import outside
from operations.ssh import Completed, Target
from standards.finding import Problems

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = Target("192.0.2.10", 22, "root", "k")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def port(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def answering(server: socket.socket, text: bytes) -> None:
    def main() -> None:
        with server.accept()[0] as connection:
            connection.recv(4)
            connection.sendall(text)

    threading.Thread(target=main, daemon=True).start()


def test_our_listener_is_known_by_its_word_and_a_mail_server_by_its_greeting(server: socket.socket) -> None:
    answering(server, b"word")
    assert outside.knock("127.0.0.1", port(server), "word") == outside.LISTENER
    answering(server, b"220 mx ESMTP\r\n")
    assert outside.knock("127.0.0.1", port(server), "word") == outside.OTHER


def test_a_server_that_keeps_quiet_is_reached_all_the_same(server: socket.socket) -> None:
    assert outside.knock("127.0.0.1", port(server), "word", timeout=0.1) == outside.OTHER


def test_a_closed_port_is_refused(server: socket.socket) -> None:
    free = port(server)
    server.close()
    assert outside.knock("127.0.0.1", free, "word") == outside.REFUSED


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError("timed out"), outside.SILENT),
        (OSError(errno.ENETUNREACH, "x"), outside.NO_ROUTE),
        (OSError(errno.EADDRNOTAVAIL, "x"), outside.NO_ROUTE),
        (OSError(errno.EHOSTUNREACH, "x"), "No route to host"),
    ],
)
def test_each_failure_has_its_word(error: OSError, expected: str) -> None:
    assert outside.outcome_of(error) == expected


def test_it_knocks_until_the_listener_is_up_and_once_more_when_it_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    listening: Future[Any] = Future()
    outcomes = [outside.REFUSED, outside.REFUSED, outside.LISTENER]
    monkeypatch.setattr(outside, "sleep", lambda _: None)
    monkeypatch.setattr(outside, "knock", lambda *_: outcomes.pop(0))
    assert outside._knock_until(listening, "192.0.2.10", 25, "word") == outside.LISTENER
    outcomes[:] = [outside.REFUSED, outside.SILENT]
    listening.set_result(None)
    assert outside._knock_until(listening, "192.0.2.10", 25, "word") == outside.REFUSED
    assert outcomes == [outside.SILENT]


def test_names_of_servers_reach_the_hosts_shell_as_words(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(_: Target, command: str, *__: Any, **___: Any) -> Completed:
        ran.append(command)
        return Completed(0, reach.to_json({"tries": []}), "")

    monkeypatch.setattr(ssh, "run", run)
    outside.outbound(TARGET, ["mx.example", "a; reboot"])
    assert ran == ["python3 - out mx.example 'a; reboot'"]


def test_a_script_that_fails_there_is_told_and_not_taken_for_closed_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "run", lambda *_, **__: Completed(1, "", "Traceback\nMemoryError\n"))
    with pytest.raises(Problems, match="MemoryError"):
        outside.outbound(TARGET, ["mx.example"])
