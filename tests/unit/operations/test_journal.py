"""Following journals: what is shown of an entry, and how a broken connection goes on where it was."""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from operations import hosts, journal, ssh, stacks
from scripts import status as script
from standards.finding import Finding, Problems

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def line(cursor: str, message: object, **fields: object) -> str:
    entry = {"__CURSOR": cursor, "__REALTIME_TIMESTAMP": "1800000000000000", "MESSAGE": message, **fields}
    return json.dumps(entry)


def trouble(identifier: str) -> Problems:
    finding = Finding(severity="error", id=identifier, subject="s", expected="e", found="it broke", why="", fix="f")
    return Problems("no way into smtp1", [finding])


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("plain", "plain"),
        (list("fünf\x1b[2J".encode()), "fünf\N{REPLACEMENT CHARACTER}[2J"),
        ("two\nlines\t", "two lines"),
        (None, ""),
        (list(b"\xff"), "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_text_that_clients_wrote_is_one_printable_line(message: object, text: str) -> None:
    entry = journal.parsed(line("s=1;i=2", message, _SYSTEMD_UNIT="chasquid.service"))
    assert entry is not None
    assert entry["text"] == text


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"__REALTIME_TIMESTAMP": "x"}', '"text"'])
def test_what_is_no_entry_is_passed_over(text: str) -> None:
    assert journal.parsed(text) is None


def test_a_cursor_that_could_end_the_command_is_not_taken() -> None:
    entry = journal.parsed(line("x; rm -r /", "text"))
    assert entry is not None
    assert entry["cursor"] == ""
    assert "--after-cursor='s=1;i=2'" in journal.command("s=1;i=2").replace("'--after-cursor=", "--after-cursor='")


def test_a_units_own_messages_and_those_about_it_have_its_name() -> None:
    own = journal.parsed(line("a", "x", _SYSTEMD_UNIT="chasquid.service"))
    about = journal.parsed(line("b", "x", _SYSTEMD_UNIT="init.scope", UNIT="chasquid.service"))
    assert own
    assert about
    assert own["unit"] == about["unit"] == "chasquid.service"
    assert journal.as_line("smtp1", own).endswith(" smtp1 chasquid: x")
    assert json.loads(journal.as_json("smtp1", own))["host"] == "smtp1"


class StoryError(Exception):
    """The end of a story."""


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`plays`: what each connection gives, in order; `commands`: what each was asked."""
    story: dict[str, Any] = {"plays": [], "commands": []}

    async def lines(_: object, command: str) -> AsyncIterator[str]:
        story["commands"].append(command)
        if not story["plays"]:
            raise StoryError
        for item in story["plays"].pop(0):
            if isinstance(item, Problems):
                raise item
            yield item

    monkeypatch.setattr(ssh, "lines", lines)
    monkeypatch.setattr(journal, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(hosts, "target", lambda _, host: host.name)
    return story


def follow(names: tuple[str, ...] = ("smtp1",)) -> None:
    settings: Any = SimpleNamespace(hosts=[SimpleNamespace(name=name) for name in names])
    asyncio.run(journal._follow_all(settings, journal.as_line))


@pytest.mark.parametrize("end", [[], [trouble("ssh.broken")], [trouble("ssh.refused")], [trouble("ssh.no-answer")]])
def test_a_broken_connection_goes_on_after_the_last_entry_seen(
    connections: dict[str, Any], capsys: pytest.CaptureFixture[str], end: list[Problems]
) -> None:
    connections["plays"] = [[line("s=1", "first"), line("s=2", "second"), *end], *([end] * 2), [line("s=3", "third")]]
    with pytest.raises(StoryError):
        follow()
    assert "--after-cursor" not in connections["commands"][0]
    assert all("--after-cursor=s=2" in command for command in connections["commands"][1:4])
    out, err = capsys.readouterr()
    assert [text.rpartition(" ")[2] for text in out.splitlines()] == ["first", "second", "third"]
    assert err.count("trying again") == 2, "once for the outage, once for the end of the story"
    assert err.count("connected again") == 1


def test_a_refused_login_is_not_tried_again(connections: dict[str, Any]) -> None:
    connections["plays"] = [[trouble("ssh.login-refused")]]
    with pytest.raises(Problems, match="it broke"):
        follow()
    assert len(connections["commands"]) == 1


def run_script(monkeypatch: pytest.MonkeyPatch, end: BaseException, *arguments: str) -> int:
    def follow_until(*_: object) -> None:
        raise end

    monkeypatch.setattr(stacks, "settings", lambda _: None)
    monkeypatch.setattr(journal, "follow", follow_until)
    monkeypatch.setattr(sys, "argv", ["status.py", "--stack", "prod", "--follow", *arguments])
    return script.main()


def test_ctrl_c_ends_following_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(monkeypatch, KeyboardInterrupt()) == 0
    assert "".join(capsys.readouterr()) == ""


def test_following_nobody_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(monkeypatch, trouble("ssh.login-refused"), "--json") == 2
    assert capsys.readouterr().out == ""
