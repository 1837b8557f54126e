#!/usr/bin/python3
"""Takes the mail server off the host without losing mail: stops accepting, drains the queue, removes what is ours.

Payload: {"hostname": ..., "drain_seconds": 60}. The queue, the certificates and the ACME account stay.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.host import hostlib
else:
    import hostlib

SERVICE = "chasquid.service"
UNIT = Path("/etc/systemd/system/chasquid.service")
DRAIN = Path("/run/systemd/system/chasquid.service.d/drain.conf")
MAILROOM = Path("/etc/mailroom")
PROGRAMS = Path("/usr/local/lib/mailroom")
QUEUE = Path("/var/lib/chasquid/queue")
HOOKS = Path("/etc/letsencrypt/renewal-hooks/deploy")
TIMERS = ("mailroom-renew.timer", "mailroom-renew.service")
LISTENERS = " ".join(f'{name}: "127.0.0.1:{port}"' for name, port in
                     (("smtp_address", 1025), ("submission_address", 1587), ("submission_over_tls_address", 1465)))  # fmt: skip


def main() -> None:
    """Every step tolerates that an earlier run did it already."""
    payload = hostlib.read_payload()
    left = drain(payload["drain_seconds"]) if is_active() else queued()
    hostlib.run(["systemctl", "disable", "--now", SERVICE])
    removed = [str(path) for path in (UNIT, DRAIN.parent, MAILROOM, PROGRAMS / "chasquid") if remove(path)]
    stop_renewals()
    hostlib.run(["systemctl", "daemon-reload"])
    for bundle in PROGRAMS.glob("*") if PROGRAMS.is_dir() else ():
        remove(bundle)
    remove(PROGRAMS)
    what = "removed service, binary and configuration" if removed else "ok: nothing was installed"
    print(
        f"{what}; kept: queue in {QUEUE} ({left} message{'s' * (left != 1)} undelivered), "
        "certificates and ACME account in /etc/letsencrypt"
    )


def is_active() -> bool:
    """Whether there is a service to drain."""
    return hostlib.run(["systemctl", "is-active", "--quiet", SERVICE]).returncode == 0


def queued() -> int:
    """Messages in chasquid's queue; one file each (internal/queue)."""
    return len(list(QUEUE.glob("m:*"))) if QUEUE.is_dir() else 0


def drain(limit: float) -> int:
    """Accept from nobody (listeners on the loopback, other ports) and wait until the queue is empty."""
    if queued() == 0:
        return 0
    hostlib.make_directory(DRAIN.parent)
    command = f"/etc/mailroom/current/bin/chasquid --config_dir=/etc/mailroom/current '--config_overrides={LISTENERS}'"
    hostlib.write_file(DRAIN, f"[Service]\nExecStart=\nExecStart={command}\n")
    hostlib.run(["systemctl", "daemon-reload"])
    hostlib.run(["systemctl", "restart", SERVICE])
    end = time.monotonic() + limit
    while (left := queued()) and time.monotonic() < end:
        print(f"draining: {left} left", file=sys.stderr)
        time.sleep(2)
    return queued()


def stop_renewals() -> None:
    """The renewal timer and the deploy hooks are ours; the certificates they renewed stay."""
    for unit in TIMERS:
        hostlib.run(["systemctl", "disable", "--now", unit])
        remove(Path("/etc/systemd/system") / unit)
    for hook in HOOKS.glob("mailroom-*") if HOOKS.is_dir() else ():
        remove(hook)


def remove(path: Path) -> bool:
    """Remove a file, link or tree; says whether it was there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
        return True
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return True
    return False


if __name__ == "__main__":
    main()
