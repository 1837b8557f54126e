"""Encrypts and decrypts streams with age (age-encryption.org/v1); nothing plain touches a file here."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from standards.finding import Finding, Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CHUNK = 1 << 16
RECIPIENT = re.compile(r"age1[0-9a-z]{20,}|ssh-ed25519 [A-Za-z0-9+/=]+( .*)?")
EXAMPLE = "age1..., as `age-keygen` prints it, or an ssh-ed25519 public key"


def check_recipients(recipients: Sequence[str]) -> None:
    """Raise `Problems` for recipients that age would not encrypt to, before anything is asked of a host."""
    wrong = [one for one in recipients if not RECIPIENT.fullmatch(one)]
    if "AGE-SECRET-KEY-" in "".join(recipients):
        wrong, shown = list(recipients), "a secret key (not shown here)"
    else:
        shown = ", ".join(wrong)
    if not recipients or wrong:
        found = shown or "none"
        raise Problems("nothing was backed up", [_bad_recipient(found)])
    done = subprocess.run([_program(), *_to(recipients)], input=b"", capture_output=True, check=False)
    if done.returncode:
        raise Problems("nothing was backed up", [_bad_recipient(_words(done.stderr))])


@contextmanager
def encrypting(path: Path, recipients: Sequence[str]) -> Iterator[IO[bytes]]:
    """What is written to the stream goes encrypted into `path`; raises `Problems` when age fails."""
    with subprocess.Popen(
        [_program(), *_to(recipients), "-o", str(path)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdin  # noqa: S101  (for the type checker)
            yield process.stdin
            process.stdin.close()
            said = process.stderr.read() if process.stderr else b""
        except BrokenPipeError:
            said = process.stderr.read() if process.stderr else b""
            process.wait()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise Problems("nothing was backed up", [_failed(path.name, said, "see what it says; is the disk full?")])


def decrypting(path: Path, identity: Path) -> Iterator[bytes]:
    """The plain chunks of `path`; raises `Problems` at its end when age does not vouch for all of them."""
    with subprocess.Popen(
        [_program(), "-d", "-i", str(identity), str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr  # noqa: S101, PT018  (for the type checker)
        try:
            while chunk := process.stdout.read(CHUNK):
                yield chunk
        except GeneratorExit:
            process.kill()
            raise
        said = process.stderr.read()
    if process.returncode:
        fix = "give --identity the file with the private key of one of the recipients, or take another backup"
        raise Problems("nothing was restored", [_failed(path.name, said, fix)])


def _to(recipients: Sequence[str]) -> list[str]:
    return [word for one in recipients for word in ("-r", one)]


def _program() -> str:
    found = shutil.which("age")
    if found:
        return found
    finding = error_about(
        "age", "backup.tool", expected="the program age 1.1 or newer", found="it is not installed here",
        why="backups are encrypted with it", fix="`apt-get install age` (Debian, Ubuntu), `brew install age` (macOS)",
    )  # fmt: skip
    raise Problems("there is no age", [finding])


def _bad_recipient(found: str) -> Finding:
    return error_about(
        "--recipient", "backup.recipient", expected=EXAMPLE, found=found,
        why="only who has the private key can read a backup", fix="give the public key",
    )  # fmt: skip


def _failed(name: str, said: bytes, fix: str) -> Finding:
    return error_about(
        name, "backup.age", expected="age to end without an error", found=_words(said),
        why="a backup that cannot be decrypted is none", fix=fix,
    )  # fmt: skip


def _words(said: bytes) -> str:
    lines = [line.removeprefix("age: ") for line in said.decode(errors="replace").splitlines() if line.strip()]
    kept = [line for line in lines if "report unexpected" not in line]
    return kept[0].removeprefix("error: ")[:300] if kept else "no message"
