"""How scripts/pull_request.py ends: a job fails by it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from operations import plans
from scripts import pull_request


@pytest.mark.parametrize(("status", "code"), [(0, 0), (1, 0), (2, 2), (3, 3)])
def test_risks_end_a_preview_with_an_error_only_where_they_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, code: int
) -> None:
    asked: list[Any] = []

    def preview(*arguments: Any) -> plans.Report:
        asked.append(arguments)
        return plans.Report("prod", "what changes\n", status, changes=True)

    monkeypatch.setattr(plans, "preview", preview)
    line = ["x", "preview", "--stack", "prod", "--into", "out", "--fail-on"]
    monkeypatch.setattr(sys, "argv", [*line, "mail-stops any"])
    assert pull_request.main() == code
    assert capsys.readouterr().out == "what changes\n"
    assert asked == [("prod", Path("out"), ["mail-stops", "any"])]


def test_a_risk_that_does_not_exist_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "preview", "--stack", "p", "--into", "o", "--fail-on", "mail-stop any"])
    with pytest.raises(SystemExit) as ended:
        pull_request.main()
    assert ended.value.code == 3  # 2 says that a risk was found
    assert "no such risk: mail-stop;" in capsys.readouterr().err
