"""The host's script that stops a user, and the service that goes by its mark."""

from __future__ import annotations

import importlib
import io
import json
import os
import pwd
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from components.chasquid.policy import limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from components.chasquid.policy.limits import Store

ALICE = "alice@example.com"
COMPONENTS = Path(limits.__file__).parents[2]
Run = "Callable[..., tuple[int, str]]"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as the flat module it is on a host, which it believes to run as root."""
    for room in ("host", "chasquid"):
        monkeypatch.syspath_prepend(str(COMPONENTS / room))
    for name in ("hostlib", "suspend"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("suspend")
    monkeypatch.setattr(module, "SUSPENDED", tmp_path / "suspended")
    monkeypatch.setattr(module, "ACCOUNT", pwd.getpwuid(os.getuid()).pw_name)
    return module


@pytest.fixture
def run(script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(user: str, lift: bool = False, reason: str = "") -> tuple[int, str]:
        payload = {"user": user, "lift": lift, "reason": reason}
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(payload)))
        for name in ("setgroups", "setgid", "setuid"):
            monkeypatch.setattr(script.os, name, lambda _: None)
        with pytest.raises(SystemExit) as end:
            script.main()
        return int(end.value.code or 0), "".join(capsys.readouterr())

    return call


def test_a_suspended_user_is_seen_by_the_service_at_once_and_lifted_by_the_same_script(
    run: Run, store: Store, tmp_path: Path
) -> None:
    assert run("Alice@Example.com ", reason="lost") == (0, f"changed: {ALICE} may not send any more\n")
    assert store.suspended(ALICE)
    (entry,) = limits.suspended(tmp_path)
    assert (entry["user"], entry["reason"]) == (ALICE, "lost")
    assert run(ALICE, lift=True) == (0, f"changed: {ALICE} may send again\n")
    assert not store.suspended(ALICE)


def test_a_second_run_changes_nothing(run: Run, tmp_path: Path) -> None:
    assert run(ALICE, lift=True) == (0, "ok: nothing to do\n")
    run(ALICE, reason="lost")
    before = (tmp_path / "suspended" / ALICE).read_bytes()
    assert run(ALICE, reason="other") == (0, "ok: nothing to do\n")
    assert (tmp_path / "suspended" / ALICE).read_bytes() == before


def test_nobody_else_can_read_who_is_suspended(run: Run, tmp_path: Path) -> None:
    run(ALICE)
    assert stat.S_IMODE((tmp_path / "suspended").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "suspended" / ALICE).stat().st_mode) == 0o640


@pytest.mark.parametrize("user", ["alice", "@example.com", "../x@y", "x/../../y@z", ".new@x", "a@b@c", "a b@c", ""])
def test_what_is_no_address_is_refused_before_anything_is_touched(run: Run, tmp_path: Path, user: str) -> None:
    status, said = run(user)
    assert status == 1
    assert "expected one such as i@example.com" in said
    assert not (tmp_path / "suspended").exists()


def test_root_goes_on_as_the_service_before_it_looks_at_the_services_folder(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[Any] = []
    for name in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(script.os, name, lambda value, name=name: became.append((name, value)))
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"user": ALICE, "lift": True})))
    monkeypatch.setattr(script.Path, "exists", lambda _: became.append("exists"))
    with pytest.raises(SystemExit):
        script.main()
    entry = pwd.getpwuid(os.getuid())
    assert became == [("setgroups", []), ("setgid", entry.pw_gid), ("setuid", entry.pw_uid), "exists"]


def test_a_host_without_the_account_says_what_to_do(script: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "ACCOUNT", "nobody-of-this-name")
    status, said = run(ALICE)
    assert status == 1
    assert "no account nobody-of-this-name" in said
    assert "pulumi up" in said
