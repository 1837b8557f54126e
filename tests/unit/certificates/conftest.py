"""A host in a temporary folder: our scripts as the flat modules they are on a host, certbot as a stand-in."""

from __future__ import annotations

import grp
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = [str(ROOT / "components" / room) for room in ("host", "certificates")]
TOKEN = "canary-token-0123456789-0123456789-0123456"
FAKE_CERTBOT = Path(__file__).with_name("fake_certbot.py")

FAKE_SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$FAKE_LOGS/systemctl"
case "$*" in
  "is-active --quiet chasquid.service") test -e "$FAKE_LOGS/chasquid-runs" ;;
  "is-enabled --quiet certbot.timer") test ! -e "$FAKE_LOGS/timer-is-off" ;;
esac
"""

# Runs the program with the environment it was given, and nothing else of ours.
FAKE_SYSTEMD_RUN = """#!/bin/sh
echo "$*" >> "$FAKE_LOGS/systemd-run"
for word; do
  case "$word" in
    --setenv=*) export "${word#--setenv=}" ;;
    --*) ;;
    *) exec "$word" ;;
  esac
done
"""


@pytest.fixture(autouse=True)
def _scripts_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in SCRIPTS:
        monkeypatch.syspath_prepend(folder)


@dataclass
class Answer:
    """How a script ended."""

    status: int | str | None
    stdout: str
    stderr: str


@dataclass
class FakeHost:
    """The folders of one host and what was run on it."""

    root: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    payload: dict[str, Any] = field(
        default_factory=lambda: {
            "email": "you@example.com",
            "directory": "https://acme.example/directory",
            "ca_pem": None,
            "api_base": None,
            "dns": "cloudflare",
            "credentials": {"dns_cloudflare_api_token": TOKEN},
            "challenge_zone": None,
            "copies": None,
            "propagation_seconds": 10,
            "certificates": [
                {"name": "smtp.example.com", "names": ["smtp.example.com"]},
                {"name": "example.com", "names": ["example.com", "*.example.com"]},
            ],
        }
    )

    def __post_init__(self) -> None:
        for folder in ("bin", "logs", "letsencrypt", "mailroom"):
            (self.root / folder).mkdir()
        (self.root / "system-cas.pem").write_text("the system's CAs\n")
        self._program("certbot", FAKE_CERTBOT.read_text().replace("#!python", f"#!{sys.executable} -SE", 1))
        self._program("systemctl", FAKE_SYSTEMCTL)
        self._program("systemd-run", FAKE_SYSTEMD_RUN)
        self.monkeypatch.setenv("PATH", f"{self.root / 'bin'}:{os.environ['PATH']}")
        self.monkeypatch.setenv("FAKE_LOGS", str(self.root / "logs"))
        self.monkeypatch.setenv("FAKE_LETSENCRYPT", str(self.letsencrypt))
        for script in ("certificate", "deploy_hook", "reload_hook", "challenge_hook"):
            module = __import__(script)
            for name, value in self.constants().items():
                if hasattr(module, name):
                    self.monkeypatch.setattr(module, name, value)

    def constants(self) -> dict[str, Any]:
        """The scripts' places, in this folder."""
        return {
            "MAILROOM": self.root / "mailroom",
            "LETSENCRYPT": self.letsencrypt,
            "SYSTEM_BUNDLE": self.root / "system-cas.pem",
            "UNITS": self.root,
            "STATE": self.root / "state" / "certificates.json",
            "RECORD_LOCK": self.root / "state" / "lock",
            "POLICY": self.root / "policy-socket",
            "TRUSTED": self.root,
            "CONFIG": self.letsencrypt / "mailroom" / "challenge.json",
            "LOCK": self.root / "lock",
            "GROUP": grp.getgrgid(os.getgid()).gr_name,
        }

    def _program(self, name: str, text: str) -> None:
        (self.root / "bin" / name).write_text(text)
        (self.root / "bin" / name).chmod(0o755)

    @property
    def letsencrypt(self) -> Path:
        return self.root / "letsencrypt"

    @property
    def certs(self) -> Path:
        return self.root / "mailroom" / "certs"

    def run(self, **changed: Any) -> Answer:
        """Run certificate.py with the payload, changed in some keys from here on."""
        import certificate

        self.payload |= changed
        self.capsys.readouterr()
        self.monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(self.payload)))
        with pytest.raises(SystemExit) as stop:
            certificate.main()
        captured = self.capsys.readouterr()
        return Answer(stop.value.code, captured.out, captured.err)

    def certbot_runs(self) -> list[dict[str, Any]]:
        """argv and environment of each run of certbot, since the last time this was asked."""
        log = self.root / "logs" / "certbot"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def certbot_runs_env(self, variable: str) -> set[str | None]:
        """The values of one variable over all runs of certbot."""
        lines = (self.root / "logs" / "certbot").read_text().splitlines()
        return {json.loads(line)["env"].get(variable) for line in lines}

    def systemctl_runs(self) -> list[str]:
        log = self.root / "logs" / "systemctl"
        return log.read_text().splitlines() if log.exists() else []

    def flag(self, name: str, *, text: str = "") -> None:
        """Tell the stand-ins something; see fake_certbot.py and FAKE_SYSTEMCTL."""
        (self.root / "logs" / name).write_text(text)

    def issue(self, name: str, *, days: int = 90) -> Path:
        """What certbot does by itself, as in a renewal; the lineage's folder."""
        self.flag("lifetime-days", text=str(days))
        argv = ["certbot", "certonly", "--cert-name", name, "-d", name, "--server", self.payload["directory"]]
        subprocess.run(argv, check=True)
        self.certbot_runs()
        return self.letsencrypt / "live" / name

    def dies_in_hook(self, before: str, lineage: Path) -> None:
        """Deploy `lineage` in a process that is killed when it is about to call `before`."""
        constants = {key: str(value) for key, value in self.constants().items()}
        code = f"""
import os, signal, sys, pathlib
sys.path[:0] = {SCRIPTS!r}
import deploy_hook
for key, value in {constants!r}.items():
    if hasattr(deploy_hook, key):
        setattr(deploy_hook, key, value if key == "GROUP" else pathlib.Path(value))
owner, _, name = {before!r}.rpartition(".")
die = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
setattr(getattr(deploy_hook, owner) if owner else deploy_hook, name, die)
deploy_hook.deploy(pathlib.Path({str(lineage)!r}), "smtp.example.com")
"""
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> FakeHost:
    if shutil.which("openssl") is None:
        pytest.fail("openssl is missing: apt-get install openssl")
    return FakeHost(tmp_path, monkeypatch, capsys)
