"""What the pages tell people to type at the engine itself, and no lab types: the engine does it, as it is written."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.unit.docs.commands import CHECKOUT
from tests.unit.docs.pages import everywhere
from tests.unit.engine.project import PASSPHRASE as OLD
from tests.unit.engine.project import laid_out

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Type = Callable[..., subprocess.CompletedProcess[str]]

LOCK = {"pid": 1, "username": "somebody", "hostname": "elsewhere", "timestamp": "2026-01-01T00:00:00Z"}
NEW = "not a secret either"

SET, GET, REMOVE = (everywhere(f"pulumi config {verb} -s prod ") for verb in ("set", "get", "rm"))
CANCEL, EXPLAIN = everywhere("pulumi cancel "), everywhere("pulumi preview -s prod --json ")
PASSPHRASE = everywhere("pulumi stack change-secrets-provider ")
KEPT, AT_THE_END = everywhere("export PULUMI_CONFIG_PASSPHRASE_FILE="), everywhere("export PULUMI_SKIP_CHECKPOINTS=")
TYPED = [*SET, *GET, *REMOVE, *CANCEL, *EXPLAIN, *PASSPHRASE, *KEPT, *AT_THE_END]
# Says when it was made whether the state knows the resource already.
ONE_RESOURCE = """import pathlib, pulumi
state = pathlib.Path("state/.pulumi/stacks/mailroom/prod.json")
pulumi.export("known", pulumi.ComponentResource("a:b:C", "x").urn.apply(lambda urn: urn in state.read_text()))
"""


@pytest.fixture
def at_the_engine(tmp_path: Path) -> Type:
    """A shell in a project with a stack called prod on a backend of its own."""
    engine, environment = laid_out(tmp_path, "mailroom", "")
    (tmp_path / "scripts").symlink_to(CHECKOUT / "scripts")
    environment |= {"PULUMI_SKIP_CONFIRMATIONS": "true"}

    def run(command: str, *, answer: str = "", passphrase: str = OLD) -> subprocess.CompletedProcess[str]:
        shell = f'pulumi() {{ {shlex.quote(engine)} "$@"; }}; {command}'
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", shell], check=False, cwd=tmp_path, input=answer,
            env={**environment, "PULUMI_CONFIG_PASSPHRASE": passphrase},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    assert run("pulumi stack init prod").returncode == 0
    return run


def key_of(command: str) -> str:
    """The key of a setting, with `--path` where it needs one, as the command has it."""
    (found,) = re.findall(r"(?:--path )?'?(?:mailroom|cloudflare):[^ ]+", command)
    return str(found)


@pytest.mark.parametrize("command", SET)
def test_a_secret_is_stored_as_written_and_read_back(at_the_engine: Type, command: str, tmp_path: Path) -> None:
    for name in re.findall(r"< (\S+)", command):
        (tmp_path / name).write_text("a secret")
    done = at_the_engine(command, answer="a secret")
    assert done.returncode == 0, done.stderr
    assert "a secret" not in (tmp_path / "Pulumi.prod.yaml").read_text()
    assert at_the_engine(f"pulumi config get -s prod {key_of(command)}").stdout.strip() == "a secret"


@pytest.mark.parametrize("command", GET)
def test_a_password_is_shown_as_written(at_the_engine: Type, command: str) -> None:
    assert at_the_engine(f"pulumi config set -s prod --secret {key_of(command)}", answer="a secret").returncode == 0
    assert at_the_engine(command).stdout.strip() == "a secret"


@pytest.mark.parametrize("command", REMOVE)
def test_a_setting_is_removed_as_written(at_the_engine: Type, command: str) -> None:
    assert at_the_engine(f"pulumi config set -s prod --secret {key_of(command)}", answer="x").returncode == 0
    done = at_the_engine(command)
    assert done.returncode == 0, done.stderr
    assert at_the_engine(f"pulumi config get -s prod {key_of(command)}").returncode != 0


@pytest.mark.parametrize("command", CANCEL)
def test_a_dead_runs_lock_is_removed_as_written(at_the_engine: Type, command: str, tmp_path: Path) -> None:
    lock = tmp_path / "state/.pulumi/locks/organization/mailroom/prod/dead.json"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(json.dumps(LOCK))
    assert "locked" in at_the_engine("pulumi refresh --stack prod").stderr
    done = at_the_engine(command)
    assert done.returncode == 0, done.stderr
    assert not lock.exists()


@pytest.mark.parametrize("command", PASSPHRASE)
def test_a_new_passphrase_locks_the_old_one_out_as_written(at_the_engine: Type, command: str) -> None:
    assert at_the_engine("pulumi config set -s prod --secret cloudflare:apiToken", answer="a secret").returncode == 0
    done = at_the_engine(command, answer=NEW)
    assert done.returncode == 0, done.stderr
    get = "pulumi config get -s prod cloudflare:apiToken"
    assert at_the_engine(get, passphrase=NEW).stdout.strip() == "a secret"
    assert "incorrect passphrase" in at_the_engine(get).stderr


@pytest.mark.parametrize("command", EXPLAIN)
def test_a_preview_is_explained_as_written(at_the_engine: Type, command: str) -> None:
    done = at_the_engine(command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("## Preview of `prod`")
    assert ("### Outputs" in done.stdout) == ("--plan" not in command)


@pytest.mark.parametrize("command", KEPT)
def test_a_passphrase_in_a_file_opens_the_stack_as_written(at_the_engine: Type, command: str, tmp_path: Path) -> None:
    assert at_the_engine("pulumi config set -s prod --secret cloudflare:apiToken", answer="a secret").returncode == 0
    kept = tmp_path / ".config/mailroom/prod.passphrase"
    kept.parent.mkdir(parents=True)
    kept.write_text(OLD)
    get = f"unset PULUMI_CONFIG_PASSPHRASE; HOME={tmp_path}; {command}; pulumi config get -s prod cloudflare:apiToken"
    assert at_the_engine(get).stdout.strip() == "a secret"


@pytest.mark.parametrize("command", ["true", *AT_THE_END])
def test_the_state_is_written_at_the_end_alone_as_written(at_the_engine: Type, command: str, tmp_path: Path) -> None:
    (tmp_path / "__main__.py").write_text(ONE_RESOURCE)
    done = at_the_engine(f"{command}; pulumi up -s prod --skip-preview && pulumi stack output -s prod known")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == ("true" if command == "true" else "false")
