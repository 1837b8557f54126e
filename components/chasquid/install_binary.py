#!/usr/bin/python3
"""Unpacks the uploaded chasquid after verifying every digest; what runs goes on running.

Payload: {"tar": "/var/tmp/....tar", "sha256": {"chasquid": ..., "chasquid-util": ...}, "version": "1.18.0"}.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.host import hostlib
else:
    import hostlib

PROGRAMS = Path("/usr/local/lib/mailroom/chasquid")
KEPT = 2  # the one that runs stays for a rollback


def main() -> None:
    """Install below a directory named after the main program's digest."""
    payload = hostlib.read_payload()
    wanted: dict[str, str] = payload["sha256"]
    tar = Path(payload["tar"])
    target = PROGRAMS / wanted["chasquid"][:12]
    if not is_complete(target, wanted):
        install(tar, target, wanted)
        tar.unlink(missing_ok=True)
        forget_old(target)
        hostlib.finish([f"chasquid {payload['version']} installed in {target}"])
    tar.unlink(missing_ok=True)
    hostlib.finish([])


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def is_complete(target: Path, wanted: dict[str, str]) -> bool:
    """Whether every program is there with its digest."""
    return all((target / name).is_file() and sha256((target / name).read_bytes()) == digest
               for name, digest in wanted.items())  # fmt: skip


def install(tar: Path, target: Path, wanted: dict[str, str]) -> None:
    """Write the verified programs beside their place, then rename the directory there."""
    programs = unpacked(tar)
    for name, digest in wanted.items():
        if sha256(programs.get(name, b"")) != digest:
            hostlib.fail(
                f"{tar}: {name} is not the pinned program", f"expected sha256 {digest}",
                "remove the file and run `pulumi up` again; if it stays so, find out who changed it",
            )  # fmt: skip
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    hostlib.make_directory(fresh)
    for name in wanted:
        hostlib.write_file(fresh / name, programs[name], 0o755)
    fresh.rename(target)


def unpacked(tar: Path) -> dict[str, bytes]:
    """The tar's plain files by name; links and directories are passed over."""
    try:
        with tarfile.open(tar) as archive:
            files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
            return {name: file.read() for name, file in files.items() if file}
    except (OSError, tarfile.TarError) as error:
        hostlib.fail(f"{tar} cannot be read ({error})", "expected the uploaded tar", "run `pulumi up` again")


def forget_old(newest: Path) -> None:
    """Keep the previous build for a rollback."""
    others = sorted((path for path in PROGRAMS.iterdir() if path != newest), key=lambda path: path.stat().st_mtime)
    for path in others[: max(0, len(others) - KEPT + 1)]:
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
