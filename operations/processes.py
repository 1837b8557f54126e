"""Runs other programs so that one Ctrl-C lets them end in good order; knows nothing of what they do."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def run(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None, capture: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run to the end, also after a first Ctrl-C, which the program gets from the terminal itself.

    A second one kills it. Raises KeyboardInterrupt once the program has ended.
    """
    pipe = subprocess.PIPE if capture else None
    interrupts = 0
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        while True:
            try:
                stdout, stderr = process.communicate()
                break
            except KeyboardInterrupt:
                interrupts += 1
                if interrupts > 1:
                    process.kill()
    if interrupts:
        raise KeyboardInterrupt
    return subprocess.CompletedProcess(list(command), process.returncode, stdout, stderr)
