"""A reader of docs/guide.md: every command in it, in its order, as it is written, from a bare machine to a destroy.

Only names and addresses are the lab's, and what every lab needs is added: its DNS, its ACME CA, its API.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from lab.folders import CHECKOUT
from lab.internet.names import ACME_TOKEN, CLOUDFLARE_TOKEN
from operations import new_stack, stacks
from tests.lab.program import DOMAIN, HOST, INSTALLED
from tests.unit.docs.commands import to_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.client import Lab, Vps

STACK = "lab-guide"  # its file name is one that git ignores
STEP = re.compile(r"^## (?:(\d+)\. )?", re.MULTILINE)
TARGET = "alice@receiver.test"


@dataclass
class Reader:
    """Types commands in the checkout and remembers what they said."""

    lab: Lab
    vps: Vps
    home: Path
    said: list[tuple[str, str]] = field(default_factory=list)

    def here(self, command: str) -> str:
        """The command with the lab's names for those of the documentation."""
        names = {
            r"example\.com": DOMAIN, r"192\.0\.2\.10": self.vps.ipv4, r"2001:db8::10": str(self.vps.ipv6),
            r"someone@gmail\.com": TARGET, r"\bprod\b": STACK, "age1yours": self.recipient(),
            **{rf"(?<![\w.-]){name}\b": str(self.home / name.replace("\\", "")) for name in
               (r"api\.token", r"acme\.token", r"backup\.key", "backups", r"message\.eml")},
        }  # fmt: skip
        for pattern, text in names.items():
            command = re.sub(pattern, text, command)
        return command

    def recipient(self) -> str:
        try:
            return re.findall(r"age1[a-z0-9]+", (self.home / "backup.key").read_text())[0]
        except (OSError, IndexError):
            return "age1yours"

    def typed(self, command: str) -> tuple[str, str]:
        """As the lab needs it, and how many of its exit statuses are fine."""
        plan, typed = self.lab.plan, self.here(command)
        if command.startswith("scripts/new_stack.py"):
            typed += f" --directory {plan.acme_directory} --base-url {plan.cloudflare_api} --backend file://{self.home}"
        if command.startswith("scripts/preflight.py"):
            typed += f" --resolver {plan.resolver.ipv4} --receiver mx.receiver.test --receiver mx.colleagues.test"
        if command.startswith(("pulumi up", "pulumi destroy")):
            typed += " --yes --skip-preview"
        return typed, "0 1" if command.startswith(("scripts/preflight.py", "scripts/status.py")) else "0"

    def run(self, command: str) -> str:
        """Type one line; it has to succeed, with warnings at most."""
        typed, fine = self.typed(command)
        program, environment = stacks.command(STACK)
        shell = f'pulumi() {{ {shlex.quote(program)} "$@"; }}; {typed}'
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", shell],
            cwd=CHECKOUT, env=environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        if "--follow" in command:  # until Ctrl-C
            with pytest.raises(subprocess.TimeoutExpired):
                process.communicate(timeout=4)
            os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=600)
        assert str(process.returncode) in fine.split(), f"{command}\n{said}"
        self.said.append((command, said))
        return said


@pytest.fixture(scope="module")
def reader(lab: Lab, agent: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Two tokens, an SSH agent, a machine that was just ordered, and nothing else."""
    home = tmp_path_factory.mktemp("guide")
    vps = lab.fresh_vps(octet=87, installed=INSTALLED)
    for address in (vps.ipv4, str(vps.ipv6)):
        lab.set_ptr(address, HOST)
    (home / "api.token").write_text(CLOUDFLARE_TOKEN)
    (home / "acme.token").write_text(ACME_TOKEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
        patch.setenv("HOME", str(home))
        patch.setenv("SSL_CERT_FILE", str(lab.status["ca_file"]))  # the system's store knows the lab's CA
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        for name in ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"):
            patch.delenv(name, raising=False)
        yield Reader(lab, vps, home)
    new_stack.path_of(STACK).unlink(missing_ok=True)
    lab.remove_vps(vps)


def like_every_stack_of_a_lab(reader: Reader) -> None:
    """Its resolver, mail servers that greet, and the CA that its ACME directory's own HTTPS is certified by."""
    path = new_stack.path_of(STACK)
    config = reader.lab.stack_config(reader.vps)
    acme = config["mailroom:acme"]
    assert isinstance(acme, dict)
    text = path.read_text()
    for key in ("caFile", "propagationSeconds"):
        text = text.replace("  mailroom:acme:\n", f"  mailroom:acme:\n    {key}: {acme[key]}\n")
    for key in ("resolver", "outboundCheck"):
        text = text.replace("config:\n", f"config:\n  mailroom:{key}: {json.dumps(config[f'mailroom:{key}'])}\n")
    path.write_text(text)
    assert yaml.safe_load(text)["config"]["mailroom:acme"]["caFile"]


def arrived(reader: Reader) -> None:
    """What *Download original* gives at Gmail: the lab's receiver judges, too, but adds no header fields."""
    sample = CHECKOUT / "tests" / "unit" / "operations" / "received" / "gmail.eml"
    (reader.home / "message.eml").write_bytes(sample.read_bytes())


BEFORE: dict[str, Callable[[Reader], None]] = {"scripts/send_test.py --explain": arrived}
AFTER: dict[str, Callable[[Reader], None]] = {"scripts/new_stack.py": like_every_stack_of_a_lab}


def test_every_command_of_the_guide_works_as_it_is_written(reader: Reader) -> None:
    commands = [line for block in to_type("docs/guide.md", __file__) for line in block]
    for command in commands:
        for start, action in BEFORE.items():
            if command.startswith(start):
                action(reader)
        reader.run(command)
        for start, action in AFTER.items():
            if command.startswith(start):
                action(reader)
    assert [command for command, _ in reader.said] == commands
    told = "\n".join(said for _, said in reader.said)
    assert reader.vps.host_key.split()[1] in new_stack.path_of(STACK).read_text()
    shown = reader.vps.ssh("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").stdout.split()[1]
    assert shown in next(text for command, text in reader.said if "--pin" in command)
    assert "DKIM" in next(text for command, text in reader.said if "--explain" in command)
    secrets = [CLOUDFLARE_TOKEN, ACME_TOKEN, stacks.passphrase_file(STACK).read_text().strip()]
    assert [secret for secret in secrets if secret in told] == []
