"""Finding a stack's engine, backend, settings and outputs; `pulumi` is a script that tells how it was called."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from lab.engine import build
from operations import stacks
from standards.finding import Problems

if TYPE_CHECKING:
    from pathlib import Path

STANDS_IN = """#!/usr/bin/env python3
import json, os, sys
from pathlib import Path
here = Path(__file__).parent
seen = {"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}
(here / "called.json").write_text(json.dumps(seen))
status, out, err = json.loads((here / "answer.json").read_text())
print(out)
print(err, file=sys.stderr)
sys.exit(status)
"""


class Checkout:
    """A folder with an engine that answers what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pulumi = folder / "pulumi"
        self.pulumi.write_text(STANDS_IN)
        self.pulumi.chmod(0o755)

    def answer(self, out: object = "", status: int = 0, err: str = "") -> None:
        answer = [status, out if isinstance(out, str) else json.dumps(out), err]
        (self.folder / "answer.json").write_text(json.dumps(answer))

    @property
    def called(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.folder / "called.json").read_text())
        return found

    def make_lab(self, stack: str, **env: str) -> None:
        (self.folder / ".lab").mkdir(exist_ok=True)
        content = {"env": env, "lab": stack, "ca_file": "/run/ca.pem", "mail_dir": "/run/mail", "receiver": "a@b.test"}
        (self.folder / ".lab" / f"{stack}.json").write_text(json.dumps(content))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    checkout = Checkout(tmp_path)
    engine = build.Engine(checkout.pulumi, home=tmp_path / "home", official=False)
    monkeypatch.setattr(build, "find", lambda _: engine)
    for name in ("PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    return checkout


def test_outputs_come_without_secrets_unless_asked_for(checkout: Checkout) -> None:
    checkout.answer({"users": ["i@example.test"]})
    assert stacks.outputs("prod", checkout=checkout.folder) == {"users": ["i@example.test"]}
    called = ["stack", "output", "--json", "--stack", "prod", "--non-interactive", "--color", "never"]
    assert checkout.called["argv"] == called
    stacks.outputs("prod", secrets=True, checkout=checkout.folder)
    assert "--show-secrets" in checkout.called["argv"]


def test_the_engine_runs_in_the_checkout_with_its_own_variables(checkout: Checkout) -> None:
    checkout.answer({"users": []})
    stacks.outputs("prod", checkout=checkout.folder)
    assert checkout.called["cwd"] == str(checkout.folder)
    assert checkout.called["env"]["PULUMI_HOME"] == str(checkout.folder / "home")


def test_settings_come_parsed_by_their_full_keys(checkout: Checkout) -> None:
    checkout.answer(
        {
            "mailroom:hosts": {"value": '[{"name":"a"}]', "objectValue": [{"name": "a"}], "secret": False},
            "cloudflare:apiToken": {"value": "token", "secret": True},
        }
    )
    found = stacks.config("prod", checkout.folder)
    assert found == {"mailroom:hosts": [{"name": "a"}], "cloudflare:apiToken": "token"}
    assert checkout.called["argv"][:3] == ["config", "--json", "--show-secrets"]


def test_a_stack_of_the_lab_needs_nothing_exported(checkout: Checkout) -> None:
    checkout.make_lab("dev", PULUMI_BACKEND_URL="file:///lab", PULUMI_CONFIG_PASSPHRASE="known")
    checkout.answer({"users": []})
    stacks.outputs("dev", checkout=checkout.folder)
    assert checkout.called["env"]["PULUMI_BACKEND_URL"] == "file:///lab"
    assert checkout.called["env"]["PULUMI_CONFIG_PASSPHRASE"] == "known"


def test_what_is_exported_for_other_stacks_does_not_lock_the_labs(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.make_lab("dev", PULUMI_BACKEND_URL="file:///lab")
    monkeypatch.setenv("PULUMI_BACKEND_URL", "file:///mine")
    assert stacks.command("dev", checkout.folder)[1]["PULUMI_BACKEND_URL"] == "file:///lab"


def test_another_stack_gets_nothing_of_the_lab(checkout: Checkout) -> None:
    checkout.make_lab("dev", PULUMI_BACKEND_URL="file:///lab")
    assert stacks.lab("prod", checkout.folder) is None
    assert "PULUMI_BACKEND_URL" not in stacks.command("prod", checkout.folder)[1]


@pytest.mark.parametrize(
    ("stack", "status", "said", "finding_id", "todo"),
    [
        ("prod", 6, "error: no stack named 'prod' found", "stack.missing", "`pulumi up -s prod`"),
        ("dev", 6, "error: no stack named 'dev' found", "stack.missing", "`make up`"),
        ("lab-x", 6, "error: no stack named 'lab-x' found", "stack.missing", "`make up`"),
        ("prod", 1, "error: incorrect passphrase", "stack.passphrase", "PULUMI_CONFIG_PASSPHRASE_FILE"),
        ("prod", 3, "error: PULUMI_ACCESS_TOKEN must be set", "stack.login", "`pulumi login`"),
        ("prod", 1, "warning: old\nerror: something else", "stack.unreadable", "`pulumi stack -s prod`"),
    ],
)
def test_a_stack_that_cannot_be_read_comes_with_what_to_do(
    checkout: Checkout, stack: str, status: int, said: str, finding_id: str, todo: str
) -> None:
    checkout.make_lab("lab-x")
    checkout.answer("", status, said)
    with pytest.raises(Problems) as caught:
        stacks.outputs(stack, checkout=checkout.folder)
    (finding,) = caught.value.findings
    assert (finding.id, finding.subject) == (finding_id, f"stack {stack}")
    assert finding.found == said.splitlines()[-1].removeprefix("error: ")
    assert todo in finding.fix


def test_the_labs_stack_without_its_lab_needs_the_lab(checkout: Checkout) -> None:
    checkout.answer("", 3, "error: PULUMI_ACCESS_TOKEN must be set")
    with pytest.raises(Problems, match="the lab it lives in is not up") as caught:
        stacks.outputs("dev", checkout=checkout.folder)
    assert caught.value.findings[0].fix == "`make up`"


def test_a_passphrase_is_found_where_the_engine_takes_it(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(checkout.folder))
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE_FILE", raising=False)
    assert stacks.passphrase("prod", checkout.folder) is None
    stacks.passphrase_file("prod").parent.mkdir(parents=True)
    stacks.passphrase_file("prod").write_text("kept\n")
    assert stacks.passphrase("prod", checkout.folder) == "kept"
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE_FILE", str(checkout.folder / "none"))
    with pytest.raises(Problems, match="PULUMI_CONFIG_PASSPHRASE_FILE"):
        stacks.passphrase("prod", checkout.folder)
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "exported")
    assert stacks.passphrase("prod", checkout.folder) == "exported"


def test_a_stack_that_was_never_deployed_is_said_to_be_so(checkout: Checkout) -> None:
    checkout.answer({})
    with pytest.raises(Problems, match="it was never deployed to the end") as caught:
        stacks.outputs("prod", checkout=checkout.folder)
    assert "`pulumi up -s prod`" in caught.value.findings[0].fix


def _no_engine(_: Path) -> None:
    raise build.EngineError("there is none here")


def test_without_a_usable_engine_any_pulumi_on_path_reads_the_stack(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "find", _no_engine)
    monkeypatch.setenv("PATH", f"{checkout.folder}:/usr/bin:/bin")
    assert stacks.engine(checkout.folder) == (str(checkout.pulumi), {})


def test_without_any_pulumi_the_way_to_one_is_said(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find", _no_engine)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Problems, match="there is none here") as caught:
        stacks.engine(checkout.folder)
    assert caught.value.findings[0].fix == "make setup"


@pytest.mark.parametrize(
    ("stderr", "stdout", "told"),
    [
        ("warning: old\nerror: no such stack\n", "", "no such stack"),
        ("warning: this engine is old\n", "  Diagnostics:\n    error: the record exists\n", "the record exists"),
        ("panic: x\nthe end\n", "all is well\n", "the end"),
        ("", "all is well\n", "pulumi ended with status 3"),
    ],
)
def test_why_the_engine_failed_is_told_wherever_it_said_so(stderr: str, stdout: str, told: str) -> None:
    assert stacks.error(subprocess.CompletedProcess([], 3, stdout, stderr)) == told
