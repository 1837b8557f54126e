"""A `pulumi up` under observation: its output while it runs, and a kill that leaves nothing behind but its traces."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from operations import stacks
from tests.lab.program import processes

if TYPE_CHECKING:
    from types import TracebackType

    from tests.lab.program import Stack

WAIT_SECONDS = 90


class LiveRun:
    """`pulumi up` as a process; as a context manager nothing of it outlives the block."""

    def __init__(self, stack: Stack) -> None:
        program, environment = stacks.command(stack.name)
        self._news = threading.Condition()
        self._lines: list[str] = []
        self.process = subprocess.Popen(
            [program, "up", "--yes", "--skip-preview", "--stack", stack.name, "--non-interactive", "--color=never"],
            cwd=stacks.CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def output(self) -> str:
        """What it said so far."""
        return "".join(self._lines)

    def wait_for(self, pattern: str) -> None:
        """Return as soon as a line matches."""
        deadline = time.monotonic() + WAIT_SECONDS
        with self._news:
            while not any(re.search(pattern, line) for line in self._lines):
                assert self._reader.is_alive(), f"it ended without {pattern!r}:\n{self.output}"
                assert time.monotonic() < deadline, f"no {pattern!r} in {WAIT_SECONDS} s:\n{self.output}"
                self._news.wait(0.5)

    def finish(self) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(timeout=WAIT_SECONDS)
        self._reader.join()
        return code

    def kill(self) -> None:
        """SIGKILL the engine first, as the kernel does when memory is short, then the plugins it left."""
        children = descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._reader.join()
        self.process.stdout.close()  # type: ignore[union-attr]

    def _read(self) -> None:
        for line in self.process.stdout:  # type: ignore[union-attr]
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


def descendants(pid: int) -> list[int]:
    """Every living process below one."""
    children: dict[int, list[int]] = {}
    for process, stat in processes("stat"):
        children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(process)
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def forget(stack: Stack) -> None:
    """Drop a stack's state and its records: for a story that ends in the middle; its host is given back anyway."""
    stack.run("stack", "rm", "--force", "--yes", "--preserve-config")
    for record in stack.records():
        if "mailroom:" in (record["comment"] or ""):
            stack.api("DELETE", f"/{record['id']}")
    stack.discard()
