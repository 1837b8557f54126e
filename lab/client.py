"""The lab as tests use it: one object per lab, one per VPS; everything it does is also a command of `python -m lab`."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from lab import lifecycle, machines
from lab.errors import LabError
from lab.folders import Folders
from lab.internet import client as internet
from lab.internet.names import ACME_TOKEN, CLOUDFLARE_TOKEN, zone_id
from lab.shell import Progress, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

    from lab.addresses import Plan
    from lab.machines import Machine

Message = dict[str, Any]


@dataclass(frozen=True)
class Vps:
    """One VPS of a lab, as ordered from a hosting provider."""

    machine: Machine
    name: str
    ipv4: str
    ipv6: str | None
    host_key: str

    def ssh(
        self,
        command: str,
        input: str | None = None,  # noqa: A002  (as subprocess.run names it)
        *,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root; the host key must be the pinned one."""
        folder = self.machine.folder
        known_hosts = folder / "known_hosts"
        known_hosts.write_text(f"{self.ipv4} {self.host_key}\n")
        options = {
            "IdentityFile": Folders(self.machine.plan.name).ssh_key,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "LogLevel": "ERROR",
        }
        arguments = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        argv = ["ssh", "-F", "none", *arguments, f"root@{self.ipv4}", command]
        # Without input of its own ssh would read its caller's.
        return subprocess.run(argv, input=input or "", capture_output=True, text=True, check=False, timeout=timeout)

    def boot_id(self) -> str:
        """Changes with every start."""
        return self.ssh("cat /proc/sys/kernel/random/boot_id").stdout.strip()

    def reboot(self) -> None:
        """Restart from inside, as an administrator does; returns when SSH answers after the restart."""
        before = self.boot_id()
        self.ssh("systemctl reboot")
        if not wait_until(lambda: self.boot_id() not in {"", before}, timeout=60):
            raise LabError(f"{self.name} did not come back within 60 s after a reboot")

    def stop(self) -> None:
        """Power off in good order."""
        self.machine.stop()

    def kill9(self) -> None:
        """Cut the power; the disk stays as it is."""
        self.machine.kill()

    def start(self) -> None:
        """Power on; returns when SSH answers."""
        self.machine.start()
        machines.wait_for_ssh(self.ipv4, timeout=60)

    @property
    def root(self) -> Path:
        """The file system of the VPS, seen from this machine."""
        return self.machine.root


class Lab:
    """A running lab; as a context manager it is taken down at the end."""

    def __init__(self, name: str, *, say: Progress | None = None) -> None:
        self.name = name
        self._say = say or Progress()

    @classmethod
    def create(cls, name: str) -> Lab:
        """Start (or find) a lab without machines."""
        lab = cls(name)
        lifecycle.up(name, lab._say, vps=False)
        return lab

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.down()

    def down(self) -> list[str]:
        """Remove every trace of the lab; returns what was removed."""
        return lifecycle.down(self.name, self._say)

    @property
    def plan(self) -> Plan:
        """Addresses and names."""
        return lifecycle.require(self.name).plan

    @property
    def status(self) -> dict[str, Any]:
        """What `python -m lab status --json` prints."""
        return lifecycle.status(self.name)

    def fresh_vps(
        self,
        *,
        ipv6: bool = True,
        suite: str = "bookworm",
        name: str | None = None,
        octet: int | None = None,
        installed: Sequence[str] = (),
    ) -> Vps:
        """Order a new VPS, bare but for the packages that are `installed`; SSH answers."""
        taken = {record.name for record in lifecycle.require(self.name).vps}
        chosen = name or next(free for number in itertools.count(1) if (free := f"vps{number}") not in taken)
        order = lifecycle.Order(ipv6=ipv6, suite=suite, octet=octet, installed=installed)
        lifecycle.add_vps(self.name, chosen, self._say, order)
        return self.vps(chosen)

    def vps(self, name: str | None = None) -> Vps:
        """A VPS ordered before, the oldest when no name is given."""
        known = lifecycle.require(self.name)
        if not known.vps:
            raise LabError(f"the lab {self.name} has no VPS; order one: fresh_vps()")
        record = known.find(name) if name else known.vps[0]
        pair = known.plan.address(record.octet)
        return Vps(
            machine=lifecycle.vps_machine(known, record),
            name=record.name,
            ipv4=pair.ipv4,
            ipv6=pair.ipv6 if record.ipv6 else None,
            host_key=record.host_key,
        )

    def remove_vps(self, vps: Vps) -> None:
        """Give a VPS back, with its disk."""
        lifecycle.remove_vps(self.name, vps.name, self._say)

    def set_ptr(self, address: str, name: str) -> None:
        """Set reverse DNS, as at the hosting provider."""
        internet.set_ptr(self.plan, address, name)

    @property
    def dns(self) -> internet.Dns:
        """Records straight at the authoritative servers (somebody else's, as far as the program knows)."""
        return internet.Dns(self.plan)

    def lag(self, seconds: float) -> None:
        """Let ns2 see later changes that much later; 0 also delivers what waits."""
        internet.lag(self.plan, seconds)

    def messages(self) -> list[Message]:
        """The receiver's verdicts, oldest first; `path` is the message itself."""
        verdicts = [(path, json.loads(path.read_text())) for path in Folders(self.name).mail.glob("*.json")]
        found = [verdict | {"path": str(path.with_suffix(".eml"))} for path, verdict in verdicts]
        return sorted(found, key=lambda message: str(message["received_at"]))

    def wait_message(self, predicate: Callable[[Message], bool], timeout: float = 30) -> Message:
        """The first message the predicate accepts."""
        deadline = time.monotonic() + timeout
        while True:
            for message in self.messages():
                if predicate(message):
                    return message
            if time.monotonic() > deadline:
                subjects = [message["subject"] for message in self.messages()]
                raise LabError(f"no such message within {timeout:.0f} s; the receiver of {self.name} has {subjects}")
            time.sleep(0.1)

    def stack_config(self, vps: Vps | None = None, **overrides: object) -> dict[str, object]:
        """Settings of a stack like the embedded one, for a VPS of this lab (the oldest); overrides by their keys.

        A key may leave out `mailroom:`. Secret values are in clear text: who writes the stack file encrypts them.
        """
        vps, plan = vps or self.vps(), self.plan
        host = {"name": "smtp.example.test", "ipv4": vps.ipv4, "ipv6": vps.ipv6, "hostKey": vps.host_key}
        domain = {
            "name": "example.test",
            "zoneId": zone_id("example.test"),
            "mail": "forward",
            "certificate": "wildcard",
            "users": ["alice"],
            "aliases": {"alice": ["alice@receiver.test"]},
        }
        settings: dict[str, object] = {
            "mailroom:hosts": [{key: value for key, value in host.items() if value}],
            "mailroom:domains": [domain],
            "mailroom:resolver": plan.resolver.ipv4,
            "mailroom:outboundCheck": ["mx.receiver.test", "mx.colleagues.test"],
            "mailroom:passwords": {"alice@example.test": "a-password-of-the-lab"},
            "mailroom:acme": {
                "token": ACME_TOKEN,
                "email": "postmaster@example.test",
                "directory": plan.acme_directory,
                "caFile": "lab/keys/ca.pem",
                "propagationSeconds": 2,
            },
            "mailroom:sshPrivateKey": Folders(self.name).ssh_key.read_text(),
            "cloudflare:baseUrl": plan.cloudflare_api,
            "cloudflare:apiToken": CLOUDFLARE_TOKEN,
        }
        return settings | {key if ":" in key else f"mailroom:{key}": value for key, value in overrides.items()}
