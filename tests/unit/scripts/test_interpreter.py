"""A script started with any Python goes on with the checkout's own, once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INTERPRETER = Path(__file__).resolve().parents[3] / "scripts" / "interpreter.py"
SHOW = "import scripts.interpreter, sys; print(sys.prefix)"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing but that module and an environment beside it."""
    (tmp_path / "checkout/scripts").mkdir(parents=True)
    shutil.copy(INTERPRETER, tmp_path / "checkout/scripts")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    return tmp_path / "checkout"


def prefix(checkout: Path) -> str:
    python = Path(sys.base_prefix) / "bin/python3"
    done = subprocess.run([python, "-c", SHOW], cwd=checkout, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def test_where_the_environment_is_a_link_it_starts_itself_once(checkout: Path) -> None:
    (checkout / ".venv").symlink_to(checkout.parent / "env")
    assert prefix(checkout) in {str(checkout / ".venv"), str(checkout.parent / "env")}


def test_without_an_environment_it_goes_on_as_it_is(checkout: Path) -> None:
    assert prefix(checkout) == sys.base_prefix
