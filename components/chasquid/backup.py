#!/usr/bin/python3
"""Writes what only this host has to standard output, as a tar (gzip): certificates, queue, what was learnt, counters.

Payload: {"host": "smtp.example.com"}. Nothing stops meanwhile: chasquid and certbot replace whole files, so each file
is one whole version of itself, and a message that leaves the queue while it is read is either there or not. Left out
is what a stack's state holds, too: tokens, DKIM keys, passwords. Nothing of it is written to
this host's disk.
"""

from __future__ import annotations

import fcntl
import grp
import io
import json
import os
import pwd
import shutil
import sqlite3
import stat
import sys
import tarfile
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from components.chasquid.policy import limits
    from components.host import hostlib
else:
    import hostlib
    from policy import limits

FORMAT = 1
LETSENCRYPT = Path("/etc/letsencrypt")
CHASQUID = Path("/var/lib/chasquid")
POLICY = Path("/var/lib/mailroom-policy")
POLICY_USER = "mailroom-policy"
MACHINE_ID = Path("/etc/machine-id")
STAGING = Path("/run/mailroom-backup")  # in memory
CERTBOT_LOCK = ".certbot.lock"  # certbot's own, in its folder, which it removes when it lets go
CERTBOT_LIMIT = 120  # seconds until a renewal must have ended
CERTBOTS = ("accounts", "archive", "live", "renewal")
COUNTERS = f"policy/{limits.FILE}"


def main() -> None:
    """Write the tar; what could not be taken is told on standard error, a line each."""
    payload = hostlib.read_payload()
    facts = {"format": FORMAT, "host": payload["host"], "machine": machine(), "taken": int(time.time())}
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|gz", format=tarfile.PAX_FORMAT) as tar:
        text = json.dumps(facts).encode()
        add(tar, "facts.json", io.BytesIO(text), len(text), 0o600, time.time())
        with certbot_waits():
            for name in CERTBOTS:
                add_folder(tar, f"letsencrypt/{name}")
        for name in folders():
            if not name.startswith("letsencrypt/"):
                add_folder(tar, name)
        add_counters(tar)
    sys.stdout.buffer.flush()


def folders() -> Mapping[str, tuple[Path, str]]:
    """Folders in the tar: where each is on the host, and what a file's name there begins with."""
    certbots = {f"letsencrypt/{name}": (LETSENCRYPT / name, "") for name in CERTBOTS}
    return certbots | {
        "chasquid/queue": (CHASQUID / "queue", "m:"),
        "chasquid/domaininfo": (CHASQUID / "domaininfo", "s:"),
        "chasquid/sts-cache": (CHASQUID / "sts-cache", "pol:"),
        "policy/suspended": (POLICY / "suspended", ""),
    }


def machine() -> str:
    """What tells this machine from another one of the same name and address (machine-id(5))."""
    return MACHINE_ID.read_text(encoding="ascii").strip() if MACHINE_ID.exists() else ""


def add_folder(tar: tarfile.TarFile, name: str) -> None:
    """Every regular file below a folder, and the links that certbot keeps in `live`; others lead who knows where."""
    folder, prefix = folders()[name]
    if folder.is_symlink() or not folder.is_dir():
        return
    # Through descriptors: a service may put a link in place of a folder at any moment.
    for place, folders_there, names, descriptor in os.fwalk(folder, follow_symlinks=False):
        folders_there.sort()
        for each in sorted({*names, *folders_there}):
            inside = f"{name}/{(Path(place) / each).relative_to(folder)}"
            with suppress(FileNotFoundError):  # delivered, or renamed into its place, while we read
                mode = os.stat(each, dir_fd=descriptor, follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode) and name == "letsencrypt/live":
                    add_link(tar, inside, os.readlink(each, dir_fd=descriptor))
                elif stat.S_ISREG(mode) and each.startswith(prefix):
                    add_file(tar, inside, Path(each), descriptor)


def add_file(tar: tarfile.TarFile, name: str, path: Path, folder: int | None = None) -> None:
    """One file, in the folder of that descriptor if there is one, as long as it is now."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # nothing waits for the other end of a pipe
    with os.fdopen(os.open(path, flags, dir_fd=folder), "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            content = Filled(file)
            add(tar, name, content, status.st_size, stat.S_IMODE(status.st_mode), status.st_mtime)
            if content.lacking:
                print(f"warning: {name} became shorter while it was read; its end is missing", file=sys.stderr)


class Filled:
    """A file that never ends early: a service that cuts its file must not spoil the tar, where its size is told."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.lacking = file, 0

    def read(self, size: int) -> bytes:
        """So many bytes, NUL where the file has no more."""
        data = self._file.read(size)
        self.lacking += size - len(data)
        return data.ljust(size, b"\0")


def add(tar: tarfile.TarFile, name: str, content: Any, size: int, mode: int, modified: float) -> None:
    """One member of `size` bytes, read from `content` piece by piece."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, mode, modified
    tar.addfile(member, content)


def add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    """One symbolic link."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    tar.addfile(member)


def add_counters(tar: tarfile.TarFile) -> None:
    """The counters as SQLite copies them while they are in use; damaged ones are left out."""
    database = POLICY / limits.FILE
    if not database.is_file() or database.is_symlink():
        return
    shutil.rmtree(STAGING, ignore_errors=True)  # of a run that was killed
    hostlib.make_directory(STAGING, 0o700, POLICY_USER, POLICY_USER)
    copy = STAGING / limits.FILE
    try:
        if trouble := as_user(POLICY_USER, lambda: copy_database(database, copy)):
            print(f"warning: {database} is left out, it cannot be read ({trouble['error']})", file=sys.stderr)
        else:
            add_file(tar, COUNTERS, copy)
    finally:
        shutil.rmtree(STAGING, ignore_errors=True)


def as_user(account: str, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `action` returns, done as a service: root could be led elsewhere by a link in the service's folder."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(grp.getgrnam(account).gr_gid)
            os.setuid(pwd.getpwnam(account).pw_uid)
            with os.fdopen(writer, "w", encoding="utf-8") as answer:
                json.dump(action(), answer)
            status = 0
        except (OSError, ValueError, KeyError, sqlite3.Error) as error:
            print(f"error: {account} cannot reach its files: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    if status:
        hostlib.fail(f"{account} did not do its part", "expected folders that it can use", "run it again")
    return dict(json.loads(said))


def copy_database(source: Path, target: Path) -> dict[str, str]:
    """One moment of a database that others write to, without a log beside it; the error that a damaged one gives."""
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=10)) as running,
            closing(sqlite3.connect(target)) as copy,
        ):
            running.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.DatabaseError as error:
        return {"error": str(error)}
    return {}


@contextmanager
def certbot_waits() -> Iterator[None]:
    """Hold certbot's lock, so that no renewal is half done; on a host without certbot there is none to hold."""
    if not LETSENCRYPT.is_dir():
        yield
        return
    path, end = LETSENCRYPT / CERTBOT_LOCK, time.monotonic() + CERTBOT_LIMIT
    while (held := lock(path)) is None:
        if time.monotonic() > end:
            hostlib.fail(
                f"certbot has been at work for {CERTBOT_LIMIT} s", "expected its renewal to end", "run it again later"
            )
        time.sleep(0.5)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # as certbot does, before it lets go
        os.close(held)


def lock(path: Path) -> int | None:
    """The locked file, unless somebody else holds it or has just removed it."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, PermissionError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


if __name__ == "__main__":
    try:
        main()
    except (OSError, sqlite3.Error, tarfile.TarError) as reason:
        print(f"error: the backup stopped ({reason}), expected a readable host, run it again", file=sys.stderr)
        sys.exit(1)
