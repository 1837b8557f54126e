"""What the pages tell people to type on their own machine, and neither the engine nor a lab is needed for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from operations.explain_preview import RISKS
from tests.unit.docs.commands import CHECKOUT, spans
from tests.unit.docs.pages import TEXTS, everywhere

if TYPE_CHECKING:
    from pathlib import Path

PULL, *AT_A_CONFLICT = UPGRADE = [line for line in spans(TEXTS["docs/operations.md"]) if line.startswith("git ")]
(KEY,), (HELP,), (DOCS,) = map(everywhere, ("age-keygen -o new.key", "scripts/explain_preview.py --help", "make docs"))
TYPED = [*UPGRADE, KEY, HELP, DOCS]


def typed(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A line in a shell of somebody whose editor takes each text as it is."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "GIT_"))}
    who = {f"GIT_{role}_{what}": "you@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env={**own, **who, "GIT_EDITOR": "true", "GIT_CONFIG_GLOBAL": os.devnull},
        text=True, check=False, timeout=60, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def committed(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"Pulumi.{name}.yaml").write_text(text)
    assert typed("git add . && git commit -qm 'A change'", folder).returncode == 0


@pytest.mark.parametrize("theirs", [{}, {"prod": "another example"}], ids=["untouched", "conflict"])
def test_an_upgrade_brings_what_is_new_and_keeps_the_settings_of_prod(theirs: dict[str, str], tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    assert typed(f"git init -qb main {there}", tmp_path).returncode == 0
    committed(there, prod="an example", dev="old")
    assert typed(f"git clone -q {there} {here}", tmp_path).returncode == 0
    committed(here, prod="ours")
    committed(there, dev="new", **theirs)
    pulled = typed(PULL, here)
    assert ("CONFLICT" in pulled.stdout, pulled.returncode != 0) == (bool(theirs), bool(theirs)), pulled.stdout
    for line in AT_A_CONFLICT if theirs else ():
        done = typed(line, here)
        assert done.returncode == 0, done.stdout
    assert [(here / f"Pulumi.{name}.yaml").read_text() for name in ("prod", "dev")] == ["ours", "new"]
    assert typed("git status --porcelain; git log --oneline ..origin/main", here).stdout == ""


def test_a_new_key_for_backups_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    done = typed(KEY, tmp_path)
    assert done.returncode == 0, done.stdout
    assert "age1" in done.stdout
    assert (tmp_path / "new.key").stat().st_mode & 0o777 == 0o600


def test_the_help_of_an_explanation_lists_every_risk() -> None:
    done = typed(HELP, CHECKOUT)
    assert done.returncode == 0, done.stdout
    assert [risk for risk in RISKS if risk not in done.stdout] == []


def test_make_docs_writes_what_is_committed(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(CHECKOUT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "build"))
    (copy / ".venv").symlink_to(sys.prefix)
    (copy / "docs/settings.md").unlink()
    done = typed(DOCS, copy)
    assert done.returncode == 0, done.stdout
    assert (copy / "docs/settings.md").read_text() == (CHECKOUT / "docs/settings.md").read_text()
