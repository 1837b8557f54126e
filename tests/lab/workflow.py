"""Runs a job of .github/workflows here: its own `run:` lines, with GitHub's files, artifacts and API played by a test.

What is not played: checking out and setting up (the checkout is there and set up; tests/unit/workflows runs the step
that does it), and the runner's own protections.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from lab.internet.web import Request, Response, Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PLAYED = ("actions/checkout@", "./.github/actions/setup")
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
REPOSITORY = "team/mail"
TOKEN = "the-token-of-one-job"
HEAD = "the-head-of-one-pull-request"


@dataclass
class GitHub:
    """Comments, issues and artifacts of one repository, and the API that shows them.

    Each run is of the head of one pull request, and each commit asked about is its merge.
    """

    store: Path
    comments: list[dict[str, Any]] = field(default_factory=list)
    issues: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    workflows: dict[int, str] = field(default_factory=dict)  # a run's file
    api: str = ""
    run: int = 0

    def upload(self, name: str, path: Path) -> None:
        shutil.copy(path, self._folder(self.run, name))
        workflow_run = {"id": self.run, "repository_id": 1, "head_repository_id": 1, "head_sha": HEAD}
        made = {"name": name, "expired": False, "created_at": f"{self.run:04}", "workflow_run": workflow_run}
        self.artifacts.append(made)

    def download(self, run: int, to: Path, *, name: str | None, pattern: str | None) -> None:
        for one in self.artifacts:
            if one["workflow_run"]["id"] != run:
                continue
            if one["name"] == name:
                shutil.copytree(self._folder(run, one["name"]), to, dirs_exist_ok=True)
            elif pattern and one["name"].startswith(pattern.removesuffix("*")):
                shutil.copytree(self._folder(run, one["name"]), to / one["name"], dirs_exist_ok=True)

    def _folder(self, run: int, name: str) -> Path:
        folder = self.store / str(run) / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def answer(self, request: Request) -> Any:
        """What api.github.com answers, for the calls there are."""
        method, where, body = request.method, request.path.removeprefix(f"/repos/{REPOSITORY}"), request.body
        if read := self._read(where, request):
            return read
        if found := re.fullmatch(r"/issues/(\d+)/comments", where):
            mine = [one for one in self.comments if one["number"] == int(found[1])]
            return mine if method == "GET" else self._new(self.comments, {"number": int(found[1]), **body})
        if found := re.fullmatch(r"/issues/comments/(\d+)", where):
            return self._change(self.comments, int(found[1]), body)
        if where == "/issues":
            if method == "POST":
                return self._new(self.issues, {"state": "open", **body})
            return [one for one in self.issues if one["state"] == "open"]
        if found := re.fullmatch(r"/issues/(\d+)", where):
            return self._change(self.issues, int(found[1]), body)
        raise LookupError(f"nobody plays {method} {where}")

    def _read(self, where: str, request: Request) -> Any:
        if where == "/actions/artifacts":
            return {"artifacts": [one for one in self.artifacts if one["name"] == request.query["name"]]}
        if found := re.fullmatch(r"/actions/runs/(\d+)", where):
            return {"path": self.workflows[int(found[1])]}
        if found := re.fullmatch(r"/commits/(\w+)/pulls", where):
            return [{"merged_at": "2099-01-01T00:00:00Z", "merge_commit_sha": found[1], "head": {"sha": HEAD}}]
        return None

    def _new(self, things: list[dict[str, Any]], thing: dict[str, Any]) -> dict[str, Any]:
        number = len(things) + 1
        address = f"https://github.example/{REPOSITORY}/{number}"
        user = {"login": "github-actions[bot]"}
        things.append({"id": number, "number": number, "html_url": address, "user": user, **thing})
        return things[-1]

    def _change(self, things: list[dict[str, Any]], number: int, changes: dict[str, Any]) -> dict[str, Any]:
        things[number - 1].update(changes)
        return things[number - 1]


@contextmanager
def github(store: Path) -> Iterator[GitHub]:
    """A repository without a pull request, its API on loopback."""
    state = GitHub(store)

    def handle(request: Request) -> Response:
        if request.authorization != f"Bearer {TOKEN}":
            return Response(status=401, body={"message": "Bad credentials"})
        try:
            return Response(body=state.answer(request))
        except LookupError as error:
            return Response(status=404, body={"message": str(error)})

    server = Server("127.0.0.1", 0, handle)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    state.api = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Job:
    """What one job said, and how it ended: the status of the first step that failed, else 0."""

    status: int
    said: str
    summary: str


@dataclass(frozen=True)
class Runner:
    """Runs jobs in a checkout, with what its environment gives them."""

    checkout: Path
    hub: GitHub
    base: Mapping[str, str]  # the environment of the machine

    def run(
        self, workflow: str, job: str, *, stack: str = "staging", secrets: Mapping[str, str], number: int = 7
    ) -> Job:
        """One job of a workflow; artifacts belong to the run that `self.hub.run` counts."""
        self.hub.workflows[self.hub.run] = f".github/workflows/{workflow}.yml"
        loaded = yaml.safe_load((self.checkout / self.hub.workflows[self.hub.run]).read_text())
        wanted = loaded["jobs"][job]
        values = {
            "matrix.stack": stack,
            "github.token": TOKEN,
            "github.event.pull_request.number": str(number),
            **{f"secrets.{name}": value for name, value in secrets.items()},
        }
        of_job = self._filled(wanted.get("env", {}), values)
        values |= {f"env.{name}": value for name, value in of_job.items()}
        shutil.rmtree(self.checkout / "build", ignore_errors=True)  # every job starts on a machine of its own
        shell = loaded.get("defaults", {}).get("run", {}).get("shell")
        ended, said, summary = 0, "", self.checkout / ".git" / "summary"
        summary.write_text("")
        for step in wanted["steps"]:
            if not self._wanted(step.get("if"), failed=bool(ended)):
                continue
            given = of_job | self._filled(step.get("env", {}), values)
            if "run" in step:
                done, outputs = self._step(step["run"], given, shell, summary)
                ended, said = ended or done.returncode, said + done.stdout
                values |= {f"steps.{step.get('id')}.outputs.{name}": value for name, value in outputs.items()}
            else:
                self._use(step["uses"], self._filled(step.get("with", {}), values))
        return Job(ended, said, summary.read_text())

    def _step(
        self, script: str, given: Mapping[str, str], shell: str | None, summary: Path
    ) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
        """As GitHub runs it: `bash -e`, and with pipefail only where the shell is named."""
        output = summary.with_name("output")
        output.write_text("")
        options = ["--noprofile", "--norc", "-eo", "pipefail"] if shell == "bash" else ["-e"]
        github_files = {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
        named = {"GITHUB_API_URL": self.hub.api, "GITHUB_REPOSITORY": REPOSITORY, "GITHUB_ACTIONS": "true"}
        done = subprocess.run(
            ["bash", *options, "-c", script], cwd=self.checkout, env={**self.base, **github_files, **named, **given},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
        )  # fmt: skip
        lines = output.read_text().splitlines()
        return done, {name: value for name, _, value in (line.partition("=") for line in lines)}

    def _use(self, action: str, given: Mapping[str, str]) -> None:
        if action.startswith("actions/upload-artifact@"):
            self.hub.upload(given["name"], self.checkout / given["path"])
        elif action.startswith("actions/download-artifact@"):
            run = int(given.get("run-id") or self.hub.run)
            self.hub.download(run, self.checkout / given["path"], name=given.get("name"), pattern=given.get("pattern"))
        elif not action.startswith(PLAYED):
            raise AssertionError(f"nobody plays {action}")

    def _wanted(self, condition: str | None, *, failed: bool) -> bool:
        if condition is None:
            return not failed
        inner = EXPRESSION.fullmatch(condition)
        found = re.fullmatch(r"!cancelled\(\) && hashFiles\('(.*)'\) != ''", inner[1] if inner else condition)
        assert found, f"nobody plays the condition {condition!r}"
        return (self.checkout / found[1]).exists()

    @staticmethod
    def _filled(texts: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, str]:
        """A secret or variable that is not set is empty, or its default; everything else has to be known."""

        def value(found: re.Match[str]) -> str:
            name, _, default = found[1].partition(" || ")
            if name.startswith(("secrets.", "vars.")):
                return values.get(name, default.strip("'"))
            return values[name]

        return {key: EXPRESSION.sub(value, str(text)) for key, text in texts.items()}


def environment() -> dict[str, str]:
    """This machine's variables without what an operator has exported for stacks of their own."""
    own = ("PULUMI_", "AWS_", "CLOUDFLARE_", "SSH_", "GITHUB_")
    return {key: value for key, value in os.environ.items() if not key.startswith(own)}
