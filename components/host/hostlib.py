"""What host scripts share: payload, atomic files, commands, one summary line; standard library only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

PROC = Path("/proc")


def read_payload() -> dict[str, Any]:
    """The step's input: one JSON object on standard input. It may hold secrets and is never printed."""
    try:
        payload = json.load(sys.stdin)
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        fail(
            "standard input holds no JSON object",
            'expected a payload such as {"packages": []}',
            "run it by `pulumi up`",
        )
    return payload


def write_file(path: Path, content: str | bytes, mode: int = 0o644, owner: str = "root", group: str = "root") -> bool:
    """Write a whole file atomically with its owner and mode from the first byte; says whether it changed."""
    data = content.encode() if isinstance(content, str) else content
    if _is_as_wanted(path, data, mode, owner, group):
        return False
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    shutil.chown(fresh, owner, group)
    fresh.chmod(mode)
    fresh.rename(path)
    return True


def _is_as_wanted(path: Path, data: bytes, mode: int, owner: str, group: str) -> bool:
    try:
        status = path.lstat()
        same_owner = path.owner() == owner and path.group() == group
    except (OSError, KeyError):
        return False
    return not path.is_symlink() and status.st_mode & 0o7777 == mode and same_owner and path.read_bytes() == data


def make_directory(path: Path, mode: int = 0o755, owner: str = "root", group: str = "root") -> None:
    """A directory with this mode and owner; its parents are made as they are missing."""
    path.mkdir(parents=True, exist_ok=True)
    shutil.chown(path, owner, group)
    path.chmod(mode)


def point(link: Path, target: str) -> bool:
    """Make `link` a symlink to `target` in one rename; says whether that changed it."""
    if link.is_symlink() and os.readlink(link) == target:
        return False
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.rename(link)
    return True


def run(
    argv: Sequence[str],
    *,
    input: str | None = None,  # noqa: A002  (as subprocess calls it)
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a command with English messages and captured output; the caller judges its status."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        argv, input=input, capture_output=True, text=True, check=False, timeout=timeout, env=environment
    )


def must(argv: Sequence[str]) -> None:
    """Run a command that has no reason to fail; raises OSError with its last words when it does."""
    answer = run(argv)
    if answer.returncode:
        said = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
        raise OSError(f"`{' '.join(argv)}` failed: {said[-1][:300] if said else answer.returncode}")


def main_pid(unit: str) -> int:
    """The main process of a running unit, 0 for none."""
    answer = run(["systemctl", "show", unit, "-p", "ActiveState,MainPID"])
    facts = dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
    return int(facts.get("MainPID", "0")) if facts.get("ActiveState") == "active" else 0


def entered(unit: str) -> Path | None:
    """The directory a running unit entered when it started, whatever links to it say now."""
    pid = main_pid(unit)
    try:
        return (PROC / str(pid) / "cwd").readlink() if pid else None
    except OSError:
        return None


def finish(changes: Sequence[str]) -> NoReturn:
    """End the step with the one line that says what it changed."""
    print(f"changed: {', '.join(changes)}" if changes else "ok: nothing to do")
    sys.exit(0)


def fail(what: str, expected: str, todo: str) -> NoReturn:
    """End the step with one line: what is wrong, what was expected, what to do next."""
    print(f"error: {what}, {expected}, {todo}", file=sys.stderr)
    sys.exit(1)
