#!/usr/bin/env python3
"""What a run of the dev stack costs, as a multiple of a Pulumi program with one secret setting and no resource.

`pulumi preview` and an `up` that finds nothing to do, of both programs by turns, with the same engine, interpreter and
kind of backend. The processor time is that of all processes of a run. Needs the dev stack as `make up` leaves it.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from bench.hook_cost import CannotMeasure, judged
from operations import stacks
from standards.finding import Problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STACK = "dev"
ALLOWED = 2.0  # times an empty program
RUNS = {
    "preview": ("preview", "--expect-no-changes"),
    "up without changes": ("up", "--yes", "--skip-preview", "--expect-no-changes"),
}
EMPTY = {
    "Pulumi.yaml": "name: empty\nruntime: {{name: python, options: {{toolchain: pip, virtualenv: {venv}}}}}\n",
    "__main__.py": "import pulumi  # noqa: F401\n",
}


@dataclass(frozen=True, eq=False)
class Program:
    """A program's directory and the environment its runs need."""

    place: Path
    pulumi: str
    environment: Mapping[str, str]
    stack: str

    def run(self, *arguments: str) -> tuple[float, float]:
        """Wall and processor seconds of one command; raises `Problems` with what it said when it fails."""
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [self.pulumi, *arguments, "--stack", self.stack, "--non-interactive", "--color=never"],
            cwd=self.place, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise Problems(f"`pulumi {arguments[0]}` failed in {self.place}: {(done.stdout + done.stderr)[-2000:]}", [])
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@dataclass
class Comparison:
    """Seconds of each pair of runs, the empty program's first."""

    wall: list[tuple[float, float]] = field(default_factory=list)
    processor: list[tuple[float, float]] = field(default_factory=list)

    def ratio(self, pairs: Sequence[tuple[float, float]]) -> float:
        """The median of the paired ratios: what else the machine does slows down both of a pair."""
        return statistics.median(ours / empty for empty, ours in pairs)

    @property
    def is_too_dear(self) -> bool:
        """Whether ours costs more than it may."""
        return max(self.ratio(self.wall), self.ratio(self.processor)) > ALLOWED

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"  {name:<14} empty {statistics.median(e for e, _ in pairs):.2f} s"
            f"  ours {statistics.median(o for _, o in pairs):.2f} s"
            f"  ratio {self.ratio(pairs):.2f} (at most {ALLOWED:.1f})"
            for name, pairs in (("wall", self.wall), ("processor", self.processor))
        ]


def empty_program(place: Path, pulumi: str, environment: Mapping[str, str]) -> Program:
    """A program without resources and with a secret setting, its stack deployed once."""
    for name, text in EMPTY.items():
        (place / name).write_text(text.format(venv=stacks.CHECKOUT / ".venv"))
    (place / "state").mkdir()
    own = {"PULUMI_BACKEND_URL": f"file://{place}/state", "PULUMI_CONFIG_PASSPHRASE": "empty"}
    program = Program(place, pulumi, {**environment, **own}, "empty")
    program.run("stack", "init")
    program.run("config", "set", "--secret", "opened", "by the passphrase, as those of our stack are")
    program.run("up", "--yes", "--skip-preview")
    return program


def measure(pairs: int) -> dict[str, Comparison]:
    """Every kind of run, the programs by turns."""
    pulumi, environment = stacks.command(STACK)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # only ours has modules to compile, and does so once
    ours = Program(stacks.CHECKOUT, pulumi, environment, STACK)
    with tempfile.TemporaryDirectory() as folder:
        empty = empty_program(Path(folder), pulumi, environment)
        found = {name: Comparison() for name in RUNS}
        for name, arguments in RUNS.items():
            for number in range(pairs + 1):
                taken = {program: program.run(*arguments) for program in (empty, ours)[:: 1 if number % 2 else -1]}
                if number:  # the first pair fills caches
                    found[name].wall.append((taken[empty][0], taken[ours][0]))
                    found[name].processor.append((taken[empty][1], taken[ours][1]))
        return found


def main() -> int:
    """0 when no run costs more than it may, 1 when one does, 3 when it could not be measured."""

    def shown(pairs: int) -> tuple[list[str], bool]:
        try:
            found = measure(pairs)
        except Problems as problems:
            raise CannotMeasure(str(problems)) from None
        lines = [line for name, one in found.items() for line in (f"pulumi {name}", *one.lines())]
        return lines, any(one.is_too_dear for one in found.values())

    return judged(__doc__, main.__doc__, "runs of each program", 7, shown, what="pairs")


if __name__ == "__main__":
    sys.exit(main())
