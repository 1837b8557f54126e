"""`python -m lab.engine`: prepare the Pulumi engine of this checkout, and show how to use it by hand."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from lab.engine import build, pins
from lab.engine.install import install

CHECKOUT = Path(__file__).resolve().parents[2]
STAND_INS = (
    "warning: stand-ins of this project would serve a real stack in place of the official language host, "
    "command and Cloudflare plugins; install Pulumi (https://www.pulumi.com/docs/install/) to avoid that"
)


def main() -> int:
    """Run one command; 0 when the engine is ready, 2 when it is not."""
    parser = argparse.ArgumentParser(prog="python -m lab.engine", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    step = commands.add_parser("install", help="find the official engine, or build the pinned one, and install it here")
    step.add_argument(
        "--go",
        type=Path,
        default=build.cache() / "go" / "bin" / "go",
        metavar="PATH",
        help="the Go executable to build with (default: %(default)s)",
    )
    commands.add_parser("env", help="print the shell lines that put this checkout's engine on PATH")
    arguments = parser.parse_args()
    try:
        if arguments.command == "install":
            prepare(arguments.go)
        else:
            print(exports(build.find(CHECKOUT)))
    except build.EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def prepare(go: Path) -> None:
    """Find or build and install the engine, and say how to use it."""
    if pulumi := build.official():
        print(f"Pulumi engine: the official one, {pulumi}.")
        return
    engine = install(CHECKOUT, build.build(go))
    print(f"Pulumi engine: v{pins.ENGINE}, built from its module, {engine.pulumi}.")
    print(STAND_INS)
    print("To use it in your shell:\n" + exports(engine))


def exports(engine: build.Engine) -> str:
    """The shell lines that make `pulumi` this engine."""
    if engine.official:
        return "# the official Pulumi is on PATH: nothing to set"
    variables = engine.environment()
    lines = [f'export PATH={shlex.quote(str(engine.pulumi.parent))}:"$PATH"']
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items() if name != "PATH"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
