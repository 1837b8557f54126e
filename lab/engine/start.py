"""Starts one stand-in with the least that must be loaded; the launchers that `install` writes call it.

The SDK's own __init__ costs each process 0.4 s of CPU, of which the generated protocol modules need nothing.  Only
a process that is a plugin and nothing else may do without it, hence not in `rpc`.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import sys
import types


def main(module: str) -> None:
    """Run a stand-in of this package, such as "command"."""
    gc.set_threshold(100_000)  # what is imported stays: to look for cycles in it takes a tenth of the start
    _protocol_only()
    _asyncio_without_tls()
    importlib.import_module(f"lab.engine.{module}").main()


def _protocol_only() -> None:
    """Make `pulumi.runtime.proto` importable without the rest of the SDK."""
    spec = importlib.util.find_spec("pulumi")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("The Pulumi SDK is not installed for this interpreter; run `make setup`.")
    root = spec.submodule_search_locations[0]
    for name, path in (("pulumi", root), ("pulumi.runtime", os.path.join(root, "runtime"))):
        package = types.ModuleType(name)
        package.__path__ = [path]
        sys.modules[name] = package


def _asyncio_without_tls() -> None:
    """Load asyncio as for an interpreter without OpenSSL: 10 ms, for loopback alone; who needs TLS still finds it."""
    sys.modules["ssl"] = None  # type: ignore[assignment]
    importlib.import_module("asyncio")
    del sys.modules["ssl"]
