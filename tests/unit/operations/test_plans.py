"""When a plan is sealed, and when it is refused; the engine is a fake one that seals by turning text around."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from operations import plans, recovery, stacks
from operations.dns import CouldNotTell
from operations.explain_preview.markdown import LIMIT
from standards.finding import Problems

STACK = "urn:pulumi:prod::mailroom::pulumi:pulumi:Stack::mailroom-prod"
EMPTY = json.dumps({"steps": [{"op": "same", "urn": STACK}], "changeSummary": {"same": 3}})
BUCKET = {"PULUMI_BACKEND_URL": "s3://state"}


def a_plan(**outputs: str) -> str:
    goal = {"custom": False, "outputDiff": {"updates": outputs}}
    return json.dumps({"resourcePlans": {STACK: {"steps": ["same"], "goal": goal, "state": outputs}}})


def plan(arguments: tuple[str, ...]) -> str:
    """The file of the plan; each run that makes one to keep or applies one is judged by the policies, too."""
    assert "--policy-pack=policy" in arguments or "--refresh" in arguments
    return next(text.partition("=")[2] for text in arguments if "plan=" in text)


class Engine:
    """Knows a state, what a preview says, and what it was asked to do."""

    def __init__(self) -> None:
        self.resources: list[str] = ["a"]
        self.time = 0
        self.preview, self.plan, self.status = EMPTY, a_plan(), 0
        self.asked: list[str] = []
        self.applied: str | None = None

    def pulumi(self, stack: str, *arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
        self.asked.append(" ".join(arguments[:2]))
        out = ""
        if arguments[0] == "stack":
            self.time += 1
            deployment = {"manifest": {"time": self.time}, "resources": self.resources}
            out = json.dumps({"deployment": deployment})
        elif arguments[0] == "preview":
            out = self.preview
            Path(plan(arguments)).write_text(self.plan)
        elif arguments[0] == "up":
            self.applied = Path(plan(arguments)).read_text()
        return subprocess.CompletedProcess([], self.status, out, "error: why\n" if self.status else "")

    def config(self, stack: str, arguments: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        file = Path(arguments[-1])
        content = yaml.safe_load(file.read_text())
        assert content["encryptionsalt"] == "v1:salt"  # the stack's own key, and nothing else of its file
        assert set(content["config"]) <= {plans.KEY}
        if arguments[1] == "set":
            content["config"][plans.KEY] = {"secure": stdin[::-1]}
            file.write_text(yaml.safe_dump(content))
        out = content["config"][plans.KEY]["secure"][::-1]
        return subprocess.CompletedProcess([], 0, out, "")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    (tmp_path / "Pulumi.prod.yaml").write_text("encryptionsalt: v1:salt\nconfig: {mailroom:gate: true}\n")
    monkeypatch.setattr(stacks, "CHECKOUT", tmp_path)
    monkeypatch.setattr(stacks, "command", lambda stack: ("pulumi", BUCKET))
    monkeypatch.setattr(stacks, "run", made.config)
    monkeypatch.setattr(recovery, "pulumi", made.pulumi)
    monkeypatch.setattr(plans, "tree_of_checkout", lambda: "tree-1")
    return made


def sealed(tmp_path: Path) -> Path:
    plans.preview("prod", tmp_path / "out")
    return tmp_path / "out" / "plan.json"


def test_the_plan_of_a_preview_is_what_is_applied(engine: Engine, tmp_path: Path) -> None:
    plan = sealed(tmp_path)
    assert engine.plan not in plan.read_text()
    assert plans.apply("prod", plan) == 0
    assert engine.applied == engine.plan
    assert "up --yes" in engine.asked
    assert json.loads((plan.parent / "report.json").read_text())["changes"] is False


def test_a_stack_may_be_named_with_its_organization(engine: Engine, tmp_path: Path) -> None:
    plans.preview("team/mailroom/prod", tmp_path)
    assert plans.apply("prod", tmp_path / "plan.json") == 0


def test_a_plan_for_another_state_or_content_is_refused_and_nothing_is_run(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = sealed(tmp_path)
    engine.resources.append("b")
    with pytest.raises(Problems, match="the stack was changed after the plan was made"):
        plans.apply("prod", plan)
    engine.resources.pop()
    monkeypatch.setattr(plans, "tree_of_checkout", lambda: "tree-2")
    with pytest.raises(Problems, match="the plan is for the content tree-1, this checkout has tree-2"):
        plans.apply("prod", plan)
    assert engine.applied is None


def test_a_plan_of_another_stack_with_the_same_key_is_refused(engine: Engine, tmp_path: Path) -> None:
    plan = sealed(tmp_path)
    (tmp_path / "Pulumi.staging.yaml").write_text((tmp_path / "Pulumi.prod.yaml").read_text())
    with pytest.raises(Problems, match="the plan is for stack prod"):
        plans.apply("team/mailroom/staging", plan)
    assert engine.applied is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"secure": "drowssap"}', '{"secure": 1}'])
def test_what_no_preview_has_sealed_is_refused(engine: Engine, tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(Problems, match="is no plan that this stack's key has sealed"):
        plans.apply("prod", tmp_path / "plan.json")
    assert engine.applied is None


def test_a_failed_preview_leaves_no_plan_and_tells_the_reader_why(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = sealed(tmp_path)
    engine.preview = json.dumps({"diagnostics": [{"severity": "error", "message": "error: ```wrong```\n"}]})

    def failing(stack: str, *arguments: str, capture: bool = False) -> Any:
        engine.status = 1 if arguments[0] == "preview" else 0
        if arguments[0] == "preview" and "--json" not in arguments:
            more = f"      and {'m' * 999}ore\n" * 999
            told = f"\nPolicies:\n    - [mandatory]  one-spf\n{more}\nDiagnostics:\n  error\n"
            return subprocess.CompletedProcess([], 1, told, "")
        return Engine.pulumi(engine, stack, *arguments, capture=capture)

    monkeypatch.setattr(recovery, "pulumi", failing)
    found = plans.preview("prod", plan.parent)
    assert found.status == 3
    assert "error: ```wrong```" in found.markdown
    assert "\n````text\n" in found.markdown  # no value breaks out
    assert "[mandatory]  one-spf" in found.markdown  # which the engine's JSON does not tell
    assert 60_000 < len(found.markdown) <= LIMIT
    assert not plan.exists()
    assert json.loads((plan.parent / "report.json").read_text())["markdown"] == found.markdown


@pytest.mark.parametrize("status", [1, 255, -9])
def test_an_engine_that_ends_with_an_error_has_failed_whatever_it_printed(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    def failing(stack: str, *arguments: str, capture: bool = False) -> Any:
        engine.status = status if arguments[0] == "preview" else 0
        if arguments[0] == "preview" and "--json" not in arguments:
            return subprocess.CompletedProcess([], status, "\nPolicies:\n    - [mandatory]  one-spf\n", "")
        return Engine.pulumi(engine, stack, *arguments, capture=capture)

    monkeypatch.setattr(recovery, "pulumi", failing)
    found = plans.preview("prod", tmp_path)
    assert found.status == 3
    assert "## Preview of `prod`: failed" in found.markdown
    assert f"the engine ended with status {status}\nwhy\n    - [mandatory]  one-spf\n" in found.markdown
    assert found.markdown.index("failed") < found.markdown.index("no changes")  # what there is, below
    assert not (tmp_path / "plan.json").exists()
    engine.status = status
    monkeypatch.setattr(recovery, "pulumi", engine.pulumi)
    assert plans.drift("prod", tmp_path).status == 3


def test_a_secret_that_the_plan_exports_in_clear_counts(engine: Engine, tmp_path: Path) -> None:
    engine.plan = a_plan(password="canary-0123456789")
    found = plans.preview("prod", tmp_path, ["secret-in-clear"])
    assert found.status == 2
    assert "the output `password` is not marked secret" in found.markdown
    assert "canary" not in found.markdown


@pytest.mark.parametrize(
    ("variables", "fine"),
    [
        ({"PULUMI_BACKEND_URL": "s3://state"}, True),
        ({"PULUMI_ACCESS_TOKEN": "pul-1"}, True),
        ({"PULUMI_BACKEND_URL": "file:///srv", "PULUMI_ACCESS_TOKEN": "pul-1"}, False),
        ({"PULUMI_BACKEND_URL": ""}, False),
        ({}, False),
    ],
)
def test_a_state_on_one_machine_is_refused_in_one_line(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], fine: bool
) -> None:
    monkeypatch.setattr(stacks, "command", lambda stack: ("pulumi", variables))
    if fine:
        plans.require_shared_backend("prod")
        return
    with pytest.raises(
        CouldNotTell, match=r"^stack prod: its backend .* set mailroom:backend in Pulumi.prod.yaml"
    ) as no:
        plans.preview("prod", tmp_path / "out")
    assert "\n" not in str(no.value)
    assert "preview --json" not in engine.asked
    assert str(no.value) in json.loads((tmp_path / "out" / "report.json").read_text())["markdown"]


def test_drift_says_what_puts_it_right_and_nothing_of_it_where_there_is_none(engine: Engine, tmp_path: Path) -> None:
    assert "puts it right" not in plans.drift("prod", tmp_path).markdown
    urn = "urn:pulumi:prod::mailroom::cloudflare:index/dnsRecord:DnsRecord::example.com/mx"
    state = {"type": "cloudflare:index/dnsRecord:DnsRecord", "custom": True, "inputs": {}, "outputs": {}}
    step = {"op": "create", "urn": urn, "newState": state}
    engine.preview = json.dumps({"steps": [step], "changeSummary": {"create": 1}})
    found = plans.drift("prod", tmp_path)
    assert found.markdown.startswith("What others changed in DNS")
    assert "`pulumi up --refresh -s prod` puts it right." in found.markdown
    assert "preview --refresh" in engine.asked
    assert json.loads((tmp_path / "report.json").read_text())["changes"] is True
