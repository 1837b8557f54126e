"""What every stand-in shares: the start-up handshake, a call trace, errors for the user, answers to Diff.

A Pulumi plugin is a program that opens a gRPC port on the loopback, prints the port number as its first line and
serves until it gets a signal.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import grpc
from pulumi.runtime import proto

from lab.engine import values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "Failure",
    "NotFound",
    "diff_response",
    "engine_address",
    "grpc",
    "proto",
    "reports_failure",
    "serve",
    "token_of",
]

TRACE = os.environ.get("STANDIN_TRACE")  # a file that gets one line a call, for debugging
MAX_MESSAGE = 400 * 1024 * 1024  # the engine's own limit
PARENT_CHECK = 1.0  # seconds; an engine that is killed cannot tell its plugins to leave
THREADS = 64


class Failure(Exception):  # noqa: N818  (the user's failure, not an error of ours)
    """An error whose text the user should see as it is."""


class NotFound(Failure):
    """The API knows no such thing."""


def reports_failure(method: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a Failure raised by an RPC method, async or in a thread, into a gRPC error."""
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def asynchronous(self: Any, request: Any, context: Any) -> Any:
            try:
                return await method(self, request, context)
            except Failure as error:
                return await context.abort(grpc.StatusCode.UNKNOWN, str(error))

        return asynchronous

    @functools.wraps(method)
    def threaded(self: Any, request: Any, context: Any) -> Any:
        try:
            return method(self, request, context)
        except Failure as error:
            return context.abort(grpc.StatusCode.UNKNOWN, str(error))

    return threaded


def token_of(request: Any) -> str:
    """The type token of the resource a request is about."""
    return str(request.urn.split("::")[2].split("$")[-1])


def diff_response(changes: Iterable[tuple[str, str]], replaces: Iterable[str]) -> Any:
    """The answer to Diff: these changes, of which those below the properties in `replaces` replace."""
    kinds, found, detailed = proto.PropertyDiff.Kind, dict(changes), {}
    for path, kind in found.items():
        replacing = "_REPLACE" if values.root(path) in replaces else ""
        # As the official ones do: the engine then shows what was (outputs) against what is wanted (inputs).
        detailed[path] = proto.PropertyDiff(kind=kinds.Value(kind + replacing), inputDiff=False)
    changed = {values.root(path) for path in found}  # the engine shows the names given here, not the paths
    return proto.DiffResponse(
        changes=proto.DiffResponse.DIFF_SOME if found else proto.DiffResponse.DIFF_NONE,
        replaces=sorted(changed & set(replaces)),
        diffs=sorted(changed),
        detailedDiff=detailed,
        hasDetailedDiff=True,
    )


# --- serving -------------------------------------------------------------------


def engine_address() -> str:
    """The engine's own gRPC address, which it gives each plugin as the one argument that is no option."""
    return next((item for item in sys.argv[1:] if not item.startswith("-")), "")


def serve(register: Callable[[Any], None]) -> None:
    """Serve until SIGINT, SIGTERM or the end of the engine; `register(server)` adds the servicer."""
    asyncio.run(_serve(register))
    sys.stdout.flush()
    os._exit(0)  # the engine waits for each plugin's end, and there is nothing left to tidy up


async def _serve(register: Callable[[Any], None]) -> None:
    engine = os.getppid()
    server = grpc.aio.server(
        migration_thread_pool=concurrent.futures.ThreadPoolExecutor(THREADS),
        interceptors=[_Tracer()] if TRACE else [],
        options=[("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)],
    )
    register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(port, flush=True)
    while not stop.is_set() and os.getppid() == engine:
        try:
            await asyncio.wait_for(stop.wait(), PARENT_CHECK)
        except TimeoutError:
            continue
    await server.stop(grace=1)


class _Tracer(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Appends '<epoch> <pid> <method>' to TRACE at the start of each call."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        line = f"{time.time():.3f} {os.getpid()} {details.method}\n"
        await asyncio.to_thread(_append, line)
        return await continuation(details)


def _append(line: str) -> None:
    with open(TRACE or os.devnull, "a", encoding="utf-8") as out:
        out.write(line)
