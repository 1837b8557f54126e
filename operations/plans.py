"""A reviewed change is what is applied: a preview's plan, sealed for one stack, one content and one state of it.

The engine's own encryption with the stack's key seals it: nobody without the secrets of the stack's environments reads
or makes one. What a plan of the engine holds besides its (encrypted) secrets, such as users and aliases, is nobody
else's business either.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from operations import recovery, report, stacks
from operations.dns import CouldNotTell
from operations.explain_preview import explain
from operations.explain_preview.markdown import LIMIT, code, cut, fence
from standards.finding import Finding, Problems

if TYPE_CHECKING:
    from collections.abc import Collection

KEY: Final = "mailroom:plan"  # what the engine calls the sealed text; no stack file ever has it
POLICIES: Final = "--policy-pack=policy"  # of the checkout, which is where the engine runs
REASONS: Final = 200  # lines
PUT_RIGHT: Final = (
    "What others changed in DNS since the last `up`, and what was merged and not applied. "
    "`pulumi up --refresh -s {stack}` puts it right."
)
AGAIN: Final = (
    "run the workflow `preview` on the branch that is deployed, read what it would change, then run this job again"
)


@dataclass(frozen=True)
class Report:
    """What was found for one stack: `markdown` for a reader, the process's `status`, whether anything `changes`."""

    stack: str
    markdown: str
    status: int
    changes: bool

    def write(self, folder: Path) -> None:
        """As `report.json`, for the job that tells people, and as `summary.md`."""
        folder.mkdir(parents=True, exist_ok=True)
        told = {"stack": self.stack, "changes": self.changes, "markdown": self.markdown}
        (folder / "report.json").write_text(json.dumps(told), encoding="utf-8")
        (folder / "summary.md").write_text(self.markdown, encoding="utf-8")


def preview(stack: str, folder: Path, fail_on: Collection[str] = ()) -> Report:
    """Preview, explain and seal: `report.json`, `summary.md` and `plan.json` in `folder`; raises `Problems`.

    A preview that failed is told in the report too, and leaves no plan. Needs no host, no SSH key, and only reads the
    backend.
    """
    try:
        require_shared_backend(stack)
        before, tree = state_of(stack), tree_of_checkout()
    except (Problems, CouldNotTell) as trouble:
        _failed(stack, str(trouble)).write(folder)
        raise
    done, plan = _previewed(stack, "--json", POLICIES)
    found = _explained(stack, done, plan, fail_on, _broken_policies(stack) if done.returncode else "")
    found.write(folder)
    (folder / "plan.json").unlink(missing_ok=True)
    if plan and found.status != report.COULD_NOT_TELL:
        sealed = {"stack": _name(stack), "tree": tree, "state": before, "plan": plan}
        (folder / "plan.json").write_text(json.dumps({"secure": _seal(stack, sealed)}), encoding="utf-8")
    return found


def apply(stack: str, file: Path) -> int:
    """Run `pulumi up` as the sealed plan says; raises `Problems` when it is not for this stack, content or state.

    The engine previews once more before it changes anything, and ends there if a step departs from the plan.
    """
    require_shared_backend(stack)
    try:
        opened = _open(stack, json.loads(file.read_text(encoding="utf-8"))["secure"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _refused(
            "plan.unreadable", stack, f"{file} is no plan that this stack's key has sealed ({error})"
        ) from None
    if (tree := tree_of_checkout()) != opened["tree"]:
        found = f"the plan is for the content {opened['tree'][:12]}, this checkout has {tree[:12]}"
        raise _refused("plan.other-content", stack, found)
    if opened["stack"] != _name(stack):
        raise _refused("plan.other-stack", stack, f"the plan is for stack {opened['stack']}")
    if state_of(stack) != opened["state"]:
        raise _refused("plan.outdated", stack, "the stack was changed after the plan was made")
    with tempfile.TemporaryDirectory() as private:
        plan = Path(private, "plan.json")
        plan.write_text(opened["plan"], encoding="utf-8")
        return recovery.pulumi(stack, "up", "--yes", POLICIES, f"--plan={plan}").returncode


def drift(stack: str, folder: Path) -> Report:
    """What `pulumi up --refresh` would put right, as `report.json` and `summary.md` in `folder`.

    Only DNS is read, and reverse DNS where an API sets it: the host steps cannot be read back, so it needs no SSH key.
    """
    require_shared_backend(stack)
    found = _explained(stack, *_previewed(stack, "--refresh", "--json"))
    if found.changes:
        found = replace(found, markdown=f"{PUT_RIGHT.format(stack=stack)}\n\n{found.markdown}")
    found.write(folder)
    return found


def require_shared_backend(stack: str) -> None:
    """Raise `Problems`, one line, unless the stack's state is where every machine of the team finds it."""
    _, environment = stacks.command(stack)
    url = environment.get("PULUMI_BACKEND_URL", "")
    if url.startswith("file:") or not (url or environment.get("PULUMI_ACCESS_TOKEN")):
        place = f"is {url}, a folder of one machine" if url else "is not named"
        raise SharedBackendNeeded(
            f"stack {stack}: its backend {place}; a job elsewhere finds the state only on a shared one: set "
            f"mailroom:backend in {stacks.file_of(stack, stacks.CHECKOUT).name}, for example s3://my-bucket?region=eu-central-1"
        )


class SharedBackendNeeded(CouldNotTell):
    """The state is on one machine alone."""


def state_of(stack: str) -> str:
    """A digest of what the stack's state says, the time of the last run left out; raises `Problems`."""
    done = recovery.pulumi(stack, "stack", "export", capture=True)
    if done.returncode:
        raise Problems(f"stack {stack} cannot be read", [stacks.unreadable(stack, done)])
    deployment = dict(json.loads(done.stdout).get("deployment") or {})
    parts = [deployment.get("resources") or [], deployment.get("pending_operations") or []]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tree_of_checkout() -> str:
    """The Git tree of what is checked out: the same however a change was merged; raises `CouldNotTell`."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD^{tree}"], cwd=stacks.CHECKOUT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CouldNotTell(f"this is no Git checkout: {done.stderr.strip()}")
    return done.stdout.strip()


def _previewed(stack: str, *options: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """What a preview of the engine says, and the plan it saves, if it does."""
    with tempfile.TemporaryDirectory() as private:
        plan = Path(private, "plan.json")
        done = recovery.pulumi(stack, "preview", *options, f"--save-plan={plan}", capture=True)
        return done, plan.read_text(encoding="utf-8") if plan.exists() else ""


def _broken_policies(stack: str) -> str:
    """What the policies say of a preview that failed: as JSON, the engine tells only that it did."""
    done = recovery.pulumi(stack, "preview", POLICIES, "--color=never", capture=True)
    return done.stdout.partition("\nPolicies:\n")[2].partition("\nDiagnostics:\n")[0].rstrip()


def _explained(
    stack: str,
    done: subprocess.CompletedProcess[str],
    plan: str,
    fail_on: Collection[str] = (),
    policies: str = "",
) -> Report:
    """The engine's status counts, whatever it printed: what a failed preview says is told below why it failed."""
    why = [*stacks.errors(done.stderr), *policies.splitlines()]
    try:
        found = explain(done.stdout, plan or None)
    except CouldNotTell as trouble:
        return _failed(stack, "\n".join([str(trouble), *why]))
    if done.returncode:
        status = f"the engine ended with status {done.returncode}"
        return _failed(stack, "\n".join([status, *why]), found.markdown)
    changes = any(count for kind, count in found.counts.items() if kind != "same")
    return Report(stack, found.markdown, found.exit_code(fail_on), changes)


def _failed(stack: str, reason: str, so_far: str = "") -> Report:
    lines = [*map(cut, reason.splitlines()[:REASONS])]
    while len(text := f"## Preview of {code(stack)}: failed\n\n{fence(lines, 'text')}\n") > LIMIT:
        lines.pop()
    if so_far and len(text) + len(so_far) < LIMIT:
        text += f"\n{so_far}"
    return Report(stack, text, report.COULD_NOT_TELL, changes=False)


def _name(stack: str) -> str:
    """The stack's own name: a run may give the organization in front of it or not."""
    return stack.rpartition("/")[2]


def _seal(stack: str, opened: dict[str, Any]) -> str:
    text = base64.b64encode(gzip.compress(json.dumps(opened).encode(), mtime=0)).decode()
    with tempfile.TemporaryDirectory() as private:
        file = _key_file(stack, Path(private), {})
        _config(stack, file, ["set", "--secret", KEY], text)
        return str(yaml.safe_load(file.read_text(encoding="utf-8"))["config"][KEY]["secure"])


def _open(stack: str, secure: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as private:
        file = _key_file(stack, Path(private), {KEY: {"secure": str(secure)}})
        text = _config(stack, file, ["get", KEY])
    opened: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(text, validate=True)))
    return opened


def _key_file(stack: str, folder: Path, config: dict[str, Any]) -> Path:
    """A file of settings that has the stack's key and this configuration alone."""
    own = yaml.safe_load(stacks.file_of(stack, stacks.CHECKOUT).read_text(encoding="utf-8")) or {}
    keys = {name: own[name] for name in ("secretsprovider", "encryptedkey", "encryptionsalt") if name in own}
    file = stacks.file_of(stack, folder)
    file.write_text(yaml.safe_dump({**keys, "config": config}), encoding="utf-8")
    return file


def _config(stack: str, file: Path, arguments: list[str], stdin: str = "") -> str:
    done = stacks.run(stack, ["config", *arguments, "--stack", stack, "--config-file", str(file)], stdin)
    if done.returncode:
        raise ValueError(" ".join(done.stderr.split()) or f"pulumi config ended with {done.returncode}")
    return done.stdout.strip()


def _refused(finding_id: str, stack: str, found: str) -> Problems:
    finding = Finding(
        severity="error",
        id=finding_id,
        subject=f"stack {stack}",
        expected="the plan of the very content that is deployed, made when the stack was as it is now",
        found=found,
        why="something else would be changed than what was reviewed",
        fix=AGAIN,
    )
    return Problems("the plan is not applied; nothing was changed", [finding])
