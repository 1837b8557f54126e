"""What Gmail asks for, tried field by field; the server is stood in for, submission's own tests talk to a real one."""

from __future__ import annotations

import errno
import inspect
import io
import json
import os
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from components.settings import Settings
from operations import gmail, submission
from operations.submission import Accepted, Endpoint, Seen
from operations.trial import Trial
from standards.finding import Problems, error_about
from tests.unit.operations.test_trial import ALICE, CONFIG, HOST, LAB

if TYPE_CHECKING:
    from email.message import EmailMessage
    from pathlib import Path


class World:
    """A host at two addresses; `faults` by port and address is the finding that a session ends with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.faults: dict[tuple[int, str], tuple[str, str]] = {}
        self.sent: list[EmailMessage] = []
        self.days, self.folder, self.subject = 60, folder, "{}"
        monkeypatch.setattr(submission, "addresses", lambda _: ["2001:db8::1", "192.0.2.1"])
        monkeypatch.setattr(submission, "log_in", self._log_in)
        monkeypatch.setattr(submission, "submit", self._submit)
        monkeypatch.setattr(gmail.verdict, "wait_for_verdict", self._arrived)
        settings = Settings.load((CONFIG | {"mailroom:hosts": [HOST]}).get, "dev")
        self.trial = Trial(settings, LAB, settings.hosts[0])

    def _log_in(self, endpoint: Endpoint, user: str, password: str) -> Seen:
        assert (user, password) == ALICE
        if fault := self.faults.get((endpoint.port, str(endpoint.address))):
            finding = error_about(endpoint, fault[0], expected="a", found=fault[1], why="b", fix="c")
            raise Problems("the message was not sent", [finding])
        expires = (datetime.now(UTC) + timedelta(days=self.days, hours=1)).isoformat()
        return Seen(str(endpoint.address), "TLSv1.3", "AES", "Test CA", expires)

    def _submit(self, endpoint: Endpoint, message: EmailMessage, *_: str) -> Accepted:
        self.sent.append(message)
        return Accepted(str(endpoint.address), endpoint.port, "TLSv1.3", "AES", "250", str(message["Message-ID"]))

    def _arrived(self, *_: object) -> tuple[dict[str, Any], Path]:
        path = self.folder / "a.eml"
        path.write_text(f"Subject: {self.subject.format(self.sent[0]['Subject'])}\n\nx\n")
        return {}, path

    def everywhere(self, fault: str, found: str = "") -> None:
        self.faults = {
            (port, address): (fault, found) for port in (465, 587) for address in ("2001:db8::1", "192.0.2.1")
        }

    def try_out(self) -> gmail.Outcome:
        return gmail.try_out(self.trial, ALICE, lambda _: None)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return World(monkeypatch, tmp_path)


def test_both_ports_are_tried_at_every_address_and_the_code_is_read_where_it_arrives(world: World) -> None:
    outcome = world.try_out()
    assert [(one.port, one.address) for one in outcome.attempts] == [
        (465, "2001:db8::1"), (465, "192.0.2.1"), (587, "2001:db8::1"), (587, "192.0.2.1"),
    ]  # fmt: skip
    assert (outcome.confirmation, outcome.findings) == ("read", [])
    (message,) = world.sent
    assert message["To"] == "alice@example.test"
    assert outcome.code in message["Subject"]
    assert len(outcome.code) == 9


@pytest.mark.parametrize(
    ("fault", "wrong", "right"),
    [
        ("submission.unreachable", {"port"}, {"SMTP server"}),
        ("submission.certificate-name", {"SMTP server"}, set()),
        ("submission.certificate-untrusted", {"secured connection"}, {"SMTP server", "port"}),
        ("submission.no-tls", {"secured connection"}, {"SMTP server", "port"}),
        ("submission.login", {"username", "password"}, {"SMTP server", "port", "secured connection"}),
    ],
)
def test_the_wrong_field_is_named_and_nothing_is_sent(
    world: World, fault: str, wrong: set[str], right: set[str]
) -> None:
    world.everywhere(fault)
    outcome = world.try_out()
    fields = outcome.attempts[0].fields
    assert {name for name, state in fields.items() if state == "wrong"} == wrong
    assert {name for name, state in fields.items() if state == "ok"} == right
    assert (outcome.confirmation, world.sent) == ("not sent", [])
    # once a port, not once an address; a login is not tried again
    assert [one.id for one in outcome.findings] == [fault] * (1 if fault == "submission.login" else 2)


def test_every_way_a_session_can_end_before_the_message_blames_a_field() -> None:
    source = inspect.getsource(submission).replace("-{kind}", "-name")
    made = set(re.findall(r'"(submission\.[a-z-]+)"', source))
    assert made - set(gmail.BLAME) == {"submission.rejected", "submission.broken"}


def test_a_refused_login_is_not_repeated_until_the_machine_is_banned(world: World) -> None:
    world.everywhere("submission.login")
    assert [set(one.fields.values()) for one in world.try_out().attempts][1:] == [{"not tried"}] * 3


def test_one_port_that_fails_does_not_hide_the_other(world: World) -> None:
    world.faults = {(465, "192.0.2.1"): ("submission.unreachable", "refused")}
    outcome = world.try_out()
    assert (outcome.confirmation, outcome.as_json()["result"]) == ("read", "fail")


def test_a_machine_without_ipv6_does_not_call_the_port_wrong(world: World) -> None:
    found = f"2001:db8::1: {os.strerror(errno.ENETUNREACH)}"
    world.faults = {(port, "2001:db8::1"): ("submission.unreachable", found) for port in (465, 587)}
    outcome = world.try_out()
    assert [one.id for one in outcome.findings] == ["gmail.no-route"] * 2
    assert outcome.as_json()["result"] == "pass"


def test_a_code_that_was_changed_on_its_way_is_a_failure(world: World) -> None:
    world.subject = "[list] something"
    assert [one.id for one in world.try_out().findings] == ["gmail.code"]


@pytest.mark.parametrize(("days", "found"), [(13, ["gmail.certificate-ends"] * 2), (14, [])])
def test_a_certificate_near_its_end_is_told_in_time(world: World, days: int, found: list[str]) -> None:
    world.days = days
    assert [one.id for one in world.try_out().findings] == found


def test_no_output_has_the_password(world: World) -> None:
    world.faults = {(465, "192.0.2.1"): ("submission.login", "535 no")}
    outcome = world.try_out()
    console = Console(file=io.StringIO(), width=200)
    gmail.show(console, outcome)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "wrong" in shown
    assert ALICE[1] not in shown + json.dumps(outcome.as_json()) + repr(outcome)
