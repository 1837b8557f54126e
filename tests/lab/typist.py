"""Types the commands of a page on a stack of a test, as they are written, with the lab's names in them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lab.folders import CHECKOUT
from lab.internet.names import ACME_TOKEN, CLOUDFLARE_TOKEN
from operations import stacks
from tests.lab.program import DOMAIN

if TYPE_CHECKING:
    from lab.client import Vps
    from tests.lab.program import Stack

USER = f"alice@{DOMAIN}"
MAY_WARN = ("scripts/preflight.py", "scripts/status.py", "scripts/restore.py")  # 1 is success with warnings


@dataclass
class Typist:
    """Somebody with a folder of their own, in which two new tokens and a place for backups are.

    `said` has each line as it was written, with what came of it; `other` is the machine that a host moves to.
    """

    stack: Stack
    home: Path
    other: Vps | None = None
    said: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.home / "place").mkdir()
        (self.home / "api.token").write_text(CLOUDFLARE_TOKEN)
        (self.home / "acme.token").write_text(ACME_TOKEN)

    def here(self, command: str) -> str:
        vps, receiver = self.stack.vps, str(self.stack.lab.status["receiver"])
        names = {
            r"i@example\.com": USER, r"example\.com": DOMAIN, r"192\.0\.2\.10": vps.ipv4,
            r"192\.0\.2\.20": (self.other or vps).ipv4,
            r"someone@gmail\.com": receiver,
            r"\bprod\b": self.stack.name, "age1yours": self.recipient(), r"/mnt/backup": str(self.home / "place"),
            **{rf"(?<![\w.:-]){name}": str(self.home / name.replace("\\", "")) for name in
               (r"api\.token", r"acme\.token", r"backup\.key")},
        }  # fmt: skip
        for pattern, text in names.items():
            command = re.sub(pattern, text, command)
        if command.startswith("scripts/preflight.py"):
            command += f" --resolver {self.stack.lab.plan.resolver.ipv4}"
            command += " --receiver mx.receiver.test --receiver mx.colleagues.test"
        if command.startswith(("pulumi up", "pulumi destroy")):
            command += " --yes --skip-preview"
        return command + " --yes" * command.startswith("pulumi stack rm")

    def recipient(self) -> str:
        key = self.home / "backup.key"
        return re.findall(r"age1[a-z0-9]+", key.read_text())[0] if key.exists() else "age1yours"

    def type(self, command: str) -> None:
        """One line; it has to succeed, with warnings at most."""
        program, environment = stacks.command(self.stack.name)
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        shell = f'pulumi() {{ {shlex.quote(program)} "$@"; }}; {self.here(command)}'
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", shell], cwd=CHECKOUT, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode <= command.startswith(MAY_WARN), f"{command}\n{done.stdout}"
        self.said.append((command, done.stdout))
