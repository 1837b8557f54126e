"""A host from dark to pinned, with recorded answers: what is waited for, which key is kept, and which never."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest
from rich.console import Console

from operations import dns, preflight, report, ssh
from operations.new_stack import EXAMPLE_KEY
from operations.preflight import Request, contact, outside
from operations.ssh import Completed, Met
from standards.finding import Problems, error_about

if TYPE_CHECKING:
    from pathlib import Path

V4, V6 = "192.0.2.10", "2001:db8::10"
REAL, INSTALLER, OLD = (
    asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().split("\n")[0] for _ in range(3)
)
NOW = 1_800_000_000.0
FACTS: dict[str, Any] = {
    "os_id": "debian", "os_version": "13", "os_name": "Debian GNU/Linux 13 (trixie)", "arch": "amd64", "kernel": "6",
    "systemd": True, "disk_free_mb": 9000, "memory_mb": 2000, "user": "root", "root": True, "sudo": False,
    "listeners": [], "mtas": [], "addresses": {"eth0": [V4, V6]}, "apt_lock": None, "cloud_init": "done",
    "hardware": ["QEMU", ""], "python": "3.13.5", "time": NOW,
}  # fmt: skip
TINYCORE = 'NAME=TinyCore\nID=tinycore\nVERSION_ID=15.0\nPRETTY_NAME="TinyCoreLinux 15.0"\n'
TRIES = [
    {
        "server": server,
        "address": address,
        "family": family,
        "outcome": "ok",
        "greeting": f"220 {server} E",
        "reply": "",
    }
    for server in ("a.test", "b.test")
    for family, address in ((4, "198.51.100.1"), (6, "2001:db8:1::1"))
]
STACK = f"config:\n  mailroom:hosts:\n  - name: smtp.example.com # ours\n    ipv4: {V4}\n    ipv6: '{V6}'\n"


def refused() -> Problems:
    text = {"expected": "e", "found": "connection refused", "why": "w", "fix": "f"}
    return Problems("no way in", [error_about(f"{V4}:22", "ssh.refused", **text)])


def facts(key: str = REAL, **changed: Any) -> Met:
    return Met(Completed(0, json.dumps(FACTS | changed), ""), key, ssh.fingerprint(key))


def tinycore() -> Met:
    return Met(Completed(0, TINYCORE, ""), INSTALLER, ssh.fingerprint(INSTALLER))


class World:
    """What the host answers look by look, and the clock that waiting moves."""

    def __init__(self) -> None:
        self.answers: list[Met | Problems] = [facts()]
        self.clock = 0.0
        self.targets: list[ssh.Target] = []
        self.ran: list[ssh.Target] = []
        self.said: list[str] = []

    def meet(self, target: ssh.Target, command: str, input: str | None = None, timeout: float = 60) -> Met:  # noqa: A002
        self.targets.append(target)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Problems):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def outbound(self, target: ssh.Target, receivers: Any) -> dict[str, Any]:
        self.ran.append(target)
        return {"user": "root", "unresolved": [], "tries": TRIES}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")
    monkeypatch.setattr(ssh, "meet", world.meet)
    monkeypatch.setattr(contact.time, "sleep", world.sleep)
    monkeypatch.setattr(contact.time, "monotonic", lambda: world.clock)
    monkeypatch.setattr(contact.time, "time", lambda: NOW)
    monkeypatch.setattr(outside, "outbound", world.outbound)
    reached = dict.fromkeys(outside.PORTS, outside.LISTENER)
    monkeypatch.setattr(
        outside, "inbound", lambda target, addresses, _: outside.Inbound(dict.fromkeys(addresses, reached))
    )
    monkeypatch.setattr(dns.Resolver, "resolve", lambda *_: ["smtp.example.com"])
    monkeypatch.setattr(dns.Resolver, "addresses", lambda *_: [])
    monkeypatch.setattr(dns, "check_ptr", lambda *_: [])
    return world


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    path = tmp_path / "Pulumi.prod.yaml"
    path.write_text(STACK)
    return path


def run(world: World, folder: Path, **wanted: Any) -> preflight.Result:
    return preflight.run(Request(**({"address": V4} | wanted)), world.said.append, folder)


def ids(result: preflight.Result) -> list[str]:
    return [finding.id for finding in result.findings]


def test_a_fit_host_is_looked_at_once_and_its_key_is_written_only_when_asked(world: World, stack: Path) -> None:
    result = run(world, stack.parent)
    assert ids(result) == ["preflight.unpinned"]
    assert REAL in result.findings[0].fix
    assert stack.read_text() == STACK
    assert len(world.targets) == 1
    assert report.exit_code(result.findings) == 0

    assert run(world, stack.parent, pin=True).findings == []
    assert stack.read_text() == f"{STACK}    hostKey: {REAL}\n"


def test_through_darkness_an_installer_and_the_first_boot_only_the_real_key_is_kept(world: World, stack: Path) -> None:
    lock = {"pid": 7, "process": "apt-get"}
    world.answers = [
        *[refused()] * 3, tinycore(), tinycore(), refused(),
        facts(cloud_init="running"), facts(apt_lock=lock), facts(),
    ]  # fmt: skip
    result = run(world, stack.parent, pin=True, limit=600)
    assert result.findings == []
    assert INSTALLER not in stack.read_text()
    assert REAL in stack.read_text()
    told = "\n".join(world.said)
    assert told.count("connection refused") == 2, "it repeats itself, or says nothing"
    for words in (
        "TinyCoreLinux 15.0",
        ssh.fingerprint(INSTALLER),
        "cloud-init",
        "lock of dpkg",
        ssh.fingerprint(REAL),
    ):
        assert words in told


@pytest.mark.parametrize("options", [{"pin": True}, {"repin": True, "pin": True}])
def test_without_waiting_an_installers_key_is_not_pinned_either(world: World, stack: Path, options: Any) -> None:
    world.answers = [tinycore()]
    result = run(world, stack.parent, **options)
    assert ids(result) == ["host-os"]
    assert stack.read_text() == STACK
    assert world.ran == [], "the ports of an installer were tried"


def test_waiting_ends_with_the_last_reason_when_time_is_out(world: World, stack: Path) -> None:
    world.answers = [refused(), tinycore()]
    with pytest.raises(Problems, match=r"TinyCoreLinux 15\.0; waited for 60 s"):
        run(world, stack.parent, pin=True, limit=62)
    assert stack.read_text() == STACK


def test_a_first_boot_that_never_ends_is_an_error_when_time_is_out(world: World, stack: Path) -> None:
    world.answers = [facts(cloud_init="running")]
    with pytest.raises(Problems) as caught:
        run(world, stack.parent, limit=30)
    assert [(each.severity, each.id) for each in caught.value.findings] == [("error", "host-cloud-init")]


def test_a_host_that_boots_is_not_waited_for_unasked(world: World, stack: Path) -> None:
    world.answers = [refused()]
    with pytest.raises(Problems, match="connection refused"):
        run(world, stack.parent)
    assert world.clock == 0


def test_another_pinned_key_stays_until_told_otherwise(world: World, stack: Path) -> None:
    pinned = f"{STACK}    hostKey: {OLD}\n"
    stack.write_text(pinned)
    result = run(world, stack.parent, pin=True)
    assert ids(result) == ["preflight.another-key"]
    assert ssh.fingerprint(OLD) in result.findings[0].expected
    assert ssh.fingerprint(REAL) in result.findings[0].found
    assert stack.read_text() == pinned

    assert run(world, stack.parent, pin=True, repin=True).findings == []
    assert stack.read_text() == pinned.replace(OLD, REAL)


def test_the_key_of_the_shipped_example_is_nobodys_and_gives_way(world: World, stack: Path) -> None:
    stack.write_text(f"{STACK}    hostKey: {EXAMPLE_KEY} # yours\n")
    assert run(world, stack.parent, pin=True).findings == []
    assert stack.read_text() == f"{STACK}    hostKey: {REAL} # yours\n"


def test_the_ports_are_tried_over_the_key_that_was_just_seen(world: World, stack: Path) -> None:
    run(world, stack.parent)
    assert [target.host_key for target in world.ran] == [REAL]


def test_no_login_is_tried_without_a_key_to_log_in_with(
    world: World, stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK")
    with pytest.raises(Problems, match="ssh-add"):
        run(world, stack.parent, limit=600)
    assert world.targets == []


def test_user_and_port_come_from_the_stack_and_options_overrule_them(world: World, stack: Path) -> None:
    stack.write_text(f"{STACK}    ssh: {{user: debian, port: 2222}}\n")
    run(world, stack.parent)
    run(world, stack.parent, user="root", port=22)
    assert [(each.user, each.port, each.sudo) for each in world.targets] == [
        ("debian", 2222, True),
        ("root", 22, False),
    ]


def test_a_host_that_no_stack_lists_is_judged_and_its_key_shown(world: World, tmp_path: Path) -> None:
    result = run(world, tmp_path, pin=True)
    assert ids(result) == ["preflight.unpinned"]
    assert result.findings[0].severity == "warning", "asked to pin, and nothing was pinned"
    assert REAL in result.findings[0].fix


def test_a_stack_that_does_not_list_the_host_is_told_with_those_it_lists(world: World, stack: Path) -> None:
    with pytest.raises(Problems, match=f"hosts: {V4}"):
        run(world, stack.parent, address="192.0.2.99", stack="prod")
    assert world.targets == []


def test_with_two_stacks_for_one_host_the_key_goes_into_neither(world: World, stack: Path) -> None:
    (stack.parent / "Pulumi.test.yaml").write_text(STACK)
    with pytest.raises(Problems, match="--stack prod"):
        run(world, stack.parent, pin=True)
    assert run(world, stack.parent, pin=True, stack="test").pinned_in == "Pulumi.test.yaml"
    assert stack.read_text() == STACK


def test_a_wrong_setting_of_the_host_is_told_before_anything_is_tried(world: World, stack: Path) -> None:
    stack.write_text(f"{STACK}    arhc: amd64\n")
    with pytest.raises(Problems, match=r"mailroom:hosts\[0\]\.arhc"):
        run(world, stack.parent)
    assert world.targets == []


def test_a_full_disk_a_wrong_clock_and_a_postfix_are_told_by_the_requirements_of_the_gate(
    world: World, stack: Path
) -> None:
    postfix = {"port": 25, "address": "0.0.0.0", "process": "master", "exe": "/usr/lib/postfix/sbin/master"}
    world.answers = [
        facts(disk_free_mb=10, time=NOW - 3600, mtas=["postfix"], listeners=[postfix | {"package": "postfix"}])
    ]
    result = run(world, stack.parent, pin=True)
    assert ids(result) == ["host-clock", "host-disk", "host-foreign-mta", "host-ports"]
    assert all("apt-get purge postfix" in finding.fix for finding in result.findings[2:])
    assert report.exit_code(result.findings) == report.FAILURES
    assert result.pinned_in == "Pulumi.prod.yaml", "a host that is to be put right keeps its key"


def test_what_a_stranger_calls_itself_reaches_no_terminal_as_a_control_sequence(world: World, stack: Path) -> None:
    world.answers = [Met(Completed(0, 'ID=evil\nPRETTY_NAME="a\x1b]0;b\x07"\n', ""), INSTALLER, "SHA256:x")]
    (finding,) = run(world, stack.parent).findings
    assert "\x1b" not in str(finding)
    assert "\x07" not in str(finding)


def test_it_is_shown_line_by_line_and_as_json(world: World, stack: Path) -> None:
    result = run(world, stack.parent, pin=True)
    console = Console(file=io.StringIO(), width=200)
    preflight.show(
        console, replace(result, outbound={"tries": [{"server": "a.test", "address": "b", "outcome": "\x1b[/]"}]})
    )
    assert "b: \N{REPLACEMENT CHARACTER}[/]" in console.file.getvalue()
    preflight.show(console, result)
    text = console.file.getvalue()
    for words in (
        "Debian GNU/Linux 13",
        "pinned in Pulumi.prod.yaml",
        "a.test 198.51.100.1: ok",
        f"{V6}: 25 reachable",
    ):
        assert words in text
    assert text.rstrip().endswith(f"{V4}: fit")
    found = json.loads(json.dumps(preflight.as_json(result)))
    assert (found["result"], found["hostKey"], found["inbound"][V4]["25"]) == ("pass", REAL, "listener")
