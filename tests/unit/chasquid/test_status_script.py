"""The host's script that tells how it is: recorded outputs of real commands, and parts that are damaged."""

from __future__ import annotations

import importlib
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

COMPONENTS = Path(__file__).resolve().parents[3] / "components"
ALICE = "alice@example.test"
CREATED = 1_795_532_589
REASON = "all MXs returned transient failures (last: Could not dial: dial tcp [2001:db8:101::25]:25: connect: refused)"
QUEUED = f"""\
ID:  "IieqDRsCKTg"
from:  "{ALICE}"
To:  "a@receiver.test"
To:  "b@receiver.test"
rcpt:  {{
  address:  "a@receiver.test"
  status:  SENT
  original_address:  "a@receiver.test"
}}
rcpt:  {{
  address:  "b@receiver.test"
  last_failure_message:  "{REASON}"
  original_address:  "b@receiver.test"
}}
data:  "Subject: x\\n\\nrcpt:  {{\\n  address: \\"fake@receiver.test\\"\\n}}\\ncreated_at_ts:  {{ seconds:  7 }}\\n"
created_at_ts:  {{
  seconds:  {CREATED}
  nanos:  594841980
}}
"""
SYSTEMD = """\
Result=success
NRestarts=4
ExecMainExitTimestamp=
Id=chasquid.service
ActiveState=active
StateChangeTimestamp=@1795532582

Result=exit-code
NRestarts=0
ExecMainExitTimestamp=@1795532000
Id=certbot.service
ActiveState=failed
StateChangeTimestamp=@1795532564

NextElapseUSecRealtime=Wed 2026-11-25 09:26:07 UTC
Result=success
Id=certbot.timer
ActiveState=active
StateChangeTimestamp=@1795532562
"""
JAIL = """\
Status for the jail: sshd
|- Filter
|  |- Currently failed:\t0
`- Actions
   |- Currently banned:\t3
   |- Total banned:\t9
"""
OPENSSL = """\
notBefore=Nov 24 15:02:55 2026 GMT
notAfter=Feb 22 15:02:55 2027 GMT
X509v3 Subject Alternative Name:
    DNS:example.test, DNS:*.example.test
"""
APT = """\
Reading package lists...
Inst libssl3 [3.0.11-1] (3.0.17-1 Debian-Security:12/oldstable-security [amd64])
Inst tzdata [2024a-0] (2026a-0 Debian:12.13/oldstable [all])
Inst libc6 [2.35-0ubuntu3] (2.35-0ubuntu4 Ubuntu:22.04/jammy-updates, Ubuntu:22.04/jammy-security [amd64])
Conf libssl3 (3.0.17-1 Debian-Security:12/oldstable-security [amd64])
"""


def entry(cursor: str, second: int, message: object, **fields: object) -> str:
    return json.dumps({"__CURSOR": cursor, "__REALTIME_TIMESTAMP": f"{second}000000", "MESSAGE": message, **fields})


class Commands:
    """Answers by the beginning of the command line; unknown commands fail."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str]] = {
            "env TZ=UTC systemctl show": (0, SYSTEMD),
            "systemctl show chasquid.service": (0, "ActiveState=active\nMainPID=7\n"),
            "fail2ban-client status": (0, JAIL),
            "openssl": (0, OPENSSL),
            "apt-get": (0, APT),
            "nft": (0, "table inet mailroom"),
            "timedatectl": (0, "NTPSynchronized=yes\n"),
            "journalctl": (0, ""),
        }

    def __call__(self, argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        line = " ".join(argv)
        known = (answer for start, answer in self.answers.items() if line.startswith(start))
        status, text = next(known, (0, "chasquid 1.18.0 (source date x)") if line.endswith("--version") else (1, ""))
        return subprocess.CompletedProcess(argv, status, text, "" if status == 0 else "no such thing")


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Commands) -> Any:
    """The script as the flat module it is on a host, whose folders are below `tmp_path`."""
    for room in ("host", "certificates", "chasquid"):
        monkeypatch.syspath_prepend(str(COMPONENTS / room))
    for name in [name for name in sys.modules if name.partition(".")[0] == "policy"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("hostlib", "status", "suspend", "probe", "guard", "firewall", "sshd", "deploy_hook"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("status")
    for name, value in vars(module).copy().items():
        if name.isupper() and isinstance(value, Path):
            monkeypatch.setattr(module, name, tmp_path / str(value).lstrip("/"))
            getattr(module, name).parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(module.hostlib, "PROC", tmp_path / "proc")
    monkeypatch.setattr(module.hostlib, "run", commands)
    monkeypatch.setattr(module.suspend, "become", lambda _: None)
    monkeypatch.setattr(module.probe, "seen", lambda _: [])
    for folder in (module.QUEUE, module.CURRENT, module.STATE, module.CERTIFICATES / "1-example.test"):
        folder.mkdir(parents=True)
    (module.CERTIFICATES / "1-example.test/fullchain.pem").touch()
    (module.CURRENT / "policy.json").write_text(json.dumps({"users": {ALICE: {}}}))
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/exe").symlink_to("/usr/local/lib/mailroom/chasquid/b52e9b3768a2/chasquid")
    return module


def queue_file(status: Any, text: str = QUEUED, name: str = "m:IieqDRsCKTg", tried: int = CREATED + 400) -> None:
    path = status.QUEUE / name
    path.write_text(text)
    os.utime(path, (tried, tried))


def damaged(picture: dict[str, Any]) -> str:
    (entry,) = picture["damaged"]
    return f"{entry['what']}: {entry['found']}"


def test_a_host_where_all_is_well_has_no_damage(status: Any) -> None:
    seen = json.loads(json.dumps(status.picture()))
    assert seen["damaged"] == []
    assert (seen["queue"]["length"], seen["suspended"], seen["errors"]) == (0, [], [])
    assert seen["usage"][ALICE]["day"] == [0, 1000]
    assert (seen["firewall"], seen["clock"]["synchronized"], seen["reboot"]) == (True, True, False)


def test_a_missing_packet_filter_a_pending_reboot_and_a_clock_of_its_own_are_seen(
    status: Any, commands: Commands
) -> None:
    commands.answers |= {"nft": (1, ""), "timedatectl": (0, "NTPSynchronized=no\n")}
    status.REBOOT.touch()
    seen = status.picture()
    assert (seen["firewall"], seen["clock"]["synchronized"], seen["reboot"]) == (False, False, True)


def test_a_service_tells_its_state_since_when_and_how_often_it_was_restarted(status: Any) -> None:
    seen = status.units(("chasquid.service", "certbot.service", "gone.service"))
    chasquid, certbot, gone = seen.values()
    assert (chasquid["state"], chasquid["since"], chasquid["restarts"]) == ("active", 1_795_532_582, 4)
    assert (certbot["result"], certbot["ended"]) == ("exit-code", 1_795_532_000)
    assert (gone["state"], gone["since"]) == ("unknown", None)


def test_the_next_renewal_is_read_as_systemd_writes_it(status: Any) -> None:
    assert status.units(("certbot.timer",))["certbot.timer"]["next"] == 1_795_598_767


def test_the_running_program_is_known_by_its_directory(status: Any) -> None:
    assert status.program() == {"directory": "b52e9b3768a2", "version": "1.18.0"}


def test_a_stopped_program_is_no_damage(status: Any, commands: Commands) -> None:
    commands.answers["systemctl show chasquid.service"] = (0, "ActiveState=inactive\nMainPID=0\n")
    assert status.program() == {"directory": None, "version": None}


def test_a_queued_message_tells_its_envelope_reason_and_next_try_and_nothing_of_its_body(status: Any) -> None:
    queue_file(status)
    seen = status.queue(status.QUEUE)
    (message,) = seen["messages"]
    assert (seen["length"], seen["oldest"], seen["failure"]) == (1, CREATED, REASON)
    assert message["to"] == [{"address": "b@receiver.test", "status": "PENDING", "failure": REASON}]
    assert (message["id"], message["from"]) == ("IieqDRsCKTg", ALICE)
    assert message["next"] == CREATED + 400 + 600 + 60, "after five minutes chasquid waits for ten, up to one more"
    assert "fake" not in json.dumps(seen)


@pytest.mark.parametrize(("age", "delay"), [(59, 60), (60, 300), (300, 600), (599, 600), (600, 1200), (90_000, 1200)])
def test_the_next_try_follows_the_age_of_the_message(status: Any, age: int, delay: int) -> None:
    queue_file(status, tried=CREATED + age)
    assert status.queue(status.QUEUE)["next"] == CREATED + age + delay + 60


def test_a_long_message_is_not_read_as_a_whole(status: Any) -> None:
    queue_file(status, QUEUED.replace("Subject: x", "x" * 1_000_000))
    assert status.queue(status.QUEUE)["messages"][0]["created"] == CREATED


def test_the_last_failure_is_the_one_of_the_last_try(status: Any) -> None:
    queue_file(status, tried=CREATED + 10)
    queue_file(status, QUEUED.replace(REASON, "newer"), "m:2", tried=CREATED + 20)
    assert status.queue(status.QUEUE)["failure"] == "newer"


def test_a_damaged_message_counts_and_hides_no_other(status: Any) -> None:
    queue_file(status)
    queue_file(status, "\0\1", "m:damaged")
    seen = status.queue(status.QUEUE)
    assert (seen["length"], seen["unreadable"], len(seen["messages"])) == (2, 1, 1)


def test_a_failure_that_a_receiver_wrote_moves_no_cursor(status: Any) -> None:
    queue_file(status, QUEUED.replace(REASON, r"550 \"no\"\x1b[2J\nsecond \u001b line" + "\x1b"))
    text = status.queue(status.QUEUE)["failure"]
    assert text.startswith('550 "no"')
    assert text.isprintable()


def test_errors_come_once_each_the_newest_last_with_printable_text(status: Any, commands: Commands) -> None:
    commands.answers["journalctl"] = (0, "\n".join([
        entry("b", 20, "E queue.go:1 broken", _SYSTEMD_UNIT="chasquid.service"),
        entry("a", 10, list(b"failed\x1b[2J"), UNIT="certbot.service"),
    ]))  # fmt: skip
    assert status.errors() == [
        {"time": 10, "unit": "certbot.service", "text": "failed [2J"},
        {"time": 20, "unit": "chasquid.service", "text": "E queue.go:1 broken"},
    ]


def test_a_certificate_tells_its_names_and_when_a_third_of_its_life_is_left(status: Any) -> None:
    (seen,) = status.certificates()
    assert (seen["name"], seen["names"]) == ("example.test", ["example.test", "*.example.test"])
    assert seen["notAfter"] - seen["renewal"] == 30 * 86400


def test_only_security_updates_count(status: Any) -> None:
    assert status.updates()["security"] == ["libc6", "libssl3"]


def test_a_jail_tells_how_many_it_holds(status: Any) -> None:
    assert status.bans() == {"sshd": 3, "chasquid": 3}


def test_the_renewal_hooks_record_is_handed_on_whatever_it_holds(status: Any) -> None:
    assert status.record() is None
    status.RECORD.write_text('{"failed": ["x"]}')
    assert status.record() == {"failed": ["x"]}


@pytest.mark.parametrize(
    ("command", "part", "what"),
    [
        ("openssl", "certificates", "the certificates"),
        ("apt-get", "updates", "pending updates"),
        ("fail2ban-client", "bans", "fail2ban"),
    ],
)
def test_a_command_that_fails_is_named_and_the_rest_is_seen(
    status: Any, commands: Commands, command: str, part: str, what: str
) -> None:
    for known in [start for start in commands.answers if start.startswith(command)]:
        commands.answers[known] = (1, "")
    seen = status.picture()
    assert seen[part] is None
    assert what in damaged(seen)
    assert seen["services"]["chasquid.service"]["state"] == "active"


def test_damaged_counters_are_named_and_the_rest_is_seen(status: Any) -> None:
    (status.STATE / "counters.sqlite").write_text("no database, but long enough to be read as one" * 100)
    seen = status.picture()
    assert seen["usage"] is None
    assert "counters.sqlite" in damaged(seen)
    assert seen["suspended"] == []


@pytest.mark.parametrize("mark", ["oops", "[]", '{"since": "x"}', "", b"\xff\xfe"])
def test_a_damaged_mark_is_a_suspension_that_says_so(status: Any, mark: str | bytes) -> None:
    folder = status.STATE / "suspended"
    folder.mkdir()
    (folder / ALICE).write_bytes(mark if isinstance(mark, bytes) else mark.encode())
    (folder / "bob@example.test").write_text('{"since": "2026-11-24T10:00:00Z", "reason": "lost"}')
    seen = status.picture()
    assert [entry["user"] for entry in seen["suspended"]] == [ALICE, "bob@example.test"]
    assert "mark is damaged" in seen["suspended"][0]["reason"]
    assert seen["suspended"][1]["reason"] == "lost"
    assert seen["damaged"] == []


def test_a_mark_that_is_no_file_cannot_hold_up_the_script(status: Any) -> None:
    (status.STATE / "suspended").mkdir()
    os.mkfifo(status.STATE / "suspended" / ALICE)
    assert "damaged" in status.picture()["suspended"][0]["reason"]


def test_damaged_settings_of_the_policy_are_named(status: Any) -> None:
    (status.CURRENT / "policy.json").write_text("{")
    seen = status.picture()
    assert "policy.json" in damaged(seen)
    assert seen["usage"] == {}


def test_what_services_may_write_is_read_with_their_rights_alone(
    status: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def become(account: str) -> None:
        with (tmp_path / "became").open("a") as file:
            file.write(f"{account} {os.getpid() != parent}\n")

    parent = os.getpid()
    monkeypatch.setattr(status.suspend, "become", become)
    status.picture()
    became = (tmp_path / "became").read_text().splitlines()
    assert sorted(became) == ["chasquid True", "mailroom-policy True", "mailroom-policy True"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_link_to_a_file_of_roots_is_not_followed(status: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(status.suspend, "become", lambda _: os.setuid(nobody.pw_uid))
    with TemporaryDirectory() as place:  # pytest's own folders are closed to other accounts
        state = Path(place)
        state.chmod(0o755)
        secret = state / "secret"
        secret.write_text('{"since": "x", "reason": "ROOTS-SECRET"}')
        secret.chmod(0o600)
        (state / "suspended").mkdir()
        (state / "suspended").chmod(0o755)  # whatever umask another test left
        (state / "suspended" / ALICE).symlink_to(secret)
        seen = status.as_account("nobody", status.limits.suspended, state)
    assert "ROOTS-SECRET" not in json.dumps(seen)
    assert "PermissionError" in seen[0]["reason"]
