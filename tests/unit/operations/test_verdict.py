"""When a test message counts as trusted: each criterion has a case that fails without it."""

from __future__ import annotations

import io
import json
import threading
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from operations import verdict
from operations.dns import CouldNotTell
from operations.ssh import Completed, Target
from operations.submission import Accepted
from operations.verdict import Expected, build_report, delivery_level, judge, table, wait_for_verdict
from standards.finding import Finding, Problems

if TYPE_CHECKING:
    from pathlib import Path

IPV4, IPV6 = "198.51.100.10", "2001:db8:99::10"
ACCEPTED = Accepted(IPV6, 465, "TLSv1.3", "TLS_AES_256_GCM_SHA384", "250 queued", "<1@example.test>")
EXPECTED = Expected(host="smtp.example.test", addresses=(IPV4, IPV6), domain="example.test", selectors=("m1", "m2"))
SEEN: dict[str, Any] = {
    "id": "a",
    "received_at": "2026-11-24T12:00:00+00:00",
    "mail_from": "i@example.test",
    "rcpt_to": ["check@receiver.test"],
    "ehlo": "smtp.example.test",
    "client_ip": IPV6,
    "ptr": ["smtp.example.test."],
    "fcrdns": True,
    "spf": "pass",
    "dkim": [
        {"selector": "m1", "domain": "example.test", "result": "pass"},
        {"selector": "m2", "domain": "example.test", "result": "pass"},
    ],
    "dmarc": "pass",
    "dmarc_policy": "quarantine",
    "tls": {"version": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256"},
    "message_id": "<1@example.test>",
    "subject": "Test",
}
NOTHING_WRONG: dict[str, list[Finding]] = {IPV4: [], IPV6: []}
TARGET = Target(IPV4, 22, "root", "ssh-ed25519 AAAA")


def report(tmp_path: Path, level: str = "TLS_SECURE", **changes: Any) -> dict[str, Any]:
    seen = deepcopy(SEEN) | changes
    return build_report(seen, tmp_path / "a.eml", ACCEPTED, level)


def signature(selector: str, result: str, domain: str = "example.test") -> dict[str, str]:
    return {"selector": selector, "domain": domain, "result": result}


def test_a_message_that_fulfils_every_criterion_has_no_findings(tmp_path: Path) -> None:
    assert judge(report(tmp_path), EXPECTED, NOTHING_WRONG) == []


@pytest.mark.parametrize(
    ("changes", "finding_id", "found"),
    [
        ({"spf": "softfail"}, "verdict.spf", "softfail"),
        ({"dkim": [signature("m1", "pass"), signature("m2", "fail")]}, "verdict.dkim", "fail"),
        ({"dkim": [signature("m1", "pass")]}, "verdict.dkim", "no signature"),
        (
            {"dkim": [signature("m1", "pass"), signature("m2", "pass", "other.test")]},
            "verdict.dkim",
            "no signature",
        ),
        ({"dmarc": "none"}, "verdict.dmarc", "none"),
        ({"tls": None}, "verdict.delivery-tls", "none"),
        ({"tls": {"version": "TLSv1.1", "cipher": "x"}}, "verdict.delivery-tls", "TLSv1.1"),
        ({"level": "TLS_INSECURE"}, "verdict.unverified", "TLS_INSECURE"),
        ({"client_ip": "2001:db8:99::11"}, "verdict.address", "2001:db8:99::11"),
        ({"ptr": []}, "verdict.ptr", "nothing"),
        ({"ptr": ["vps.provider.test."]}, "verdict.ptr", "vps.provider.test"),
        ({"ptr": ["smtp.example.test.", "b.test."]}, "verdict.ptr", "smtp.example.test, b.test"),
        ({"ehlo": "localhost"}, "verdict.ehlo", "localhost"),
        ({"client_ip": IPV4}, "verdict.no-ipv6", f"IPv4 ({IPV4})"),
    ],
)
def test_each_criterion_is_one_error_of_its_own(
    tmp_path: Path, changes: dict[str, Any], finding_id: str, found: str
) -> None:
    (finding,) = judge(report(tmp_path, **changes), EXPECTED, NOTHING_WRONG)
    assert (finding.severity, finding.id, finding.found) == ("error", finding_id, found)


def test_the_submission_needs_good_tls_too(tmp_path: Path) -> None:
    seen = report(tmp_path)
    seen["submission"]["tls_version"] = "TLSv1.1"
    (finding,) = judge(seen, EXPECTED, NOTHING_WRONG)
    assert finding.id == "verdict.submission-tls"


@pytest.mark.parametrize("address", [IPV4, IPV6])
def test_what_is_wrong_with_the_names_of_either_address_counts(tmp_path: Path, address: str) -> None:
    wrong = Finding(severity="error", id="ptr.missing", subject=address, expected="a", found="b", why="c", fix="d")
    assert judge(report(tmp_path), EXPECTED, NOTHING_WRONG | {address: [wrong]}) == [wrong]


def test_an_address_whose_names_were_not_checked_counts_as_wrong(tmp_path: Path) -> None:
    (finding,) = judge(report(tmp_path), EXPECTED, {IPV6: []})
    assert (finding.id, finding.subject) == ("verdict.unchecked", IPV4)


def test_a_host_without_ipv6_may_send_over_ipv4(tmp_path: Path) -> None:
    only = Expected(host="smtp.example.test", addresses=(IPV4,), domain="example.test", selectors=("m1",))
    assert judge(report(tmp_path, client_ip=IPV4), only, {IPV4: []}) == []


def test_addresses_and_names_are_compared_whatever_their_spelling(tmp_path: Path) -> None:
    spelled = Expected(
        host="smtp.example.test", addresses=("2001:0DB8:99:0::10",), domain="example.test", selectors=("m1", "m2")
    )
    seen = report(tmp_path, ehlo="SMTP.example.test", ptr=["Smtp.Example.Test."])
    assert judge(seen, spelled, {"2001:0DB8:99:0::10": []}) == []


# The report


def test_the_report_says_everything_in_plain_words(tmp_path: Path) -> None:
    seen = report(tmp_path)
    assert seen["spf"] == seen["dmarc"] == "pass"
    assert seen["dkim"] == [signature("m1", "pass"), signature("m2", "pass")]
    assert seen["tls"] == {"version": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256", "verified": True}
    assert (seen["client_ip"], seen["ptr"], seen["ehlo"]) == (IPV6, "smtp.example.test", "smtp.example.test")
    assert seen["message_path"] == str(tmp_path / "a.eml")
    assert seen["submission"]["port"] == 465
    json.dumps(seen)


def test_a_delivery_without_tls_is_never_verified(tmp_path: Path) -> None:
    assert report(tmp_path, level="PLAIN", tls=None)["tls"] == {
        "version": "none",
        "cipher": "none",
        "verified": False,
    }


def test_the_table_shows_what_is_wrong_in_red(tmp_path: Path) -> None:
    seen = report(tmp_path, spf="fail", tls=None)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    console.print(table(seen, judge(seen, EXPECTED, NOTHING_WRONG)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    red = [line for line in shown.splitlines() if "\x1b[1;31m" in line]
    assert [any(word in line for word in ("SPF", "TLS, delivery")) for line in red] == [True, True]


# Waiting for it


def test_the_verdict_is_found_by_its_message_id(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps(SEEN | {"message_id": "<2@example.test>"}))
    (tmp_path / "ours.json").write_text(json.dumps(SEEN))
    seen, message = wait_for_verdict(tmp_path, "<1@example.test>", 1, print)
    assert (seen, message) == (SEEN, tmp_path / "ours.eml")


def test_a_verdict_that_comes_later_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "POLL_SECONDS", 0.01)
    late = threading.Timer(0.1, (tmp_path / "ours.json").write_text, (json.dumps(SEEN),))
    late.start()
    assert wait_for_verdict(tmp_path, "<1@example.test>", 5, print)[0] == SEEN


def test_a_message_that_never_arrives_could_not_be_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(verdict, "PROGRESS_SECONDS", 0.02)
    said: list[str] = []
    with pytest.raises(CouldNotTell, match="<1@example.test>"):
        wait_for_verdict(tmp_path, "<1@example.test>", 0.1, said.append)
    assert said[0] == "waiting for the receiver's verdict (0 s)"


# How it was delivered


@pytest.mark.parametrize(
    ("answer", "level"),
    [
        (Completed(0, 'name:  "receiver.test"\noutgoing_sec_level:  TLS_SECURE\n', ""), "TLS_SECURE"),
        (Completed(0, 'name:"receiver.test"\noutgoing_sec_level:TLS_INSECURE\n', ""), "TLS_INSECURE"),
        (Completed(0, 'name:"receiver.test"\nincoming_sec_level: TLS_SECURE\n', ""), "PLAIN"),
        (Completed(1, "", "cat: no such file\n"), "nothing recorded (cat: no such file)"),
    ],
)
def test_the_hosts_own_record_says_how_a_delivery_was_encrypted(
    monkeypatch: pytest.MonkeyPatch, answer: Completed, level: str
) -> None:
    asked: list[tuple[Target, str]] = []
    monkeypatch.setattr(verdict.ssh, "run", lambda target, command: asked.append((target, command)) or answer)
    assert delivery_level(TARGET, "receiver.test") == level
    assert asked == [(TARGET, "cat '/var/lib/chasquid/domaininfo/s:receiver.test'")]


def test_a_host_that_cannot_be_asked_does_not_lose_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Finding(severity="error", id="ssh.no-answer", subject="a", expected="b", found="no answer", why="", fix="d")

    def fail(*_: object) -> None:
        raise Problems("no way in", [gone])

    monkeypatch.setattr(verdict.ssh, "run", fail)
    assert delivery_level(TARGET, "receiver.test") == "not known: no answer"
