"""What the workflows promise, whoever edits them: pinned actions, no right and no secret more than a job needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from operations.explain_preview import RISKS

FOLDER = Path(__file__).parents[3] / ".github"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (FOLDER / "workflows").glob("*.yml")}
JOBS = [(name, key, job) for name, loaded in WORKFLOWS.items() for key, job in loaded["jobs"].items()]
IDS = [f"{name}-{key}" for name, key, _ in JOBS]


def test_every_foreign_action_is_pinned_by_a_commit_with_its_version_beside_it() -> None:
    files = list(FOLDER.glob("*/**/*.yml"))
    uses = [line for file in files for line in file.read_text().splitlines() if re.search(r"\buses: (?!\./)", line)]
    assert len(uses) > 5
    assert not [line for line in uses if not re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)]


def test_an_action_is_pinned_by_the_same_commit_everywhere() -> None:
    text = "\n".join(file.read_text() for file in FOLDER.glob("*/**/*.yml"))
    pinned = set(re.findall(r"uses: ([\w-]+/[\w-]+)@(\S+ # \S+)", text))
    assert len(pinned) == len({name for name, _ in pinned})


def group(name: str, *, newest_wins: bool = False) -> dict[str, Any]:
    """Of a group one runs at a time; the next one waits for it, or ends it."""
    return {"group": name, "cancel-in-progress": newest_wins}


WORKFLOW = {  # what starts it, and which of its runs are in one group
    "preview": (
        {"pull_request": None, "merge_group": None, "workflow_dispatch": None},
        group("preview-${{ github.event.pull_request.number || github.ref }}", newest_wins=True),
    ),
    "up": ({"push": {"branches": ["main"]}}, None),
    "refresh": ({"schedule": [{"cron": "17 4 * * *"}], "workflow_dispatch": None}, group("refresh")),
}
READ = {"contents": "read"}
COMMENT = READ | {"pull-requests": "write"}
FETCH_PLAN = READ | {"actions": "read", "pull-requests": "read"}
JOB = {  # whose secrets it gets, what it may at GitHub, and which group it is in
    "preview-staging": ("preview-staging", READ, None),
    "preview-prod": ("preview-prod", READ, None),
    "preview-comment-staging": (None, COMMENT, None),
    "preview-comment-prod": (None, COMMENT, None),
    "up-staging": ("staging", FETCH_PLAN, group("up-staging")),
    "up-prod": ("prod", FETCH_PLAN, group("up-prod")),
    "refresh-look": ("refresh-${{ matrix.stack }}", READ, None),
    "refresh-tell": (None, READ | {"issues": "write"}, None),
}


def test_these_are_all_workflows_and_jobs() -> None:
    assert set(WORKFLOWS) == set(WORKFLOW)
    assert set(IDS) == set(JOB)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_is_started_by_this_alone_and_its_runs_wait_or_give_way(name: str) -> None:
    loaded = WORKFLOWS[name]
    assert (loaded[True], loaded.get("concurrency")) == WORKFLOW[name]  # YAML 1.1 reads `on` as True


@pytest.mark.parametrize(("name", "key", "job"), JOBS, ids=IDS)
def test_a_job_gets_these_secrets_and_rights_alone(name: str, key: str, job: dict[str, Any]) -> None:
    assert (job.get("environment"), job["permissions"], job.get("concurrency")) == JOB[f"{name}-{key}"]


def test_a_job_works_on_the_stack_whose_secrets_it_gets() -> None:
    for name, key, job in JOBS:
        if "environment" in job:
            assert job["environment"].removeprefix(f"{name}-") == job["env"]["STACK"], (name, key)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_gives_no_right_to_all_its_jobs_and_stops_at_a_failed_pipe(name: str) -> None:
    loaded = WORKFLOWS[name]
    assert loaded["permissions"] == {}
    assert loaded["defaults"]["run"]["shell"] == "bash"


@pytest.mark.parametrize(("name", "key", "job"), JOBS, ids=IDS)
def test_a_job_with_secrets_has_an_environment_and_may_write_nothing_at_github(
    name: str, key: str, job: dict[str, Any]
) -> None:
    secrets = set(re.findall(r"secrets\.(\w+)", str(job)))
    writes = {right for right, level in job["permissions"].items() if level != "read"}
    assert "timeout-minutes" in job
    assert not (secrets and writes)
    assert bool(secrets) == ("environment" in job)
    if name != "up":
        assert "SSH_PRIVATE_KEY" not in secrets


def test_no_job_keeps_githubs_token_in_the_checkout() -> None:
    checkouts = [step for *_, job in JOBS for step in job["steps"] if "actions/checkout@" in step.get("uses", "")]
    assert len(checkouts) == len(JOBS)
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_a_job_that_runs_the_program_sets_its_machine_up_before_and_no_other_job_does() -> None:
    for name, key, job in JOBS:
        steps = [step.get("uses") or step["run"] for step in job["steps"]]
        runs = [place for place, step in enumerate(steps) if "scripts/pull_request.py " in step]
        ready = [place for place, step in enumerate(steps) if step == "./.github/actions/setup"]
        assert len(runs) == len(ready) == ("environment" in job), (name, key)
        assert ready <= runs, (name, key)


SET_UP = "vars.MAILROOM_DEPLOYS == 'yes'"


def test_a_repository_that_nobody_set_up_starts_no_job() -> None:
    for name, key, job in JOBS:
        needed = job.get("needs")
        if needed is None:
            assert job["if"].partition(" && (")[0] == SET_UP, (name, key)
        elif "if" in job:  # without a condition a job is skipped with the one it needs
            skipped = (f"needs.{needed}.result != 'skipped'", "!contains(needs.*.result, 'skipped')")
            assert [text for text in skipped if f"!cancelled() && {text}" in job["if"]], (name, key)


def test_a_forks_pull_request_starts_no_job() -> None:
    own = "github.event.pull_request.head.repo.full_name == github.repository"
    for key, job in WORKFLOWS["preview"]["jobs"].items():
        if "secrets." in str(job):
            assert job["if"] == f"{SET_UP} && (github.event_name != 'pull_request' || {own})"
        else:
            assert key == f"comment-{job['needs']}"


def test_a_comment_waits_for_the_preview_of_its_own_stack_alone() -> None:
    jobs = WORKFLOWS["preview"]["jobs"]
    previews = {key for key in jobs if not key.startswith("comment-")}
    assert previews == {"staging", "prod"}
    for key in previews:
        assert "needs" not in jobs[key]
        assert jobs[key]["name"] == f"preview of {key}"  # the checks that docs/pull-requests.md asks to require
        assert jobs[f"comment-{key}"]["needs"] == key
        assert jobs[key]["env"] == jobs[f"comment-{key}"]["env"] == {"STACK": key}


def test_comments_are_for_pull_requests_alone() -> None:
    jobs = WORKFLOWS["preview"]["jobs"]
    conditions = [job["if"] for key, job in jobs.items() if key.startswith("comment-")]
    assert [text for text in conditions if "&& github.event_name == 'pull_request' }}" not in text] == []


def test_a_report_is_kept_as_long_as_its_plan() -> None:
    for key in ("staging", "prod"):
        steps = WORKFLOWS["preview"]["jobs"][key]["steps"]
        kept = [step["with"]["retention-days"] for step in steps if "actions/upload-artifact@" in step.get("uses", "")]
        assert kept == [30, 30]


def test_what_a_pull_request_says_reaches_a_script_only_as_a_variable() -> None:
    assert not [step for *_, job in JOBS for step in job["steps"] if "${{" in step.get("run", "")]


def test_the_documentation_names_each_environment_and_secret_there_is() -> None:
    text = (FOLDER.parent / "docs" / "pull-requests.md").read_text()
    assert "`MAILROOM_DEPLOYS`" in text
    used = {f"`{secret}`" for *_, job in JOBS for secret in re.findall(r"secrets\.(\w+)", str(job))}
    for *_, job in JOBS:
        stacks = job.get("strategy", {}).get("matrix", {}).get("stack", [""])
        used |= {
            f"`{job['environment'].replace('${{ matrix.stack }}', stack)}`" for stack in stacks if "environment" in job
        }
    assert {"`preview-prod`", "`prod`", "`refresh-staging`", "`refresh-prod`", "`SSH_PRIVATE_KEY`"} < used
    assert not [name for name in used if name not in text]


def test_a_pull_request_that_stops_mail_fails_unless_somebody_says_otherwise_and_the_documentation_says_so() -> None:
    text = (FOLDER / "workflows/preview.yml").read_text()
    (default,) = re.findall(r"vars\.FAIL_ON \|\| '([^']+)'", text)
    assert {"mail-stops", "last-mx-deleted"} < set(default.split()) <= set(RISKS)
    assert f"`{default}`" in (FOLDER.parent / "docs/pull-requests.md").read_text()
