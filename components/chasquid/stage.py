#!/usr/bin/python3
"""Put a set of files on the host without using it yet; activate.py decides which set runs.

Payload: {"kind": "plain" | "secret", "files": {path: {"mode": "0640", "lines": [...]}}}
The set becomes /etc/mailroom/staged/<kind>/<digest>/; secret sets can be read by root alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from components.host import hostlib
else:
    import hostlib

STAGED = "/etc/mailroom/staged"
KEPT = 2  # the current set and the one before
MODES = {"plain": ("0640", "0750"), "secret": ("0640",)}


def step(payload: dict[str, Any]) -> Iterator[str]:
    """Stage one set; a set that is there already only becomes the newest."""
    kind, files = payload["kind"], payload["files"]
    check(kind, files)
    digest = hostlib.digest(files)
    parent = hostlib.under(f"{STAGED}/{kind}")
    hostlib.directory(parent, 0o755 if kind == "plain" else 0o700)
    target = parent / digest
    if target.is_dir() and content(kind, target) == files:
        os.utime(target)
    else:
        write(kind, files, parent / ".new")
        hostlib.remove(target)
        (parent / ".new").rename(target)
        yield f"staged {len(files)} {kind} files as {digest[:12]}"
    hostlib.keep_newest([path for path in parent.iterdir() if path.name != ".new"], KEPT)


def check(kind: str, files: dict[str, Any]) -> None:
    """Refuse, before anything is written, what activate.py could not take back out byte by byte."""
    if kind not in MODES:
        raise hostlib.Failure(f"kind is {kind!r}", '"plain" or "secret"', "correct the payload")
    for path, file in files.items():
        if not hostlib.inside(path):
            raise hostlib.Failure(
                f"the path {path!r} leaves the staged set",
                "a relative path such as domains/example.com/aliases",
                "correct the payload; nothing was written",
            )
        if file["mode"] not in MODES[kind]:
            raise hostlib.Failure(
                f"{path} has mode {file['mode']!r}",
                f"{' or '.join(MODES[kind])} in a {kind} set",
                "correct the payload; nothing was written",
            )
        if any("\n" in line for line in file["lines"]):
            raise hostlib.Failure(
                f"{path} has a line that holds a line break", "one entry a line", "split it in the payload"
            )


def write(kind: str, files: dict[str, Any], fresh: Path) -> None:
    """Write the set into the directory `fresh`, which a killed run may have left half full."""
    hostlib.remove(fresh)
    fresh.mkdir(mode=0o700)
    for path, file in files.items():
        place = fresh / path
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = int(file["mode"], 8) if kind == "plain" else 0o600
        hostlib.write_atomic(place, "".join(line + "\n" for line in file["lines"]).encode(), mode)
    fresh.chmod(0o755 if kind == "plain" else 0o700)
    if kind == "plain":
        for place in fresh.rglob("*"):
            if place.is_dir():
                place.chmod(0o755)


def content(kind: str, staged: Path) -> dict[str, Any]:
    """The set as it stands on disk, in the payload's form."""
    files = {}
    for place in sorted(staged.rglob("*")):
        if place.is_file():
            mode = f"{place.stat().st_mode & 0o7777:04o}" if kind == "plain" else "0640"
            lines = place.read_bytes().decode().split("\n")
            files[str(place.relative_to(staged))] = {"mode": mode, "lines": lines[:-1]}
    return files


if __name__ == "__main__":
    hostlib.main(step)
