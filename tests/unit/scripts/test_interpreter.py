"""A script started with any Python goes on with the checkout's own, once."""

from __future__ import annotations

import os
import shutil
import signal
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


def unread(code: str, stream: str) -> subprocess.CompletedProcess[str]:
    """A script of ours with this code whose standard output or standard error nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    try:
        return subprocess.run(
            [sys.executable, "-c", f"import scripts.interpreter, sys; {code}"],
            cwd=INTERPRETER.parents[1], env=environment, text=True, check=False, timeout=20,
            **{stream: writer, other: subprocess.PIPE},
        )  # fmt: skip
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    ("code", "stream", "status"),
    [
        ("print('x' * 100_000)", "stdout", 141),
        ("print('x', flush=True)", "stdout", 141),
        ("print('x'); sys.exit(2)", "stdout", 2),
        ("print('x', file=sys.stderr)", "stderr", 141),
    ],
    ids=["more than a buffer", "a line at once", "a line at the end", "progress"],
)
def test_a_reader_that_went_away_is_no_error(code: str, stream: str, status: int) -> None:
    done = unread(code, stream)
    assert (done.returncode, done.stdout or "", done.stderr or "") == (status, "", "")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        ("BrokenPipeError('the server hung up')", 1, "BrokenPipeError: the server hung up\n"),
        ("KeyboardInterrupt", -signal.SIGINT, ""),
    ],
)
def test_a_connection_that_broke_is_still_told_and_ctrl_c_is_not(error: str, status: int, said: str) -> None:
    command = [sys.executable, "-c", f"import scripts.interpreter; raise {error}"]
    done = subprocess.run(command, cwd=INTERPRETER.parents[1], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr.endswith(said), bool(done.stderr)) == (status, True, bool(said))


@pytest.mark.parametrize("script", sorted(INTERPRETER.parent.glob("[a-z]*.py")), ids=lambda path: path.name)
def test_every_script_is_short_begins_with_that_module_and_tells_its_exit_status(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert script == INTERPRETER or "exit status:" in text
    assert script == INTERPRETER or any(line.startswith("import scripts.interpreter") for line in lines)
    assert len(lines) <= 60
