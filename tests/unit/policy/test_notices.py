"""Mail to the postmaster: once a day a topic, never in the way, and known again when it comes back in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from components.chasquid.policy import notices

if TYPE_CHECKING:
    from email.message import EmailMessage


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[EmailMessage]:
    """What waits for delivery."""
    monkeypatch.setattr(notices, "_told", {})
    while not notices._waiting.empty():
        notices._waiting.get()
    return notices._waiting.queue  # type: ignore[return-value]


def test_a_notice_names_its_host_so_that_receivers_trust_it(sent: list[EmailMessage], settings: dict[str, Any]) -> None:
    notices.tell("topic", "subject", "text", settings)
    assert sent[0]["From"] == "Mailroom <postmaster@smtp.example.com>"
    assert sent[0]["To"] == "postmaster@example.com"
    assert sent[0]["Auto-Submitted"] == "auto-generated"


def test_a_topic_is_told_once_a_day(
    sent: list[EmailMessage], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 10**9
    monkeypatch.setattr(notices.time, "time", lambda: now)
    for topic in ("one", "one", "two"):
        notices.tell(topic, "subject", "text", settings)
    assert len(sent) == 2
    now += notices.DAY
    notices.tell("one", "subject", "text", settings)
    assert len(sent) == 3


def test_a_full_queue_drops_notices_instead_of_waiting(sent: list[EmailMessage], settings: dict[str, Any]) -> None:
    for number in range(150):
        notices.tell(str(number), "subject", "text", settings)
    assert len(sent) == 100


@pytest.mark.parametrize(
    ("remote", "known"), [("127.0.0.1:5", True), ("192.0.2.1:5", False), ("127.0.0.12:5", False), ("", False)]
)
def test_only_a_notice_from_this_host_is_known_again(
    sent: list[EmailMessage], settings: dict[str, Any], remote: str, known: bool
) -> None:
    notices.tell("topic", "subject", "text", settings)
    assert notices.is_own(f" {sent[0]['Message-ID']} ", remote) is known
    assert not notices.is_own("<other@smtp.example.com>", remote)
