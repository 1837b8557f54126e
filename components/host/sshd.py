"""The host's SSH server as far as it is ours: keys only, said where nothing else wins over it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.host import hostlib
else:
    import hostlib

CONFIG = Path("/etc/ssh/sshd_config")
DROP_IN = Path("/etc/ssh/sshd_config.d/00-mailroom.conf")
RUNTIME = Path("/run/sshd")  # where SSH starts with the first connection, sshd -T misses it before
SERVICE = "ssh.service"
KEYS_ONLY = """\
# Written by Mailroom: whoever logs in has a key. sshd takes the first value it reads, so this file comes first.
PasswordAuthentication no
KbdInteractiveAuthentication no
"""
PASSWORD_LOGINS = ("passwordauthentication", "kbdinteractiveauthentication")
PROC = Path("/proc")


def settings() -> dict[str, list[str]]:
    """What sshd would work with if it started now, all connections alike (sshd -T): key -> values."""
    RUNTIME.mkdir(mode=0o755, exist_ok=True)
    answer = hostlib.run(["sshd", "-T"])
    if answer.returncode:
        raise OSError(answer.stderr.strip() or "sshd -T failed")
    found: dict[str, list[str]] = {}
    for line in answer.stdout.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key.lower(), []).append(value)
    return found


def asks_for_passwords() -> list[str]:
    """The settings by which sshd would still let somebody in with a password."""
    now = settings()
    return [key for key in PASSWORD_LOGINS if now.get(key) != ["no"]]


def is_key_only() -> bool:
    """Whether our file stands as we write it and its words count."""
    return DROP_IN.is_file() and DROP_IN.read_text(encoding="utf-8") == KEYS_ONLY and not asks_for_passwords()


def make_key_only() -> list[str]:
    """Write our file and see that it counts; where sshd_config does not read it first, make it do so."""
    hostlib.make_directory(DROP_IN.parent)
    hostlib.write_file(DROP_IN, KEYS_ONLY)
    changes = ["SSH takes keys only"]
    if asks_for_passwords():
        first = f"# Written by Mailroom: first, as sshd takes the first value it reads.\nInclude {DROP_IN}\n"
        hostlib.write_file(CONFIG, first + CONFIG.read_text(encoding="utf-8"), CONFIG.stat().st_mode & 0o777)
        changes = [f"SSH takes keys only ({CONFIG} reads {DROP_IN.name} first)"]
    if still := asks_for_passwords():
        raise OSError(f"{', '.join(still)} stays on whatever {DROP_IN} says")
    answer = hostlib.run(["sshd", "-t"])
    if answer.returncode:
        raise OSError(answer.stderr.strip())
    return changes


def reload(*, wait: bool = True) -> None:
    """Let a running sshd read its files again; sessions stay. One that starts with a connection reads them anyway."""
    if hostlib.run(["systemctl", "is-active", "--quiet", SERVICE]).returncode == 0:
        hostlib.run(["systemctl", "reload", *([] if wait else ["--no-block"]), SERVICE])


def ports() -> list[int]:
    """Where sshd listens: as it is configured, and where the present login came in."""
    configured = (value.rpartition(":")[2] for value in settings().get("listenaddress", []))
    session = connection()
    return sorted({int(port) for port in configured} | ({int(session[3])} if session else set()))


def connection() -> list[str]:
    """SSH_CONNECTION of the present login (address, port, our address, our port); sudo hides it, a parent has it."""
    pid = os.getpid()
    while pid > 1:
        found = re.search(rb"(?:^|\0)SSH_CONNECTION=([^\0]+)", _read(PROC / str(pid) / "environ"))
        if found:
            return found.group(1).decode().split()
        parent = re.search(rb"\nPPid:\t(\d+)", _read(PROC / str(pid) / "status"))
        pid = int(parent.group(1)) if parent else 0
    return []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
