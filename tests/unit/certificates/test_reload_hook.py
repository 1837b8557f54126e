"""reload_hook.py: copies for other services, the operator's commands, and what is told when they fail."""

from __future__ import annotations

import grp
import json
import os
import socket
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Answer, FakeHost

HOST, DOMAIN = "smtp.example.com", "example.com"
GROUP = grp.getgrgid(os.getgid()).gr_name
NOTHING = "ok: nothing to do\n"
SAY = 'echo "$RENEWED_LINEAGE $RENEWED_DOMAINS" >> "$FAKE_LOGS/reloaded"\n'


def run(host: FakeHost, *hooks: str, **changed: Any) -> Answer:
    """An `up` with these reload hooks of the domain."""
    first, second = host.payload["certificates"]
    return host.run(certificates=[first, {**second, "hooks": list(hooks)}], **changed)


def reloaded(host: FakeHost) -> list[str]:
    path = host.root / "logs/reloaded"
    return path.read_text().splitlines() if path.exists() else []


def state(host: FakeHost) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((host.root / "state/certificates.json").read_text())
    return found


def renew(host: FakeHost, name: str) -> None:
    """What certbot and mailroom-deploy do at a renewal."""
    import deploy_hook

    deploy_hook.deploy(host.issue(name), HOST)


def copies(host: FakeHost, folder: str = "copies") -> dict[str, str]:
    return {"folder": str(host.root / folder), "group": GROUP}


def test_a_hook_runs_once_for_each_new_certificate_with_its_lineage_and_names(host: FakeHost) -> None:
    import reload_hook

    assert "ran the reload hooks of example.com" in run(host, SAY).stdout
    assert reloaded(host) == [f"{host.letsencrypt}/live/{DOMAIN} {DOMAIN} *.{DOMAIN}"]
    assert run(host, SAY).stdout == NOTHING
    renew(host, HOST)
    assert reload_hook.hand_on() == ([], [])
    renew(host, DOMAIN)
    assert reload_hook.hand_on(HOST) == ([], [])
    assert reload_hook.hand_on(DOMAIN) == ([f"ran the reload hooks of {DOMAIN}"], [])
    assert len(reloaded(host)) == 2


def test_a_hook_has_a_time_limit_and_none_of_certbots_sandbox(host: FakeHost) -> None:
    run(host, SAY)
    said = (host.root / "logs/systemd-run").read_text()
    assert "--property=RuntimeMaxSec=60 " in said
    assert "--wait" in said


def test_a_script_brings_its_own_interpreter_and_a_command_line_stops_at_its_first_failure(host: FakeHost) -> None:
    python = '#!/usr/bin/python3\nimport os\nopen(os.environ["FAKE_LOGS"] + "/reloaded", "a").write("python\\n")\n'
    answer = run(host, python, f"false\n{SAY}")
    assert reloaded(host) == ["python"]
    assert "FAILED: reload hook 2 of example.com ended with 1: it said nothing" in answer.stdout


def test_a_failing_hook_stops_neither_the_step_nor_the_next_hook_and_is_noted(host: FakeHost) -> None:
    answer = run(host, "echo went wrong; exit 3\n", SAY)
    assert answer.status == 0
    assert len(reloaded(host)) == 1
    assert state(host)["hooks"][DOMAIN]["failed"] == [f"reload hook 1 of {DOMAIN} ended with 3: went wrong"]
    assert "start --no-block mailroom-certificate-report.service" in host.systemctl_runs()


def test_a_failed_hook_is_tried_again_an_hour_later_and_forgotten_when_it_works(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    import reload_hook

    run(host, f'{SAY}test -e "$FAKE_LOGS/mended"\n')
    assert reload_hook.hand_on() == ([], [])
    now = reload_hook.time.time()
    monkeypatch.setattr(reload_hook, "time", SimpleNamespace(time=lambda: now + 3700, monotonic=lambda: 0))
    host.flag("mended")
    assert reload_hook.hand_on() == ([f"ran the reload hooks of {DOMAIN}"], [])
    assert reload_hook.problems(state(host)) == {}
    assert reload_hook.hand_on() == ([], [])


def test_a_changed_hook_runs_at_once_and_a_removed_one_never(host: FakeHost) -> None:
    run(host, "false\n")
    run(host, SAY)
    assert len(reloaded(host)) == 1
    assert "wrote the reload hooks" in run(host).stdout
    assert list((host.letsencrypt / "mailroom/hooks").iterdir()) == []
    assert state(host)["hooks"] == {}


def test_copies_are_root_and_group_alone_and_follow_a_renewal(host: FakeHost) -> None:
    import reload_hook

    assert "refreshed the copies" in host.run(copies=copies(host)).stdout
    assert host.run().stdout == NOTHING
    folder = host.root / "copies" / DOMAIN
    assert {path.stat().st_mode & 0o7777 for path in folder.iterdir()} == {0o640}
    assert folder.stat().st_mode & 0o7777 == folder.parent.stat().st_mode & 0o7777 == 0o750
    renew(host, DOMAIN)
    assert reload_hook.hand_on() == (["refreshed the copies"], [])
    for file in ("fullchain.pem", "privkey.pem"):
        assert (folder / file).read_bytes() == (host.letsencrypt / "live" / DOMAIN / file).read_bytes()


def test_copies_go_with_the_setting_the_folder_and_the_certificate(host: FakeHost) -> None:
    host.run(copies=copies(host))
    host.run(certificates=host.payload["certificates"][:1])
    assert sorted(path.name for path in (host.root / "copies").iterdir()) == [".mailroom", HOST]
    host.run(copies=copies(host, "elsewhere"))
    assert not (host.root / "copies").exists()
    (host.root / "elsewhere/theirs").write_text("x")
    assert "removed the copies in" in host.run(copies=None).stdout
    assert [path.name for path in (host.root / "elsewhere").rglob("*")] == ["theirs"]


@pytest.mark.parametrize("spoil", ["theirs", "writable above", "link above", "link"])
def test_a_folder_where_keys_are_not_safe_is_refused_before_anything_is_issued(host: FakeHost, spoil: str) -> None:
    folder = host.root / "above/copies"
    folder.parent.mkdir()
    if spoil == "theirs":
        folder.mkdir()
        (folder / "file").write_text("x")
    elif spoil == "writable above":
        folder.parent.chmod(0o777)
    elif spoil == "link above":
        folder.parent.rename(host.root / "other")
        folder.parent.symlink_to(host.root / "other")
    else:
        folder.symlink_to(host.root / "mailroom")
    answer = host.run(copies=copies(host, "above/copies"))
    assert answer.status == 1
    assert "certificateCopies" in answer.stderr
    assert host.certbot_runs() == []


def test_copies_that_cannot_be_written_at_a_renewal_are_noted_and_hooks_run_all_the_same(host: FakeHost) -> None:
    import reload_hook

    run(host, SAY, copies=copies(host))
    (host.root / "copies/.mailroom").unlink()
    renew(host, DOMAIN)
    done, (problem,) = reload_hook.hand_on()
    assert done == [f"ran the reload hooks of {DOMAIN}"]
    assert "holds something that is not ours" in problem
    assert reload_hook.problems(state(host)) == {"copies": problem}


@pytest.fixture
def told(host: FakeHost) -> list[bytes]:
    """What the sender policy was handed."""
    requests: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(host.root / "policy-socket"))
    listener.listen()

    def take() -> None:
        while True:
            connection = listener.accept()[0]
            requests.append(connection.makefile("rb").read())
            connection.sendall(b"verdict 0\n")
            connection.close()

    threading.Thread(target=take, daemon=True).start()
    return requests


def unit(host: FakeHost, **facts: str) -> None:
    """How certbot.service ended."""
    lines = "".join(f"echo {key}={value}\n" for key, value in facts.items())
    path = host.root / "bin/systemctl"
    path.write_text(f'#!/bin/sh\n[ "$1" = show ] && {{\n{lines}}}\nexit 0\n')
    journal = host.root / "bin/journalctl"
    journal.write_text("#!/bin/sh\necho certbot said this\n")
    journal.chmod(0o755)


def test_a_failed_renewal_is_noted_and_told_once_until_it_works(
    host: FakeHost, told: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import reload_hook

    host.run()
    unit(host, Result="exit-code", ExecMainStatus="1", InvocationID="one")
    for _ in range(2):
        reload_hook.main(["--report"])
    assert reload_hook.problems(state(host)) == {"renewal": "certificates were not renewed: certbot said this"}
    (request,) = told
    assert request.startswith(b"notice\0\0\0\0\0\0\0Subject: ")
    assert b"certbot said this" in request
    monkeypatch.setenv("SERVICE_RESULT", "success")
    reload_hook.main(["--all"])
    assert reload_hook.problems(state(host)) == {}


def test_a_report_and_a_renewal_at_one_time_lose_nothing_of_each_other(
    host: FakeHost, told: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import reload_hook

    host.run()
    monkeypatch.setenv("INVOCATION_ID", "two")
    renewal = threading.Thread(target=reload_hook.note_run)

    def failure(_: object) -> str:
        renewal.start()
        renewal.join(0.2)
        return "it failed"

    monkeypatch.setattr(reload_hook, "failure_of_renewal", failure)
    reload_hook.report()
    renewal.join()
    assert state(host)["renewal"] == "it failed"
    assert state(host)["run"] == "two"
    assert len(told) == 1


def test_what_hooks_and_certbot_said_is_for_root_alone(host: FakeHost) -> None:
    run(host, "echo my secret; exit 3\n")
    for path in (host.root / "state").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_a_failed_hook_is_told_as_what_it_is_and_not_as_a_failed_renewal(
    host: FakeHost, told: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import reload_hook

    run(host, "exit 3\n")
    monkeypatch.setenv("INVOCATION_ID", "one")
    with pytest.raises(SystemExit):  # so certbot.service fails, and with it the report comes
        reload_hook.main(["--all"])
    unit(host, Result="exit-code", ExecMainStatus="0", InvocationID="one")
    reload_hook.main(["--report"])
    (request,) = told
    assert b"reload hook 1 of example.com ended with 3" in request
    assert "renewal" not in reload_hook.problems(state(host))
    # The next run: mailroom-deploy failed, so mailroom-reload was never reached.
    unit(host, Result="exit-code", ExecMainStatus="0", InvocationID="two")
    reload_hook.main(["--report"])
    assert "renewal" in reload_hook.problems(state(host))
    assert len(told) == 2


def test_without_the_policy_the_notice_is_tried_again_next_time(host: FakeHost) -> None:
    import reload_hook

    run(host, "exit 3\n")
    unit(host, Result="success")
    reload_hook.main(["--report"])
    assert "told" not in state(host)


def test_a_failed_hook_makes_the_renewal_run_fail_so_that_it_is_reported(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    import reload_hook

    run(host)
    (host.letsencrypt / "mailroom/hooks" / f"{DOMAIN}:00").write_text("#!/bin/sh\nexit 3\n")
    (host.letsencrypt / "mailroom/hooks" / f"{DOMAIN}:00").chmod(0o700)
    wanted = json.loads((host.root / "mailroom/certificates.json").read_text())
    wanted["certificates"][DOMAIN]["hooks"] = 1
    (host.root / "mailroom/certificates.json").write_text(json.dumps(wanted))
    monkeypatch.setenv("RENEWED_LINEAGE", f"/etc/letsencrypt/live/{DOMAIN}")
    with pytest.raises(SystemExit) as stop:
        reload_hook.main([])
    assert "ended with 3" in str(stop.value.code)
