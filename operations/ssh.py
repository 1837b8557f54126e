"""One command on a host over a pinned SSH connection; what the commands do belongs to their owners."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from standards.finding import Finding, Problems, error_about

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    import asyncssh

    from components.settings import HostSettings

    _Keys = Sequence[asyncssh.SSHKey | asyncssh.SSHKeyPair]

CONNECT_SECONDS = 10.0
PAUSE_SECONDS = 1.0
CHUNK = 1 << 16
ED25519 = "ssh-ed25519"


@dataclass(frozen=True)
class Target:
    """Where to log in, as whom, and the ed25519 key that must answer there."""

    address: str
    port: int
    user: str
    host_key: str
    private_key: str | None = field(default=None, repr=False)
    sudo: bool = False

    @classmethod
    def of(cls, host: HostSettings, private_key: str | None) -> Target:
        """The login that a host's settings describe; another user than root works through sudo."""
        return cls(host.address, host.ssh.port, host.ssh.user, host.host_key, private_key, host.ssh.user != "root")

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.port}"


@dataclass(frozen=True)
class Completed:
    """What a command left behind."""

    exit_status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Met:
    """What a command left behind on a host whose key nobody has confirmed yet, and that key."""

    done: Completed
    host_key: str
    fingerprint: str


class _NotYet(Exception):  # noqa: N818  (a host that boots is no error)
    """The host may answer later; carries what to say if it does not."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.found)


def run(
    target: Target,
    command: str,
    input: str | None = None,  # noqa: A002  (as subprocess.run calls it)
    timeout: float = 60,
    *,
    wait: float = 0,
) -> Completed:
    """Run `command` (a shell line) with `input` on its stdin; root's rights by sudo when the target says so.

    A host that does not answer is tried once, or for `wait` seconds. Raises `Problems` when there is no
    connection, no login, or no end within `timeout` seconds; a command's own failure is in `Completed`.
    """
    started = time.monotonic()
    while True:
        try:
            return asyncio.run(_run_once(target, command, input, timeout))[0]
        except _NotYet as reason:
            if time.monotonic() - started + PAUSE_SECONDS >= wait:
                tried = time.monotonic() - started
                raise _problem(_still_not(reason.finding, tried)) from None
        time.sleep(PAUSE_SECONDS)


def meet(target: Target, command: str, input: str | None = None, timeout: float = 60) -> Met:  # noqa: A002
    """Run `command` on a host whatever its ed25519 key is, and say which key that was; one try.

    For a first look: it logs in with a key of the operator's, which tells the host nothing it could use (the
    signature is bound to the session), and `input` must hold no secret. Raises `Problems` as `run` does.
    """
    try:
        done, key = asyncio.run(_run_once(target, command, input, timeout, pinned=False))
    except _NotYet as reason:
        raise _problem(reason.finding) from None
    if key is None:
        raise _problem(_broken(target, "the host showed no key"))
    return Met(done, key.export_public_key().decode().strip(), key.get_fingerprint())


def stream(
    target: Target,
    command: str,
    input: Iterable[bytes],  # noqa: A002  (as subprocess.run calls it)
    output: Callable[[bytes], object],
    timeout: float,
) -> Completed:
    """Run `command` once with the chunks of `input` on its stdin, and hand each chunk of its stdout to `output`.

    Bytes pass through, nothing is kept: `Completed.stdout` is empty. Raises `Problems` as `run` does.
    """
    try:
        return asyncio.run(_stream_once(target, command, input, output, timeout))
    except _NotYet as reason:
        raise _problem(reason.finding) from None


async def _stream_once(
    target: Target, command: str, chunks: Iterable[bytes], output: Callable[[bytes], object], timeout: float
) -> Completed:
    import asyncssh

    async with _keys(target) as (keys, tried), await _connect(target, keys, tried) as connection:
        try:
            async with (
                asyncio.timeout(timeout),
                connection.create_process(_with_rights(target, command), encoding=None) as process,
            ):
                feeding = asyncio.create_task(_feed(process, chunks))
                errors = asyncio.create_task(process.stderr.read())
                while chunk := await process.stdout.read(CHUNK):
                    output(chunk)
                await feeding
                done = await process.wait()
                stderr = (await errors).decode(errors="replace")
        except TimeoutError:
            raise _problem(_too_slow(target, command, timeout)) from None
        except (asyncssh.Error, OSError) as error:
            raise _problem(_broken(target, _one_line(error))) from None
    if done.returncode is None:
        raise _problem(_broken(target, "the connection ended before the command did"))
    if target.sudo and done.returncode and stderr.startswith("sudo: "):
        raise _problem(_no_sudo(target, stderr))
    return Completed(done.returncode, "", stderr)


async def _feed(process: asyncssh.SSHClientProcess[bytes], chunks: Iterable[bytes]) -> None:
    """Write all of it; a command that ends early says itself why."""
    import asyncssh

    try:
        for chunk in chunks:
            process.stdin.write(chunk)
            await process.stdin.drain()
    except (asyncssh.Error, OSError):
        pass
    finally:  # also when there are no more chunks to be had: the command must not wait for them
        with suppress(asyncssh.Error, OSError):
            process.stdin.write_eof()


async def _run_once(
    target: Target, command: str, input_: str | None, timeout: float, *, pinned: bool = True
) -> tuple[Completed, asyncssh.SSHKey | None]:
    import asyncssh

    async with _keys(target) as (keys, tried), await _connect(target, keys, tried, pinned=pinned) as connection:
        key = connection.get_server_host_key()
        try:
            # asyncssh closes stdin after input only when there is some.
            stdin = asyncssh.PIPE if input_ else asyncssh.DEVNULL
            line = _with_rights(target, command)
            done = await connection.run(line, stdin=stdin, input=input_ or None, timeout=timeout)
        except asyncssh.TimeoutError:
            raise _problem(_too_slow(target, command, timeout)) from None
        except (asyncssh.Error, OSError) as error:
            raise _problem(_broken(target, _one_line(error))) from None
    if done.returncode is None:
        raise _problem(_broken(target, "the connection ended before the command did"))
    result = Completed(done.returncode, str(done.stdout or ""), str(done.stderr or ""))
    if target.sudo and result.exit_status and result.stderr.startswith("sudo: "):
        raise _problem(_no_sudo(target, result.stderr))
    return result, key


async def lines(target: Target, command: str) -> AsyncIterator[str]:
    """The lines that `command` prints, as they come, until it ends.

    Raises `Problems` when there is no connection, or when it breaks (`ssh.no-answer`, `ssh.refused`, `ssh.broken`).
    """
    import asyncssh

    try:
        async with _keys(target) as (keys, tried), await _connect(target, keys, tried) as connection:
            line = _with_rights(target, command)
            async with connection.create_process(line, stdin=asyncssh.DEVNULL, stderr=asyncssh.DEVNULL) as process:
                async for text in process.stdout:
                    if text:  # the end of the output is an empty one
                        yield text
    except _NotYet as reason:
        raise _problem(reason.finding) from None
    except (asyncssh.Error, OSError) as error:
        raise _problem(_broken(target, _one_line(error))) from None


def _with_rights(target: Target, command: str) -> str:
    return f"sudo -n -- sh -c {shlex.quote(command)}" if target.sudo else command


async def _connect(target: Target, keys: _Keys, tried: str, *, pinned: bool = True) -> asyncssh.SSHClientConnection:
    import asyncssh

    expected = asyncssh.import_public_key(target.host_key) if pinned else None
    offered: list[asyncssh.SSHKey] = []

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
            offered.append(key)
            return False

    try:
        return await asyncssh.connect(
            target.address,
            target.port,
            username=target.user,
            client_factory=Client,
            client_keys=keys or None,
            agent_path=None,
            config=None,
            known_hosts=([expected], [], []) if expected else None,
            server_host_key_algs=[ED25519],
            preferred_auth="publickey",
            connect_timeout=CONNECT_SECONDS,
            keepalive_interval=15,
        )
    except asyncssh.HostKeyNotVerifiable:
        raise _problem(_wrong_key(target, target.host_key, offered[0])) from None
    except asyncssh.KeyExchangeFailed as error:
        raise _problem(_no_ed25519(target, _one_line(error))) from None
    except asyncssh.PermissionDenied:
        raise _problem(_refused_login(target, tried)) from None
    except ConnectionRefusedError:
        raise _NotYet(_refused(target)) from None
    except (asyncssh.Error, OSError) as error:
        if other := await _other_key_type(target, error):
            raise _problem(_no_ed25519(target, f"only {other}")) from None
        raise _NotYet(_no_answer(target, error)) from None


async def _other_key_type(target: Target, error: Exception) -> str | None:
    """The type of the host's key when that is why it hung up: OpenSSH says so in its log alone."""
    import asyncssh

    if not isinstance(error, asyncssh.ConnectionLost):
        return None
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            algorithms = [ED25519, "ecdsa-sha2-nistp256", "rsa-sha2-256"]
            key = await asyncssh.get_server_host_key(
                target.address, target.port, config=None, server_host_key_algs=algorithms
            )
    except (asyncssh.Error, OSError):
        return None
    kind = key.get_algorithm() if key else ED25519
    return None if kind == ED25519 else kind


@asynccontextmanager
async def _keys(target: Target) -> AsyncIterator[tuple[_Keys, str]]:
    """The keys to log in with, and how to call them; the files in ~/.ssh are nobody's choice here."""
    import asyncssh

    path = os.environ.get("SSH_AUTH_SOCK")
    if target.private_key:
        key = _private_key(target.private_key)
        yield [key], f"mailroom:sshPrivateKey ({key.get_fingerprint()})"
    elif not path:
        yield [], "no key (neither mailroom:sshPrivateKey nor an agent at SSH_AUTH_SOCK)"
    else:
        try:
            agent = await asyncssh.connect_agent(path)
        except OSError as error:
            yield [], f"no key (no agent answers at SSH_AUTH_SOCK: {_one_line(error)})"
            return
        async with agent:
            keys = list(await agent.get_keys())
            yield keys, f"{len(keys)} key{'s' * (len(keys) != 1)} of the agent (SSH_AUTH_SOCK)"


def _private_key(text: str) -> asyncssh.SSHKey:
    import asyncssh

    try:
        return asyncssh.import_private_key(text)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise _problem(_bad_private_key(error)) from None


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # asyncio hides it behind the address it tried
    return " ".join(str(error).split()) or type(error).__name__


def _problem(finding: Finding) -> Problems:
    return Problems(f"no way into {finding.subject}", [finding])


def _still_not(finding: Finding, seconds: float) -> Finding:
    found = f"{finding.found}; tried for {max(seconds, 1):.0f} s"
    return Finding(**{**finding.__dict__, "found": found})


def _no_answer(target: Target, error: Exception) -> Finding:
    return error_about(
        target,
        "ssh.no-answer",
        expected="an SSH server that answers there",
        found=f"no answer from {target} ({_one_line(error)})",
        why="the host is set up over SSH",
        fix="check in the provider's console that the machine runs and has this address, that its SSH server "
        f"listens on port {target.port} and that no firewall is in between; then run again",
    )


def _refused(target: Target) -> Finding:
    return error_about(
        target,
        "ssh.refused",
        expected="an SSH server that answers there",
        found=f"the machine answers, but nothing listens on port {target.port} (connection refused)",
        why="the host is set up over SSH",
        fix="wait until it has booted, or set mailroom:hosts[..].ssh.port to the port of its SSH server",
    )


def fingerprint(host_key: str) -> str:
    """The SHA256 fingerprint of a key line, as `ssh-keygen -lf` shows it."""
    import asyncssh

    return asyncssh.import_public_key(host_key).get_fingerprint()


def _wrong_key(target: Target, pinned: str, offered: asyncssh.SSHKey) -> Finding:
    return error_about(
        target,
        "ssh.wrong-host-key",
        expected=f"host key {fingerprint(pinned)} (mailroom:hosts[..].hostKey)",
        found=f"host key {offered.get_fingerprint()}",
        why="another machine, a machine installed again, or somebody in between who would get our secrets",
        fix="compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` in the provider's console; only "
        f"when it is the same, set hostKey to: {offered.export_public_key().decode().strip()}",
    )


def _no_ed25519(target: Target, found: str) -> Finding:
    return error_about(
        target,
        "ssh.no-ed25519",
        expected="a host key of type ssh-ed25519 and current algorithms (OpenSSH 8 or newer)",
        found=f"none of them: {found}",
        why="the pinned host key is an ed25519 one",
        fix="on the host: `ssh-keygen -A`, no HostKeyAlgorithms that exclude ssh-ed25519, restart sshd",
    )


def _refused_login(target: Target, tried: str) -> Finding:
    return error_about(
        target,
        "ssh.login-refused",
        expected=f"a login as {target.user} with a key",
        found=f"the host refuses {target.user}; offered: {tried}",
        why="the host is set up over SSH",
        fix=f"put your public key into ~{target.user}/.ssh/authorized_keys on the host and the private key "
        "into your agent (`ssh-add`) or mailroom:sshPrivateKey; or set mailroom:hosts[..].ssh.user",
    )


def _bad_private_key(error: Exception) -> Finding:
    return Finding(
        severity="error",
        id="ssh.private-key",
        subject="mailroom:sshPrivateKey",
        expected="an unencrypted private key: -----BEGIN OPENSSH PRIVATE KEY----- ...",
        found=f"a key that cannot be read ({_one_line(error)})",
        why="without it there is no login",
        fix="`pulumi config set --secret mailroom:sshPrivateKey < keyfile`; unset, the agent is used",
    )


def _no_sudo(target: Target, stderr: str) -> Finding:
    return error_about(
        target,
        "ssh.no-sudo",
        expected=f"sudo without a password for {target.user}",
        found=stderr.strip().splitlines()[0],
        why="another user than root works through sudo",
        fix=f"write `{target.user} ALL=(ALL) NOPASSWD: ALL` into /etc/sudoers.d/mailroom there, or use root",
    )


def _too_slow(target: Target, command: str, timeout: float) -> Finding:
    return error_about(
        target,
        "ssh.too-slow",
        expected=f"`{command[:60]}` to end within {timeout:.0f} s",
        found="it still runs",
        why="the connection was closed; what the command did so far stays",
        fix="look at the load of the host and run again",
    )


def _broken(target: Target, reason: str) -> Finding:
    return error_about(
        target,
        "ssh.broken",
        expected="a connection that holds until the command ends",
        found=f"it broke: {reason}",
        why="how far the command came is unknown",
        fix="check that the host runs, then run again",
    )
