"""A stack that scripts/new_stack.py makes is complete: the real engine previews it with no other word said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.folders import CHECKOUT
from lab.internet.client import edit_zone
from lab.internet.names import ACME_TOKEN, CLOUDFLARE_TOKEN, zone_id
from operations import new_stack, stacks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Lab

STACK = "lab-newstack"  # its file name is one that git ignores
DOMAIN = "example.test"


@pytest.fixture
def make(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The command with an answer for everything; passphrase and state belong to the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)
    for name, token in (("api", CLOUDFLARE_TOKEN), ("acme", ACME_TOKEN)):
        (tmp_path / name).write_text(token)
    (tmp_path / "state").mkdir()
    answers = {
        "domain": DOMAIN, "api-token-file": f"{tmp_path}/api", "acme-token-file": f"{tmp_path}/acme",
        "ipv4": "198.51.100.10", "ipv6": "2001:db8:99::10", "user": "alice", "forward-to": "alice@receiver.test",
        "host-key": new_stack.EXAMPLE_KEY, "backend": f"file://{tmp_path}/state", "base-url": lab.plan.cloudflare_api,
    }  # fmt: skip
    yield [STACK, *(word for key, value in answers.items() for word in (f"--{key}", value))]
    new_stack.path_of(STACK).unlink(missing_ok=True)


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.new_stack", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=120,
                          stdin=subprocess.DEVNULL)  # fmt: skip


def pulumi(*arguments: str) -> subprocess.CompletedProcess[str]:
    program, environment = stacks.command(STACK)
    command = [program, *arguments, "--stack", STACK, "--non-interactive", "--color=never"]
    return subprocess.run(
        command, cwd=CHECKOUT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_a_new_stack_previews_as_it_was_written(make: list[str], lab: Lab) -> None:
    policy = {"type": "TXT", "name": f"_dmarc.{DOMAIN}", "content": '"v=DMARC1; p=reject"', "ttl": 300}
    record = edit_zone(lab.plan, "POST", DOMAIN, body=policy)
    try:
        done = run(make)
    finally:
        edit_zone(lab.plan, "DELETE", DOMAIN, f"/{record['id']}")
    assert done.returncode == 0, done.stderr
    assert "the DMARC policy that is there was taken over: p=reject" in done.stdout
    text = new_stack.path_of(STACK).read_text()
    assert zone_id(DOMAIN) in text
    assert text.startswith("# Written by scripts/new_stack.py"), "comments survive the secrets"
    assert text.count("secure:") == len(("API token", "ACME token", "password"))
    shown = pulumi("preview")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    secret = pulumi("config", "get", "--path", f'mailroom:passwords["alice@{DOMAIN}"]').stdout.strip()
    everything = done.stdout + done.stderr + text + shown.stdout
    assert [one for one in (CLOUDFLARE_TOKEN, ACME_TOKEN, secret) if not one or one in everything] == []

    again = run(make)
    assert (again.returncode, new_stack.path_of(STACK).read_text()) == (4, text), "not without a word"
    replaced = run([*make, "--yes"])
    assert replaced.returncode == 0, replaced.stderr
    anew = new_stack.path_of(STACK).read_text()
    assert (anew != text, anew.count("secure:")) == (True, len(("API token", "ACME token", "password")))
    assert pulumi("preview").returncode == 0, "the stack that was there goes with the new file"


def test_a_domain_that_no_zone_holds_writes_nothing(make: list[str]) -> None:
    done = run([*make, "--domain", "nowhere.invalid"])
    assert done.returncode == 2
    assert "the token sees no zone" in done.stderr
    assert not new_stack.path_of(STACK).exists()
