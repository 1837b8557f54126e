"""What the sender policy is asked about: settings, requests and messages as chasquid's hook hands them over."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from components.chasquid.policy.limits import Store
from components.chasquid.policy.message import Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ALICE = "alice@example.com"
MESSAGE = f"From: {ALICE}\nTo: to@receiver.test\n\nHello\n".encode()


class Clock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return Store(tmp_path, clock)


@pytest.fixture
def settings() -> dict[str, Any]:
    """As standards/sender_policy.py writes them."""
    limits = {"minute": 4, "hour": 8, "day": 12, "newRecipients": 6, "recipientsPerMessage": 3, "warmUp": 0}
    return {
        "hostname": "smtp.example.com",
        "addresses": ["192.0.2.10"],
        "postmaster": "postmaster@example.com",
        "warmUp": 0,
        "gate": True,
        "rspamd": False,
        "forwardRate": 500,
        "domains": {"example.com": {"mail": "forward", "policy": "reject", "sp": "reject", "selectors": ["m1"],
                                    "aliases": {"alice": ["alice@gmail.test"]}}},
        "users": {ALICE: {"identities": [ALICE, "sales@example.com", "*@lists.example.com"], "limits": limits}},
    }  # fmt: skip


@pytest.fixture
def ask() -> Callable[..., Request]:
    """A request of Alice's; header fields by keyword, others of the envelope as named."""

    def make(
        sender: str = ALICE, user: str = ALICE, recipients: tuple[str, ...] = ("to@receiver.test",), **fields: str
    ) -> Request:
        header = {"From": ALICE, "To": "to@receiver.test", **fields}
        text = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in header.items())
        return Request("192.0.2.1:1", "client", sender, recipients, user, True, False, f"{text}\nHello\n".encode())

    return make


@pytest.fixture
def exchange() -> Callable[..., tuple[int | None, bytes]]:
    """Asks at a socket as post_data.go does; gives verdict (None: there was none) and text."""

    def exchange(path: Path, message: bytes = MESSAGE, **fields: str) -> tuple[int | None, bytes]:
        given = {
            "REMOTE_ADDR": "192.0.2.1:1", "EHLO_DOMAIN": "client", "MAIL_FROM": ALICE, "RCPT_TO": "to@receiver.test",
            "AUTH_AS": ALICE, "ON_TLS": "1", "SPF_PASS": "0", **fields,
        }  # fmt: skip
        answer = b""
        with socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.settimeout(20)
            server.connect(str(path))
            server.sendall(b"".join(value.encode() + b"\0" for value in given.values()) + message)
            server.shutdown(socket.SHUT_WR)
            while part := server.recv(65536):
                answer += part
        text, found, verdict = answer.rpartition(b"verdict ")
        return (int(verdict) if found and verdict.endswith(b"\n") else None), text

    return exchange
