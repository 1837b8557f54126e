"""The SSH side of the command stand-in: dialling, one remote command, copies over SFTP.

It behaves as the official provider's Go code does, traps included; what a resource makes of it is `command`'s.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import asyncssh

from lab.engine.rpc import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from lab.engine.output import Log, Output

FIRST_DELAY, DELAY_FACTOR, LONGEST_DELAY = 0.1, 1.5, 5.0  # seconds between two attempts to dial
UNLIMITED = -1
SENT_ON = (
    "Unable to set '{name}'. This only works if your SSH server is configured to accept\n"
    "\tthese variables via AcceptEnv. Alternatively, "
    "if a Bash-like shell runs the command on the remote host, you could\n"
    "\tprefix the command itself with the variables in the form 'VAR=value command'"
)

Connection = dict[str, Any]


# --- dialling --------------------------------------------------------------------


async def dial(connection: Connection, log: Log) -> asyncssh.SSHClientConnection:
    """An open SSH connection, tried dialErrorLimit + 1 times, whatever the error was."""
    if not connection.get("proxy"):
        return await _retry("Dial", connection, log)
    try:
        tunnel = await _retry("Dial proxy", connection["proxy"], log)
        return await _retry("Dial", connection, log, tunnel)
    except Failure as error:
        raise Failure(f"proxy: {error}") from None


async def _retry(
    label: str, connection: Connection, log: Log, tunnel: asyncssh.SSHClientConnection | None = None
) -> asyncssh.SSHClientConnection:
    options = await _options(connection)  # a bad key or a stale agent fails at once
    limit, delay, attempt = connection["dialErrorLimit"], FIRST_DELAY, 0
    while True:
        try:
            return await asyncssh.connect(connection["host"], int(connection["port"]), tunnel=tunnel or (), **options)
        except (OSError, asyncssh.Error, TimeoutError) as error:
            if UNLIMITED < limit < attempt + 1:
                raise Failure(f"after {attempt} failed attempts: {_explain(error, connection)}") from None
        attempt += 1
        await log(f"{label} {attempt}/{'inf' if limit == UNLIMITED else limit} failed: retrying")
        await asyncio.sleep(delay)
        delay = min(delay * DELAY_FACTOR, LONGEST_DELAY)


async def _options(connection: Connection) -> dict[str, Any]:
    options: dict[str, Any] = {
        "config": None,
        "known_hosts": None,  # no hostKey: any host is trusted
        "username": connection["user"],
        "connect_timeout": connection["perDialTimeout"] or None,
        "password": connection.get("password"),
        "client_keys": None,
        "agent_path": None,
    }
    keys: list[asyncssh.SSHKey | asyncssh.SSHKeyPair] = []
    if private := connection.get("privateKey"):
        try:
            keys.append(asyncssh.import_private_key(private, connection.get("privateKeyPassword")))
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            raise Failure(f"ssh: {error}") from None
    if agent := connection.get("agentSocketPath") or os.environ.get("SSH_AUTH_SOCK"):
        keys += await _agent_keys(agent)
    options["client_keys"] = keys or None
    if public := connection.get("hostKey"):
        try:
            key = asyncssh.import_public_key(public)
        except asyncssh.KeyImportError as error:
            raise Failure(f"failed to parse host key: ssh: {error}") from None
        options["known_hosts"] = ([key], [], [])
        # One algorithm, the key's own type: for an RSA key that is SHA-1 "ssh-rsa", which new servers refuse.
        options["server_host_key_algs"] = [key.algorithm.decode()]
    return options


async def _agent_keys(path: str) -> Sequence[asyncssh.SSHKeyPair]:
    """The agent's keys; they sign over this connection, which stays open like that of the official plugin."""
    try:
        return await (await asyncssh.connect_agent(path)).get_keys()
    except OSError as error:
        raise Failure(f"failed to dial SSH agent at {path}: dial unix {path}: {error.strerror}") from None


def _explain(error: Exception, connection: Connection) -> str:  # noqa: PLR0911  (a table)
    """The error in the words of Go's SSH client."""
    where = f"{connection['host']}:{int(connection['port'])}"
    match error:
        case asyncssh.HostKeyNotVerifiable():
            return "ssh: handshake failed: ssh: host key mismatch"
        case asyncssh.PermissionDenied():
            return "ssh: handshake failed: ssh: unable to authenticate, no supported methods remain"
        case asyncssh.KeyExchangeFailed():
            return f"ssh: handshake failed: ssh: no common algorithm for host key: {error.reason}"
        case asyncssh.Error():
            return f"ssh: handshake failed: {error.reason or type(error).__name__}"
        case TimeoutError():
            return f"dial tcp {where}: i/o timeout"
        case ConnectionRefusedError():
            return f"dial tcp {where}: connect: connection refused"
        case _:
            return f"dial tcp {where}: {error}"


# --- one command -----------------------------------------------------------------


class Session(asyncssh.SSHClientSession[bytes]):
    """One remote command, whose environment is granted before it starts."""

    def __init__(self, environment: list[tuple[str, str, bool]], output: Output) -> None:
        self.environment, self.output = environment, output
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refused: list[str] = []

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Put the environment before the command: asyncssh itself never asks whether a variable was taken."""
        request: Callable[..., Awaitable[bool | None]] = chan._make_request  # noqa: SLF001

        async def with_environment(kind: bytes, *arguments: bytes) -> bool | None:
            for name, value, required in self.environment:
                pair = (asyncssh.packet.String(name), asyncssh.packet.String(value))
                if not await request(b"env", *pair):
                    self.refused.append(name)
                    if required:
                        raise RefusedVariableError(name)
            return await request(kind, *arguments)

        if self.environment:
            chan._make_request = with_environment  # type: ignore[method-assign, assignment]  # noqa: SLF001

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Take what the command prints."""
        self.output.add(data, is_stderr=datatype is not None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (the base class has it)
        """Note the end, however it came."""
        if not self.ended.done():
            self.ended.set_result(None)


class RefusedVariableError(Exception):
    """The server's AcceptEnv does not allow a variable that the program asked for."""


async def run(
    client: asyncssh.SSHClientConnection,
    script: str,
    stdin: str,
    environment: list[tuple[str, str, bool]],
    output: Output,
) -> None:
    """Run a script by the login shell of the server, then close the connection.

    The environment is (name, value, required) of each variable.
    """
    log = output.log
    async with client:
        try:
            channel, session = await client.create_session(lambda: Session(environment, output), script, encoding=None)
        except RefusedVariableError as error:
            (name,) = error.args
            await log(SENT_ON.format(name=name), "ERROR")
            message = f'could not set environment variable "{name}": ssh: setenv failed'
            raise Failure(message) from None
        for name in cast("Session", session).refused:
            await log(SENT_ON.format(name=name), "WARNING")
        if stdin:
            channel.write(stdin.encode())
        channel.write_eof()
        await cast("Session", session).ended
        status, died = channel.get_exit_status(), channel.get_exit_signal()
    await output.close()
    if died:
        number = 128 + getattr(signal, "SIG" + died[0], 0)
        raise Failure(output.error(f"Process exited with status {number} from signal {died[0]}", script))
    if status is None:
        raise Failure(output.error("wait: remote command exited without exit status or exit signal", script))
    if status:
        raise Failure(output.error(f"Process exited with status {status}", script))


# --- copies ----------------------------------------------------------------------


async def copy(client: asyncssh.SSHClientConnection, source: dict[str, Any], target: str) -> None:
    """Copy a text, a file or a directory over SFTP, then close the connection; modes are the server's umask's."""
    async with client, client.start_sftp_client() as sftp:
        try:
            if source.get("text") is not None and not source.get("path"):
                await _copy_text(sftp, source["text"], target)
            elif Path(source["path"]).is_dir():
                await _copy_tree(sftp, source["path"], target)
            else:
                await _copy_file(sftp, Path(source["path"]), target)
        except (OSError, asyncssh.SFTPError) as error:
            raise Failure(f"failed to copy to remote path {target}: {error}") from None


async def _copy_text(sftp: asyncssh.SFTPClient, text: str, target: str) -> None:
    if await sftp.isdir(target):
        raise Failure(f"remote path {target} is a directory; when using a text asset, remotePath must be a file path")
    await _put(sftp, text.encode(), target)


async def _copy_file(sftp: asyncssh.SFTPClient, source: Path, target: str) -> None:
    if await sftp.isdir(target):
        target = posixpath.join(target, source.name)
    await _put(sftp, await asyncio.to_thread(source.read_bytes), target)


async def _copy_tree(sftp: asyncssh.SFTPClient, source: str, target: str) -> None:
    """`dir` lands as target/dir, `dir/` as target itself."""
    if not source.endswith("/"):
        target = posixpath.join(target, Path(source).name)
    for directory, _, files in os.walk(source):
        inner = posixpath.normpath(posixpath.join(target, os.path.relpath(directory, source)))
        await sftp.makedirs(inner, exist_ok=True)
        for name in files:
            data = await asyncio.to_thread(Path(directory, name).read_bytes)
            await _put(sftp, data, posixpath.join(inner, name))


async def _put(sftp: asyncssh.SFTPClient, data: bytes, target: str) -> None:
    await sftp.makedirs(posixpath.dirname(target) or ".", exist_ok=True)
    async with sftp.open(target, "wb") as file:
        await file.write(data)
