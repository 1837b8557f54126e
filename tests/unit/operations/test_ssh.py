"""Commands over a pinned connection, and what is said when there is none; the server is asyncssh on loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import asyncssh
import pytest

from operations import ssh
from operations.ssh import Target, run
from standards.finding import Problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from standards.finding import Finding

HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")
OTHER_KEY = asyncssh.generate_private_key("ssh-ed25519")
RSA_KEY = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
USER_KEY = asyncssh.generate_private_key("ssh-ed25519")


def public(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


@dataclass
class Host:
    """An SSH server that answers every command with what it got."""

    port: int = 0
    commands: list[str] = field(default_factory=list)

    @property
    def target(self) -> Target:
        key = USER_KEY.export_private_key().decode()
        return Target("127.0.0.1", self.port, "root", public(HOST_KEY), key)

    async def serve(self, process: asyncssh.SSHServerProcess[str]) -> None:
        command = process.command or ""
        self.commands.append(command)
        if command == "sleep":
            await process.channel.wait_closed()
            return
        if command == "drop":
            process.channel.get_connection().abort()
            return
        if "no-sudo" in command:
            process.stderr.write("sudo: a password is required\n")
            process.exit(1)
            return
        if command == "lines":
            process.stdout.write("one\ntwo\n")
            process.exit(0)
            return
        process.stdout.write(await process.stdin.read())
        process.stderr.write("beside\n")
        process.exit(3)


def _serve(host: Host, host_key: asyncssh.SSHKey, ready: threading.Event, stop: threading.Event) -> None:
    async def main() -> None:
        authorized = asyncssh.import_authorized_keys(public(USER_KEY))
        server = await asyncssh.listen(
            "127.0.0.1",
            host.port,
            server_host_keys=[host_key],
            authorized_client_keys=authorized,
            process_factory=host.serve,
        )
        host.port = server.sockets[0].getsockname()[1]
        ready.set()
        await asyncio.to_thread(stop.wait)
        server.close()
        await server.wait_closed()

    asyncio.run(main())


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    host, ready, stop = Host(), threading.Event(), threading.Event()
    key = getattr(request, "param", HOST_KEY)
    thread = threading.Thread(target=_serve, args=(host, key, ready, stop))
    thread.start()
    ready.wait(10)
    yield host
    stop.set()
    thread.join()


@pytest.fixture(autouse=True)
def no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def trouble(target: Target, command: str = "true", **options: float) -> Finding:
    with pytest.raises(Problems) as caught:
        run(target, command, **options)
    (finding,) = caught.value.findings
    return finding


def test_a_stream_passes_bytes_both_ways_and_keeps_none(host: Host) -> None:
    received: list[bytes] = []
    done = ssh.stream(host.target, "cat", [b"one", b"two"], received.append, 10)
    assert b"".join(received) == b"onetwo"
    assert (done.exit_status, done.stdout, done.stderr) == (3, "", "beside\n")


def test_a_stream_whose_source_fails_holds_up_no_command_and_says_why(host: Host) -> None:
    def failing() -> Iterator[bytes]:
        yield b"one"
        raise Problems("the key does not fit", [])

    received: list[bytes] = []
    with pytest.raises(Problems, match="the key does not fit"):
        ssh.stream(host.target, "cat", failing(), received.append, 10)
    assert b"".join(received) == b"one"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_command_gets_its_input_and_gives_status_output_and_errors(host: Host) -> None:
    done = run(host.target, "cat", input="hällo\n")
    assert (done.exit_status, done.stdout, done.stderr) == (3, "hällo\n", "beside\n")


def test_without_input_a_command_sees_the_end_of_its_stdin_at_once(host: Host) -> None:
    assert run(host.target, "cat", timeout=5).stdout == ""


def test_root_needs_no_sudo(host: Host) -> None:
    run(host.target, "id")
    assert host.commands == ["id"]


def test_another_user_gets_roots_rights_for_the_whole_command(host: Host) -> None:
    run(replace(host.target, user="debian", sudo=True), "a 'b' && c")
    assert host.commands == ["""sudo -n -- sh -c 'a '"'"'b'"'"' && c'"""]


def test_sudo_that_asks_for_a_password_is_explained(host: Host) -> None:
    finding = trouble(replace(host.target, user="debian", sudo=True), "no-sudo")
    assert finding.id == "ssh.no-sudo"
    assert "debian ALL=(ALL) NOPASSWD: ALL" in finding.fix


@pytest.mark.parametrize("host", [OTHER_KEY], indirect=True)
def test_another_host_key_stops_and_shows_both_fingerprints(host: Host) -> None:
    finding = trouble(host.target)
    assert finding.id == "ssh.wrong-host-key"
    assert HOST_KEY.get_fingerprint() in finding.expected
    assert OTHER_KEY.get_fingerprint() in finding.found
    assert public(OTHER_KEY) in finding.fix
    assert host.commands == []


@pytest.mark.parametrize("host", [OTHER_KEY], indirect=True)
def test_another_host_key_is_not_waited_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh.time, "sleep", lambda _: pytest.fail("waited"))
    assert trouble(host.target, wait=30).id == "ssh.wrong-host-key"


@pytest.mark.parametrize("host", [RSA_KEY], indirect=True)
def test_a_server_without_an_ed25519_key_is_explained(host: Host) -> None:
    finding = trouble(host.target)
    assert finding.id == "ssh.no-ed25519"
    assert "ssh-keygen -A" in finding.fix


def test_a_server_that_hangs_up_early_but_has_an_ed25519_key_is_no_key_trouble(host: Host) -> None:
    hung_up = asyncssh.ConnectionLost("Connection lost")
    assert asyncio.run(ssh._other_key_type(host.target, hung_up)) is None


@pytest.mark.parametrize("host", [RSA_KEY], indirect=True)
def test_the_key_type_is_found_out_when_the_server_hangs_up_without_a_word(host: Host) -> None:
    hung_up = asyncssh.ConnectionLost("Connection lost")
    assert asyncio.run(ssh._other_key_type(host.target, hung_up)) == "ssh-rsa"


def test_a_refused_login_names_user_and_key(host: Host) -> None:
    stranger = OTHER_KEY.export_private_key().decode()
    finding = trouble(replace(host.target, private_key=stranger))
    assert finding.id == "ssh.login-refused"
    assert "refuses root" in finding.found
    assert f"mailroom:sshPrivateKey ({OTHER_KEY.get_fingerprint()})" in finding.found


def test_without_any_key_the_refused_login_says_so(host: Host) -> None:
    finding = trouble(replace(host.target, private_key=None))
    assert finding.id == "ssh.login-refused"
    assert "neither mailroom:sshPrivateKey nor an agent" in finding.found


def test_an_agent_that_is_gone_is_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nonexistent/agent")
    assert "no agent answers at SSH_AUTH_SOCK" in trouble(replace(host.target, private_key=None)).found


def test_a_private_key_that_cannot_be_read_is_not_shown() -> None:
    finding = trouble(Target("127.0.0.1", 1, "root", public(HOST_KEY), "canary-not-a-key"))
    assert finding.subject == "mailroom:sshPrivateKey"
    assert "canary" not in str(finding)


def test_a_dead_port_is_refused_and_named() -> None:
    port = free_port()
    finding = trouble(Target("127.0.0.1", port, "root", public(HOST_KEY), None))
    assert (finding.id, finding.subject) == ("ssh.refused", f"127.0.0.1:{port}")


def test_a_host_that_says_nothing_is_given_up_with_address_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "CONNECT_SECONDS", 0.2)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        port = mute.getsockname()[1]
        finding = trouble(Target("127.0.0.1", port, "root", public(HOST_KEY), None))
    assert finding.id == "ssh.no-answer"
    assert f"no answer from 127.0.0.1:{port}" in finding.found
    assert "tried for 1 s" in finding.found


def test_a_host_that_boots_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    host, ready, stop = Host(port=free_port()), threading.Event(), threading.Event()
    thread = threading.Thread(target=_serve, args=(host, HOST_KEY, ready, stop))

    def boot(_: float) -> None:
        if not thread.ident:
            thread.start()
            ready.wait(10)

    monkeypatch.setattr(ssh.time, "sleep", boot)
    try:
        assert run(host.target, "cat", input="up", wait=30).stdout == "up"
    finally:
        stop.set()
        thread.join()


def test_a_command_that_does_not_end_is_given_up(host: Host) -> None:
    assert trouble(host.target, "sleep", timeout=0.3).id == "ssh.too-slow"


def test_a_connection_that_breaks_is_no_success(host: Host) -> None:
    assert trouble(host.target, "drop").id == "ssh.broken"


def test_a_target_never_shows_the_private_key() -> None:
    assert "canary" not in repr(Target("192.0.2.1", 22, "root", public(HOST_KEY), "canary"))


def test_an_ipv6_address_is_written_with_its_port() -> None:
    assert str(Target("2001:db8::10", 22, "root", public(HOST_KEY))) == "[2001:db8::10]:22"


@pytest.mark.parametrize("host", [HOST_KEY, OTHER_KEY], indirect=True)
def test_a_first_look_takes_any_key_and_says_which_it_was(host: Host, request: pytest.FixtureRequest) -> None:
    met = ssh.meet(host.target, "cat", input="facts")
    shown = request.node.callspec.params["host"]
    assert (met.done.stdout, met.host_key, met.fingerprint) == ("facts", public(shown), shown.get_fingerprint())
    assert ssh.fingerprint(met.host_key) == met.fingerprint


@pytest.mark.parametrize("host", [RSA_KEY], indirect=True)
def test_a_first_look_asks_for_an_ed25519_key_alone(host: Host) -> None:
    with pytest.raises(Problems) as caught:
        ssh.meet(host.target, "cat")
    assert caught.value.findings[0].id == "ssh.no-ed25519"
    assert host.commands == []


def test_a_first_look_is_one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh.time, "sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(Problems, match="connection refused"):
        ssh.meet(Target("127.0.0.1", free_port(), "root", public(HOST_KEY), None), "true")


def follow(target: Target, command: str) -> list[str]:
    async def collect() -> list[str]:
        return [line async for line in ssh.lines(target, command)]

    return asyncio.run(collect())


def test_lines_come_until_the_command_ends(host: Host) -> None:
    assert follow(host.target, "lines") == ["one\n", "two\n"]
    assert host.commands == ["lines"]


def test_a_broken_or_missing_connection_ends_lines_with_its_reason(host: Host) -> None:
    for target, command, identifier in (
        (host.target, "drop", "ssh.broken"),
        (replace(host.target, port=free_port()), "lines", "ssh.refused"),
    ):
        with pytest.raises(Problems) as caught:
            follow(target, command)
        assert caught.value.findings[0].id == identifier
