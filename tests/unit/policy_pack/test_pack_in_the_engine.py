"""The real engine runs the pack: what breaks its rules stops a preview, all of it told at once and without a secret."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

from lab.engine import build
from mailroom_policy.rules import RULES

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("unsafe_program.py")
PROJECT = {"name": "unsafe", "runtime": {"name": "python", "options": {"virtualenv": sys.prefix}}}


def test_a_program_that_breaks_every_rule_is_stopped_in_its_preview_by_each_and_no_secret_is_told(
    tmp_path: Path,
) -> None:
    engine, canary = build.find(ROOT), secrets.token_hex(16)
    (tmp_path / "Pulumi.yaml").write_text(json.dumps(PROJECT))
    (tmp_path / "__main__.py").write_text(PROGRAM.read_text())
    (tmp_path / "state").mkdir()
    environment = {
        **os.environ,
        **engine.environment(),
        "PULUMI_BACKEND_URL": f"file://{tmp_path / 'state'}",
        "PULUMI_CONFIG_PASSPHRASE": "not a secret",
        "CLOUDFLARE_API_TOKEN": "lab-cloudflare-api-token-not-a-secret-000001",
    }

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [engine.pulumi, *arguments, "--non-interactive", "--color=never"], check=False,
            cwd=tmp_path, env=environment, input=stdin, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    assert run("stack", "init", "unsafe").returncode == 0
    assert run("config", "set", "--secret", "canary", stdin=canary).returncode == 0
    done = run("preview", "--policy-pack", str(ROOT / "policy"))
    shown = done.stdout + done.stderr
    assert done.returncode != 0, shown
    levels = {rule.name: "mandatory" if rule.mandatory else "advisory" for rule in RULES}
    told = re.findall(r"- \[(\w+)\] +([\w-]+) +\(", shown)
    assert {name: level for level, name in told} == levels, shown
    assert canary not in shown
