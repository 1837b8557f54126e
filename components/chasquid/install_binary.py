#!/usr/bin/python3
"""Unpacks the uploaded chasquid after verifying every digest; what runs goes on running.

Payload: {"tar": ".chasquid-....tar", "sha256": {"chasquid": ..., "chasquid-util": ...}, "version": "1.18.0"}.
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
RELEASES = Path("/etc/mailroom/releases")
AGAIN = 'upload it again: pulumi up --replace "**/binary"'


def main() -> None:
    """Install below a directory named after the main program's digest."""
    payload = hostlib.read_payload()
    wanted: dict[str, str] = payload["sha256"]
    tar = Path(payload["tar"])
    target = PROGRAMS / wanted["chasquid"][:12]
    if not is_complete(target, wanted):
        install(tar, target, wanted, payload["version"])
        tar.unlink(missing_ok=True)
        forget_unused(target)
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


def install(tar: Path, target: Path, wanted: dict[str, str], version: str) -> None:
    """Write the verified programs beside their place, then rename the directory there."""
    programs = unpacked(tar)
    for name, digest in wanted.items():
        if sha256(programs.get(name, b"")) != digest:
            hostlib.fail(
                f"{tar}: {name} is not the pinned program", f"expected sha256 {digest}",
                f"{AGAIN}; if it stays so, find out who changed it",
            )  # fmt: skip
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    hostlib.make_directory(fresh)
    for name in wanted:
        hostlib.write_file(fresh / name, programs[name], 0o755)
    check_version(fresh / "chasquid", version)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def check_version(program: Path, version: str) -> None:
    """Run it once: a program for another architecture must not get near the service."""
    try:
        said = hostlib.run([str(program), "--version"]).stdout.strip()
    except OSError as error:
        said = str(error.strerror)
    if not said.startswith(f"chasquid {version} "):
        hostlib.fail(
            f"{program} does not run here ({said})", f"expected chasquid {version}",
            "compare mailroom:hosts[].arch with `uname -m` on the host",
        )  # fmt: skip


def unpacked(tar: Path) -> dict[str, bytes]:
    """The tar's plain files by name; links and directories are passed over."""
    try:
        with tarfile.open(tar) as archive:
            files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
            return {name: file.read() for name, file in files.items() if file}
    except (OSError, tarfile.TarError) as error:
        hostlib.fail(f"{tar} cannot be read ({error})", "expected the uploaded tar", AGAIN)


def forget_unused(newest: Path) -> None:
    """Keep what a release refers to: the one that runs, the one before for a rollback."""
    used = {newest.name} | {link.readlink().name for link in RELEASES.glob("*/bin")}
    for path in PROGRAMS.iterdir():
        if path.name not in used:
            shutil.rmtree(path)


if __name__ == "__main__":
    main()
