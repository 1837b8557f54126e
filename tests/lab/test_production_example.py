"""The shipped production example is complete: it previews, and is explained, with no network and no SSH key at all."""

from __future__ import annotations

import os
import secrets
import subprocess
from typing import TYPE_CHECKING

import pytest

from lab.folders import CHECKOUT
from operations import stacks
from tests.lab.program import ALONE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STACK = "lab-prodexample"  # its file name is one that git ignores


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    file = CHECKOUT / f"Pulumi.{STACK}.yaml"
    text = (CHECKOUT / "tests" / "data" / "Pulumi.prod.yaml").read_text()
    # With its password among the outputs as well: a secret that is exported, but not in clear.
    text = text.replace("users: [i]", "users: [{name: i, export: true}]")
    file.write_text(text.replace("s3://my-bucket?region=eu-central-1", f"file://{tmp_path}"))
    _, variables = stacks.engine()
    passphrase = secrets.token_hex(16)
    backend = {"PULUMI_BACKEND_URL": f"file://{tmp_path}", "PULUMI_CONFIG_PASSPHRASE": passphrase}
    yield {**os.environ, **variables, **backend}
    file.unlink()


def pulumi(environment: dict[str, str], *arguments: str, before: tuple[str, ...] = (), refused: bool = False) -> str:
    program, _ = stacks.engine()
    command = [*before, program, *arguments, "--non-interactive", "--color=never"]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode != 0) is refused, done.stdout + done.stderr
    return done.stdout


def test_the_production_example_previews_with_generated_secrets_in_a_namespace_without_routes(
    environment: dict[str, str],
) -> None:
    made = {name: secrets.token_hex(24) for name in ("api", "acme", "password")}
    pulumi(environment, "stack", "init", STACK)
    values = {
        "cloudflare:apiToken": made["api"],
        "mailroom:acme.token": made["acme"],
        'mailroom:passwords["i@example.com"]': made["password"],
    }
    arguments = [word for key, value in values.items() for word in ("--secret", f"{key}={value}")]
    pulumi(environment, "config", "set-all", "--stack", STACK, "--path", *arguments)
    shown = pulumi(environment, "preview", "--stack", STACK, "--diff", "--policy-pack", "policy", before=ALONE)
    assert "mailroom|local|policy" in shown, "the policy pack judged it"
    assert "v=spf1 include:_spf.example.com ~all" in shown
    assert "someone@gmail.com" in shown
    assert not [name for name, value in made.items() if value in shown]
    # What a pull request's job does: it needs no network and no SSH key.
    explained = subprocess.run(
        [*ALONE, "sh", "-c", '"$@" | scripts/explain_preview.py --fail-on any', "sh", stacks.engine()[0],
         "preview", "--stack", STACK, "--json", "--non-interactive"],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert explained.returncode == 0, explained.stdout + explained.stderr
    assert f"## Preview of `{STACK}`: " in explained.stdout
    assert (
        "- new: `MX` `example.com` - Mail to this domain arrives at our host\n  - after: `10 smtp.example.com`"
        in explained.stdout
    )
    assert "- user added: `i@example.com`" in explained.stdout
    assert not [name for name, value in made.items() if value in explained.stdout]
    # In a backend that does not know the stack, a stack that names another one is not begun anew.
    pulumi(environment, "config", "set", "--stack", STACK, "mailroom:backend", "file:///srv/pulumi")
    for run in (["preview"], ["up", "--yes", "--skip-preview"]):
        shown = pulumi(environment, *run, "--stack", STACK, refused=True)
        assert f"stack {STACK} is kept elsewhere; nothing was changed" in shown, shown
        assert "export PULUMI_BACKEND_URL=file:///srv/pulumi" in shown, shown
