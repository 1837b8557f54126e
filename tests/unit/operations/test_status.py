"""What a host's picture is judged to mean, and the page it makes."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from operations import hosts, report, ssh, status
from standards.finding import Problems

NOW = 1_800_000_000
DAY = 86400
ALICE = "alice@example.com"


def unit(**change: Any) -> dict[str, Any]:
    good = {"state": "active", "since": NOW - DAY, "restarts": 0, "result": "success", "ended": None, "next": None}
    return good | change


def certificate(left: int, life: int = 90 * DAY) -> dict[str, Any]:
    end = NOW + left
    return {"name": "smtp.example.com", "names": ["smtp.example.com"], "notBefore": end - life, "notAfter": end,
            "renewal": end - life // 3}  # fmt: skip


def message(**change: Any) -> dict[str, Any]:
    recipient = {"address": "to@receiver.test", "status": "PENDING", "failure": "connection refused"}
    return {"id": "Q1", "created": NOW - 600, "tried": NOW - 60, "next": NOW + 600, "from": ALICE, "to": [recipient],
            "failure": "connection refused", **change}  # fmt: skip


def queue(**change: Any) -> dict[str, Any]:
    empty = {"length": 0, "unreadable": 0, "oldest": None, "next": None, "failure": "", "messages": []}
    return empty | change


def picture(**change: Any) -> dict[str, Any]:
    good = {
        "form": status.FORM,
        "services": {"chasquid.service": unit(), "certbot.timer": unit(next=NOW + 3600)},
        "chasquid": {"directory": "b52e9b3768a2", "version": "1.18.0"},
        "pinned": {"directory": "b52e9b3768a2", "version": "1.18.0"},
        "queue": queue(),
        "errors": [],
        "certificates": [certificate(60 * DAY)],
        "renewal": {"unit": unit(state="inactive", ended=NOW - 3600), "record": None},
        "updates": {"security": [], "looked": NOW - 3600},
        "reboot": False,
        "suspended": [],
        "usage": {ALICE: {"minute": [0, 60], "hour": [0, 300], "day": [0, 1000], "newRecipients": [0, 200]}},
        "bans": {"sshd": 0, "chasquid": 0},
        "firewall": True,
        "problems": [],
        "clock": {"synchronized": True, "now": float(NOW), "offset": 0.0},
        "damaged": [],
    }
    return good | change


def page(**change: Any) -> str:
    out = io.StringIO()
    status.show(Console(file=out, width=200), {"smtp1": picture(**change)})
    return out.getvalue()


STATES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a stopped service": ({"services": {"chasquid.service": unit(state="failed", since=NOW - 90)}}, "error",
                          "chasquid.service failed since 90 s"),
    "a service in a loop": ({"services": {"chasquid.service": unit(restarts=3, since=NOW - 60)}}, "warning",
                            "restarted 3 times"),
    "no packet filter": ({"firewall": False}, "error", "not there"),
    "another program": ({"chasquid": {"directory": "0123", "version": "1.17.0"}}, "warning", "chasquid 1.17.0 (0123)"),
    "what clients see": ({"problems": ["port 25 does not answer"]}, "error", "port 25 does not answer"),
    "a damaged part": ({"usage": None, "damaged": [{"what": "the counters", "found": "no database"}]}, "warning",
                       "the counters: no database"),
    "a queue that fills": ({"queue": queue(length=4000, oldest=NOW - 60)}, "error", "4000 wait"),
    "a stuck message": ({"queue": queue(length=1, oldest=NOW - 5 * 3600, failure="refused")}, "warning",
                        "waits for 5 h: refused"),
    "a damaged message": ({"queue": queue(length=2, oldest=NOW - 60, unreadable=1)}, "warning", "1 of 2"),
    "an expired certificate": ({"certificates": [certificate(-3 * 3600)]}, "error", "expired 3 h ago"),
    "a certificate not renewed in time": ({"certificates": [certificate(22 * DAY)]}, "warning", "22 d left"),
    "a short-lived one not renewed": ({"certificates": [certificate(DAY, life=6 * DAY)]}, "warning", "24 h left"),
    "a failed renewal": ({"renewal": {"unit": unit(state="failed", result="exit-code", ended=NOW - 7200),
                                      "record": None}}, "warning", "failed 2 h ago (exit-code)"),
    "a failed reload hook": ({"renewal": {"unit": unit(ended=NOW), "record": {"hooks": {"example.com": {
        "digest": "1", "at": 1, "failed": ["hook 1 ended with 1"]}}, "renewal": None, "told": {"keys": ["x"]}}}},
        "warning", "hook 1 ended with 1"),
    "a renewal that was noted to fail": ({"renewal": {"unit": unit(ended=NOW), "record": {"renewal": "refused"}}},
                                         "error", "refused"),
    "a pending update": ({"updates": {"security": ["openssl"], "looked": None}}, "note", "1 pending: openssl"),
    "a pending reboot": ({"reboot": True}, "warning", "waits for a reboot"),
    "a clock that is ahead": ({"clock": {"synchronized": True, "now": NOW, "offset": 7.0}}, "warning", "7 s ahead"),
    "a clock that is behind": ({"clock": {"synchronized": False, "now": NOW, "offset": -90.0}}, "warning",
                               "90 s behind"),
    "a suspended user": ({"suspended": [{"user": ALICE, "since": "2026-11-24T10:00:00Z", "reason": "stolen"}]},
                         "warning", "since 2026-11-24T10:00:00Z: stolen"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_each_state_deserves_one_word(name: str) -> None:
    change, severity, text = STATES[name]
    (finding,) = status.findings({"smtp1": picture(**change)})
    assert finding.severity == severity
    assert text in finding.found


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"services": {"chasquid.service": unit(restarts=9, since=NOW - 2 * 3600)}},
        {"services": {"chasquid.service": unit(restarts=1, since=NOW - 60)}},
        {"queue": queue(length=3999, oldest=NOW - 60)},
        {"certificates": [certificate(23 * DAY)]},
        {"clock": {"synchronized": False, "now": NOW, "offset": 4.9}},
        {"chasquid": {"directory": None, "version": None}},
        {"renewal": {"unit": unit(ended=NOW), "record": {"hooks": {"a": {"failed": []}}, "run": "now"}}},
    ],
)
def test_what_is_usual_deserves_none(change: dict[str, Any]) -> None:
    assert status.findings({"smtp1": picture(**change)}) == []


def test_a_part_that_could_not_be_seen_breaks_neither_judgement_nor_page() -> None:
    parts = ("services", "chasquid", "queue", "errors", "certificates", "updates", "suspended", "usage", "bans",
             "firewall")  # fmt: skip
    blind = dict.fromkeys(parts) | {"renewal": {"unit": None, "record": None}}
    assert status.findings({"smtp1": picture(**blind)}) == []
    assert "unknown" in page(**blind)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (None, {}),
        ("text", {}),
        ({}, {}),
        ({"hooks": [1], "copies": None}, {}),
        ({"hooks": {"a": 1, "b": {}, "c": {"failed": []}, "d": {"failed": True}}}, {"hooks of d": "true"}),
        ({"hooks": {"a": {"failed": ["x", "y\x1b[2J"]}}}, {"hooks of a": "x; y\N{REPLACEMENT CHARACTER}[2J"}),
        ({"copies": {"odd": 1}, "renewal": "no"}, {"renewal": "no", "copies": '{"odd": 1}'}),
    ],
)
def test_the_hooks_record_is_read_whatever_form_it_has(record: Any, found: dict[str, str]) -> None:
    assert status.failures(record) == found


def test_the_page_shows_what_waits_why_and_until_when() -> None:
    text = page(queue=queue(length=7, oldest=NOW - 600, next=NOW + 90, failure="refused", messages=[message()] * 6))
    assert "7 waiting, oldest 10 min, next try within 90 s" in text
    assert "last failure: refused" in text
    assert f"Q1 10 min: {ALICE} to to@receiver.test: connection refused" in text
    assert "... 2 more" in text


def test_the_page_shows_certificate_renewal_and_errors() -> None:
    errors = [{"time": NOW - 120, "unit": "chasquid.service", "text": "[red]no markup[/red]\x1b[2J"}]
    text = page(errors=errors)
    assert "smtp.example.com: 60 d left, until 2027-03-16, renewed from 2027-02-14" in text
    assert "last success 60 min ago, next in 60 min" in text
    assert "2 min ago chasquid.service: [red]no markup[/red]\N{REPLACEMENT CHARACTER}[2J" in text


def test_the_page_marks_a_user_near_a_limit() -> None:
    out = io.StringIO()
    usage = {ALICE: {"minute": [48, 60], "hour": [0, 300], "day": [0, 1000], "newRecipients": [0, 200]}}
    status.show(Console(file=out, width=200, force_terminal=True), {"smtp1": picture(usage=usage)})
    assert "\x1b[33m48/60" in out.getvalue()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(ssh.Target, "of", lambda host, _: host.name)
    two = [SimpleNamespace(name=name, arch="amd64") for name in ("smtp1", "smtp2")]
    return SimpleNamespace(stack="prod", hosts=two, ssh_private_key=None)


def answers(monkeypatch: pytest.MonkeyPatch, **by_host: Any) -> None:
    def run(target: str, *_: Any) -> ssh.Completed:
        answer = by_host[target]
        if isinstance(answer, Problems):
            raise answer
        return ssh.Completed(0, json.dumps(answer), "")

    monkeypatch.setattr(hosts.ssh, "run", run)


def told(settings: Any) -> tuple[set[str], list[str]]:
    pictures, findings = status.read(settings)
    return set(pictures), [finding.id for finding in findings]


def test_a_host_that_does_not_answer_hides_no_other(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    trouble = Problems("no", [status._other_version("smtp1")])
    answers(monkeypatch, smtp1=trouble, smtp2=picture())
    assert told(settings) == ({"smtp2"}, ["status.version"])


def test_an_answer_of_another_version_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    answers(monkeypatch, smtp1={"services": {"chasquid.service": "active"}}, smtp2=picture(form=status.FORM + 1))
    assert told(settings) == (set(), ["status.version"] * 2)


@pytest.mark.parametrize(("ahead", "offset"), [(0.0, 0.0), (600.0, 600.0), (-600.0, -600.0)])
def test_a_hosts_clock_is_compared_with_ours(
    monkeypatch: pytest.MonkeyPatch, settings: Any, ahead: float, offset: float
) -> None:
    monkeypatch.setattr(status.time, "time", lambda: float(NOW))
    clock = {"synchronized": True, "now": NOW + ahead}
    answers(monkeypatch, smtp1=picture(clock=clock), smtp2=picture(clock=clock))
    pictures, _ = status.read(settings)
    assert pictures["smtp1"]["clock"]["offset"] == offset


def test_a_note_alone_leaves_the_exit_status_at_0() -> None:
    found = status.findings({"smtp1": picture(updates={"security": ["openssl"], "looked": None})})
    assert report.exit_code(found) == 0
