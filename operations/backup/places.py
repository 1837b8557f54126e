"""Where backups are kept: a folder, a private git repository, a restic repository (S3 and what else restic knows).

A place holds folders of encrypted files by their names; what is in them is archive's business.
"""

from __future__ import annotations

import json
import os
import re
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
    from collections.abc import Iterable, Iterator, Sequence

RESTIC, GIT = "restic:", "git+"
TAG = "mailroom"
AUTHOR = ("-c", "user.name=Mailroom", "-c", "user.email=mailroom@localhost", "-c", "commit.gpgSign=false")
SECONDS = 3600  # for one command; a first upload may be long
# user:password@ of a URL, and a token that is given as the user
PASSWORD = re.compile(r"(?<=//)(?:[^/@\s]*:[^/\s]*|(?:gh[a-z]_|github_pat_|glpat-)[^/@\s]*)(?=@)")
# What restic says where there is no repository: before 0.17 with status 1, since then with 10.
NO_REPOSITORY = "Is there a repository at the following location?"
FIXES = {
    GIT: "let git know it: a credential helper (git help credentials), or a deploy key and git+ssh://git@...",
    RESTIC: "write the repository's URL into a file that you alone read, export RESTIC_REPOSITORY_FILE with the "
    f"file's name, and give {RESTIC} alone for the place",
    "": "name a folder",
}


class Place(Protocol):
    """What every kind of place can do. Each raises `Problems` when it cannot."""

    def check(self) -> str | None:
        """Find out whether the place answers, and change nothing; what `writing` will have to make there first."""

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """An empty folder of mode 0700 to fill; it is in the place, complete, when the block ends without an error."""

    def names(self) -> list[str]:
        """All complete backups, of every stack, in no order."""

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A folder with the files of a backup that is one of `names`."""

    def prune(self, stack: str, keep: int) -> list[str]:
        """Remove all but the stack's newest; their names."""


def place(text: str) -> Place:
    """`restic:REPOSITORY`, `git+URL`, or a folder's path. Raises `Problems` for a password in it."""
    kind = next((kind for kind in (RESTIC, GIT) if text.startswith(kind)), "")
    if PASSWORD.search(text):
        finding = error_about(
            hidden(text), "backup.place-password", expected="an address without a password",
            found="one with a password (not shown here)", why="other users of this machine can read arguments",
            fix=f"change that password; then {FIXES[kind]}",
        )  # fmt: skip
        raise Problems("nothing was asked of the place", [finding])
    if kind == RESTIC:
        return Restic(text.removeprefix(RESTIC))
    if kind == GIT:
        return Git(text.removeprefix(GIT))
    return Folder(Path(text).expanduser())


def of_stack(stack: str, names: Iterable[str]) -> list[str]:
    """The backups that are the stack's, the oldest first."""
    matches = [(name, NAME.fullmatch(name)) for name in names]
    return sorted(name for name, match in matches if match and match["stack"] == stack)


def stacks_of(names: Iterable[str]) -> list[str]:
    """The stacks that have backups among these."""
    return sorted({match["stack"] for name in names if (match := NAME.fullmatch(name))})


def hidden(text: str) -> str:
    """A text without the passwords of the URLs in it."""
    return PASSWORD.sub("***", text)


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

    def names(self) -> list[str]:
        """Complete ones alone."""
        self.check()
        return [path.name for path in self.path.iterdir() if NAME.fullmatch(path.name) and (path / MANIFEST).is_file()]

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Where it lies."""
        yield self.path / name

    def prune(self, stack: str, keep: int) -> list[str]:
        """All but the newest."""
        gone = of_stack(stack, self.names())[:-keep]
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

    def names(self) -> list[str]:
        """Those of the newest commit."""
        with self._clone() as clone:
            return Folder(clone).names()

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
    """A restic repository; credentials come from restic's own environment (RESTIC_PASSWORD_FILE, AWS_...).

    An empty name leaves the repository to that environment, too: RESTIC_REPOSITORY_FILE.
    """

    repository: str

    def check(self) -> str | None:
        """Whether it opens; one that is not there yet is made by the first backup."""
        return None if self._exists() else f"there is no restic repository at {self._where} yet: it is made"

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """In a temporary folder, one snapshot at the end."""
        if not self._exists():
            self._restic(["init"])
        with _temporary() as folder:
            fresh = folder / name
            fresh.mkdir(mode=0o700)
            yield fresh
            stack = NAME.fullmatch(name)
            tags = f"{TAG},{stack['stack'] if stack else ''}"
            self._restic(["backup", "-q", "--host", TAG, "--tag", tags, name], folder)

    def names(self) -> list[str]:
        """Of every snapshot."""
        return [*self._snapshots()]

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Restored to a temporary folder."""
        with _temporary() as folder:
            self._restic(["restore", "-q", self._snapshots()[name], "--target", str(folder)])
            found = [path.parent for path in folder.rglob(MANIFEST) if path.parent.name == name]
            yield found[0] if found else folder / name

    def prune(self, stack: str, keep: int) -> list[str]:
        """Forget all but the newest and free their space."""
        known = self._snapshots()
        gone = of_stack(stack, known)[:-keep]
        if gone:
            self._restic(["forget", "-q", "--prune", *(known[name] for name in gone)])
        return gone

    @property
    def _where(self) -> str:
        return self.repository or "the place that RESTIC_REPOSITORY_FILE names"

    def _exists(self) -> bool:
        if not shutil.which("restic"):
            raise _no_place(self._where, "restic is not installed here", "`apt-get install restic`")
        return self._restic(["cat", "config"], missing=NO_REPOSITORY) is not None

    def _snapshots(self) -> dict[str, str]:
        """Backup name -> snapshot."""
        found: list[dict[str, Any]] = json.loads(self._restic(["snapshots", "--json", "--tag", TAG]) or "null") or []
        return {Path(one["paths"][0]).name: one["id"] for one in found if one["paths"]}

    def _restic(self, arguments: Sequence[str], folder: Path | None = None, *, missing: str = "") -> str | None:
        named = ["-r", self.repository] if self.repository else []
        return _run(self._where, ["restic", *named, *arguments], folder, missing=missing)


@contextmanager
def _temporary() -> Iterator[Path]:
    """A folder for encrypted files, for us alone, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="mailroom-backup-") as folder:
        yield Path(folder)


def _run(where: str, command: Sequence[str], folder: Path | None = None, *, missing: str = "") -> str | None:
    """Output of a tool that may ask its user nothing; None when it fails with the words `missing`."""
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
    if missing and missing in done.stderr:
        return None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
    said = next((line for line in lines if line.lower().startswith("fatal: ")), lines[-1])
    tool = {"git": "your SSH agent or git's credentials", "restic": "RESTIC_PASSWORD_FILE and the store's AWS_..."}
    advice = f"check the address, and {tool.get(command[0], 'your rights')}"
    raise _no_place(where, f"{command[0]}: {hidden(said)[:300]}", advice)


def _no_place(where: object, found: str, fix: str) -> Problems:
    finding = error_about(
        where, "backup.place", expected="a place that takes backups: a folder, git+URL or restic:REPOSITORY",
        found=found, why="a backup that is kept nowhere is none", fix=fix,
    )  # fmt: skip
    return Problems("the place for backups does not answer", [finding])
