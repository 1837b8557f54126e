"""What a stranger finds at an address: an answer, silence, or no way there."""

from __future__ import annotations

import errno
import socket

import pytest

from operations import outside


def failing(monkeypatch: pytest.MonkeyPatch, error: OSError | None) -> None:
    def connect(*_: object) -> socket.socket:
        if error:
            raise error
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (None, "answers"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "answers"),
        (OSError(errno.ENETUNREACH, "no network"), "no-route"),
        (OSError(errno.EADDRNOTAVAIL, "no address"), "no-route"),
        (TimeoutError(), "silent"),
        (OSError(errno.EHOSTUNREACH, "no neighbour"), "silent"),
    ],
)
def test_each_end_of_a_connection_has_its_meaning(
    monkeypatch: pytest.MonkeyPatch, error: OSError | None, found: str
) -> None:
    failing(monkeypatch, error)
    assert outside.knock("2001:db8::10", 22, patience=0) == found


def test_a_neighbour_that_is_new_to_the_routers_gets_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [TimeoutError(), TimeoutError()]

    def connect(*_: object) -> socket.socket:
        if left:
            raise left.pop()
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(outside.time, "sleep", lambda _: None)
    assert outside.knock("2001:db8::10", 22) == "answers"
