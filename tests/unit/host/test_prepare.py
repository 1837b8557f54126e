"""prepare.py with stand-ins for the package tools: one transaction, locks, interruptions, and its no-op twin."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPTS = Path(__file__).resolve().parents[3] / "components" / "host"
# Each tool logs its call; files in $FAKE tell them what to do: installed (one package a line), audit, fails.
TOOL = """#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >> "$FAKE/calls"
case "$(basename "$0")" in
  dpkg-query) while read -r name; do printf '%s\\tii \\n' "$name"; done < "$FAKE/installed" ;;
  dpkg) case "$1" in --audit) cat "$FAKE/audit" ;; --configure) : > "$FAKE/audit" ;; esac ;;
  apt-get)
    test "$1" = install || exit 0
    if test -s "$FAKE/fails"; then cat "$FAKE/fails"; test -e "$FAKE/for-good" || rm "$FAKE/fails"; exit 100; fi
    for word in "$@"; do case "$word" in -*|install) ;; *) echo "$word" >> "$FAKE/installed" ;; esac; done ;;
esac
"""


@dataclass
class FakeHost:
    """One host made of a folder."""

    root: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def tell(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def calls(self) -> list[str]:
        log = self.root / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def changing_calls(self) -> list[str]:
        return [call for call in self.calls() if not call.startswith(("dpkg-query", "dpkg --audit"))]

    def run(self, *packages: str) -> tuple[int | str | None, str, str]:
        import prepare

        self.monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"packages": packages})))
        with pytest.raises(SystemExit) as stop:
            prepare.main()
        captured = self.capsys.readouterr()
        return stop.value.code, captured.out, captured.err


def clock(sleep: Callable[[float], None]) -> SimpleNamespace:
    """The time module with another sleep; patching the real one would make subprocess spin."""
    return SimpleNamespace(sleep=sleep, monotonic=time.monotonic, strftime=time.strftime)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> FakeHost:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import prepare

    (tmp_path / "bin").mkdir()
    for name in ("apt-get", "dpkg", "dpkg-query", "groupadd", "useradd"):
        (tmp_path / "bin" / name).write_text(TOOL)
        (tmp_path / "bin" / name).chmod(0o755)
    for name in ("audit", "installed"):
        (tmp_path / name).touch()
    (tmp_path / "dpkg" / "updates").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    me = tmp_path.owner()
    monkeypatch.setattr(prepare, "HOMES", {me: tmp_path / "data"})
    monkeypatch.setattr(prepare, "LOG", tmp_path / "log" / "apt.log")
    monkeypatch.setattr(prepare, "DPKG", tmp_path / "dpkg")
    monkeypatch.setattr(prepare, "LOCKS", (tmp_path / "lock",))
    monkeypatch.setattr(prepare, "time", clock(lambda _: None))
    return FakeHost(tmp_path, monkeypatch, capsys)


def test_missing_packages_are_installed_in_one_transaction_without_recommends(host: FakeHost) -> None:
    host.tell("installed", "ca-certificates\n")
    status, out, _ = host.run("ca-certificates", "certbot", "python3")
    assert (status, out) == (0, f"changed: installed certbot python3, made {host.root / 'data'}\n")
    update, install = host.changing_calls()
    assert update.startswith("apt-get update")
    assert install.startswith("apt-get install --no-install-recommends --no-remove")
    assert install.endswith(" certbot python3")
    assert "-oDpkg::Options::=--force-confold" in install


def test_a_second_run_does_not_even_ask_the_mirror(host: FakeHost) -> None:
    host.run("certbot")
    (host.root / "calls").unlink()
    assert host.run("certbot")[:2] == (0, "ok: nothing to do\n")
    assert host.changing_calls() == []


def test_of_alternatives_the_first_is_installed_where_none_is(host: FakeHost) -> None:
    assert host.run("timesyncd | chrony | ntp")[0] == 0
    assert host.changing_calls()[-1].endswith(" timesyncd")


def test_any_of_the_alternatives_will_do(host: FakeHost) -> None:
    host.run()
    host.tell("installed", "chrony\n")
    assert host.run("timesyncd | chrony | ntp")[1] == "ok: nothing to do\n"


def test_the_sender_policy_has_a_user_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import prepare

    assert prepare.HOMES["mailroom-policy"] == Path("/var/lib/mailroom-policy")


@pytest.mark.parametrize(
    "said", ["E: Failed to fetch http://x  404", "E: Could not get lock /var/lib", "Hash Sum mismatch"]
)
def test_a_passing_trouble_is_tried_again(host: FakeHost, said: str) -> None:
    host.tell("fails", said)
    assert host.run("certbot")[0] == 0
    assert len([call for call in host.calls() if call.startswith("apt-get install")]) == 2


def test_tries_end(host: FakeHost) -> None:
    host.tell("for-good", "")
    host.tell("fails", "E: Failed to fetch http://x")
    assert host.run("certbot")[0] == 1
    assert len([call for call in host.calls() if call.startswith("apt-get install")]) == 3


def test_a_trouble_that_stays_is_shown_at_once_with_apts_last_lines(host: FakeHost) -> None:
    host.tell("for-good", "")
    host.tell("fails", "first line\n" + "x" * 100_000 + "\nE: Packages need to be removed but remove is disabled.\n")
    status, _, err = host.run("certbot")
    assert status == 1
    assert err.startswith("error: apt-get could not install certbot, ")
    assert "remove is disabled" in err
    assert max(map(len, err.splitlines())) < 1000
    assert len([call for call in host.calls() if call.startswith("apt-get install")]) == 1


def test_the_log_is_not_for_everybody(host: FakeHost) -> None:
    host.run("certbot")
    log = host.root / "log" / "apt.log"
    assert log.stat().st_mode & 0o777 == 0o640
    assert "apt-get install" in log.read_text()


@pytest.mark.parametrize("trace", ["audit", "journal"])
def test_an_interrupted_installation_is_finished_first(host: FakeHost, trace: str) -> None:
    if trace == "audit":
        host.tell("audit", "The following packages are only half configured: certbot\n")
    else:
        (host.root / "dpkg/updates/0001").touch()
        host.monkeypatch.setattr(Path, "iterdir", replayed(host.root))
    status, out, _ = host.run("certbot")
    assert status == 0
    assert "finished an interrupted installation" in out
    assert host.changing_calls()[0].startswith("dpkg --configure -a")


def replayed(root: Path) -> Any:
    """iterdir() of a journal that `dpkg --configure -a` replays."""
    calls = root / "calls"
    iterdir = Path.iterdir

    def entries(path: Path) -> Any:
        done = calls.exists() and "--configure" in calls.read_text()
        return iter(()) if path.name == "updates" and done else iterdir(path)

    return entries


def test_an_installation_that_cannot_be_finished_is_a_failure(host: FakeHost) -> None:
    (host.root / "dpkg/updates/0001").touch()
    status, _, err = host.run("certbot")
    assert status == 1
    assert "half installed" in err
    assert any("--fix-broken" in call for call in host.calls())


def hold(lock: Path) -> subprocess.Popen[bytes]:
    """A process that holds `lock` as dpkg does."""
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_package_manager_at_work_is_waited_for(host: FakeHost) -> None:
    import prepare

    pauses = []
    with hold(host.root / "lock") as process:

        def release(seconds: float) -> None:
            pauses.append(seconds)
            process.kill()
            process.wait(10)

        host.monkeypatch.setattr(prepare, "time", clock(release))
        assert host.run("certbot")[0] == 0
    assert pauses == [1]


def test_a_lock_that_is_never_freed_is_named(host: FakeHost) -> None:
    import prepare

    host.monkeypatch.setattr(prepare, "LOCK_LIMIT", -1)
    with hold(host.root / "lock") as process:
        status, _, err = host.run("certbot")
        process.kill()
    assert status == 1
    assert f"(pid {process.pid}) holds the package manager's lock" in err
    assert host.changing_calls() == []


def test_a_missing_user_is_made_as_a_system_user_without_login(host: FakeHost) -> None:
    import prepare

    (name,) = prepare.HOMES
    host.monkeypatch.setattr(prepare.pwd, "getpwall", list)
    host.monkeypatch.setattr(prepare.grp, "getgrall", list)
    assert f"added group {name}, added user {name}" in host.run()[1]
    group, user = host.changing_calls()
    assert group.startswith("groupadd --system ")
    assert "--no-create-home --shell /usr/sbin/nologin" in user


def test_a_run_killed_between_group_and_user_converges(host: FakeHost) -> None:
    import prepare

    host.monkeypatch.setattr(prepare.pwd, "getpwall", list)
    group = SimpleNamespace(gr_name=next(iter(prepare.HOMES)))
    host.monkeypatch.setattr(prepare.grp, "getgrall", lambda: [group])
    assert host.run()[0] == 0
    assert [call.split()[0] for call in host.changing_calls()] == ["useradd"]


def test_the_data_directory_is_closed_to_others_also_when_somebody_opened_it(host: FakeHost) -> None:
    host.run()
    (host.root / "data").chmod(0o777)
    assert "made" in host.run()[1]
    assert (host.root / "data").stat().st_mode & 0o777 == 0o750
