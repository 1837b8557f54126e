"""Where backups are kept: a folder, a private git repository, a restic repository (S3 and what else restic knows).

A place holds folders of encrypted files by their names; what is in them is archive's business.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from operations.backup.archive import MANIFEST, NAME
from standards.finding import Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RESTIC, GIT = "restic:", "git+"
TAG = "mailroom"
AUTHOR = ("-c", "user.name=Mailroom", "-c", "user.email=mailroom@localhost", "-c", "commit.gpgSign=false")
SECONDS = 3600  # for one command; a first upload may be long


class Place(Protocol):
    """What every kind of place can do. Each raises `Problems` when it cannot."""

    def check(self) -> None:
        """Find out whether the place answers, before anything is asked of a host."""

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """An empty folder of mode 0700 to fill; it is in the place, complete, when the block ends without an error."""

    def names(self, stack: str) -> list[str]:
        """The stack's backups, the oldest first."""

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A folder with a backup's files."""

    def prune(self, stack: str, keep: int) -> list[str]:
        """Remove all but the stack's newest; their names."""


def place(text: str) -> Place:
    """`restic:REPOSITORY`, `git+URL`, or a folder's path."""
    if text.startswith(RESTIC):
        return Restic(text.removeprefix(RESTIC))
    if text.startswith(GIT):
        return Git(text.removeprefix(GIT))
    return Folder(Path(text).expanduser())


@dataclass(frozen=True)
class Folder:
    """A folder of this machine, such as a mounted disk."""

    path: Path

    def check(self) -> None:
        """The folder has to be there: a disk that is not mounted must not go unnoticed."""
        if not self.path.is_dir():
            raise _no_place(self.path, "no such folder", "mount it, or make it: mkdir -m 700")

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Beside its place, renamed there at the end."""
        self.check()
        fresh = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=self.path))
        try:
            yield fresh
            if (self.path / name).exists():
                raise _no_place(self.path / name, "there is one of this second already", "run it again")
            fresh.rename(self.path / name)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def names(self, stack: str) -> list[str]:
        """Complete ones alone."""
        self.check()
        return _of(stack, [path.name for path in self.path.iterdir() if (path / MANIFEST).is_file()])

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Where it lies."""
        yield self.path / name

    def prune(self, stack: str, keep: int) -> list[str]:
        """All but the newest."""
        gone = self.names(stack)[:-keep]
        for name in gone:
            shutil.rmtree(self.path / name)
        return gone


@dataclass(frozen=True)
class Git:
    """A git repository; what was ever committed stays in its history, encrypted."""

    url: str

    def check(self) -> None:
        """Whether git may read there."""
        _run(self.url, ["git", "ls-remote", "--heads", self.url])

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """In a clone, committed and pushed at the end."""
        with self._clone() as clone:
            folder = clone / name
            folder.mkdir(mode=0o700)
            yield folder
            self._push(clone, f"Back up {name}")

    def names(self, stack: str) -> list[str]:
        """Those of the newest commit."""
        with self._clone() as clone:
            return Folder(clone).names(stack)

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """In a clone."""
        with self._clone() as clone:
            yield clone / name

    def prune(self, stack: str, keep: int) -> list[str]:
        """From the newest commit on."""
        with self._clone() as clone:
            gone = Folder(clone).prune(stack, keep)
            if gone:
                self._push(clone, f"Remove {len(gone)} old backups of {stack}")
            return gone

    @contextmanager
    def _clone(self) -> Iterator[Path]:
        with _temporary() as folder:
            clone = folder / "clone"
            _run(self.url, ["git", "clone", "-q", "--depth", "1", self.url, str(clone)])
            yield clone

    def _push(self, clone: Path, message: str) -> None:
        _run(self.url, ["git", "add", "-A", "."], clone)
        _run(self.url, ["git", *AUTHOR, "commit", "-q", "--no-verify", "-m", message], clone)
        try:
            _run(self.url, ["git", "push", "-q", "origin", "HEAD"], clone)
        except Problems:  # somebody else pushed meanwhile: other folders, so it always fits
            _run(self.url, ["git", *AUTHOR, "pull", "-q", "--rebase"], clone)
            _run(self.url, ["git", "push", "-q", "origin", "HEAD"], clone)


@dataclass(frozen=True)
class Restic:
    """A restic repository; credentials come from restic's own environment (RESTIC_PASSWORD_FILE, AWS_...)."""

    repository: str

    def check(self) -> None:
        """Whether it opens; one that is not there yet is made."""
        if not shutil.which("restic"):
            raise _no_place(self.repository, "restic is not installed here", "`apt-get install restic`")
        if self._restic(["cat", "config"], fails=True) is None:
            self._restic(["init"])

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """In a temporary folder, one snapshot at the end."""
        with _temporary() as folder:
            fresh = folder / name
            fresh.mkdir(mode=0o700)
            yield fresh
            stack = NAME.fullmatch(name)
            tags = f"{TAG},{stack['stack'] if stack else ''}"
            self._restic(["backup", "-q", "--host", TAG, "--tag", tags, name], folder)

    def names(self, stack: str) -> list[str]:
        """Of every snapshot."""
        return _of(stack, self._snapshots())

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Restored to a temporary folder."""
        with _temporary() as folder:
            snapshot = self._snapshots().get(name, name)
            self._restic(["restore", "-q", snapshot, "--target", str(folder)])
            found = [path.parent for path in folder.rglob(MANIFEST) if path.parent.name == name]
            yield found[0] if found else folder / name

    def prune(self, stack: str, keep: int) -> list[str]:
        """Forget all but the newest and free their space."""
        known = self._snapshots()
        gone = _of(stack, known)[:-keep]
        if gone:
            self._restic(["forget", "-q", "--prune", *(known[name] for name in gone)])
        return gone

    def _snapshots(self) -> dict[str, str]:
        """Backup name -> snapshot."""
        found: list[dict[str, Any]] = json.loads(self._restic(["snapshots", "--json", "--tag", TAG]) or "null") or []
        return {Path(one["paths"][0]).name: one["id"] for one in found if one["paths"]}

    def _restic(self, arguments: Sequence[str], folder: Path | None = None, *, fails: bool = False) -> str | None:
        return _run(self.repository, ["restic", "-r", self.repository, *arguments], folder, fails=fails)


def _of(stack: str, names: Sequence[str] | dict[str, str]) -> list[str]:
    """Names that are the stack's, sorted by time."""
    matches = [(name, NAME.fullmatch(name)) for name in names]
    return sorted(name for name, match in matches if match and match["stack"] == stack)


@contextmanager
def _temporary() -> Iterator[Path]:
    """A folder for encrypted files, for us alone, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="mailroom-backup-") as folder:
        yield Path(folder)


def _run(where: str, command: Sequence[str], folder: Path | None = None, *, fails: bool = False) -> str | None:
    """Output of a tool that may ask its user nothing; None when it fails and may."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _no_place(where, str(error), f"see whether `{command[0]}` works there by hand") from None
    if done.returncode == 0:
        return done.stdout
    if fails:
        return None
    said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
    tool = {"git": "your SSH agent or git's credentials", "restic": "RESTIC_PASSWORD_FILE and the store's AWS_..."}
    advice = f"check the address, and {tool.get(command[0], 'your rights')}"
    raise _no_place(where, f"{command[0]}: {said[-1][:300]}", advice)


def _no_place(where: object, found: str, fix: str) -> Problems:
    finding = error_about(
        where, "backup.place", expected="a place that takes backups: a folder, git+URL or restic:REPOSITORY",
        found=found, why="a backup that is kept nowhere is none", fix=fix,
    )  # fmt: skip
    return Problems("the place for backups does not answer", [finding])
