#!/usr/bin/python3
"""Prepares the operating system: missing packages, the services' users and data directories; no mail software.

Payload: {"packages": ["certbot", "systemd-timesyncd | chrony", ...]}: of alternatives any will do, and the first is
installed where none is there. A package that is installed is left at its version, none of them is removed.
"bootstrap" may stand beside it, see bootstrap.py: {"timezone": ..., "locale": ..., "apt_mirror": ..., "packages": []}.
"""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from components.host import bootstrap, hostlib
else:
    import bootstrap
    import hostlib

# Each service's user and group, and its own directory: queue, caches and counters, for nobody else.
HOMES = {"chasquid": Path("/var/lib/chasquid"), "mailroom-policy": Path("/var/lib/mailroom-policy")}
LOG = Path("/var/log/mailroom/apt.log")
DPKG = Path("/var/lib/dpkg")
LOCKS = (
    DPKG / "lock-frontend",
    DPKG / "lock",
    Path("/var/lib/apt/lists/lock"),  # apt's own Lock::Timeout does not cover the lists
    Path("/var/cache/apt/archives/lock"),
)
LOCK_LIMIT = 300  # seconds; a first boot's unattended-upgrades takes minutes
APT_LIMIT = 600  # seconds for one run of apt-get
PAUSES = (5, 20)  # seconds before the second and the third attempt
# What a mirror in the middle of an update, a resolver that just woke up or a lost lock make apt say.
TRANSIENT = (
    "Could not get lock",
    "Failed to fetch",
    "Hash Sum mismatch",
    "Some index files failed",
    "Temporary failure resolving",
    "Unable to connect",
    "Unable to locate package",
)
APT_OPTIONS = (
    "-q",
    "-y",
    f"-oDPkg::Lock::Timeout={LOCK_LIMIT}",
    "-oDpkg::Use-Pty=0",  # no progress bar
    "-oDpkg::Options::=--force-confdef",
    "-oDpkg::Options::=--force-confold",
    "-oAcquire::Retries=3",
)
SHOWN_LINES = 15
SHOWN_WIDTH = 300


def main() -> None:
    """Bring the host to the wanted state and say what changed."""
    payload = hostlib.read_payload()
    wanted, packages = payload.get("bootstrap", {}), payload["packages"]
    bootstrap.check(wanted)
    changes = repair_interrupted() + bootstrap.set_mirror(wanted.get("apt_mirror"))
    extras = missing(bootstrap.packages(wanted))
    bootstrap.remember(wanted)
    bootstrap.remember_packages(extras)
    changes += install([*missing(packages), *extras])
    bootstrap.check(wanted)  # what it reads may have come with the packages
    changes += bootstrap.set_timezone(wanted.get("timezone")) + bootstrap.set_locale(wanted.get("locale"))
    changes += remove_extras({*bootstrap.packages(wanted), *packages})
    for user, home in HOMES.items():
        changes += service_user(user, home) + data_directory(user, home)
    hostlib.finish(changes)


def remove_extras(wanted: Collection[str]) -> list[str]:
    """Remove what came with a setting that is gone; what something else needs by now stays, as apt's own."""
    gone = [package for package in bootstrap.installed_by_us() if package not in wanted]
    there = [package for package in gone if not missing([package])]
    changes = []
    if there:
        wait_for_locks()
        told = hostlib.run(["apt-get", "remove", "--simulate", *there]).stdout
        needed = {line.split()[1] for line in told.splitlines() if line.startswith("Remv ")} - set(there)
        if needed:
            logged(["apt-mark", "auto", *there])
            changes = [f"left {' '.join(there)}, which {' '.join(sorted(needed))} needs"]
        elif logged(["apt-get", "remove", *APT_OPTIONS, *there]):
            changes = [f"removed {' '.join(there)}"]
        else:
            return give_up(f"apt-get could not remove {' '.join(there)}")
    if gone:
        bootstrap.forget_packages(gone)
    return changes


def missing(packages: Sequence[str]) -> list[str]:
    """Those of `packages` that are not fully installed, the first of each `one | another`."""
    form = r"${Package}\t${db:Status-Abbrev}\n"
    choices = [package.split(" | ") for package in packages]
    known = [name for names in choices for name in names]
    answer = hostlib.run(["dpkg-query", "-W", "-f", form, *known])  # fails when one is unknown
    rows = [line.split("\t") for line in answer.stdout.splitlines()]
    installed = {name for name, status in rows if status.startswith("ii")}
    return [names[0] for names in choices if not installed.intersection(names)]


def repair_interrupted() -> list[str]:
    """Finish what a killed dpkg left behind; apt refuses to work before that."""
    if not is_interrupted():
        return []
    wait_for_locks()
    if not is_interrupted():  # it was only busy
        return []
    logged(["dpkg", "--configure", "-a", "--force-confdef", "--force-confold"])
    if is_interrupted():  # half unpacked: needs its archive again
        logged(["apt-get", "update", *APT_OPTIONS])
        logged(["apt-get", "install", "--fix-broken", *APT_OPTIONS])
    if is_interrupted():
        give_up("packages are half installed and `dpkg --configure -a` does not finish them")
    return ["finished an interrupted installation of packages"]


def is_interrupted() -> bool:
    """Whether dpkg reports packages in a state between states, or has a journal to replay."""
    journal = any(entry.name.isdigit() for entry in (DPKG / "updates").iterdir())
    return journal or bool(hostlib.run(["dpkg", "--audit"]).stdout.strip())


def install(packages: Sequence[str]) -> list[str]:
    """Install all of `packages` in one transaction, trying again after passing troubles."""
    if not packages:
        return []
    for pause in (*PAUSES, None):
        start = LOG.stat().st_size if LOG.exists() else 0
        wait_for_locks()
        logged(["apt-get", "update", *APT_OPTIONS])
        done = logged(["apt-get", "install", "--no-install-recommends", "--no-remove", *APT_OPTIONS, *packages])
        if done and not missing(packages):
            return [f"installed {' '.join(packages)}"]
        said = LOG.read_bytes()[start:].decode(errors="replace")
        if pause is None or not any(sign in said for sign in TRANSIENT):
            break
        time.sleep(pause)
    return give_up(f"apt-get could not install {' '.join(packages)}")


def wait_for_locks() -> None:
    """Wait until nobody else installs packages; the limit is ours, as apt's covers one lock of four."""
    end = time.monotonic() + LOCK_LIMIT
    while holders := [pid for path in LOCKS if (pid := lock_holder(path))]:
        if time.monotonic() > end:
            comm = Path(f"/proc/{holders[0]}/comm")
            name = comm.read_text().strip() if comm.exists() else "a process"
            hostlib.fail(
                f"{name} (pid {holders[0]}) holds the package manager's lock for more than {LOCK_LIMIT} s",
                "a free lock, as after unattended-upgrades is done",
                f"look at it with `ps {holders[0]}` on the host and run again when it has ended",
            )
        time.sleep(1)


def lock_holder(path: Path) -> int:
    """Pid that holds a lock file, or 0; asked for with F_GETLK, which locks nothing."""
    layout = "hhqqi"  # struct flock of 64-bit Linux: type, whence, start, length, pid
    try:
        with path.open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, fcntl.F_WRLCK, 0, 0, 0, 0))
    except FileNotFoundError:
        return 0
    kind, _, _, _, pid = struct.unpack(layout, answer)
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def logged(argv: Sequence[str]) -> bool:
    """Run a package command with its output in the log alone; says whether it succeeded."""
    LOG.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l", "LC_ALL": "C"}
    with os.fdopen(os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640), "w") as log:
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S %z')} {' '.join(argv)}\n")
        log.flush()
        try:
            return (
                subprocess.run(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    check=False,
                    timeout=APT_LIMIT,
                ).returncode
                == 0
            )
        except subprocess.TimeoutExpired:
            log.write(f"--- stopped after {APT_LIMIT} s\n")
            return False


def give_up(what: str) -> list[str]:
    """Fail with the last lines of the log, each short enough for a terminal."""
    lines = LOG.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
    shown = "\n".join(f"  {line[:SHOWN_WIDTH]}" for line in lines)
    return hostlib.fail(
        what,
        "apt-get ending without an error",
        f"read {LOG} on the host, solve it there and run again; it ends with:\n{shown}",
    )


def service_user(user: str, home: Path) -> list[str]:
    """The system user and group a service runs as."""
    changes = []
    if user not in {group.gr_name for group in grp.getgrall()}:
        checked(["groupadd", "--system", user])
        changes.append(f"added group {user}")
    if user not in {account.pw_name for account in pwd.getpwall()}:
        place = ["--home-dir", str(home), "--no-create-home", "--shell", "/usr/sbin/nologin"]
        checked(["useradd", "--system", "--gid", user, *place, user])
        changes.append(f"added user {user}")
    return changes


def data_directory(user: str, home: Path) -> list[str]:
    """A service's own directory."""
    wanted = (0o750, user, user)
    if home.is_dir() and (home.stat().st_mode & 0o7777, home.owner(), home.group()) == wanted:
        return []
    home.mkdir(mode=0o750, parents=True, exist_ok=True)
    home.chmod(0o750)
    shutil.chown(home, user, user)
    return [f"made {home}"]


def checked(argv: Sequence[str]) -> None:
    """Run a command that must succeed."""
    answer = hostlib.run(argv)
    if answer.returncode:
        hostlib.fail(
            f"`{' '.join(argv)}` failed: {answer.stderr.strip()[:SHOWN_WIDTH]}",
            "an account database that can be written",
            "run it by hand on the host (a stale /etc/passwd.lock or /etc/group.lock is the usual cause)",
        )


if __name__ == "__main__":
    main()
