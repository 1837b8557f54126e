"""`python -m lab`."""

from __future__ import annotations

import signal
import sys

from lab.cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `... status | head` is no error
    sys.exit(main())
