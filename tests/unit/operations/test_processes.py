"""Programs that we run: a first Ctrl-C lets them end in good order."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from operations import processes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell starts its background jobs deaf to SIGINT, and a test run may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_soon(*delays: float) -> None:
    for delay in delays:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()


def test_a_program_that_cleans_up_after_an_interrupt_is_waited_for(tmp_path: Path) -> None:
    interrupt_soon(0.2)
    tidy = "import time, pathlib; time.sleep(0.6); pathlib.Path('tidied').touch()"
    with pytest.raises(KeyboardInterrupt):
        processes.run([sys.executable, "-c", tidy], folder=tmp_path)
    assert (tmp_path / "tidied").exists()


def test_a_second_interrupt_kills_it(tmp_path: Path) -> None:
    interrupt_soon(0.2, 0.9)  # within a quarter second it counts as the same one
    with pytest.raises(KeyboardInterrupt):
        processes.run([sys.executable, "-c", "import time; time.sleep(20)"], folder=tmp_path)


def test_output_is_kept_when_it_is_asked_for(tmp_path: Path) -> None:
    done = processes.run(["sh", "-c", "echo out; echo err >&2; exit 3"], folder=tmp_path, capture=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
