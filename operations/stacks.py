"""How a script finds a stack's engine, backend, settings and outputs without anything exported; changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from standards.finding import Finding, Problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from components.settings import Settings

CHECKOUT = Path(__file__).resolve().parent.parent
ENGINE_SECONDS = 120
# `pulumi` exits with 6 for a stack it does not find and with 3 for a missing login (sdk/go/common/util/cmdutil).
NO_STACK, NO_LOGIN = 6, 3


@dataclass(frozen=True)
class Lab:
    """What the lab wrote down about the stack that lives in it."""

    env: Mapping[str, str] = field(repr=False)
    ca_file: str
    mail_dir: Path
    receiver: str


def lab(stack: str, checkout: Path = CHECKOUT) -> Lab | None:
    """The lab that `stack` lives in; None for every other stack."""
    try:
        found = json.loads((checkout / ".lab" / f"{stack}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Lab(found["env"], found["ca_file"], Path(found["mail_dir"]), found["receiver"])


def engine(checkout: Path = CHECKOUT) -> tuple[str, dict[str, str]]:
    """The `pulumi` to run for this checkout, and the variables it needs; raises `Problems` when there is none."""
    from lab.engine import build

    try:
        found = build.find(checkout)
    except build.EngineError as error:
        if pulumi := shutil.which("pulumi"):  # without a language host it still reads stacks
            return pulumi, {}
        raise Problems("there is no Pulumi engine", [_no_engine(error)]) from None
    return str(found.pulumi), found.environment()


def command(stack: str, checkout: Path = CHECKOUT, folder: Path | None = None) -> tuple[str, dict[str, str]]:
    """The `pulumi` to run for a stack, and the whole environment to run it in.

    A lab's stack opens with its lab's backend and passphrase alone, whatever is exported for other stacks; another
    one with the backend its file (in `folder`, or in the checkout) names and the passphrase that is kept for it, unless
    a passphrase is exported.
    """
    pulumi, variables = engine(checkout)
    home = lab(stack, checkout)
    return pulumi, {**os.environ, **variables, **(home.env if home else _own(stack, folder or checkout))}


def file_of(stack: str, checkout: Path) -> Path:
    """The file with a stack's settings, by the stack's name with or without the organization in front."""
    return checkout / f"Pulumi.{stack.rpartition('/')[2]}.yaml"


def passphrase_file(stack: str) -> Path:
    """Where scripts/new_stack.py keeps a stack's passphrase when nobody exports one."""
    return Path.home() / ".config" / "mailroom" / f"{stack}.passphrase"


def passphrase_is_exported() -> bool:
    """Whether the operator gives the passphrase, which goes before one that is kept."""
    return not {"PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"}.isdisjoint(os.environ)


def passphrase(stack: str, checkout: Path = CHECKOUT) -> str | None:
    """What opens a stack's secrets, from where the engine takes it; None when it is given nowhere.

    Raises `Problems` for a file that cannot be read.
    """
    _, environment = command(stack, checkout)
    if (value := environment.get("PULUMI_CONFIG_PASSPHRASE")) is not None:
        return value
    path = environment.get("PULUMI_CONFIG_PASSPHRASE_FILE")
    try:
        return Path(path).read_text(encoding="utf-8").strip() if path else None
    except OSError as error:
        finding = _stack_finding(
            "stack.passphrase", stack, f"{path}: {error.strerror}",
            "correct PULUMI_CONFIG_PASSPHRASE_FILE, or put the file where it says",
        )  # fmt: skip
        raise Problems(f"the passphrase of stack {stack} cannot be read", [finding]) from None


def _own(stack: str, checkout: Path) -> dict[str, str]:
    """Backend and passphrase of a stack outside a lab, as far as they are written down."""
    try:
        found = yaml.safe_load(file_of(stack, checkout).read_text(encoding="utf-8"))
        backend = found["config"].get("mailroom:backend")
    except (OSError, yaml.YAMLError, AttributeError, LookupError, TypeError):
        backend = None  # the engine explains a file it cannot read
    own = {"PULUMI_BACKEND_URL": backend} if isinstance(backend, str) else {}
    if not passphrase_is_exported() and passphrase_file(stack).exists():
        own["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(passphrase_file(stack))
    return own


def outputs(stack: str, *, secrets: bool = False, checkout: Path = CHECKOUT) -> dict[str, Any]:
    """The outputs of a deployed stack; secret ones are readable only when asked for."""
    shown = ["--show-secrets"] if secrets else []
    found = _read(stack, ["stack", "output", "--json", *shown], checkout)
    if not found:
        raise Problems(f"stack {stack} has nothing to show", [not_deployed(stack, checkout)])
    return found


def config(stack: str, checkout: Path = CHECKOUT) -> dict[str, Any]:
    """Every setting of a stack by its full key, parsed; secrets in clear text, in memory only."""
    found = _read(stack, ["config", "--json", "--show-secrets"], checkout)
    return {key: item.get("objectValue", item.get("value")) for key, item in found.items()}


def settings(stack: str, checkout: Path = CHECKOUT) -> Settings:
    """The validated settings of a stack."""
    from components.settings import Settings

    found = config(stack, checkout)
    return Settings.load(found.get, stack, found)


def run(
    stack: str, arguments: Sequence[str], stdin: str = "", checkout: Path = CHECKOUT, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A short command of the engine in a stack's environment, in `folder` or the checkout; the caller judges it."""
    pulumi, variables = command(stack, checkout, folder)
    return subprocess.run(
        [pulumi, *arguments, "--non-interactive", "--color", "never"],
        cwd=folder or checkout,
        env=variables,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=ENGINE_SECONDS,
        check=False,
    )


def errors(said: str) -> list[str]:
    """The errors in what the engine said, each in one line."""
    lines = [line.strip() for line in said.splitlines()]
    return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


def error(done: subprocess.CompletedProcess[str]) -> str:
    """Why the engine's command failed, in one line: it tells of resources on stdout, of the rest on stderr."""
    last = [line.strip() for line in done.stderr.splitlines() if line.strip()][-1:]
    found = errors(done.stderr) or errors(done.stdout) or last
    return found[0] if found else f"pulumi ended with status {done.returncode}"


def _read(stack: str, arguments: list[str], checkout: Path) -> dict[str, Any]:
    done = run(stack, [*arguments, "--stack", stack], checkout=checkout)
    if done.returncode:
        raise Problems(f"stack {stack} cannot be read", [unreadable(stack, done, checkout)])
    parsed = json.loads(done.stdout)
    return parsed if isinstance(parsed, dict) else {}


def _start(stack: str, checkout: Path) -> str:
    """The command that brings a stack into being."""
    return "make up" if _is_labs(stack, checkout) else f"pulumi up -s {stack}"


def _is_labs(stack: str, checkout: Path) -> bool:
    """Whether the stack lives in a lab, that of `make up` counted even while it is down."""
    return stack == "dev" or lab(stack, checkout) is not None


def unreadable(stack: str, done: subprocess.CompletedProcess[str], checkout: Path = CHECKOUT) -> Finding:
    """Why the engine did not read a stack, by its status and what it said, and what to do."""
    found = error(done)
    if done.returncode == NO_LOGIN and _is_labs(stack, checkout):
        return _stack_finding("stack.missing", stack, "the lab it lives in is not up", "`make up`")
    if done.returncode == NO_STACK:
        fix = f"`{_start(stack, checkout)}` makes it; `pulumi stack ls` shows those there are"
        return _stack_finding("stack.missing", stack, found, fix)
    if "passphrase" in found:
        fix = "export PULUMI_CONFIG_PASSPHRASE_FILE with the file that holds the stack's passphrase"
        return _stack_finding("stack.passphrase", stack, found, fix)
    if done.returncode == NO_LOGIN:
        fix = "`pulumi login` to the backend that holds the stack, or export PULUMI_BACKEND_URL"
        return _stack_finding("stack.login", stack, found, fix)
    return _stack_finding("stack.unreadable", stack, found, f"run `pulumi stack -s {stack}` and follow what it says")


def _stack_finding(finding_id: str, stack: str, found: str, fix: str) -> Finding:
    return Finding(
        severity="error",
        id=finding_id,
        subject=f"stack {stack}",
        expected="a stack of this project that this machine may read",
        found=found,
        why="hosts, users and keys are known from the stack alone",
        fix=fix,
    )


def not_deployed(stack: str, checkout: Path = CHECKOUT) -> Finding:
    """A stack that no run has brought into being, and how to."""
    fix = f"deploy it: `{_start(stack, checkout)}`"
    return _stack_finding("stack.not-deployed", stack, "it has no outputs: it was never deployed to the end", fix)


def _no_engine(error: Exception) -> Finding:
    return Finding(
        severity="error",
        id="engine.missing",
        subject="pulumi",
        expected="a Pulumi engine in the checkout or on PATH",
        found=str(error),
        why="the stack's state can only be read with it",
        fix="make setup",
    )
