"""What the workflows tell GitHub, against its API as a test plays it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from operations.github import GitHubError, Repository
from tests.lab.workflow import HEAD, REPOSITORY, TOKEN, GitHub, github

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def report(text: str = "text", *, stack: str = "prod", changes: bool = True) -> dict[str, Any]:
    return {"stack": stack, "markdown": text, "changes": changes}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[GitHub]:
    with github(tmp_path) as running:
        yield running


@pytest.fixture
def repository(hub: GitHub) -> Repository:
    return Repository(REPOSITORY, TOKEN, hub.api)


def test_each_stack_has_one_comment_of_ours_that_is_renewed(hub: GitHub, repository: Repository) -> None:
    forged = {"number": 7, "body": "<!-- mailroom preview of prod -->\nmine", "user": {"login": "somebody"}}
    hub.comments.append({"id": 1, "html_url": "", **forged})
    for stack, text in [("prod", "first"), ("staging", "other"), ("prod", "second")]:
        repository.comment(7, report(text, stack=stack))
    assert [one["body"].partition("\n")[2] for one in hub.comments] == ["mine", "second", "other"]


def test_ours_is_found_behind_a_hundred_comments(hub: GitHub, repository: Repository) -> None:
    repository.comment(7, report("first"))
    asked: list[str] = []
    ours, answer = hub.comments[0], hub.answer

    def paged(request: Any) -> Any:
        if request.method != "GET":
            return answer(request)
        asked.append(request.query["page"])
        return [{"user": {"login": "x"}}] * 100 if request.query["page"] == "1" else [ours]

    hub.answer = paged  # type: ignore[method-assign]
    repository.comment(7, report("second"))
    assert asked == ["1", "2"]
    assert [one["body"].partition("\n")[2] for one in hub.comments] == ["second"]


def test_drift_has_one_issue_that_is_closed_when_it_is_gone(hub: GitHub, repository: Repository) -> None:
    assert repository.tell_drift(report(changes=False)) is None
    assert hub.issues == []
    assert repository.tell_drift(report("first")) == repository.tell_drift(report("second"))
    repository.tell_drift(report("other", stack="staging"))
    repository.tell_drift(report(changes=False))
    assert [(one["state"], one["body"].partition("\n")[2]) for one in hub.issues] == [
        ("closed", "second"),
        ("open", "other"),
    ]
    repository.tell_drift(report("again"))
    assert [one["state"] for one in hub.issues] == ["closed", "open", "open"]


def kept(hub: GitHub, run: int, *, workflow: str = "preview.yml", **of_run: Any) -> None:
    """A plan of the pull request that commit `abc` merged, kept by a run of its own."""
    ours = {"id": run, "repository_id": 1, "head_repository_id": 1, "head_sha": HEAD, **of_run}
    made = {"name": "plan", "expired": False, "created_at": f"2026-01-0{run}T00:00:00Z", "workflow_run": ours}
    hub.artifacts.append(made)
    hub.workflows[run] = f".github/workflows/{workflow}"


def test_the_newest_plan_of_a_merged_pull_request_is_taken(hub: GitHub, repository: Repository) -> None:
    for run in (2, 3, 1):
        kept(hub, run)
    assert repository.run_with("plan", "abc") == 3
    with pytest.raises(GitHubError, match="there is no plan other for commit abc: .* Run the workflow `preview`"):
        repository.run_with("other", "abc")


@pytest.mark.parametrize(
    "other",
    [{"head_repository_id": 2}, {"head_sha": "of another branch"}, {"workflow": "of-a-branch.yml"}],
    ids=["a fork", "another branch", "another workflow"],
)
def test_a_plan_that_others_kept_is_passed_over(hub: GitHub, repository: Repository, other: dict[str, Any]) -> None:
    kept(hub, 1)
    kept(hub, 2, **other)
    assert repository.run_with("plan", "abc") == 1


def test_a_plan_that_is_expired_or_of_no_known_run_is_passed_over(hub: GitHub, repository: Repository) -> None:
    for run in (1, 2, 3):
        kept(hub, run)
    hub.artifacts[1]["expired"] = True
    hub.artifacts[2]["workflow_run"] = None
    assert repository.run_with("plan", "abc") == 1


def test_a_preview_of_the_very_commit_counts_as_one_of_its_pull_request(hub: GitHub, repository: Repository) -> None:
    kept(hub, 1, head_sha="abc", workflow="preview.yml@refs/heads/main")
    assert repository.run_with("plan", "abc") == 1


@pytest.mark.parametrize("change", [{"merged_at": None}, {"merge_commit_sha": "another"}], ids=["open", "another"])
def test_a_pull_request_that_the_commit_did_not_merge_does_not_count(
    hub: GitHub, repository: Repository, change: dict[str, Any]
) -> None:
    kept(hub, 1)
    answer = hub.answer

    def changed(request: Any) -> Any:
        found = answer(request)
        return [{**found[0], **change}] if request.path.endswith("/commits/abc/pulls") else found

    hub.answer = changed  # type: ignore[method-assign]
    with pytest.raises(GitHubError, match="there is no plan"):
        repository.run_with("plan", "abc")


def test_a_refusal_says_what_to_look_at_and_not_the_token(hub: GitHub) -> None:
    with pytest.raises(GitHubError, match=r"answers 401 \(Bad credentials\) to GET .*permissions") as refused:
        Repository(REPOSITORY, "another-token", hub.api).comment(7, report())
    assert "another-token" not in str(refused.value)


def test_an_answer_that_is_no_json_is_told_and_not_a_crash(hub: GitHub, repository: Repository) -> None:
    hub.answer = lambda _: None  # type: ignore[method-assign]
    with pytest.raises(GitHubError, match="is this GitHub's API"):
        repository.tell_drift(report())
