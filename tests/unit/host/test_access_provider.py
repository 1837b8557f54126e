"""The Access resource: one change, confirmed over a connection of its own, said in the words of a person."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from components.host.provider import AccessProvider
from components.settings import HostSettings
from operations import outside, ssh
from standards.finding import Finding, Problems

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = HostSettings.model_validate(
    {
        "name": "smtp.example.com",
        "ipv4": "192.0.2.10",
        "hostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1haWxyb29tTWFpbHJvb21NYWlscm9vbU1haWxyb29t",
    }
)
INPUTS = {
    "name": HOST.name,
    "settings": HOST.model_dump_json(),
    "private_key": None,
    "change": "access.py apply",
    "confirm": "access.py confirm",
    "payload": "{}",
}
NO_ANSWER = Finding(
    severity="error", id="ssh.no-answer", subject="192.0.2.10:22", expected="a", found="no answer", why="b", fix="c"
)
Answer = ssh.Completed | Problems


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, str | None]]]:
    """Let the host answer these in turn; returns what it was asked."""

    def prepare(*said: Answer) -> list[tuple[str, str | None]]:
        left, asked = list(said), list[tuple[str, str | None]]()

        def run(_target: ssh.Target, command: str, input: str | None = None, **_: Any) -> ssh.Completed:  # noqa: A002
            asked.append((command, input))
            answer = left.pop(0)
            if isinstance(answer, Problems):
                raise answer
            return answer

        monkeypatch.setattr(ssh, "run", run)
        return asked

    return prepare


def test_a_change_is_confirmed_by_a_second_login(answers: Any) -> None:
    asked = answers(ssh.Completed(0, "changed: packet filter loaded\n", ""), ssh.Completed(0, "changed: kept\n", ""))
    made = AccessProvider().create(dict(INPUTS))
    assert made.outs["summary"] == "changed: packet filter loaded"
    assert asked == [("access.py apply", "{}"), ("access.py confirm", None)]


def test_where_nothing_changes_nothing_is_confirmed(answers: Any) -> None:
    asked = answers(ssh.Completed(0, "ok: nothing to do\n", ""))
    AccessProvider().create(dict(INPUTS))
    assert [command for command, _ in asked] == ["access.py apply"]


def test_an_operator_who_is_locked_out_reads_that_it_is_taken_back(answers: Any) -> None:
    answers(ssh.Completed(0, "changed: packet filter loaded\n", ""), Problems("no way in", [NO_ANSWER]))
    with pytest.raises(Problems, match="within a minute it takes it back") as raised:
        AccessProvider().create(dict(INPUTS))
    assert raised.value.findings == (NO_ANSWER,)


@pytest.mark.parametrize("failing", [0, 1])
def test_the_scripts_own_error_is_shown(answers: Any, failing: int) -> None:
    said = [ssh.Completed(0, "changed: x\n", ""), ssh.Completed(0, "changed: y\n", "")]
    said[failing] = ssh.Completed(1, "", "noise\nerror: sshd says bad option, expected, do\n")
    answers(*said)
    with pytest.raises(Problems, match="found: sshd says bad option|sshd says bad option"):
        AccessProvider().create(dict(INPUTS))


def test_another_port_in_the_settings_is_a_change_and_what_it_said_is_none() -> None:
    state = {**INPUTS, "summary": "changed: x"}
    provider = AccessProvider()
    assert not provider.diff("id", state, {**INPUTS, "summary": None}).changes
    assert provider.diff("id", state, {**INPUTS, "payload": '{"allow_tcp": [80]}'}).changes


WITH_IPV6 = HostSettings.model_validate(
    {**json.loads(HOST.model_dump_json()), "ipv6": "2001:db8::10", "network": {"ipv6": {"gateway": "fe80::1"}}}
)


@pytest.mark.parametrize("seen", ["answers", "no-route"])
def test_ipv6_that_was_switched_on_is_confirmed_when_seen_or_when_we_cannot_see(
    answers: Any, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    knocked: list[tuple[str, int]] = []
    monkeypatch.setattr(outside, "knock", lambda address, port: knocked.append((address, port)) or seen)
    asked = answers(ssh.Completed(0, "changed: eth0 has x\n", ""), ssh.Completed(0, "changed: kept\n", ""))
    AccessProvider().create({**INPUTS, "settings": WITH_IPV6.model_dump_json()})
    assert knocked == [("2001:db8::10", 22)]
    assert [command for command, _ in asked] == ["access.py apply", "access.py confirm"]


def test_ipv6_that_is_silent_from_outside_is_never_confirmed(answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "knock", lambda *_: "silent")
    asked = answers(ssh.Completed(0, "changed: eth0 has x\n", ""))
    with pytest.raises(Problems, match="not seen over IPv6; within a minute it takes the change back") as raised:
        AccessProvider().create({**INPUTS, "settings": WITH_IPV6.model_dump_json()})
    assert "network.ipv6.gateway" in raised.value.findings[0].fix
    assert [command for command, _ in asked] == ["access.py apply"]


def test_a_host_without_the_setting_is_not_knocked_at(answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "knock", lambda *_: pytest.fail("nobody asked for that"))
    answers(ssh.Completed(0, "changed: x\n", ""), ssh.Completed(0, "changed: kept\n", ""))
    AccessProvider().create(dict(INPUTS))
