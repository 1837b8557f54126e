"""Importing this goes on with the checkout's own interpreter: scripts run as they are, with nothing activated.

It also lets a script end without a word on Ctrl-C (130 in a shell), and when whoever reads its output went away, as
`| head -1` does.
"""

from __future__ import annotations

import atexit
import os
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

VENV = Path(__file__).resolve().parent.parent / ".venv"
PYTHON = VENV / "bin" / "python"

# Resolved on both sides: where .venv is a link, the paths would differ for ever.
if Path(sys.prefix).resolve() != VENV.resolve() and PYTHON.exists():
    os.execv(PYTHON, [str(PYTHON), *sys.orig_argv[1:]])  # noqa: S606

BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


def _unread() -> list[int]:
    """Which of standard output and standard error are pipes that nobody reads any more."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return [number for number, event in poll.poll(0) if event & select.POLLERR]


def _drop_unread() -> None:
    """What is still buffered for a reader that is gone goes nowhere, and is no error at the end."""
    for number in _unread():
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def _ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An error is told as ever, but not Ctrl-C, nor that the reader is gone: a socket's broken pipe is not that."""
    if issubclass(kind, KeyboardInterrupt):
        return
    if not (issubclass(kind, BrokenPipeError) and _unread()):
        sys.__excepthook__(kind, error, trace)
        return
    _drop_unread()
    os._exit(BROKEN_PIPE)


sys.excepthook = _ended
atexit.register(_drop_unread)
