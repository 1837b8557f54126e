#!/usr/bin/python3
"""Puts a set of files where activate.py finds it, under its digest; nothing that runs is touched.

Payload: {"kind": "plain" | "secret", "files": {path: {"mode": "0640", "lines": [...]}}}.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.host import hostlib
else:
    import hostlib

STAGED = Path("/etc/mailroom/staged")
KINDS = ("plain", "secret")
KEPT = 2  # the set that runs and the newest one


def digest(files: dict[str, Any]) -> str:
    """As components/chasquid/config.py names the set."""
    text = json.dumps(files, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_inside(path: str) -> bool:
    """Whether a relative path stays below the directory it is joined to."""
    parts = path.split("/")
    return not path.startswith("/") and all(part not in {"", ".", ".."} for part in parts)


def main() -> None:
    """Write the set beside its place, then rename it there."""
    payload = hostlib.read_payload()
    kind, files = payload["kind"], payload["files"]
    strays = [path for path in files if not is_inside(path)]
    if kind not in KINDS or strays:
        hostlib.fail(
            f"staging refused for kind {kind!r}, paths {strays!r}", "expected paths such as domains/example.com/users",
            "correct the program that sent them",
        )  # fmt: skip
    target = STAGED / kind / digest(files)
    os.umask(0o077)
    hostlib.make_directory(STAGED, 0o700)
    hostlib.make_directory(STAGED / kind, 0o700)
    if target.is_dir():
        target.touch()
        hostlib.finish([])
    write(target, files)
    forget_old(STAGED / kind, target)
    hostlib.finish([f"{len(files)} {kind} files staged as {target.name}"])


def write(target: Path, files: dict[str, Any]) -> None:
    """A set is there as a whole or not at all, whenever we are killed."""
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    hostlib.make_directory(fresh, 0o700)
    for path, file in files.items():
        place = fresh / path
        hostlib.make_directory(place.parent, 0o700)
        hostlib.write_file(place, "".join(f"{line}\n" for line in file["lines"]), 0o600)
    hostlib.write_file(fresh / ".modes.json", json.dumps({path: file["mode"] for path, file in files.items()}), 0o600)
    fresh.rename(target)


def forget_old(folder: Path, newest: Path) -> None:
    """Keep the newest sets only: what runs has its own copy in its release."""
    others = sorted((path for path in folder.iterdir() if path != newest), key=lambda path: path.stat().st_mtime)
    for path in others[: max(0, len(others) - KEPT + 1)]:
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
