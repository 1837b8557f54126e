"""Importing this goes on with the checkout's own interpreter: scripts run as they are, with nothing activated."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VENV = Path(__file__).resolve().parent.parent / ".venv"
PYTHON = VENV / "bin" / "python"

# Resolved on both sides: where .venv is a link, the paths would differ for ever.
if Path(sys.prefix).resolve() != VENV.resolve() and PYTHON.exists():
    os.execv(PYTHON, [str(PYTHON), *sys.orig_argv[1:]])  # noqa: S606
