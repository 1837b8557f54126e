"""What the Pulumi SDK does in every run and nobody reads, left out: a fifth of a run that finds nothing to do.

It reaches into the SDK, which has no setting for any of it. Version after version a unit test holds the names.
"""

from __future__ import annotations

import asyncio

import pulumi
from pulumi.runtime import resource, settings
from pulumi.runtime.proto import source_pb2


def leave_out() -> None:
    """Call it once, before the program's first resource, while the SDK's event loop runs."""
    # The engine is told of each step of a registration, and waited for until it has listened.
    pulumi.log.debug = lambda *_, **__: None
    # Of each resource, where in the program each of its callers stands.
    resource._get_stack_trace = source_pb2.StackTrace  # noqa: SLF001
    # At the program's end no registration has begun, and the SDK watches each output of each resource for its end,
    # over and over. With one registration to wait for it waits for all of them first.
    begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    begun.set_result(None)
    settings._get_rpc_manager().rpcs.append(begun)  # noqa: SLF001
