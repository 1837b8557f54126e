"""What is left out of the SDK is still there to be left out, and a program that left it out ends as before."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pulumi
import pytest
from pulumi.runtime import resource, settings, stack
from pulumi.runtime.proto import source_pb2

from components import lean_sdk
from tests.unit.components.conftest import Engine, Monitor

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def _sdk_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulumi.log, "debug", pulumi.log.debug)
    monkeypatch.setattr(resource, "_get_stack_trace", resource._get_stack_trace)


def test_no_registration_says_where_its_callers_stand() -> None:
    def whole() -> source_pb2.StackTrace:  # the SDK looks for three constructors
        return Outer().trace

    class Inner:
        def __init__(self) -> None:
            self.trace = resource._get_stack_trace()

    class Middle(Inner):
        def __init__(self) -> None:
            super().__init__()

    class Outer(Middle):
        def __init__(self) -> None:
            super().__init__()

    assert whole().frames, "the SDK sends another thing now: see what it costs, and what lean_sdk does about it"

    async def program() -> None:
        lean_sdk.leave_out()

    asyncio.run(program())
    assert whole() == source_pb2.StackTrace()


def test_the_end_of_a_program_waits_for_registrations_and_not_for_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched: list[int] = []
    wait = asyncio.wait

    async def counted(tasks: list[asyncio.Task[object]], **options: str) -> object:
        watched.append(len(tasks))
        return await wait(tasks, **options)

    class Thing(pulumi.CustomResource):
        value: pulumi.Output[str]

        def __init__(self, number: int, before: list[pulumi.Resource]) -> None:
            options = pulumi.ResourceOptions(depends_on=before)
            super().__init__("test:index:Thing", f"thing{number}", {"value": "v"}, options)

    async def program(begin: Callable[[], None]) -> None:
        begin()
        things: list[pulumi.Resource] = []
        for number in range(20):
            things.append(Thing(number, things[-1:]))
        await stack.wait_for_rpcs()

    def work(begin: Callable[[], None]) -> int:
        engine = Engine()
        pulumi.runtime.set_mocks(engine, project="mailroom", stack="dev", monitor=Monitor(engine))
        watched.clear()
        asyncio.get_event_loop().run_until_complete(program(begin))
        assert len(engine.resources) == 20
        return sum(watched)

    monkeypatch.setattr(asyncio, "wait", counted)
    plain = work(lambda: None)
    assert work(lean_sdk.leave_out) < plain / 4, "see what it costs now, and what lean_sdk does about it"


def test_a_failed_registration_is_still_the_programs_error() -> None:
    async def refused() -> None:
        raise RuntimeError("the engine refused it")

    async def program() -> None:
        lean_sdk.leave_out()
        begun = asyncio.ensure_future(settings._get_rpc_manager().do_rpc("register resource", refused)())
        await stack.wait_for_rpcs()
        await begun

    try:
        with pytest.raises(RuntimeError, match="the engine refused it"):
            asyncio.run(program())
    finally:
        settings._get_rpc_manager().clear()


def test_the_engine_is_not_told_of_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(pulumi.log, "_log", lambda *arguments: told.append(arguments))

    async def program() -> None:
        lean_sdk.leave_out()
        pulumi.log.debug("registering")
        pulumi.log.warn("a person should know")

    asyncio.run(program())
    assert len(told) == 1
