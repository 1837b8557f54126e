#!/usr/bin/python3
"""Takes the mail server off the host without losing mail: stops accepting, drains the queue, removes what is ours.

Payload: {"hostname": ..., "drain_seconds": 60}. The queue, the certificates and the ACME account stay; the token
for renewals goes, and so do packet filter and bans of mail clients; SSH by keys alone, its bans and the updates stay.
What `network` and `bootstrap` of the host changed is put back, packages excepted.
Works as well where only half of it is installed, or nothing.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.certificates import reload_hook
    from components.host import access, bootstrap, guard, hostlib
else:
    import access
    import bootstrap
    import guard
    import hostlib
    import reload_hook

SERVICE = "chasquid.service"
UNITS = Path("/etc/systemd/system")
POLICY = ("mailroom-policy.socket", "mailroom-policy.service")
DRAIN = Path("/run/systemd/system/chasquid.service.d/drain.conf")
MAILROOM = Path("/etc/mailroom")
RUNTIME = Path("/run/mailroom")
PROGRAMS = Path("/usr/local/lib/mailroom")
QUEUE = Path("/var/lib/chasquid/queue")
LETSENCRYPT = Path("/etc/letsencrypt")
REPORT = "mailroom-certificate-report.service"
STATE = Path("/var/lib/mailroom")
RENEWAL = UNITS / "certbot.service.d" / "mailroom.conf"
# Nothing outside knows these ports, and no program of the host submits there.
PORTS = {"smtp_address": 1025, "submission_address": 1587, "submission_over_tls_address": 1465}


def main() -> None:
    """Every step tolerates that an earlier run did it already."""
    payload = hostlib.read_payload()
    if (now := installed_name(payload["hostname"])) != payload["hostname"]:
        # The host was renamed: the resources of its old name go after those of the new one have come.
        print(f"ok: nothing to do, this host serves {now} now")
        return
    hostlib.run(["systemctl", "disable", "--now", SERVICE])
    if queued() and (MAILROOM / "current").exists():
        drain(payload["drain_seconds"])
    hostlib.run(["systemctl", "disable", "--now", *POLICY])
    remove_copies()
    removed = [*bootstrap.undo(), *access.undo(), *guard.undo(), *(str(path) for path in ours() if remove(path))]
    hostlib.run(["systemctl", "daemon-reload"])
    hostlib.run(["systemctl", "reset-failed", SERVICE])
    left = queued()
    print(
        f"{'changed: removed service, programs, configuration and packet filter' if removed else 'ok: nothing to do'}"
        f"; kept: SSH by keys alone, updates, queue "
        f"in {QUEUE} ({left} message{'s' * (left != 1)} undelivered), certificates and ACME account in {LETSENCRYPT}"
    )


def installed_name(wanted: str) -> str:
    """The host name of the release that is installed; the wanted one where none is complete."""
    try:
        return str(json.loads((MAILROOM / "current" / "probe.json").read_text(encoding="utf-8"))["hostname"])
    except (OSError, ValueError, KeyError):
        return wanted


def ours() -> list[Path]:
    """All that goes; the unit first, so that nothing starts again, our scripts last: this is one of them."""
    hooks = sorted((LETSENCRYPT / "renewal-hooks" / "deploy").glob("mailroom-*"))
    private = LETSENCRYPT / "mailroom"
    renewal = [*private.glob("*.ini"), *(private / name for name in ("challenge.json", "challenge", "hooks"))]
    units = [UNITS / name for name in (SERVICE, *POLICY, REPORT)]
    return [*units, DRAIN.parent, *hooks, RENEWAL, *renewal, STATE, MAILROOM, RUNTIME, PROGRAMS]


def remove_copies() -> None:
    """The copies of certificates for other services; what somebody else put there stays."""
    if copies := reload_hook.read(MAILROOM / "certificates.json").get("copies"):
        reload_hook.remove_folder(copies["folder"])


def queued() -> int:
    """Messages in chasquid's queue; one file each (internal/queue)."""
    return len(list(QUEUE.glob("m:*")))


def drain(limit: float) -> None:
    """Let chasquid deliver what is queued while it accepts from nobody: a start tries every message at once."""
    hostlib.make_directory(DRAIN.parent)
    listeners = " ".join(f'{name}: "127.0.0.1:{port}"' for name, port in PORTS.items())
    command = f"{MAILROOM}/current/bin/chasquid --config_dir={MAILROOM}/current '--config_overrides={listeners}'"
    hostlib.write_file(DRAIN, f"[Service]\nExecStart=\nExecStart={command}\n")
    hostlib.run(["systemctl", "daemon-reload"])
    hostlib.run(["systemctl", "start", SERVICE])
    end = time.monotonic() + limit
    while (left := queued()) and (seconds := end - time.monotonic()) > 0:
        print(f"draining: {left} message{'s' * (left != 1)} left, {seconds:.0f} s to go", file=sys.stderr)
        time.sleep(min(2, seconds))
    hostlib.run(["systemctl", "stop", SERVICE])


def remove(path: Path) -> bool:
    """Remove a file, link or tree; says whether it was there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
        return True
    if path.is_dir():
        shutil.rmtree(path)
        return True
    return False


if __name__ == "__main__":
    main()
