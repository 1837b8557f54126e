"""Taking up a stack after a killed run: what it removes, and above all what it leaves alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from operations import recovery, stacks
from standards.finding import Problems

if TYPE_CHECKING:
    from pathlib import Path

ZONE = "a" * 32


def record(number: int, comment: str | None) -> dict[str, Any]:
    return {"id": str(number), "type": "TXT", "name": "example.com", "content": "x", "comment": comment}


@dataclass
class Backend:
    """A file backend, the engine's answers, and a zone."""

    folder: Path
    state: dict[str, Any] = field(default_factory=dict)
    zone: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    refusal: str = ""

    def pulumi(self, stack: str, *arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
        self.calls.append(" ".join(arguments[:2]))
        if self.refusal:
            return subprocess.CompletedProcess([], stacks.NO_STACK, "", f"error: {self.refusal}\n")
        return subprocess.CompletedProcess([], 0, json.dumps({"deployment": self.state}), "")

    def lock(self, pid: int, host: str) -> None:
        place = self.folder / ".pulumi" / "locks" / "organization" / "mailroom" / "dev"
        place.mkdir(parents=True)
        lock = {"pid": pid, "hostname": host, "username": "root", "timestamp": "now"}
        (place / "one.json").write_text(json.dumps(lock))


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    made = Backend(tmp_path)

    class Zone:
        def __init__(self, *_: Any) -> None: ...

        def records(self) -> list[dict[str, Any]]:
            return made.zone

        def remove(self, record_id: str) -> None:
            made.removed.append(record_id)

    settings = SimpleNamespace(cloudflare=SimpleNamespace(api_token=SecretStr("t" * 40), base_url=None))
    monkeypatch.setattr(recovery, "Zone", Zone)
    monkeypatch.setattr(recovery, "pulumi", made.pulumi)
    monkeypatch.setattr(stacks, "settings", lambda _: settings)
    monkeypatch.setattr(
        stacks, "command", lambda _: ("pulumi", {"PULUMI_BACKEND_URL": f"file://{tmp_path}?metadata=skip"})
    )
    return made


def known(*ids: str) -> list[dict[str, Any]]:
    return [{"type": recovery.DNS_RECORD, "id": number, "inputs": {"zoneId": ZONE}} for number in ids]


def test_a_record_of_ours_that_the_state_does_not_know_is_removed(backend: Backend) -> None:
    backend.state = {"resources": known("1")}
    backend.zone = [record(1, "why mailroom:dev"), record(2, "why mailroom:dev")]
    recovery.recover("dev")
    assert backend.removed == ["2"]


def test_a_record_that_a_killed_run_had_begun_is_removed_and_its_beginning_forgotten(backend: Backend) -> None:
    begun = {"type": recovery.DNS_RECORD, "inputs": {"zoneId": ZONE}}
    backend.state = {"pending_operations": [{"resource": begun, "type": "creating"}]}
    backend.zone = [record(2, "why mailroom:dev")]
    recovery.recover("dev")
    assert backend.removed == ["2"]
    assert "refresh --yes" in backend.calls


@pytest.mark.parametrize("comment", [None, "by hand", "why mailroom:prod"])
def test_records_of_others_stay(backend: Backend, comment: str | None) -> None:
    backend.state = {"resources": known("1")}
    backend.zone = [record(1, "why mailroom:dev"), record(2, comment)]
    recovery.recover("dev")
    assert backend.removed == []


def test_a_zone_that_this_state_does_not_serve_is_left_alone(backend: Backend) -> None:
    backend.state = {"resources": []}
    backend.zone = [record(2, "why mailroom:dev")]
    recovery.recover("dev")
    assert backend.removed == []


def test_a_stack_that_cannot_be_read_is_not_called_recovered(backend: Backend) -> None:
    backend.refusal = "no stack named 'dev' found"
    with pytest.raises(Problems, match="no stack named 'dev' found"):
        recovery.recover("dev")


def test_a_dead_runs_lock_is_removed(backend: Backend) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    backend.lock(gone.pid, socket.gethostname())
    recovery.recover("dev")
    assert "cancel --yes" in backend.calls


@pytest.mark.parametrize("host", [socket.gethostname(), "another-machine"])
def test_a_run_that_may_be_alive_is_left_in_peace(backend: Backend, host: str) -> None:
    backend.lock(os.getpid(), host)
    with pytest.raises(Problems, match=f"process {os.getpid()} of root on {host}"):
        recovery.recover("dev")
    assert backend.calls == []
