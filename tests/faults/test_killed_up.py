"""Whatever dies in the middle, the next run converges: the engine, the host's power, the host for good.

The tests of this file tell one story on one host: each run goes on where a kill ended the one before.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from operations import recovery, stacks
from tests.lab.live_run import LiveRun, forget
from tests.lab.program import HOST, Stack
from tests.unit.docs.commands import to_type

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Lab


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Iterator[Stack]:
    vps = lab.fresh_vps(octet=13)
    made = Stack(lab, vps)
    made.point_back()
    made.write()
    yield made
    forget(made)
    lab.remove_vps(vps)


def pending(stack: Stack) -> list[Any]:
    exported = recovery.pulumi(stack.name, "stack", "export", capture=True)
    return list(json.loads(exported.stdout)["deployment"].get("pending_operations") or [])


def converge(stack: Stack) -> None:
    """What `make up` does after a kill: take the stack up where it is, and run again."""
    recovery.recover(stack.name)
    done = stack.up()
    assert done.returncode == 0, done.stdout
    assert "pending" not in done.stdout
    assert not pending(stack)


def is_trusted(stack: Stack) -> None:
    status, report = stack.send()
    assert status == 0, report


def runs_on_host(stack: Stack, script: str) -> None:
    """Return while a step's script runs on the host."""
    pattern = f"{script[0]}[{script[1]}]{script[2:]}"  # does not match the searching shell itself
    seen = stack.vps.ssh(f"for i in $(seq 600); do pgrep -f 'python3 .*{pattern}' && exit 0; sleep 0.05; done; exit 1")
    assert seen.returncode == 0


def test_killed_after_the_first_record_it_goes_on_without_a_second_one(stack: Stack) -> None:
    with LiveRun(stack) as run:
        run.wait_for(r"DnsRecord .* created")
        run.kill()
    assert any("mailroom:" in (record["comment"] or "") for record in stack.records())
    recovery.recover(stack.name)
    assert not pending(stack)


def test_killed_while_the_host_asks_for_certificates_it_goes_on(stack: Stack) -> None:
    with LiveRun(stack) as run:
        run.wait_for(rf"{HOST}/certificate creating")
        runs_on_host(stack, "certificate.py")
        run.kill()
    recovery.recover(stack.name)


def test_killed_in_the_activation_it_goes_on_and_the_mail_is_trusted(stack: Stack) -> None:
    with LiveRun(stack) as run:
        run.wait_for(rf"{HOST}/activate creating")
        run.kill()
    converge(stack)
    is_trusted(stack)
    names = [(record["type"], record["name"], record["content"]) for record in stack.records()]
    assert len(names) == len(set(names))


def test_a_host_whose_power_fails_in_the_activation_converges_when_it_is_back(stack: Stack) -> None:
    domain = stack.settings["mailroom:domains"][0]
    domain["dkim"] = [{"selector": "m1"}, {"selector": "m2"}]
    stack.write()
    with LiveRun(stack) as run:
        run.wait_for(rf"{HOST}/activate (creating|updating)")
        stack.vps.kill9()
        run.kill()  # as a person does: the provider waits for a lost host for as long as TCP does
    stack.vps.start()
    converge(stack)
    is_trusted(stack)


def test_a_destroy_without_its_host_fails_after_one_dial(stack: Stack) -> None:
    stack.vps.kill9()
    started = time.monotonic()
    done = stack.run("destroy", "--yes", "--skip-preview")
    assert time.monotonic() - started < 30
    assert done.returncode != 0
    assert "Traceback" not in done.stdout, done.stdout
    assert f"{HOST}/uninstall" in done.stdout
    assert f"dial tcp {stack.vps.ipv4}:22" in done.stdout
    assert not [record for record in stack.records() if record["type"] == "MX"], "mail still comes to a dead host"
    assert [record for record in stack.records() if record["name"] == HOST]


def documented_way_out(stack: Stack) -> str:
    """The commands of the page, for this stack and its host."""
    (lines,) = to_type("docs/operations.md", __file__)
    return "\n".join(lines).replace("smtp.example.com", HOST).replace("-s prod", f"-s {stack.name}")


def test_the_documented_way_out_removes_the_rest(stack: Stack) -> None:
    program, environment = stacks.command(stack.name)
    environment["PATH"] = f"{Path(program).parent}:{environment['PATH']}"
    environment["PULUMI_SKIP_CONFIRMATIONS"] = "true"  # instead of a person's "yes"
    done = subprocess.run(
        ["bash", "-e", "-c", documented_way_out(stack)],
        cwd=stacks.CHECKOUT, env=environment, capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert stack.records() == []
    assert recovery.pulumi(stack.name, "stack", "export", capture=True).stdout.count('"urn"') == 0
