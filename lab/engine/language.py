"""pulumi-language-python: how the engine runs Python programs and plugins.

Served here: Run (a program), RunPlugin (a policy pack or a component provider), GetRequiredPackages,
GetProgramDependencies, InstallDependencies, About, GetPluginInfo, Handshake, Cancel.  Left out: code generation
(`pulumi package add`, `convert`), the debugger, type checkers, poetry and uv; asking for one of them is an error.
"""

# The names of RPC methods are the protocol's, and so are their arguments.
# ruff: noqa: N802, ARG002

from __future__ import annotations

import asyncio
import json
import os
import signal
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty

from lab.engine import rpc
from lab.engine.program import USER_SAW_THE_ERROR
from lab.engine.rpc import proto
from lab.engine.values import plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CANCEL_GRACE = 5.0  # seconds a cancelled program may take to end by itself

# Run with the program's interpreter: what is installed beside the program.
SURVEY = """
import importlib.metadata as m, json
found = []
for dist in m.distributions():
    name = dist.metadata["Name"]
    plugin = dist.locate_file(name.replace("-", "_") + "/pulumi-plugin.json")
    found.append([name, dist.version, json.loads(plugin.read_text()) if plugin.exists() else None])
print(json.dumps(found))
"""


def interpreter(info: Any, *, is_plugin: bool = False) -> str:
    """The Python to run, as the `virtualenv` option of Pulumi.yaml says."""
    options = plain(info.options)
    if options.get("toolchain", "pip") != "pip" or options.get("typechecker"):
        raise rpc.Failure("this stand-in knows the pip toolchain only, and no type checker")
    venv = options.get("virtualenv") or ("venv" if is_plugin else None)
    if not venv:
        return os.environ.get("PULUMI_PYTHON_CMD", "python3")
    python = Path(info.root_directory, venv, "bin", "python")
    if not python.exists():
        raise rpc.Failure(
            f"The 'virtualenv' option in Pulumi.yaml is set to \"{venv}\", "
            "but there is no Python in it: run `pulumi install`"
        )
    return str(python)


def environment(python: str, **extra: str) -> dict[str, str]:
    """Our environment, with the interpreter's virtual environment active."""
    env = {**os.environ, **extra}
    if os.sep in python:
        env["VIRTUAL_ENV"] = str(Path(python).parent.parent)
        env["PATH"] = os.pathsep.join([str(Path(python).parent), env.get("PATH", os.defpath)])
        env.pop("PYTHONHOME", None)
    return env


async def output_of(*command: str) -> str:
    """What a command prints; it must succeed."""
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await child.communicate()
    if child.returncode:
        raise rpc.Failure(f"{command[0]} failed: {err.decode(errors='replace').strip()}")
    return out.decode()


async def survey(info: Any) -> list[tuple[str, str, dict[str, Any] | None]]:
    """(name, version, what its pulumi-plugin.json says) of each distribution the program can import."""
    return [tuple(item) for item in json.loads(await output_of(interpreter(info), "-c", SURVEY))]


class Language(proto.LanguageRuntimeServicer):  # type: ignore[misc]
    """The language host of one engine; its programs and plugins are child processes."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.children: set[asyncio.subprocess.Process] = set()

    async def Handshake(self, request: Any, context: Any) -> Any:
        """Learn the engine's address where it is not an argument."""
        self.engine = request.engine_address
        return proto.LanguageHandshakeResponse()

    async def GetPluginInfo(self, request: Any, context: Any) -> Any:
        """Report no version: the engine takes the host beside it as it is."""
        return proto.PluginInfo(version="")

    @rpc.reports_failure
    async def About(self, request: Any, context: Any) -> Any:
        """Name the Python that runs programs."""
        python = interpreter(request.info)
        version = await output_of(python, "-V")
        return proto.AboutResponse(executable=python, version=version.split()[-1])

    @rpc.reports_failure
    async def GetRequiredPackages(self, request: Any, context: Any) -> Any:
        """Name the plugins of every installed Pulumi SDK, used by the program or not, as the official host does."""
        packages = [
            proto.PackageDependency(
                name=plugin.get("name") or name.lower().removeprefix("pulumi-"),
                version="v" + (plugin.get("version") or version).lstrip("v"),
                kind="resource",
                server=plugin.get("server", ""),
            )
            for name, version, plugin in await survey(request.info)
            if plugin and plugin.get("resource")
        ]
        return proto.GetRequiredPackagesResponse(packages=packages)

    @rpc.reports_failure
    async def GetProgramDependencies(self, request: Any, context: Any) -> Any:
        """Name all that is installed beside the program (`pulumi about`)."""
        found = [proto.DependencyInfo(name=name, version=version) for name, version, _ in await survey(request.info)]
        return proto.GetProgramDependenciesResponse(dependencies=found)

    async def InstallDependencies(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """`pulumi install`: make the virtual environment, fill it with pip."""
        for step in installation(request):
            child = await asyncio.create_subprocess_exec(
                *step, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            if child.stdout is not None:
                async for line in child.stdout:
                    yield proto.InstallDependenciesResponse(stdout=line)
            if await child.wait():
                await context.abort(rpc.grpc.StatusCode.UNKNOWN, f"{' '.join(step)} failed")

    @rpc.reports_failure
    async def Run(self, request: Any, context: Any) -> Any:
        """Run a program to its end."""
        python = interpreter(request.info)
        runner = str(Path(__file__).with_name("program.py"))
        arguments = [json.dumps(self._settings(request)), request.info.entry_point, *request.args]
        child = await asyncio.create_subprocess_exec(
            *(python, "-u", runner, *arguments),
            cwd=request.pwd,
            env=environment(
                python,
                PULUMI_CONFIG=json.dumps(dict(request.config)),
                PULUMI_CONFIG_SECRET_KEYS=json.dumps(list(request.configSecretKeys)),
            ),
        )
        code = await self._end_of(child)
        if code == USER_SAW_THE_ERROR:
            return proto.RunResponse(bail=True)
        return proto.RunResponse(error=f"program exited with non-zero exit code: {code}" if code else "")

    def _settings(self, request: Any) -> dict[str, Any]:
        return {
            "monitor": request.monitor_address,
            "engine": self.engine,
            "project": request.project,
            "stack": request.stack,
            "organization": request.organization,
            "parallel": request.parallel,
            "dry_run": request.dryRun,
            "root_directory": request.info.root_directory,
        }

    async def RunPlugin(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Start a plugin written in Python and pass on what it prints, until it ends or the engine ends the call."""
        try:
            child = await start_plugin(request)
        except rpc.Failure as error:
            await context.abort(rpc.grpc.StatusCode.UNKNOWN, str(error))
            return
        printed: asyncio.Queue[Any] = asyncio.Queue()
        task = asyncio.ensure_future(self._relay(child, printed))
        try:
            while (response := await printed.get()) is not None:
                yield response
        finally:
            if child.returncode is None:
                child.send_signal(signal.SIGINT)
            await task

    async def _relay(self, child: asyncio.subprocess.Process, printed: asyncio.Queue[Any]) -> None:
        """Put what a plugin prints into the queue, then its exit code when it is not 0, then None."""

        async def forward(stream: asyncio.StreamReader | None, name: str) -> None:
            while stream and (data := await stream.read(65536)):
                printed.put_nowait(proto.RunPluginResponse(**{name: data}))

        await asyncio.gather(forward(child.stdout, "stdout"), forward(child.stderr, "stderr"))
        if code := await self._end_of(child):
            printed.put_nowait(proto.RunPluginResponse(exitcode=code))
        printed.put_nowait(None)

    async def Cancel(self, request: Any, context: Any) -> Any:
        """Interrupt every program and plugin."""
        for child in self.children:
            child.send_signal(signal.SIGINT)
        return Empty()

    async def _end_of(self, child: asyncio.subprocess.Process) -> int:
        """A child's exit code; should the call be cancelled, the child is ended first."""
        self.children.add(child)
        try:
            return await child.wait()
        except asyncio.CancelledError:
            child.send_signal(signal.SIGINT)
            try:
                await asyncio.wait_for(child.wait(), CANCEL_GRACE)
            except TimeoutError:
                child.kill()
            raise
        finally:
            self.children.discard(child)


def installation(request: Any) -> list[list[str]]:
    """The commands that make what a program or plugin needs."""
    root = Path(request.info.root_directory)
    venv = root / (plain(request.info.options).get("virtualenv") or "venv")
    pip = str(venv / "bin" / "pip")
    steps = []
    if not (venv / "bin" / "python").exists():
        steps.append(["python3", "-m", "venv", str(venv)])
    if (root / "requirements.txt").exists():
        steps.append([pip, "install", "-r", str(root / "requirements.txt")])
    if request.is_plugin and (root / "pyproject.toml").exists():
        steps.append([pip, "install", str(root)])
    return steps


async def start_plugin(request: Any) -> asyncio.subprocess.Process:
    """Start a policy pack or a component provider."""
    is_policy = request.kind == "analyzer"
    python = interpreter(request.info, is_plugin=not is_policy)
    directory = Path(request.info.program_directory)
    if is_policy:
        command = ["-m", "pulumi.policy", *request.args, str(directory)]
    elif (directory / "__main__.py").exists():
        command = [str(directory), *request.args]
    else:
        project = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))
        command = ["-m", "pulumi.run.plugin", project["project"]["name"], *request.args]
    return await asyncio.create_subprocess_exec(
        *(python, "-u", *command),
        cwd=directory if is_policy else request.pwd,
        env={**dict(item.split("=", 1) for item in request.env), **environment(python)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def main() -> None:
    """Serve the engine that started us."""
    host = Language(rpc.engine_address())
    rpc.serve(lambda server: proto.language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server))
