"""A stack of the real program in a test's own lab: its file of settings, its runs, and what it must not show."""

from __future__ import annotations

import json
import os
import smtplib
import ssl
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from components.host.component import PACKAGES
from lab.folders import CHECKOUT
from lab.internet.certificates import CA_CERTIFICATE
from lab.internet.client import edit_zone
from lab.internet.names import RECEIVER_MX
from operations import recovery, stacks
from standards import acme

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Lab, Vps

HOST = "smtp.example.test"
DOMAIN = "example.test"
SECRETS = ("mailroom:sshPrivateKey", "cloudflare:apiToken")
INNER_SECRETS = {
    "mailroom:acme": ["token"],
    "mailroom:contabo": ["clientSecret", "apiPassword"],
    "mailroom:hetzner": ["token"],
}


# What `prepare` installs on a bare machine, as the tests of the main job and the gates see it do; for all others the
# machine was used before, which saves each of them half a minute.
INSTALLED = (*(package.split(" | ")[0] for package in PACKAGES), acme.package(acme.CLOUDFLARE))

# Before a command: it can reach nobody, since its network has no routes, and has no SSH key, of an agent or of a file.
_HIDE = 'ip link set lo up; [ ! -d ~/.ssh ] || mount -t tmpfs none ~/.ssh; exec "$@"'
ALONE = ("env", "-u", "SSH_AUTH_SOCK", "unshare", "--net", "--mount", "sh", "-c", _HIDE, "sh")


class Stack:
    """One stack named after its lab; `settings` may be edited between runs, `write` brings them to the file."""

    def __init__(self, lab: Lab, vps: Vps, **overrides: Any) -> None:
        self.lab, self.vps, self.name = lab, vps, lab.name
        self.settings: dict[str, Any] = lab.stack_config(vps, **overrides)
        self.file = CHECKOUT / f"Pulumi.{self.name}.yaml"

    def write(self) -> None:
        """Write the stack file with encrypted secrets."""
        secrets, plain = split(self.settings)
        before = yaml.safe_load(self.file.read_text()) if self.file.exists() else {}
        salt = {key: value for key, value in before.items() if key == "encryptionsalt"}
        self.file.write_text(yaml.safe_dump({"config": plain, **salt}))
        recovery.ensure(self.name)
        for key, value in secrets.items():
            self.set_secret(key, value)

    def set_secret(self, key: str, value: str) -> None:
        """By standard input, as a person does: an argument would show to every process watch on the machine."""
        program, environment = stacks.command(self.name)
        command = [program, "config", "set", "--stack", self.name, "--path", "--secret", "--non-interactive", key]
        done = subprocess.run(
            command, cwd=CHECKOUT, env=environment, input=value, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One pulumi command; stdout and stderr together in `stdout`."""
        done = recovery.pulumi(self.name, *arguments, "--color=never", capture=True)
        done.stdout += done.stderr
        return done

    def preview_alone(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`pulumi preview` that can reach nobody; stdout and stderr together in `stdout`."""
        program, environment = stacks.command(self.name)
        command = [*ALONE, program, "preview", "--stack", self.name, "--non-interactive", "--color=never", *arguments]
        return subprocess.run(
            command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False, timeout=120,
        )  # fmt: skip

    def up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`pulumi up` without a preview."""
        return self.run("up", "--yes", "--skip-preview", *arguments)

    def converge(self) -> str:
        """Reverse DNS, the stack file and `up`, which has to succeed; what it said."""
        self.point_back()
        self.write()
        done = self.up()
        assert done.returncode == 0, done.stdout
        return done.stdout

    def point_back(self) -> None:
        """Set reverse DNS, as a person does at the provider."""
        for address in (self.vps.ipv4, self.vps.ipv6):
            if address:
                self.lab.set_ptr(address, HOST)

    def send(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """`scripts/send_test.py --json` to the lab's receiver: exit code and report."""
        receiver = self.lab.status["receiver"]
        command = [sys.executable, "-m", "scripts.send_test", "--stack", self.name, "--to", receiver, "--json"]
        done = subprocess.run(
            [*command, *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def outputs(self) -> dict[str, Any]:
        """Stack outputs, secret ones masked."""
        return dict(json.loads(recovery.pulumi(self.name, "stack", "output", "--json", capture=True).stdout))

    def state_files(self) -> Iterator[Path]:
        """Every file of the backend, history and backups too."""
        yield from (path for path in (CHECKOUT / ".lab" / self.name).rglob("*") if path.is_file())

    def zone(self) -> list[tuple[str, str, str]]:
        """(type, name, content) of every record the API lists in the domain's zone."""
        return sorted((record["type"], record["name"], record["content"]) for record in self.records())

    def records(self) -> list[dict[str, Any]]:
        """The domain's records as the API lists them."""
        return list(self.api("GET", "?per_page=1000"))

    def api(self, method: str, path: str = "", body: object = None) -> Any:
        """One call of the lab's Cloudflare API on the domain's records."""
        return edit_zone(self.lab.plan, method, DOMAIN, path, body)

    def discard(self) -> None:
        """Remove the stack file; the lab removes the rest."""
        self.file.unlink(missing_ok=True)


def deliver(lab: Lab, server: str, sender: str, subject: str) -> None:
    """Hand the lab's receiver a message by `sender` from outside, as anybody can who forges one."""
    context = ssl.create_default_context(cafile=str(CA_CERTIFICATE))
    with smtplib.SMTP(server, local_hostname="forger.test", timeout=20) as smtp:
        smtp._host = RECEIVER_MX  # type: ignore[attr-defined]  # the name the certificate is verified for
        smtp.starttls(context=context)
        smtp.sendmail(sender, ["check@receiver.test"], f"From: {sender}\r\nSubject: {subject}\r\n\r\nPay.\r\n")


def split(settings: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Secrets by configuration path, and the settings without them."""
    plain = json.loads(json.dumps(settings))
    secrets = {key: plain.pop(key) for key in SECRETS if key in plain}
    for address, password in plain.pop("mailroom:passwords", {}).items():
        secrets[f'mailroom:passwords["{address}"]'] = password
    for name, key in plain.pop("mailroom:dkimKeys", {}).items():
        secrets[f'mailroom:dkimKeys["{name}"]'] = key
    for key, names in INNER_SECRETS.items():
        inner = plain.get(key, {})
        secrets |= {f"{key}.{name}": inner.pop(name) for name in names if name in inner}
    return secrets, plain


def processes(file: str) -> Iterator[tuple[int, str]]:
    """Process id and one /proc file of every process on the machine (guests' too), less those that end meanwhile.

    Not by glob, which looks twice at each file and raises for a process that ends in between.
    """
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            yield int(pid), Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace")


class Watch:
    """Looks again and again while it is entered; `look` says at what."""

    def __init__(self, pause: float) -> None:
        self._pause, self._stop = pause, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._pause):
            self.look()

    def look(self) -> None:
        """Once."""
        raise NotImplementedError


class ProcessWatch(Watch):
    """Samples every command line on the machine (guests' too)."""

    def __init__(self, needles: list[str]) -> None:
        super().__init__(pause=0.02)
        self.needles, self.seen = needles, set[str]()

    def look(self) -> None:
        for _, line in processes("cmdline"):
            self.seen |= {needle for needle in self.needles if needle in line}
