"""The example of a consuming stack beside a lab's mail stack, on the same backend, with a passphrase of its own."""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Self

from lab.folders import CHECKOUT
from operations import stacks
from tests.lab.program import DOMAIN

if TYPE_CHECKING:
    from tests.lab.program import Stack

OWN = secrets.token_hex(16)
VARIABLE = "PULUMI_CONFIG_PASSPHRASE"


class Consumer:
    """A copy of examples/consumer; as a context manager nothing of it is left behind."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.said = stack, ""
        self.folder = CHECKOUT / ".lab" / f"{stack.name}-consumer"  # as deep as the example: it finds the environment
        self.program, self.environment = stacks.command(stack.name)
        self.theirs = self.environment.pop(VARIABLE)

    def __enter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(CHECKOUT / "examples" / "consumer", self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder)

    def here(self, command: str) -> str:
        """A command of docs/outputs.md with the lab's names, and what a lab needs besides."""
        names = {r"\bprod\b": self.stack.name, r"i@example\.com": f"alice@{DOMAIN}",
                 r"someone@gmail\.com": str(self.stack.lab.status["receiver"]),
                 r"(?<= )examples/consumer": str(self.folder)}  # fmt: skip
        for pattern, text in names.items():
            command = re.sub(pattern, text, command)
        if command in {"pulumi up", "pulumi destroy"}:
            command += " --yes --skip-preview"
        if command.startswith("pulumi config set smokeTo"):
            command += f"; pulumi config set connectTo {self.stack.vps.ipv4}"
            command += f"; pulumi config set caFile {self.stack.lab.status['ca_file']}"
        return command

    def run(self, command: str, *, stdin: str = "", fails: bool = False, passphrase: str | None = OWN) -> str:
        """Type one line; it has to work, or to fail. Returns what it said."""
        if command.startswith("cd "):
            return ""
        at = CHECKOUT if "stack output" in command else self.folder
        pulumi = f'pulumi() {{ {shlex.quote(self.program)} "$@" --non-interactive --color=never; }}'
        done = subprocess.run(
            ["bash", "-c", f"{pulumi}; {command}"],
            cwd=at, env={**self.environment, **({VARIABLE: passphrase} if passphrase else {})},
            input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert bool(done.returncode) == fails, f"{command}\n{done.stdout}"
        self.said += done.stdout
        return done.stdout
