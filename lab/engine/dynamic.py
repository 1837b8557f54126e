"""pulumi-resource-pulumi-python: the SDK's own dynamic provider, that leaves when its engine is gone.

It runs under the program's interpreter and imports nothing of ours but the standard library: the provider classes of
the program are found from its directory, as the official launcher's `python -m pulumi.dynamic` finds them.
"""

from __future__ import annotations

import gc
import os
import runpy
import sys
import threading
import time

PARENT_CHECK = 1.0  # seconds


def _leave_with(engine: int) -> None:
    while os.getppid() == engine:
        time.sleep(PARENT_CHECK)
    os._exit(1)


if __name__ == "__main__":
    gc.set_threshold(100_000)  # what is imported stays: to look for cycles in it takes a tenth of the start
    sys.path[0] = ""  # what `python -m` has there: the program's directory, not ours
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    runpy.run_module("pulumi.dynamic", run_name="__main__", alter_sys=True)
    sys.stdout.flush()
    os._exit(0)  # the engine waits for the end, and there is nothing left to tidy up
