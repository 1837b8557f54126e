"""What every dynamic provider of ours shares: clear errors, progress, a diff without I/O; no provider itself.

Pulumi's dynamic provider answers every exception with a traceback. A person who mistyped a host key must
not read one, so `Problems` pass through as their own text.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any

from pulumi.dynamic import CreateResult, DiffResult, ResourceProvider, UpdateResult

from standards.finding import Problems, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

Properties = dict[str, Any]


def _own_words(original: Any) -> Any:
    def format_exc(limit: int | None = None, chain: bool = True) -> str:
        error = sys.exc_info()[1]
        return str(error) if isinstance(error, Problems) else str(original(limit, chain))

    return format_exc


def _in_provider_process() -> bool:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name == "pulumi.dynamic.__main__"


if _in_provider_process():
    traceback.format_exc = _own_words(traceback.format_exc)


def progress(message: str, *, warning: bool = False) -> None:
    """Show `message` in the running `pulumi up`, as the engine's own log lines are shown; a `warning` stays at its end.

    Dynamic providers get no logger from the SDK; the engine's address is the plugin's last argument, as for
    every plugin (pulumi/pulumi sdk/go/common/resource/plugin). Outside a plugin process it does nothing.
    """
    if not _in_provider_process() or len(sys.argv) < 2 or ":" not in sys.argv[-1]:  # noqa: PLR2004
        return
    import grpc
    from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc

    with grpc.insecure_channel(sys.argv[-1]) as channel:
        request = engine_pb2.LogRequest(
            severity=engine_pb2.WARNING if warning else engine_pb2.INFO, message=printable(message)
        )
        engine_pb2_grpc.EngineStub(channel).Log(request, timeout=5)


class Provider(ResourceProvider):
    """A provider whose resource is remade in place whenever an input changes.

    Subclasses implement `apply(inputs, previous)`: `previous` is the last state's outputs, empty at creation.
    It returns the outputs that are added to the inputs; it raises `Problems` for a person to read.
    """

    # The serialised provider is a reference to an importable class: nothing in it is secret.
    serialize_as_secret_always = False
    replaced_by: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()  # declared on the resource, not compared

    def apply(self, inputs: Properties, previous: Mapping[str, Any]) -> Properties:
        """Do the work; see the class."""
        raise NotImplementedError

    def identity(self, inputs: Properties) -> str:
        """The resource's ID."""
        return str(inputs["name"])

    def create(self, props: Properties) -> CreateResult:
        """Create: `apply` with no previous state."""
        inputs = self._inputs(props)
        return CreateResult(self.identity(inputs), {**inputs, **self.apply(inputs, {})})

    def update(self, _id: str, olds: Properties, news: Properties) -> UpdateResult:
        """Update: `apply` with the previous state."""
        inputs = self._inputs(news)
        return UpdateResult({**inputs, **self.apply(inputs, olds)})

    def diff(self, _id: str, olds: Properties, news: Properties) -> DiffResult:
        """Compare the inputs alone: the state holds them beside the outputs."""
        changed = [key for key, value in self._inputs(news).items() if olds.get(key) != value]
        replaces = [key for key in changed if key in self.replaced_by]
        return DiffResult(changes=bool(changed), replaces=replaces, delete_before_replace=False)

    def _inputs(self, properties: Properties) -> Properties:
        return {key: value for key, value in properties.items() if not key.startswith("__") and key not in self.outputs}
