"""What the workflows tell GitHub, against its API as a test plays it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from operations.github import GitHubError, Repository
from tests.lab.workflow import REPOSITORY, TOKEN, GitHub, github

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


def test_the_newest_plan_of_our_own_branches_is_taken(hub: GitHub, repository: Repository) -> None:
    def kept(run: int, *, head: int = 1, expired: bool = False) -> dict[str, Any]:
        ours = {"id": run, "repository_id": 1, "head_repository_id": head}
        return {"name": "plan", "expired": expired, "created_at": f"2026-01-0{run}T00:00:00Z", "workflow_run": ours}

    hub.artifacts += [kept(2), kept(1), kept(3, head=2), kept(4, expired=True)]
    assert repository.run_with("plan") == 2
    with pytest.raises(GitHubError, match="there is no plan other: .* Run the workflow `preview`"):
        repository.run_with("other")


def test_a_refusal_says_what_to_look_at_and_not_the_token(hub: GitHub) -> None:
    with pytest.raises(GitHubError, match=r"answers 401 \(Bad credentials\) to GET .*permissions") as refused:
        Repository(REPOSITORY, "another-token", hub.api).comment(7, report())
    assert "another-token" not in str(refused.value)


def test_an_answer_that_is_no_json_is_told_and_not_a_crash(hub: GitHub, repository: Repository) -> None:
    hub.answer = lambda _: None  # type: ignore[method-assign]
    with pytest.raises(GitHubError, match="is this GitHub's API"):
        repository.tell_drift(report())
