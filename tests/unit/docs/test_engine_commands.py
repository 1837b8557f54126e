"""What the pages tell people to type at the engine itself, and no other test types: the engine does it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.engine import build

if TYPE_CHECKING:
    from collections.abc import Callable

    Engine = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LOCK = {"pid": 1, "username": "somebody", "hostname": "elsewhere", "timestamp": "2026-01-01T00:00:00Z"}


def told(start: str) -> list[str]:
    """Every command of the pages that begins so, however it stands there."""
    found = {
        match.group(1)
        for page in PAGES
        for match in re.finditer(rf"(?:^|`)({start}[^`\n]*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert found, start
    return sorted(found)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """The engine in a project with a stack called prod on a backend of its own."""
    found = build.find(ROOT)
    (tmp_path / "Pulumi.yaml").write_text("{name: mailroom, runtime: python}")
    (tmp_path / "state").mkdir()
    own = {"PULUMI_BACKEND_URL": f"file://{tmp_path / 'state'}", "PULUMI_CONFIG_PASSPHRASE": "not a secret"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [found.pulumi, *arguments, "--non-interactive"], check=False, cwd=tmp_path,
            env={**os.environ, **found.environment(), **own}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    assert run("stack", "init", "prod").returncode == 0
    return run


@pytest.mark.parametrize("command", told("pulumi config rm "))
def test_a_setting_is_removed_as_written(engine: Engine, command: str) -> None:
    arguments = shlex.split(command)[1:]
    key = arguments[-1]
    path = ["--path"] if "--path" in arguments else []
    assert engine("config", "set", "--secret", *path, key, "x").returncode == 0
    done = engine(*arguments)
    assert done.returncode == 0, done.stderr
    assert engine("config", "get", *path, key).returncode != 0


@pytest.mark.parametrize("command", told("pulumi cancel "))
def test_a_dead_runs_lock_is_removed_as_written(engine: Engine, command: str, tmp_path: Path) -> None:
    lock = tmp_path / "state/.pulumi/locks/organization/mailroom/prod/dead.json"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(json.dumps(LOCK))
    assert "locked" in engine("refresh", "--yes", "--stack", "prod").stderr
    done = engine(*shlex.split(command)[1:], "--yes")
    assert done.returncode == 0, done.stderr
    assert not lock.exists()
