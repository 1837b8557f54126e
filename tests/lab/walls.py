"""A machine whose doors our host scripts close, as a test uses it, and what strangers find there."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

from components.host.bundle import DIRECTORY, bundle
from components.host.component import BANS, UNITS

if TYPE_CHECKING:
    import subprocess

    from lab.client import Vps

UNIT_FILES = BANS.parent
NO_LOGIN, LOGIN_SECONDS = 255, 20  # ssh(1) without a session; how long the program tries to log in
PATIENCE = 0.4  # seconds; whoever is let in answers in milliseconds


class Walls:
    """One machine with our scripts on it; `payload` is what access.py is given next."""

    def __init__(self, vps: Vps) -> None:
        self.vps = vps
        self.payload: dict[str, Any] = {
            "ssh_port": 22,
            "allow_tcp": [],
            "allow_udp": [],
            "ipv6_mail": True,
            "units": {name: (UNIT_FILES / name).read_text() for name in UNITS},
        }
        self.must(bundle().installer(), bundle().text)

    def must(self, command: str, stdin: str | None = None) -> str:
        """What a command that has to succeed prints."""
        answer = self.vps.ssh(command, stdin, timeout=300)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout.strip()

    def run(self, command: str, payload: object = None) -> subprocess.CompletedProcess[str]:
        """One of our scripts, however it ends."""
        return self.vps.ssh(f"{DIRECTORY}/current/{command}", json.dumps(payload), timeout=300)

    def access(self) -> str:
        """Change and confirm, each over a login of its own, as the program does; says what changed."""
        changed = self.run("access.py apply", self.payload)
        assert changed.returncode == 0, changed.stderr
        if not changed.stdout.startswith("ok"):
            end = time.monotonic() + LOGIN_SECONDS
            kept = self.run("access.py confirm")
            while kept.returncode == NO_LOGIN and time.monotonic() < end:  # sshd reads its files anew
                kept = self.run("access.py confirm")
            assert kept.returncode == 0, kept.stderr
        return changed.stdout

    def guard(self) -> str:
        """Bans, updates and clock; says what changed."""
        files = {str(path.relative_to(BANS)): path.read_text() for path in BANS.glob("*/*")}
        answer = self.run("guard.py", {"ssh_port": 22, "fail2ban": files})
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def table(self) -> str:
        """Our rules as the kernel has them, nothing where there are none."""
        return self.vps.ssh("nft list table inet mailroom").stdout

    @property
    def addresses(self) -> tuple[str, str]:
        """IPv4 and IPv6."""
        assert self.vps.ipv6
        return self.vps.ipv4, self.vps.ipv6


def knock(address: str, port: int, source: str = "") -> str:
    """What a stranger finds at a TCP port: open, refused or silent."""
    try:
        with socket.create_connection((address, port), PATIENCE, (source, 0) if source else None):
            return "open"
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silent"
