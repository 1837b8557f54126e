"""`python -m lab.engine` prepares the engine and says in few words what a person must know."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from lab.engine import __main__ as cli
from lab.engine import build, pins

if TYPE_CHECKING:
    from pathlib import Path


def pulumi(folder: Path) -> Path:
    for name in ("pulumi", "pulumi-language-python"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho v{pins.ENGINE}\n")
        path.chmod(0o755)
    return folder / "pulumi"


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a space in its path, an empty PATH and an engine in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    pulumi(build.built().parent)
    monkeypatch.setattr(cli, "CHECKOUT", tmp_path / "a checkout")
    return tmp_path / "a checkout"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["lab.engine", *arguments])
    return cli.main()


def test_an_installation_warns_in_one_line_that_stand_ins_would_serve_real_stacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "install") == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "real stack" in warnings[0]


def test_an_installation_prints_lines_that_a_shell_understands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkout: Path
) -> None:
    run(monkeypatch, "install")
    capsys.readouterr()
    assert run(monkeypatch, "env") == 0
    script = capsys.readouterr().out + "\necho $PULUMI_HOME; command -v pulumi"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{checkout}/.engine/home", f"{checkout}/.engine/bin/pulumi"]


def test_with_an_official_engine_nothing_is_installed_or_to_be_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkout: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(pulumi(tmp_path / "official").parent))
    assert run(monkeypatch, "install") == run(monkeypatch, "env") == 0
    shown = capsys.readouterr().out
    assert "warning" not in shown
    assert "export" not in shown
    assert not checkout.exists()


def test_without_an_engine_the_command_fails_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "env") == 2
    assert capsys.readouterr().err.startswith("error: there is no Pulumi engine in ")
