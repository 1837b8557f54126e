"""One test message from the user who sends it to its exit code; the network is stood in for."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from components.settings import Settings
from operations import report, trial
from operations.dns import CouldNotTell, Resolver
from operations.stacks import Lab
from operations.submission import Accepted, Endpoint
from operations.trial import Outcome, Trial, as_json, show
from operations.verdict import Expected
from scripts import send_test
from standards.finding import Finding, Problems, Severity

HASH = "$scrypt$ln=14,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA==$" + "A" * 43 + "="
ZONE = "0123456789abcdef0123456789abcdef"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFgo8mG/d9BkrOpzOjwc3dQu87gsOLH4+MvfeQtWFxmK"
HOST = {"name": "smtp.example.test", "ipv4": "198.51.100.10", "ipv6": "2001:db8:99::10", "hostKey": HOST_KEY}
CONFIG: dict[str, Any] = {
    "mailroom:hosts": [HOST | {"name": "other.example.test", "ipv4": "198.51.100.11", "ipv6": None}, HOST],
    "mailroom:domains": [
        {
            "name": "example.test",
            "zoneId": ZONE,
            "users": ["hashed", "alice", "bob"],
            "aliases": {"*": ["x@receiver.test"]},
            "dkim": [
                {"selector": "m1", "stage": "active"},
                {"selector": "m2", "stage": "published"},
                {"selector": "m3", "stage": "active"},
            ],
        }
    ],
    "mailroom:passwords": {
        "hashed@example.test": HASH,
        "alice@example.test": "canary-alice-0123",
        "bob@example.test": "canary-bob-0123456",
    },
    "mailroom:acme": {"email": "a@example.test", "directory": "letsencrypt", "token": "a" * 40},
    "mailroom:resolver": "198.51.100.53",
    "cloudflare:apiToken": "b" * 40,
}
LAB = Lab({}, "/run/ca.pem", Path("/run/mail"), "check@receiver.test")
ACCEPTED = Accepted("198.51.100.10", 465, "TLSv1.3", "AES", "250 queued", "<1@example.test>")
ALICE = ("alice@example.test", "canary-alice-0123")


def finding(severity: Severity = "error", finding_id: str = "verdict.spf") -> Finding:
    return Finding(severity=severity, id=finding_id, subject="a", expected="b", found="c", why="d", fix="e")


def make(lab: Lab | None = LAB, **host: Any) -> Trial:
    config = CONFIG | {"mailroom:hosts": [CONFIG["mailroom:hosts"][0], HOST | host]}
    settings = Settings.load(config.get, "dev")
    return Trial(settings, lab, settings.hosts[1])


class World:
    """What `send` asked of the parts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.endpoint: Endpoint | None = None
        self.login: tuple[str, str] | None = None
        self.expected: Expected | None = None
        self.reverse: dict[str, Any] = {}
        self.findings: list[Finding] = []
        monkeypatch.setattr(trial.submission, "submit", self._submit)
        monkeypatch.setattr(trial.verdict, "wait_for_verdict", self._wait)
        monkeypatch.setattr(trial.verdict, "delivery_level", lambda target, domain: f"{target.user} {domain}")
        monkeypatch.setattr(trial.verdict, "build_report", lambda seen, path, accepted, level: {"level": level, **seen})
        monkeypatch.setattr(trial.verdict, "judge", self._judge)
        monkeypatch.setattr(trial, "check_ptr", lambda ip, name, resolver: [f"{ip} {name} {resolver.address}"])

    def _submit(self, endpoint: Endpoint, message: Any, user: str, password: str) -> Accepted:
        self.endpoint, self.login = endpoint, (user, password)
        return ACCEPTED

    def _wait(self, folder: Path, message_id: str, *_: object) -> tuple[dict[str, Any], Path]:
        assert (folder, message_id) == (LAB.mail_dir, ACCEPTED.message_id)
        return {"spf": "pass"}, folder / "a.eml"

    def _judge(self, seen: Any, expected: Expected, reverse: Any) -> list[Finding]:
        self.expected, self.reverse = expected, reverse
        return self.findings


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


# Whom to send as


def test_without_a_wish_the_first_user_with_a_clear_password_sends() -> None:
    assert make().user(None) == ALICE


def test_the_part_before_the_at_sign_is_enough_where_one_user_has_it() -> None:
    assert make().user("alice") == make().user("alice@example.test")


def test_a_user_is_found_whatever_the_case_of_the_address() -> None:
    assert make().user("BOB@example.test") == ("bob@example.test", "canary-bob-0123456")


@pytest.mark.parametrize("wanted", ["hashed@example.test", "nobody@example.test"])
def test_a_user_without_a_clear_password_cannot_send_and_those_who_can_are_named(wanted: str) -> None:
    with pytest.raises(Problems) as caught:
        make().user(wanted)
    (problem,) = caught.value.findings
    assert problem.subject == wanted
    assert problem.expected == "one of alice@example.test, bob@example.test"
    assert "canary" not in str(caught.value)


def test_passwords_are_not_in_the_representation() -> None:
    assert "canary" not in repr(make())


# Sending


@pytest.mark.parametrize(("port", "implicit"), [(465, True), (587, False)])
def test_the_port_decides_how_tls_begins(world: World, port: int, implicit: bool) -> None:
    make().send(ALICE, "check@receiver.test", port, print)
    resolver = Resolver("198.51.100.53")
    assert world.endpoint == Endpoint("smtp.example.test", port, implicit, resolver, "/run/ca.pem")
    assert world.login == ALICE


def test_outside_a_lab_the_systems_cas_are_trusted_and_nobody_is_waited_for(world: World) -> None:
    outcome = make(lab=None).send(ALICE, "check@receiver.test", 465, print)
    assert world.endpoint is not None
    assert world.endpoint.ca_file is None
    assert (outcome.report, outcome.findings) == (None, ())


def test_mail_to_others_than_the_labs_receiver_is_not_waited_for(world: World) -> None:
    assert make().send(ALICE, "me@gmail.com", 465, print).report is None


def test_the_judge_learns_what_the_settings_promise(world: World) -> None:
    world.findings = [finding()]
    outcome = make().send(ALICE, "anybody@receiver.test", 465, print)
    assert outcome.report == {"level": "root receiver.test", "spf": "pass"}
    assert outcome.findings == [finding()]
    assert world.expected == Expected(
        host="smtp.example.test",
        addresses=("198.51.100.10", "2001:db8:99::10"),
        domain="example.test",
        selectors=("m1", "m3"),
    )


def test_the_reverse_names_of_both_addresses_are_checked(world: World) -> None:
    make().send(ALICE, "check@receiver.test", 465, print)
    assert world.reverse == {
        ip: [f"{ip} smtp.example.test 198.51.100.53"] for ip in ("198.51.100.10", "2001:db8:99::10")
    }


def test_an_ipv6_address_that_sends_nothing_is_not_expected(world: World) -> None:
    make(ipv6Outbound=False).send(ALICE, "check@receiver.test", 465, print)
    assert world.expected is not None
    assert world.expected.addresses == ("198.51.100.10",)


def test_the_host_is_asked_with_the_rights_the_settings_give(world: World) -> None:
    outcome = make(ssh={"user": "debian", "port": 2222}).send(ALICE, "check@receiver.test", 465, print)
    assert outcome.report is not None
    assert outcome.report["level"].startswith("debian")


def test_a_trial_uses_the_submission_host_of_the_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.stacks, "outputs", lambda _: {"submissionHost": "smtp.example.test"})
    monkeypatch.setattr(trial.stacks, "settings", lambda stack: Settings.load(CONFIG.get, stack))
    monkeypatch.setattr(trial.stacks, "lab", lambda _: LAB)
    assert Trial.of("dev").host.ipv4 == "198.51.100.10"


def test_a_host_that_was_renamed_but_not_deployed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.stacks, "outputs", lambda _: {"submissionHost": "old.example.test"})
    monkeypatch.setattr(trial.stacks, "settings", lambda stack: Settings.load(CONFIG.get, stack))
    with pytest.raises(Problems, match=r"old\.example\.test"):
        Trial.of("dev")


# The outcome


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        (Outcome(ACCEPTED, None), "accepted"),
        (Outcome(ACCEPTED, {"spf": "pass"}), "pass"),
        (Outcome(ACCEPTED, {"spf": "fail"}, [finding()]), "fail"),
    ],
)
def test_the_json_says_in_one_word_what_came_of_it(outcome: Outcome, result: str) -> None:
    made = as_json(outcome)
    assert made["result"] == result
    assert made.get("spf") == (outcome.report or {}).get("spf")
    assert [one["id"] for one in made["findings"]] == ["verdict.spf"] * len(outcome.findings)


def test_without_a_verdict_people_are_told_what_to_look_at() -> None:
    console = Console(file=io.StringIO(), width=300)
    show(console, Outcome(replace(ACCEPTED, answer="250 [/ok]\x1b[2J"), None), "me@gmail.com")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Now open the message <1@example.test> at me@gmail.com" in shown
    assert "250 [/ok]\N{REPLACEMENT CHARACTER}[2J" in shown, "a server's answer is neither markup nor obeyed"


@pytest.mark.parametrize(
    ("severities", "code"), [((), 0), (("note",), 0), (("warning", "note"), 1), (("warning", "error"), 2)]
)
def test_the_worst_finding_decides_the_exit_code(severities: tuple[Severity, ...], code: int) -> None:
    assert report.exit_code([finding(severity) for severity in severities]) == code


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (CouldNotTell("nothing arrived"), 3),
        (Problems("a", [finding(finding_id="stack.missing")]), 3),
        (Problems("a", [finding(finding_id="submission.login")]), 2),
        (Problems("a", [finding(finding_id="stack.missing"), finding(finding_id="submission.login")]), 2),
    ],
)
def test_not_seeing_is_told_apart_from_seeing_a_failure(trouble: Problems | CouldNotTell, code: int) -> None:
    assert report.trouble_code(trouble) == code
    assert report.trouble_as_json(trouble)["result"] == ("fail" if code == 2 else "could not tell")


def test_a_finding_is_shown_as_it_prints_itself() -> None:
    console = Console(file=io.StringIO(), width=20)
    report.show(console, [finding()])
    assert console.file.getvalue() == f"{finding()}\n"  # type: ignore[attr-defined]


# The script


def run_script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["send_test.py", *arguments])
    return send_test.main()


def test_json_is_alone_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], world: World
) -> None:
    monkeypatch.setattr(Trial, "of", lambda _: make())
    world.findings = [finding()]
    assert run_script(monkeypatch, "--stack", "dev", "--to", "check@receiver.test", "--json") == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["spf"] == "pass"
    assert "handing a message to smtp.example.test:465 as alice@example.test" in captured.err


def test_a_wished_user_and_port_are_used(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setattr(Trial, "of", lambda _: make(lab=None))
    wishes = ("--from", "bob@example.test", "--port", "587")
    assert run_script(monkeypatch, "--stack", "dev", "--to", "me@gmail.com", *wishes) == 0
    assert world.login == ("bob@example.test", "canary-bob-0123456")
    assert world.endpoint is not None
    assert world.endpoint.port == 587


def test_trouble_is_json_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(_: str) -> Trial:
        raise Problems("stack x cannot be read", [finding(finding_id="stack.missing")])

    monkeypatch.setattr(Trial, "of", missing)
    assert run_script(monkeypatch, "--stack", "x", "--to", "me@gmail.com", "--json") == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["findings"][0]["id"] == "stack.missing"
    assert "stack x cannot be read" in captured.err
