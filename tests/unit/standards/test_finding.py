"""What a finding says may come from anybody's DNS, banner or host, and is read at a terminal."""

from __future__ import annotations

from dataclasses import fields

import pytest

from operations import report
from operations.dns import CouldNotTell
from standards.finding import Finding, Invalid, Problems, printable

EVIL = "a\x1b]0;owned\x07\x9b2J\u202eb\rc"
SAFE = (
    "a\N{REPLACEMENT CHARACTER}]0;owned\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}2J\N{REPLACEMENT CHARACTER}b c"
)


def finding(**told: str) -> Finding:
    texts = {each.name: f"its {each.name}" for each in fields(Finding) if each.name != "severity"}
    return Finding(severity="error", **{**texts, **told})


@pytest.mark.parametrize("field", [each.name for each in fields(Finding) if each.name not in {"severity", "id"}])
def test_no_field_of_a_finding_reaches_the_terminal_as_a_control_sequence(field: str) -> None:
    told = finding(**{field: EVIL})
    assert getattr(told, field) == SAFE
    assert SAFE in str(told)


def test_a_line_end_in_a_value_cannot_pass_for_a_line_of_ours() -> None:
    assert "\n  fix: curl" not in str(finding(found="none\n  fix: curl evil.test"))
    assert "none\n      fix: curl" in str(finding(found="none\n  fix: curl evil.test"))


@pytest.mark.parametrize("text", ["Grüße", "почта", "邮件", "a\nb", "50 €", "\N{REPLACEMENT CHARACTER}"])
def test_letters_of_every_script_and_line_ends_stay(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("blank", "\u3164\u2800\u115f\ufe0f\u200b\u00ad\U000e0100")
def test_a_character_that_shows_nothing_is_seen_to_be_there(blank: str) -> None:
    assert printable(f"mail{blank}.example.com") == "mail\N{REPLACEMENT CHARACTER}.example.com"


@pytest.mark.parametrize("trouble", [Problems(EVIL, []), CouldNotTell(EVIL), Invalid(EVIL, expected="x", fix="y")])
def test_no_other_trouble_reaches_the_terminal_as_a_control_sequence(trouble: Exception) -> None:
    assert str(trouble).startswith(SAFE)


def test_a_line_of_progress_reaches_no_terminal_as_a_control_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    report.progress(f"waiting for {EVIL}")
    assert capsys.readouterr().err == f"waiting for {SAFE}\n"
