"""The main job on this machine: lab, `pulumi up` of the dev stack, test messages, verdicts; and the way back."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operations import processes, recovery, stacks
from standards.finding import Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHECKOUT = Path(__file__).resolve().parent.parent
STACK = "dev"
HOST = "smtp.example.test"
PORTS = (465, 587)


class Failed(Exception):  # noqa: N818  (it has been explained already)
    """A step failed; it has said why itself."""


def say(text: str) -> None:
    """One line of progress, after whatever the steps printed."""
    print(f"\n==> {text}", flush=True)


def run(*command: str) -> None:
    """Run a step with its output shown; raises Failed."""
    if processes.run(command, folder=CHECKOUT).returncode:
        raise Failed(" ".join(command[:4]))


def lab(*arguments: str) -> None:
    """Run the lab's own command."""
    run(sys.executable, "-m", "lab", *arguments)


def lab_status() -> dict[str, Any]:
    """What `python -m lab status --json` prints."""
    command = [sys.executable, "-m", "lab", "status", "--json"]
    answer = processes.run(command, folder=CHECKOUT, capture=True)
    return dict(json.loads(answer.stdout)) if answer.returncode == 0 else {"up": False}


def pulumi(*arguments: str) -> None:
    """Run the engine on the dev stack."""
    if recovery.pulumi(STACK, *arguments).returncode:
        raise Failed(f"pulumi {arguments[0]}")


def up(since: float) -> None:
    """Converge everything; a second run changes nothing. `since` is when the command began."""
    say("starting the small internet (lab)")
    lab("up")
    status = lab_status()
    vps, receiver = status["vps"][0], status["receiver"]
    for address in filter(None, (vps["ipv4"], vps["ipv6"])):
        lab("ptr", address, HOST)  # as a person would at the hosting provider
    say("pulumi up, stack dev: the same program as production")
    recovery.ensure(STACK)
    recovery.recover(STACK)
    pulumi("up", "--yes", "--skip-preview", "--suppress-outputs")
    for port in PORTS:
        say(f"sending a test message through port {port}")
        run(sys.executable, "-m", "scripts.send_test", "--stack", STACK, "--to", receiver, "--port", str(port))
    _what_next(time.time() - since, receiver)


def _what_next(seconds: float, receiver: str) -> None:
    print(f"""
The mail server works: every check above passed ({seconds:.0f} s).

  look around     .venv/bin/python -m lab status
  use pulumi      eval "$(.venv/bin/python -m lab.demo env)" && pulumi preview -s dev
  another mail    scripts/send_test.py --stack dev --to {receiver}
  change it       edit Pulumi.dev.yaml, then make up
  run the tests   make test
  take it down    make down
  production      see "Production" in README.md""")


def down() -> None:
    """Destroy the stack while its lab still answers, then the lab; each may be gone already."""
    if lab_status().get("up") and recovery.exists(STACK):
        say("pulumi destroy, stack dev")
        recovery.recover(STACK)
        pulumi("destroy", "--yes", "--skip-preview")
    say("removing the lab")
    lab("down")


def env() -> None:
    """Print what a shell needs to run `pulumi` on the dev stack by hand."""
    program, environment = stacks.command(STACK)
    print(f'export PATH={shlex.quote(str(Path(program).parent))}:"$PATH"')
    for name, value in sorted(environment.items()):
        if name.startswith("PULUMI_"):
            print(f"export {name}={shlex.quote(value)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m lab.demo up|down|env`."""
    parser = argparse.ArgumentParser(prog="python -m lab.demo", description=__doc__)
    parser.add_argument("action", choices=["up", "down", "env"])
    parser.add_argument("--since", type=float, default=time.time(), help="when the command began, in seconds")
    chosen = parser.parse_args(arguments)
    try:
        actions: dict[str, Callable[[], None]] = {"up": partial(up, chosen.since), "down": down, "env": env}
        actions[chosen.action]()
    except Failed as step:
        print(
            f"\nstopped at: {step}. Its message stands above; correct what it names, then run this again.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: what was done is kept, running this again goes on", file=sys.stderr)
        return 130
    except Problems as problems:
        print(f"\n{problems}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
