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


@pytest.fixture
def knocks(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], list[OSError | None]]:
    """What each connection comes to, in turn; one that is not listed is made."""
    answers: dict[tuple[str, int], list[OSError | None]] = {}

    def connect(where: tuple[str, int], timeout: float) -> socket.socket:
        assert timeout
        if error := answers[where].pop(0) if answers.get(where) else None:
            raise error
        return socket.socket()

    monkeypatch.setattr(outside.socket, "create_connection", connect)
    monkeypatch.setattr(outside, "sleep", lambda _: None)
    return answers


def unasked() -> dict[int, str]:
    raise AssertionError("others are troubled only when port 25 is closed")


def test_a_server_that_runs_is_seen_on_each_port_of_each_address_and_nobody_else_is_troubled(knocks: Any) -> None:
    knocks["2001:db8::10", 465] = [TimeoutError(), None]  # a router that hears of it late
    reached = dict.fromkeys((25, 465, 587), outside.OTHER)
    found = outside.served(["192.0.2.10", "2001:db8::10"], 22, unasked)
    assert found.ports == {"192.0.2.10": reached, "2001:db8::10": reached}


def test_a_port_that_stays_closed_is_told_and_25_with_what_we_reach_elsewhere(knocks: Any) -> None:
    knocks["192.0.2.10", 587] = [ConnectionRefusedError()] * 9
    assert outside.served(["192.0.2.10"], 22, unasked).ports["192.0.2.10"][587] == outside.REFUSED
    knocks["192.0.2.10", 25] = [TimeoutError()] * 9
    knocks["198.51.100.1", 25] = [TimeoutError()]
    found = outside.served(["192.0.2.10"], 22, lambda: {4: "198.51.100.1", 6: "2001:db8::1"})
    assert found.ports["192.0.2.10"][25] == outside.SILENT
    assert found.reference == {4: False}


def test_without_ipv6_here_one_try_says_so(knocks: Any) -> None:
    knocks["2001:db8::10", 25] = [OSError(errno.ENETUNREACH, "x")]
    assert outside.served(["2001:db8::10"], 22, unasked).ports["2001:db8::10"][25] == outside.NO_ROUTE


def test_an_address_that_is_silent_even_for_ssh_is_out_of_our_reach_and_not_closed(knocks: Any) -> None:
    for port in (25, 465, 587):
        knocks["2001:db8::10", port] = [TimeoutError()] * 9
    knocks["2001:db8::10", 2222] = [TimeoutError()] * 9
    found = outside.served(["2001:db8::10"], 2222, unasked)
    assert set(found.ports["2001:db8::10"].values()) == {outside.NO_ROUTE}


def test_a_provider_that_lets_ssh_in_and_no_mail_is_told(knocks: Any) -> None:
    for port in (25, 465, 587):
        knocks["192.0.2.10", port] = [TimeoutError()] * 9
    found = outside.served(["192.0.2.10"], 22, lambda: {4: "198.51.100.1"})
    assert set(found.ports["192.0.2.10"].values()) == {outside.SILENT}
    assert found.reference == {4: True}
