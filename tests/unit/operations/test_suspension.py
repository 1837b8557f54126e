"""Suspending a user: who is meant, which hosts are told, and what is said when one cannot be."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from operations import hosts, ssh, stacks, suspension
from standards.finding import Problems

if TYPE_CHECKING:
    from collections.abc import Callable

    from standards.finding import Finding


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What each host was told, as (command, payload)."""
    said: list[tuple[str, dict[str, Any]]] = []

    def run(_: object, command: str, text: str, __: float) -> ssh.Completed:
        said.append((command, json.loads(text)))
        return ssh.Completed(0, "changed: suspended\x1b\n", "")

    def user(name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name)

    domains = [
        SimpleNamespace(name="example.com", users=(user("i"), user("sales"))),
        SimpleNamespace(name="example.org", users=(user("sales"),)),
    ]
    settings = SimpleNamespace(
        stack="prod", hosts=[SimpleNamespace(name="smtp1"), SimpleNamespace(name="smtp2")], domains=domains,
        ssh_private_key=None,
    )  # fmt: skip
    monkeypatch.setattr(stacks, "settings", lambda _: settings)
    monkeypatch.setattr(ssh.Target, "of", lambda host, _: host.name)
    monkeypatch.setattr(ssh, "run", run)
    return said


def findings(call: Callable[[], object]) -> list[Finding]:
    with pytest.raises(Problems) as caught:
        call()
    return list(caught.value.findings)


def test_every_host_is_told(told: list[tuple[str, dict[str, Any]]]) -> None:
    text = suspension.change("prod", "I@example.com", lift=False, reason="stolen")
    payload = {"user": "i@example.com", "lift": False, "reason": "stolen"}
    assert told == [("/usr/local/lib/mailroom/current/suspend.py", payload)] * 2
    assert (
        text == "smtp1: changed: suspended\N{REPLACEMENT CHARACTER}\nsmtp2: changed: suspended\N{REPLACEMENT CHARACTER}"
    )


def test_a_name_that_one_user_has_is_enough(told: list[tuple[str, dict[str, Any]]]) -> None:
    suspension.change("prod", "i", lift=True)
    assert told[0][1] == {"user": "i@example.com", "lift": True, "reason": ""}


@pytest.mark.parametrize(("name", "found"), [("sales", "several users"), ("nobody", "no user of that name")])
def test_a_doubtful_name_suspends_nobody(told: list[tuple[str, dict[str, Any]]], name: str, found: str) -> None:
    assert findings(lambda: suspension.change("prod", name, lift=False))[0].found == found
    assert told == []


def test_a_user_that_was_removed_meanwhile_can_be_lifted_but_not_suspended(
    told: list[tuple[str, dict[str, Any]]],
) -> None:
    suspension.change("prod", "gone@example.com", lift=True)
    assert len(told) == 2
    assert findings(lambda: suspension.change("prod", "gone@example.com", lift=False))


def test_a_host_that_fails_does_not_keep_the_others_from_being_told(
    told: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([ssh.Completed(1, "", "error: disk full\n"), ssh.Completed(0, "changed: suspended\x1b\n", "")])
    monkeypatch.setattr(ssh, "run", lambda *_: next(answers))
    with pytest.raises(Problems) as caught:
        suspension.change("prod", "i", lift=False)
    assert "done on smtp2" in str(caught.value)
    assert [(one.subject, one.found) for one in caught.value.findings] == [("host smtp1", "disk full")]
    assert told == []


def test_a_host_without_the_script_is_told_to_be_deployed_first(
    told: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "run", lambda *_: ssh.Completed(127, "", "sh: not found\n"))
    assert "pulumi up" in findings(lambda: hosts.ask(stacks.settings("prod"), "suspend.py", {}))[0].fix
    assert told == []
