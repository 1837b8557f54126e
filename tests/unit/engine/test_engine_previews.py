"""What the real engine says of a preview, explained: secrets exported in clear, and the size of secret files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from operations.dns import CouldNotTell
from operations.explain_preview import Explanation, explain
from tests.unit.engine.project import laid_out

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary-0123456789abcdef"
HOST = "smtp.example.com"
FILES = json.dumps({"kind": "secret", "files": {"domains/example.com/users": CANARY}})
PROGRAM = f"""
import pulumi

pulumi.export("password", "{CANARY}")
pulumi.export("token", pulumi.Output.secret("{CANARY}-marked"))
pulumi.export("name", "{HOST}")
"""
SENDS_FILES = f"""
import pulumi
from pulumi_command import remote

remote.Command(
    "{HOST}/secret",
    connection={{"host": "192.0.2.10", "privateKey": "none"}},
    create="cat",
    stdin=pulumi.Output.secret('{FILES}'),
    logging=remote.Logging.NONE,
    opts=pulumi.ResourceOptions(additional_secret_outputs=["stdout", "stderr", "connection"]),
)
"""
EXPORTS = f"""
import pulumi

pulumi.export("name", "{HOST}")
pulumi.export("gone", "x")
pulumi.export("token", pulumi.Output.secret("{CANARY}-1"))
pulumi.export("kept", pulumi.Output.secret("{CANARY}-1"))
"""
EXPORTS_OTHERS = f"""
import pulumi

pulumi.export("name", "mx2.example.com")
pulumi.export("token", pulumi.Output.secret("{CANARY}-2"))
pulumi.export("kept", pulumi.Output.secret("{CANARY}-1"))
pulumi.export("passwords", pulumi.Output.secret({{"alice@example.com": "{CANARY}"}}))
"""
KEEPS = """
import pulumi
from pulumi.dynamic import CreateResult, Resource, ResourceProvider


class Provider(ResourceProvider):
    def create(self, props):
        return CreateResult("1", props)


class Kept(Resource, module="test", name="Kept"):
    pass


Kept(Provider(), "kept", {}, pulumi.ResourceOptions(protect=True))
"""
Pulumi = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pulumi(tmp_path: Path) -> Pulumi:
    """Runs the engine of this checkout on a new stack."""
    engine, environment = laid_out(tmp_path, "exports", PROGRAM)

    def run(*arguments: str, status: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [engine, *arguments, "--non-interactive"],
            cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done

    run("stack", "init", "prod")
    return run


def sentences(found: Explanation) -> list[str]:
    assert CANARY not in found.markdown
    return [risk.sentence for risk in found.risks]


def test_an_output_in_clear_is_found_in_the_plan_and_in_the_stream_and_its_absence_from_the_digest_is_said(
    pulumi: Pulumi, tmp_path: Path
) -> None:
    in_clear = ["a secret would be exported in clear: the output `password` is not marked secret"]
    plan = tmp_path / "plan.json"
    digest = pulumi("preview", "--json", f"--save-plan={plan}").stdout
    alone, both = explain(digest), explain(digest, plan.read_text())
    assert sentences(alone) == []
    assert "--plan FILE" in alone.markdown
    assert sentences(both) == sentences(explain(plan.read_text())) == in_clear
    assert "--plan" not in both.markdown
    stream = explain(pulumi("preview", "--json", PULUMI_ENABLE_STREAMING_JSON_PREVIEW="true").stdout)
    assert sentences(stream) == in_clear
    assert "--plan" not in stream.markdown
    # what a later preview compares with, where nothing but an output changes
    pulumi("up", "--yes", "--skip-preview")
    again = pulumi("preview", "--refresh", "--json", f"--save-plan={plan}").stdout
    assert sentences(explain(again, plan.read_text())) == in_clear


def test_an_exported_password_is_a_risk_and_each_output_that_differs_is_told_without_its_value(
    pulumi: Pulumi, tmp_path: Path
) -> None:
    program, plan = tmp_path / "__main__.py", tmp_path / "plan.json"
    program.write_text(EXPORTS)
    pulumi("up", "--yes", "--skip-preview")
    digest = pulumi("preview", "--json", f"--save-plan={plan}").stdout
    assert explain(digest, plan.read_text()).markdown == "## Preview of `prod`: no changes\n"
    program.write_text(EXPORTS_OTHERS)
    digest = pulumi("preview", "--json", f"--save-plan={plan}").stdout
    stream = pulumi("preview", "--json", PULUMI_ENABLE_STREAMING_JSON_PREVIEW="true").stdout
    seen = ["- new: `passwords` (secret)", "- changed: `name`", "- changed: `token` (secret)", "- removed: `gone`"]
    for found, told in (
        (explain(digest, plan.read_text()), seen),
        (explain(plan.read_text()), seen),
        (explain(stream), [line for line in seen if "token" not in line]),  # it does not tell one secret from another
    ):
        assert [risk.id for risk in found.risks] == ["password-exported"]
        assert found.markdown.endswith("\n".join(["### Outputs", "", *told, ""]))
        assert "outputs change" in found.markdown.splitlines()[0]
        assert CANARY not in found.markdown


def test_the_size_of_secret_files_is_in_the_plan(pulumi: Pulumi, tmp_path: Path) -> None:
    (tmp_path / "__main__.py").write_text(SENDS_FILES)
    plan = tmp_path / "plan.json"
    digest = pulumi("preview", "--json", f"--save-plan={plan}").stdout
    alone, both = explain(digest).markdown, explain(digest, plan.read_text()).markdown
    assert "- users and DKIM keys: new, size not in this preview" in alone
    assert f"- users and DKIM keys: new, {len(json.dumps(FILES))} bytes (on `{HOST}`)" in both
    assert CANARY not in alone + both


def test_why_the_engine_does_not_delete_what_is_protected_is_told_with_the_way_out(
    pulumi: Pulumi, tmp_path: Path
) -> None:
    (tmp_path / "__main__.py").write_text(KEEPS)
    pulumi("up", "--yes", "--skip-preview")
    (tmp_path / "__main__.py").write_text("import pulumi\n")
    with pytest.raises(CouldNotTell) as trouble:
        explain(pulumi("preview", "--json", status=1).stdout)
    told = str(trouble.value).splitlines()
    assert told[1].endswith('::kept" cannot be deleted because it is protected.')
    assert told[2:] == ["error: preview failed", "set `mailroom:protect: off`, `pulumi up`, then make the change"]
