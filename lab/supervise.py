"""The process behind one running guest: starts systemd-nspawn, again after each reboot; stdlib only.

Its caller has put it into the lab's network namespace and a mount namespace of its own. SIGTERM asks the
guest to power off.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

REBOOT: Final = 133
"""How nspawn with --keep-unit says that the guest wants to start again."""


def main() -> int:
    """Arguments: the file that identifies this process, the guest's cgroup folders, `--`, the nspawn command."""
    split = sys.argv.index("--")
    identity, folders, nspawn = Path(sys.argv[1]), sys.argv[2:split], sys.argv[split + 1 :]
    for folder in folders:
        Path(folder, "cgroup.procs").write_text(str(os.getpid()))
    _identify(identity)
    # nspawn removes trees below its runtime folder and insists on a tmpfs there.
    runtime = Path("/run/systemd/nspawn")
    runtime.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(runtime)], check=True)

    stopping = False
    child: subprocess.Popen[bytes] | None = None

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True
        if child is not None:
            child.terminate()

    signal.signal(signal.SIGTERM, stop)
    while not stopping:
        child = subprocess.Popen(nspawn, stdin=subprocess.DEVNULL)
        code = child.wait()
        print(f"systemd-nspawn ended with {code}", flush=True)
        if code != REBOOT:
            return code
    return 0


def _identify(path: Path) -> None:
    """Say who we are by number and start time: numbers are used again after a crash."""
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"pid": os.getpid(), "started": int(started)}))
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main())
