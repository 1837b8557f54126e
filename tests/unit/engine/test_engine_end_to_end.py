"""The real engine drives all stand-ins: up, nothing to do, destroy.  A missing engine fails here, it is not skipped."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.engine.project import laid_out

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "lab-cloudflare-api-token-not-a-secret-000001"
PROGRAM = """
import pulumi
from pulumi.dynamic import CreateResult, Resource, ResourceProvider
from pulumi_command import remote

class Provider(ResourceProvider):
    def create(self, props):
        return CreateResult("made", {**props, "made": "here"})

class Made(Resource):
    made: pulumi.Output[str]
    def __init__(self, name):
        super().__init__(Provider(), name, {"made": None})

config = pulumi.Config()
step = remote.Command(
    "step",
    connection=config.require_secret_object("connection"),
    create="cat",
    stdin=config.require_secret("word"),
    logging=remote.Logging.NONE,
    opts=pulumi.ResourceOptions(additional_secret_outputs=["stdout", "stderr"]),
)
record = pulumi.CustomResource(
    "cloudflare:index/dnsRecord:DnsRecord",
    "record",
    {"zoneId": "f" * 32, "name": "smtp.example.test", "type": "A", "ttl": 300, "content": "198.51.100.10"},
    pulumi.ResourceOptions(version="6.23.1", depends_on=[step]),
)
pulumi.export("made", Made("made").made)
pulumi.export("word", step.stdout)
"""

Pulumi = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pulumi(tmp_path: Path, server: Any, api: Any) -> Pulumi:
    """Runs the engine of this checkout in a new project with its own backend, and tells of its failure."""
    engine, environment = laid_out(tmp_path, "three", PROGRAM)
    environment |= {"CLOUDFLARE_API_TOKEN": TOKEN, "CLOUDFLARE_BASE_URL": api.base}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [engine, *arguments, "--non-interactive"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    run("stack", "init", "dev")
    run("config", "set", "--secret", "connection", json.dumps(server.connection()))
    run("config", "set", "--secret", "word", "canary-word")
    return run


def test_three_resources_are_made_kept_and_destroyed(pulumi: Pulumi, api: Any, tmp_path: Path) -> None:
    shown = pulumi("up", "--yes", "--skip-preview").stdout
    assert "+ 4 created" in shown
    assert "warning" not in shown
    assert [record["content"] for record in api.records.values()] == ["198.51.100.10"]
    assert json.loads(pulumi("stack", "output", "--json").stdout) == {"made": "here", "word": "[secret]"}

    requests = list(api.requests)
    pulumi("preview", "--expect-no-changes")
    assert api.requests == requests  # a preview sends nothing

    state = "".join(path.read_text() for path in (tmp_path / "state").rglob("*.json*") if path.is_file())
    assert "198.51.100.10" in state
    assert "canary-word" not in state
    assert "PRIVATE KEY" not in state

    assert "- 4 deleted" in pulumi("destroy", "--yes", "--skip-preview").stdout
    assert api.records == {}
