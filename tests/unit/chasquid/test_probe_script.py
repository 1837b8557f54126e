"""The probe of the sender policy: nothing but a refusal of a forged sender counts as a policy at work."""

from __future__ import annotations

from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import FakeHost


class Session:
    """A submission session that answers as told."""

    def __init__(self, final: str, **other: str) -> None:
        self.sent: list[str] = []
        answers = {"EHLO": "250 ok", "AUTH": "235 ok", "MAIL": "250 ok", "RCPT": "250 ok", "DATA": "354 go", **other}
        self.lines = BytesIO("".join(f"{line}\r\n" for line in [*answers.values(), final]).encode())

    def sendall(self, data: bytes) -> None:
        self.sent.append(data.decode())


@pytest.fixture
def release(host: FakeHost) -> Path:
    release = host.path("etc/mailroom/releases/new")
    (release / "hooks").mkdir(parents=True)
    (release / "hooks/post-data").write_text("#!/bin/sh\n")
    return release


def forged(host: FakeHost, release: Path, session: Session) -> list[str]:
    @contextmanager
    def submission() -> Iterator[tuple[Any, Any]]:
        yield session, session.lines

    host.monkeypatch.setattr(host.modules["probe"], "submission", submission)
    problems: list[str] = host.modules["probe"].takes_forged_sender(release)
    return problems


def test_a_refused_forged_sender_is_what_it_wants(host: FakeHost, release: Path) -> None:
    session = Session("554 5.7.1 you may not send as forged@probe.invalid")
    assert forged(host, release, session) == []
    assert "MAIL FROM:<forged@probe.invalid>\r\n" in session.sent


@pytest.mark.parametrize("answer", ["250 2.0.0 queued", "451 4.3.0 no policy", "554 5.6.0 loop"])
def test_any_other_answer_means_that_no_policy_is_at_work(host: FakeHost, release: Path, answer: str) -> None:
    assert answer in forged(host, release, Session(answer))[0]


def test_a_login_that_fails_proves_nothing(host: FakeHost, release: Path) -> None:
    problems = forged(host, release, Session("554 5.7.1 no", AUTH="535 wrong"))
    assert "stops at AUTH" in problems[0]


def test_a_missing_hook_is_named_even_though_chasquid_accepts_without_it(host: FakeHost, release: Path) -> None:
    (release / "hooks/post-data").unlink()
    assert "hooks/post-data is missing" in forged(host, release, Session("554 5.7.1 no"))[0]


def test_the_password_is_the_hosts_own_and_stays_the_same(host: FakeHost) -> None:
    first = host.modules["probe"].password()
    assert len(first) == 64
    assert host.modules["probe"].password() == first
    assert host.path("etc/mailroom/probe.key").stat().st_mode & 0o777 == 0o600
