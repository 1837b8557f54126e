"""The workflows' own steps, from a pull request's preview to its plan applied, with the state in a bucket."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from lab.folders import CHECKOUT
from lab.internet.client import edit_zone
from lab.internet.names import CLOUDFLARE_TOKEN, READ_TOKEN
from lab.shell import wait_until
from operations import sbom, stacks
from operations.backup import places
from tests.lab.program import DOMAIN, HOST, INSTALLED, split
from tests.lab.workflow import Job, Runner, environment, github

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.client import Lab, Vps

STACK = "staging"
PASSPHRASE = "the-passphrase-of-the-test"
KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE}
READS = {**KEYS, "CLOUDFLARE_API_TOKEN": READ_TOKEN}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An empty S3 bucket on loopback: its URL for Pulumi, and what it was asked."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("bucket") / "requests"
    go = sbom.tool_folder("requirements-go.in", "go") / "go"
    tool = [go, "-C", CHECKOUT / "tests" / "go", "tool", "-n", "gofakes3"]
    flags = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off"}
    program = subprocess.run(tool, env=flags, capture_output=True, text=True, check=True, timeout=300).stdout.strip()
    served = [program, "-backend", "memory", "-initialbucket", "state", "-host", f"127.0.0.1:{port}"]
    with log.open("w") as file, subprocess.Popen(served, stderr=file, stdout=file) as process:
        try:
            assert wait_until(lambda: not socket.socket().connect_ex(("127.0.0.1", port)), timeout=10), log.read_text()
            yield f"s3://state?endpoint=http://127.0.0.1:{port}&use_path_style=true&region=us-east-1", log
        finally:
            process.terminate()


class Team:
    """A repository with the project in it, its stack `staging`, and what people do there."""

    def __init__(self, folder: Path, runner: Runner, lab: Lab, vps: Vps, backend: str) -> None:
        self.folder, self.runner, self.lab, self.vps = folder, runner, lab, vps
        self.file = folder / f"Pulumi.{STACK}.yaml"
        self.variables = {**runner.base, **KEYS}
        settings = lab.stack_config(vps)
        secrets, plain = split(settings)
        # The keys that open hosts and zones are the environments' secrets: whoever previews has neither.
        self.ssh_key, _ = secrets.pop("mailroom:sshPrivateKey"), secrets.pop("cloudflare:apiToken")
        self.file.write_text(yaml.safe_dump({"config": {**plain, "mailroom:backend": backend}}))
        self.pulumi("stack", "init", STACK, PULUMI_BACKEND_URL=backend)
        for key, value in secrets.items():
            self.pulumi("config", "set", "--stack", STACK, "--path", "--secret", key, stdin=value)
        self.commit()
        self.secrets = [*secrets.values(), PASSPHRASE, READ_TOKEN, CLOUDFLARE_TOKEN, self.ssh_key.splitlines()[1]]

    def pulumi(self, *arguments: str, stdin: str = "", **more: str) -> str:
        program, _ = stacks.engine(self.folder)
        backend = {"PULUMI_BACKEND_URL": self.settings()["mailroom:backend"], **more}
        done = subprocess.run(
            [program, *arguments, "--non-interactive"], cwd=self.folder, env={**self.variables, **backend}, input=stdin,
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def settings(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.file.read_text())["config"])

    def change(self, **settings: Any) -> None:
        """A commit that changes settings of the domain."""
        content = yaml.safe_load(self.file.read_text())
        content["config"]["mailroom:domains"][0].update(settings)
        self.file.write_text(yaml.safe_dump(content))
        self.commit()

    def git(self, *arguments: str) -> str:
        by = ["-c", "user.name=a", "-c", "user.email=a@example.test", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *by, *arguments], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change", "--allow-empty")

    def preview(self) -> Job:
        """The workflow `preview` on what is checked out, its comment included."""
        self.runner.hub.run += 1
        job = self.runner.run("preview", STACK, secrets=READS)
        told = self.runner.run("preview", f"comment-{STACK}", secrets={})
        assert told.status == 0, told.said
        return job

    def merged(self) -> Job:
        """The workflow `up` on what is checked out."""
        self.runner.hub.run += 1
        allowed = {**KEYS, "CLOUDFLARE_API_TOKEN": CLOUDFLARE_TOKEN, "SSH_PRIVATE_KEY": self.ssh_key}
        return self.runner.run("up", STACK, secrets=allowed)

    def opened(self, plan: Path) -> str:
        """The engine's own plan, as `up` gets it: its secrets are encrypted once more."""
        sealed = json.loads(plan.read_text())["secure"]
        script = "import sys; from operations import plans; print(plans._open(sys.argv[1], sys.stdin.read())['plan'])"
        done = subprocess.run(
            [".venv/bin/python", "-c", script, STACK], cwd=self.folder, env=self.variables, input=sealed,
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert "alice@example.test" in done.stdout
        return done.stdout

    def deploy(self) -> None:
        """As a person did before there was a workflow."""
        own = {"CLOUDFLARE_API_TOKEN": CLOUDFLARE_TOKEN, "SSH_AUTH_SOCK": os.environ["SSH_AUTH_SOCK"]}
        self.pulumi("up", "--stack", STACK, "--yes", "--skip-preview", **own)

    def records(self, query: str = "?per_page=1000") -> list[dict[str, Any]]:
        return list(edit_zone(self.lab.plan, "GET", DOMAIN, query))

    def zone(self) -> list[tuple[str, str, str]]:
        return sorted((one["type"], one["name"], one["content"]) for one in self.records())


@pytest.fixture(scope="module")
def team(lab: Lab, agent: None, bucket: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """What is being tested, as the first commit of a repository, merged and deployed."""
    folder = tmp_path_factory.mktemp("team") / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, folder / name)
    for name in (".venv", ".engine", "policy/.venv"):
        (folder / name).symlink_to(CHECKOUT / name)
    vps = lab.fresh_vps(octet=97, installed=INSTALLED)
    for address in (vps.ipv4, vps.ipv6):
        lab.set_ptr(str(address), HOST)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", folder], check=True)
    (folder / ".git" / "info" / "exclude").write_text(".venv\n.engine\npolicy/.venv\n")
    _, engine = stacks.engine(folder)
    with github(tmp_path_factory.mktemp("artifacts")) as hub:
        runner = Runner(folder, hub, {**environment(), **engine})
        made = Team(folder, runner, lab, vps, bucket[0])
        made.deploy()
        yield made
    for record in made.records():  # the next module has the same zone
        if "mailroom:" in (record["comment"] or ""):
            edit_zone(lab.plan, "DELETE", DOMAIN, f"/{record['id']}")


def test_a_pull_request_is_previewed_told_and_applied_as_its_plan_says(team: Team, bucket: tuple[str, Path]) -> None:
    team.change(
        aliases={"alice": ["alice@receiver.test"], "sales": ["alice@receiver.test"]}, dmarc={"policy": "reject"}
    )
    asked = len(bucket[1].read_text())
    job = team.preview()
    assert job.status == 0, job.said
    reads = bucket[1].read_text()[asked:]
    assert "GET OBJECT" in reads
    assert "CREATE OBJECT" not in reads  # a preview writes nothing where the state is
    assert "DELETE" not in reads
    (comment,) = team.runner.hub.comments
    assert comment["body"].startswith(f"<!-- mailroom preview of {STACK} -->\n## Preview of `{STACK}`: ")
    assert "- alias added: `sales@example.test`" in comment["body"]
    assert "  - after: `v=DMARC1; p=reject" in comment["body"]
    assert job.summary in comment["body"]
    (kept,) = team.runner.hub.store.rglob("plan.json")
    assert not [text for text in [*team.secrets, DOMAIN] if text in kept.read_text()]
    assert not [text for text in team.secrets if text in job.said + team.opened(kept)]
    done = team.merged()
    assert done.status == 0, done.said
    assert next(content for kind, name, content in team.zone() if name == f"_dmarc.{DOMAIN}").startswith(
        '"v=DMARC1; p=reject'
    )
    state = team.pulumi("stack", "export")
    assert not [token for token in (READ_TOKEN, CLOUDFLARE_TOKEN) if token in state]
    gates = [one for one in json.loads(state)["deployment"]["resources"] if one["type"].endswith("ZoneGate")]
    assert gates
    assert not [gate for gate in gates if gate["inputs"].get("token")]  # each run brings its own


def test_what_was_not_reviewed_as_things_are_now_is_refused(team: Team) -> None:
    records = team.zone()
    again = team.merged()  # its own run has changed the state since
    assert again.status == 2
    assert f"error: stack {STACK}: the stack was changed after the plan was made" in again.said
    assert "run the workflow `preview`" in again.said
    team.change(dmarc={"policy": "no"})
    unseen = team.merged()
    assert unseen.status == 3
    assert f"there is no plan plan-{STACK}-" in unseen.said
    assert team.preview().status == 3
    (comment,) = team.runner.hub.comments  # renewed, not one more
    assert comment["body"].partition("\n")[2].startswith(f"## Preview of `{STACK}`: failed")
    assert "mailroom:domains[0].dmarc.policy" in comment["body"]
    assert team.zone() == records


def test_drift_is_told_in_one_issue_with_a_token_that_only_reads(team: Team) -> None:
    team.change(dmarc={"policy": "reject"})
    spf = next(one for one in team.records("?type=TXT") if "v=spf1" in one["content"])
    edit_zone(team.lab.plan, "PATCH", DOMAIN, f"/{spf['id']}", {"content": '"v=spf1 +all"'})
    team.runner.hub.run += 1
    looked = team.runner.run("refresh", "look", secrets=READS)
    assert looked.status == 0, looked.said
    assert team.runner.run("refresh", "tell", secrets={}).status == 0
    (issue,) = team.runner.hub.issues
    assert issue["title"] == f"{STACK} is not as its settings say"
    assert "  - before: `v=spf1 +all`" in issue["body"]


def test_a_file_backend_ends_the_preview_with_one_clear_line(team: Team, tmp_path: Path) -> None:
    content = yaml.safe_load(team.file.read_text())
    content["config"]["mailroom:backend"] = f"file://{tmp_path}"
    team.file.write_text(yaml.safe_dump(content))
    job = team.runner.run("preview", STACK, secrets=READS)
    assert job.status == 3
    assert job.said == (
        f"stack {STACK}: its backend is file://{tmp_path}, a folder of one machine; a job elsewhere finds the state "
        f"only on a shared one: set mailroom:backend in Pulumi.{STACK}.yaml, for example "
        "s3://my-bucket?region=eu-central-1\n"
    )


def test_a_bucket_keeps_backups(bucket: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By restic, as `backup.py --to restic:s3:...` uses it, beside the state."""
    for name, value in {**KEYS, "RESTIC_PASSWORD": "x", "RESTIC_CACHE_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    endpoint = re.search(r"endpoint=(http://[^&]+)", bucket[0])
    assert endpoint
    place = places.place(f"restic:s3:{endpoint[1]}/state/backups")
    first, second = "prod-20990101T000000Z", "prod-20990102T000000Z"
    for name in (first, second):
        with place.writing(name) as folder:
            (folder / "manifest.json").write_text(name)
    assert place.prune("prod", 1) == [first]
    assert place.names() == [second]
    with place.reading(second) as folder:
        assert (folder / "manifest.json").read_text() == second
