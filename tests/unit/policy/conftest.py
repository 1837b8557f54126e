"""What the sender policy is asked about: settings, requests and messages as chasquid's hook hands them over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from components.chasquid.policy.limits import Store
from components.chasquid.policy.message import Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ALICE = "alice@example.com"


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
