"""What the workflows tell and ask GitHub: one comment per stack on a pull request, one issue, the run with a plan.

Standard library only: the jobs that may write at GitHub install nothing and see no secret of a stack.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from operations import web

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

API: Final = "https://api.github.com"
BOT: Final = "github-actions[bot]"  # who writes with a job's own token
PREVIEW: Final = ".github/workflows/preview.yml"
PER_PAGE: Final = 100
PAGES: Final = 30  # more than a pull request ever has


class GitHubError(Exception):
    """What GitHub did not do, and what to look at."""


@dataclass(frozen=True)
class Repository:
    """One repository, with a job's own token."""

    name: str  # owner/name
    token: str = field(repr=False)
    api: str = API

    @classmethod
    def of_job(cls) -> Repository:
        """The repository of the running job, by the variables that GitHub sets; raises `GitHubError`."""
        try:
            name, token = os.environ["GITHUB_REPOSITORY"], os.environ["GITHUB_TOKEN"]
        except KeyError as missing:
            raise GitHubError(f"{missing.args[0]} is not set: this runs in a job of GitHub Actions") from None
        return cls(name, token, os.environ.get("GITHUB_API_URL", API))

    def comment(self, number: int, report: Mapping[str, Any]) -> str:
        """Write or renew the comment on a pull request that is about this report's stack; its address."""
        body = f"{_marker('preview', report)}\n{report['markdown']}"
        return self._write(f"/issues/{number}/comments", f"/issues/{number}/comments", "/issues/comments/{id}", body)

    def tell_drift(self, report: Mapping[str, Any]) -> str | None:
        """Keep one open issue about a stack's drift while there is any, else close it; its address, None without."""
        marker = _marker("drift", report)
        body = f"{marker}\n{report['markdown']}"
        found = self._ours("/issues?state=open", marker)
        if not report["changes"]:
            if found:
                self._send("PATCH", f"/issues/{found['number']}", {"state": "closed", "state_reason": "completed"})
            return None
        title = f"{report['stack']} is not as its settings say"
        if found:
            told = self._send("PATCH", f"/issues/{found['number']}", {"body": body, "title": title})
        else:
            told = self._send("POST", "/issues", {"title": title, "body": body})
        return str(told["html_url"])

    def run_with(self, artifact: str, commit: str) -> int:
        """The latest run of the workflow `preview` that kept this artifact for what the commit merged.

        Whoever may push a branch can have a run of their own keep an artifact of any name.
        """
        heads = self._reviewed(commit)
        answer = self._send("GET", f"/actions/artifacts?per_page={PER_PAGE}&name={quote(artifact)}")
        for one in sorted(answer["artifacts"], key=lambda one: str(one["created_at"]), reverse=True):
            run = one["workflow_run"]  # may be null
            if one["expired"] or not run or run["head_repository_id"] != run["repository_id"]:
                continue
            if run["head_sha"] in heads and self._workflow_of(run["id"]) == PREVIEW:
                return int(run["id"])
        raise GitHubError(
            f"there is no plan {artifact} for commit {commit[:12]}: the pull request was not previewed with this very "
            "content (was its branch behind?). Run the workflow `preview` on this branch, read what it would change, "
            "then run this job again"
        )

    def _reviewed(self, commit: str) -> set[str]:
        """The commit itself, and the head of the pull request whose merge it is."""
        pulls = self._send("GET", f"/commits/{commit}/pulls")
        merged = [one for one in pulls if one["merged_at"] and one["merge_commit_sha"] == commit]
        return {commit, *(str(one["head"]["sha"]) for one in merged)}

    def _workflow_of(self, run: int) -> str:
        return str(self._send("GET", f"/actions/runs/{run}")["path"]).partition("@")[0]

    def _write(self, listed: str, new: str, known: str, body: str) -> str:
        found = self._ours(f"{listed}?", body.partition("\n")[0])
        if found:
            return str(self._send("PATCH", known.format(id=found["id"]), {"body": body})["html_url"])
        return str(self._send("POST", new, {"body": body})["html_url"])

    def _ours(self, listed: str, marker: str) -> Mapping[str, Any] | None:
        return next((one for one in self._all(listed) if one["user"]["login"] == BOT
                     and str(one.get("body") or "").startswith(marker)), None)  # fmt: skip

    def _all(self, listed: str) -> Iterator[Mapping[str, Any]]:
        for page in range(1, PAGES + 1):
            found = self._send("GET", f"{listed}&per_page={PER_PAGE}&page={page}")
            yield from found
            if len(found) < PER_PAGE:
                return

    def _send(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "X-GitHub-Api-Version": "2022-11-28"}
        # What makes something new is asked for once: its answer may be lost after it was made.
        attempts = 1 if method == "POST" else web.ATTEMPTS
        client = web.Client(self.api, direct=self.api != API, say=_say, attempts=attempts)
        try:
            answer = client.send(method, f"/repos/{self.name}{path}", headers, body=body)
        except web.NoAnswer as error:
            raise GitHubError(f"{error}; run this job again") from None
        if not answer.ok:
            said = answer.body.get("message") if isinstance(answer.body, dict) else None
            raise GitHubError(
                f"GitHub answers {answer.status} ({said or 'no reason given'}) to {method} {path.partition('?')[0]}: "
                "compare the job's `permissions` with docs/pull-requests.md"
            )
        if answer.body is None:
            raise GitHubError(f"{self.api} answers {method} without JSON: is this GitHub's API? Run this job again")
        return answer.body


def _marker(kind: str, report: Mapping[str, Any]) -> str:
    """An HTML comment that shows nowhere, by which the next run finds what this one wrote."""
    return f"<!-- mailroom {kind} of {report['stack']} -->"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
