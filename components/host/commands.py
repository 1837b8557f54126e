"""The lines that a host's shell runs for a step; no resource lives here, so that the policies can read them, too."""

from __future__ import annotations

from typing import Final

from components.host.bundle import DIRECTORY

LOCK: Final = "/run/mailroom.lock"  # /run/lock would let any local user hold it
BUSY: Final = 75  # sysexits.h EX_TEMPFAIL
NOTHING: Final = "/bin/true"
_SCRIPT: Final = f"{DIRECTORY}/current/uninstall.py"
# The script removes itself last: without it there is nothing left to do.
UNINSTALL: Final = f"sh -c '[ ! -e {_SCRIPT} ] || exec {_SCRIPT}'"


def locked(command: str, timeout: int, *, user: str) -> str:
    """`command` under our lock and a time limit, as root: the provider ignores custom timeouts."""
    sudo = "" if user == "root" else "sudo -n "
    busy = "echo 'error: another run is at work on this host for 300 s; wait for it, then run again' >&2"
    line = f"{sudo}flock -w 300 -E {BUSY} {LOCK} timeout {timeout} {command}"
    return f"{line} || {{ status=$?; [ $status != {BUSY} ] || {busy}; exit $status; }}"
