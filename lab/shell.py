"""How the lab runs the machine's own tools, waits, and says what it does; knows nothing about labs."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable


def run(*argv: str, stdin: str | None = None, timeout: float = 60) -> str:
    """Run a tool to its end and return its output; a failure carries the tool's own words."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as hung:
        raise LabError(f"`{' '.join(argv)}` did not end within {timeout:.0f} s") from hung
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip() or "it said nothing")[-2000:]
        raise LabError(f"`{' '.join(argv)}` failed with exit code {done.returncode}: {words}")
    return done.stdout


def succeeds(*argv: str) -> bool:
    """Whether a tool ends with exit code 0; for questions and for removing what may be absent."""
    return subprocess.run(argv, capture_output=True, check=False, timeout=60).returncode == 0


def wait_until(ready: Callable[[], bool], *, timeout: float, pause: float = 0.05) -> bool:
    """Ask again and again until the answer is yes (true) or the time is over (false)."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


class Progress:
    """Progress lines with the seconds since the start, on stderr: stdout belongs to results."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._start = time.monotonic()
        self._quiet = quiet

    def __call__(self, text: str) -> None:
        """Say one line."""
        if not self._quiet:
            print(f"[{time.monotonic() - self._start:5.1f} s] {text}", file=sys.stderr, flush=True)
