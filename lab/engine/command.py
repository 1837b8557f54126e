"""pulumi-resource-command: commands over SSH and on this machine, and file copies.

Follows version 1.2.1 of the official provider:
* create, update (else create again) and delete scripts; `triggers` replace;
* every changed input runs the script again, a change of `connection` included;
* a failed create leaves no resource behind, a failed update keeps the old outputs; stdout and stderr are not secret;
* the connection is a secret, gets its defaults here and is opened anew for each operation;
* custom timeouts are ignored; a cancelled update ends dialling and local commands, but waits for what already runs on a
  server;
* a copy is made again when the content or remotePath changed, not when the host did; nothing is read or deleted.
Left out: CopyFile (deprecated), local assetPaths and archivePaths.
"""

# The names of RPC methods are the protocol's, and so are their arguments.
# ruff: noqa: N802, ARG002

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty

from lab.engine import pins, rpc, values
from lab.engine.output import Output
from lab.engine.rpc import Failure, proto

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.engine.output import Log
    from lab.engine.values import Props

VERSION = pins.PLUGINS["command"]
FRAMEWORK = {"__pulumi-go-provider-version": "1.3.0"}  # a mark of Go providers in the state of the provider resource

COMMAND, LOCAL, COPY = "command:remote:Command", "command:local:Command", "command:remote:CopyToRemote"
RUN = "command:local:run"
SCRIPTED = {
    "create", "update", "delete", "stdin", "logging", "triggers", "environment", "addPreviousOutputInEnv"
}  # fmt: skip
INPUTS = {
    COMMAND: {"connection", *SCRIPTED},
    LOCAL: {"interpreter", "dir", "assetPaths", "archivePaths", *SCRIPTED},
    COPY: {"connection", "source", "remotePath", "triggers"},
}
REQUIRED = {COMMAND: {"connection"}, LOCAL: set(), COPY: {"connection", "source", "remotePath"}}
CONNECTION = {"user": "root", "port": 22, "dialErrorLimit": 10, "perDialTimeout": 15}
OUTPUTS = ("stdout", "stderr")
LOGGING = ("stdout", "stderr", "stdoutAndStderr", "none")


class Interruption:
    """Lets the engine's Cancel end the work that may be ended half-way."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()
        self.called = False

    def call(self) -> None:
        """End that work."""
        self.called = True
        for task in self.tasks:
            task.cancel()

    @contextlib.contextmanager
    def possible(self) -> Iterator[None]:
        """Mark such work of the current task."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (every RPC is one)
        self.tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self.called:
                raise Failure("context canceled") from None
            raise
        finally:
            self.tasks.discard(task)


# --- checking ----------------------------------------------------------------------


def check(kind: str, props: Props) -> list[tuple[str, str]]:
    """What is wrong with the inputs, as (property, reason); the connection's defaults are filled in."""
    failures = [(name, f"Missing required property '{name}'") for name in sorted(REQUIRED[kind] - props.keys())]
    failures += [(name, f"Unrecognized property '{name}'") for name in sorted(props.keys() - INPUTS[kind])]
    if "connection" in props:
        failures += _check_connection(props)
    if kind == COPY and "source" in props:
        failures += _check_source(values.reveal(props["source"]))
    if (logging := values.reveal(props.get("logging"))) not in (None, values.UNKNOWN, *LOGGING):
        failures.append(("logging", f"{logging!r} is not one of {', '.join(LOGGING)}"))
    return failures


def _check_connection(props: Props) -> list[tuple[str, str]]:
    given = props["connection"]
    connection = given["value"] if values.is_secret(given) else given
    if isinstance(connection, dict):
        connection = {**CONNECTION, **connection}
        if isinstance(connection.get("proxy"), dict):
            connection["proxy"] = {**CONNECTION, **connection["proxy"]}
    props["connection"] = values.secret(connection)
    if isinstance(connection, dict) and "host" not in connection:
        return [("connection.host", "Missing required property 'host'")]
    return []


def _check_source(source: Any) -> list[tuple[str, str]]:
    """A source that is not known yet fails as well: that ends the preview, as with the official 1.2.1."""
    mark = source.get(values.SIG) if isinstance(source, dict) else None
    if mark == values.ASSET:
        if source.get("path") or source.get("text") is not None:
            return []
        return [("asset", "asset must be a path-based file asset or a text asset")]
    if mark == values.ARCHIVE:
        return [] if source.get("path") else [("archive", "archive must be a path to a file or directory")]
    return [("asset", "either asset or archive must be set")]


# --- running -----------------------------------------------------------------------


def previous_output(props: Props) -> Props:
    """What the last run printed, for the next one to see."""
    if props.get("addPreviousOutputInEnv") is False:
        return {}
    return {f"PULUMI_COMMAND_{name.upper()}": props[name] for name in OUTPUTS if props.get(name)}


async def run_remote(props: Props, script: str, log: Log, interruption: Interruption) -> Props:
    """Run a script on a server and return its outputs."""
    from lab.engine import ssh

    asked = [(name, str(value), True) for name, value in (props.get("environment") or {}).items()]
    optional = [(name, value, False) for name, value in previous_output(props).items()]
    output = Output(props.get("logging"), log)
    with interruption.possible():
        client = await ssh.dial(props["connection"], log)
    await ssh.run(client, script, props.get("stdin") or "", [*asked, *optional], output)
    return output.texts()


async def run_local(props: Props, script: str, log: Log, interruption: Interruption) -> Props:
    """Run a script on this machine and return its outputs."""
    if props.get("assetPaths") or props.get("archivePaths"):
        raise Failure("this stand-in does not collect assetPaths or archivePaths")
    output = Output(props.get("logging"), log)
    environment = {**os.environ, **(props.get("environment") or {}), **previous_output(props)}
    child = await asyncio.create_subprocess_exec(
        *(*(props.get("interpreter") or ["/bin/sh", "-c"]), script),
        cwd=props.get("dir"),
        env={name: str(value) for name, value in environment.items()},
        stdin=asyncio.subprocess.PIPE if props.get("stdin") else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        with interruption.possible():
            status = await _communicate(child, props.get("stdin") or "", output)
    except BaseException:
        child.kill()
        await child.wait()
        raise
    await output.close()
    if status:
        what = f"signal: {(signal.strsignal(-status) or '?').lower()}" if status < 0 else f"exit status {status}"
        raise Failure(output.error(what, script))
    return output.texts()


async def _communicate(child: asyncio.subprocess.Process, stdin: str, output: Output) -> int:
    async def collect(stream: asyncio.StreamReader | None, *, is_stderr: bool) -> None:
        while stream and (data := await stream.read(65536)):
            output.add(data, is_stderr=is_stderr)

    if child.stdin:
        child.stdin.write(stdin.encode())
        child.stdin.close()
    await asyncio.gather(collect(child.stdout, is_stderr=False), collect(child.stderr, is_stderr=True))
    return await child.wait()


# --- the provider ------------------------------------------------------------------


class Command(proto.ResourceProviderServicer):  # type: ignore[misc]
    """The provider of one engine, whose messages go to `engine`, a stub of its service."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.interruption = Interruption()

    async def GetPluginInfo(self, request: Any, context: Any) -> Any:
        """Name our version."""
        return proto.PluginInfo(version=VERSION)

    async def GetSchema(self, request: Any, context: Any) -> Any:
        """Give the least schema there is: previews and updates never ask for it."""
        return proto.GetSchemaResponse(schema=json.dumps({"name": "command", "version": VERSION}))

    async def CheckConfig(self, request: Any, context: Any) -> Any:
        """Accept any configuration: the provider has none of its own."""
        return proto.CheckResponse(inputs=values.struct({**values.plain(request.news), **FRAMEWORK}))

    async def DiffConfig(self, request: Any, context: Any) -> Any:
        """Find no difference."""
        return proto.DiffResponse(changes=proto.DiffResponse.DIFF_NONE)

    async def Configure(self, request: Any, context: Any) -> Any:
        """Say what we understand."""
        return proto.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    async def Cancel(self, request: Any, context: Any) -> Any:
        """End what may be ended."""
        self.interruption.call()
        return Empty()

    @rpc.reports_failure
    async def Check(self, request: Any, context: Any) -> Any:
        """Judge the inputs of a resource and fill in defaults."""
        kind = rpc.token_of(request)
        if kind not in INPUTS:
            raise Failure(f"this stand-in does not know {kind}")
        news = values.plain(request.news)
        props = {key: value for key, value in news.items() if not key.startswith("__") and value is not None}
        failures = [proto.CheckFailure(property=name, reason=reason) for name, reason in check(kind, props)]
        return proto.CheckResponse(inputs=values.struct(props), failures=failures)

    async def Diff(self, request: Any, context: Any) -> Any:
        """Compare inputs with inputs: the provider never looks at a server."""
        old, new = values.plain(request.old_inputs), values.plain(request.news)
        return rpc.diff_response(values.changes(old, new), replaces={"triggers"})

    @rpc.reports_failure
    async def Create(self, request: Any, context: Any) -> Any:
        """Run the create script, or copy."""
        inputs = values.plain(request.properties)
        if rpc.token_of(request) == COPY:
            return await self._create_copy(request, inputs)
        identity = request.urn.split("::")[-1] + os.urandom(4).hex()
        if request.preview:
            outputs = dict.fromkeys(OUTPUTS, values.UNKNOWN)
        else:
            outputs = await self._script(request, inputs, {}, "create")
        return proto.CreateResponse(id=identity, properties=values.struct({**inputs, **outputs}))

    async def _create_copy(self, request: Any, inputs: Props) -> Any:
        if request.preview:
            return proto.CreateResponse(id="", properties=values.struct(inputs))
        await self._copy(request, values.reveal(inputs))
        return proto.CreateResponse(id=os.urandom(4).hex(), properties=values.struct(inputs))

    @rpc.reports_failure
    async def Update(self, request: Any, context: Any) -> Any:
        """Run the update script, else create's again; or copy, when what is copied or its path changed."""
        inputs, state = values.plain(request.news), values.plain(request.olds)
        if rpc.token_of(request) == COPY:
            new, old = values.reveal(inputs), values.reveal(state)
            if not request.preview and copied(new) != copied(old):
                await self._copy(request, new)
            return proto.UpdateResponse(properties=values.struct(inputs))
        outputs = {key: state.get(key, "") for key in OUTPUTS}
        if not request.preview:
            outputs = await self._script(request, inputs, outputs, "update", "create")
        elif inputs != values.plain(request.old_inputs) or values.has_unknown(inputs):
            outputs = dict.fromkeys(OUTPUTS, values.UNKNOWN)
        return proto.UpdateResponse(properties=values.struct({**inputs, **outputs}))

    @rpc.reports_failure
    async def Delete(self, request: Any, context: Any) -> Any:
        """Run the delete script, with the state's old connection; copies stay where they are."""
        state = values.plain(request.properties)
        await self._script(request, state, {key: state.get(key, "") for key in OUTPUTS}, "delete")
        return Empty()

    async def Read(self, request: Any, context: Any) -> Any:
        """Find everything as it was: a refresh sees nothing of a server."""
        return proto.ReadResponse(id=request.id, properties=request.properties, inputs=request.inputs)

    @rpc.reports_failure
    async def Invoke(self, request: Any, context: Any) -> Any:
        """Run `local.run`, in previews too."""
        if request.tok != RUN:
            raise Failure(f"this stand-in does not know {request.tok}")
        props = values.reveal(values.plain(request.args))
        outputs = await run_local(props, props["command"], self._logger(request), self.interruption)
        return proto.InvokeResponse(**{"return": values.struct({**props, **outputs})})

    async def _script(self, request: Any, inputs: Props, outputs: Props, *names: str) -> Props:
        """Run the first script there is of these and return the new outputs."""
        props = values.reveal({**inputs, **outputs})
        script = next((props[name] for name in names if props.get(name) is not None), None)
        if script is None:
            return outputs or dict.fromkeys(OUTPUTS, "")
        runner = run_remote if "connection" in props else run_local
        return await runner(props, script, self._logger(request), self.interruption)

    async def _copy(self, request: Any, props: Props) -> None:
        from lab.engine import ssh

        log = self._logger(request)
        with self.interruption.possible():
            client = await ssh.dial(props["connection"], log)
        await ssh.copy(client, props["source"], props["remotePath"])

    def _logger(self, request: Any) -> Log:
        async def log(text: str, severity: str = "INFO") -> None:
            await self.engine.Log(
                proto.LogRequest(
                    severity=proto.LogSeverity.Value(severity),
                    message=text,
                    urn=getattr(request, "urn", ""),
                    ephemeral=severity == "INFO",
                )
            )

        return log


def copied(props: Props) -> tuple[str | None, str]:
    """What decides whether a copy is made again; the host is not of it."""
    return props["source"].get("hash"), props["remotePath"]


def main() -> None:
    """Serve the engine that started us."""

    def register(server: Any) -> None:
        channel = rpc.grpc.aio.insecure_channel(rpc.engine_address())
        proto.provider_pb2_grpc.add_ResourceProviderServicer_to_server(Command(proto.EngineStub(channel)), server)

    rpc.serve(register)
