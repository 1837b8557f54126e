"""The real engine runs the pack: what breaks its rules stops a preview, all of it told at once and without a secret."""

from __future__ import annotations

import re
import secrets
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mailroom_policy.rules import RULES
from tests.unit.docs.commands import to_type
from tests.unit.engine.project import CHECKOUT, laid_out

if TYPE_CHECKING:
    from collections.abc import Callable

    Judge = Callable[..., subprocess.CompletedProcess[str]]

PROGRAM = Path(__file__).with_name("program.py")
CANARY = secrets.token_hex(16)
MORE_WAYS = ["mx-reachable/missing", "pinned-hosts/no-key"]
LEVELS = {rule.name: "mandatory" if rule.mandatory else "advisory" for rule in RULES}


# The lines of the pack's page: two commands, and one that switches a rule off.
(PREVIEW, UP), (CONFIGURED,) = to_type("policy/README.md", __file__)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """A line of the page, typed where the program breaks the rules it is given."""
    place = tmp_path_factory.mktemp("judged")
    engine, environment = laid_out(place, "judged", PROGRAM.read_text())
    (place / "policy").symlink_to(CHECKOUT / "policy")
    (place / "policy.json").write_text('{"short-ttl": "disabled"}')
    token = "lab-cloudflare-api-token-not-a-secret-000001"
    environment |= {"PULUMI_SKIP_CONFIRMATIONS": "true", "CLOUDFLARE_API_TOKEN": token}

    def run(*arguments: str, stdin: str = "", broken: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [engine, *arguments, "--non-interactive", "--color=never"], check=False, cwd=place, input=stdin,
            env={**environment, "BREAK": " ".join(broken)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    assert run("stack", "init", "prod").returncode == 0
    assert run("config", "set", "--secret", "canary", stdin=CANARY).returncode == 0
    return lambda *broken, line=PREVIEW: run(*shlex.split(line)[1:], broken=broken)


def told(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Level by rule, of the rules that are told as broken."""
    shown = done.stdout + done.stderr
    assert "Policies:" in shown, shown
    assert CANARY not in shown
    return {name: level for level, name in re.findall(r"- \[(\w+)\] +([\w-]+) +\(", shown)}


def test_a_program_that_keeps_every_rule_passes(judge: Judge) -> None:
    done = judge()
    assert done.returncode == 0, done.stdout + done.stderr
    assert told(done) == {}


@pytest.mark.parametrize("broken", [*LEVELS, *MORE_WAYS])
def test_the_same_program_with_one_rule_broken_is_told_so_and_stopped_where_it_must(judge: Judge, broken: str) -> None:
    done, rule = judge(broken), broken.partition("/")[0]
    assert told(done) == {rule: LEVELS[rule]}
    assert (done.returncode != 0) == (LEVELS[rule] == "mandatory")


def test_all_that_is_broken_is_told_at_once(judge: Judge) -> None:
    done = judge(*LEVELS)
    assert done.returncode != 0
    assert told(done) == LEVELS


def test_an_up_is_stopped_by_its_preview_before_it_creates_anything(judge: Judge) -> None:
    done = judge("one-spf", line=UP)
    assert done.returncode != 0
    assert told(done) == {"one-spf": "mandatory"}
    assert " created" not in done.stdout


def test_a_rule_that_is_switched_off_is_not_told(judge: Judge) -> None:
    assert told(judge("short-ttl", "one-spf", line=CONFIGURED)) == {"one-spf": "mandatory"}
