"""What a backup consists of: a folder of age files and a manifest; how it is verified before anything is believed.

`manifest.json` is plain, for listing: names, time and digests, no secrets. The same manifest is signed and sealed in
`stack.age`, where it vouches for every other file: what is from somebody else, or another backup, is found out.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from operations.backup import age, signature
from standards.finding import Finding, Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FORMAT = 2  # 1 was not signed
MANIFEST, STACK = "manifest.json", "stack.age"
NAME = re.compile(r"(?P<stack>[A-Za-z0-9_.-]+)-(?P<time>\d{8}T\d{6}Z)")
HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Part:
    """One host's file: digests of what lies there (`sealed`) and of what is in it (`plain`), SHA-256."""

    sealed: str
    plain: str


@dataclass(frozen=True)
class Manifest:
    """What a backup is of; `hosts` by their names."""

    format: int
    stack: str
    taken: str
    hosts: Mapping[str, Part]

    @property
    def name(self) -> str:
        """The folder's name, which sorts by time."""
        return f"{self.stack}-{datetime.fromisoformat(self.taken).strftime(TIME)}"

    def text(self) -> str:
        """As it is written."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def now(cls, stack: str) -> Self:
        """One of this moment, without hosts yet."""
        return cls(FORMAT, stack, datetime.now(UTC).replace(microsecond=0).isoformat(), {})

    def with_host(self, name: str, part: Part) -> Self:
        """The same with one host more."""
        return replace(self, hosts={**self.hosts, name: part})

    @classmethod
    def parse(cls, value: Any, source: str) -> Self:
        """Raises `Problems` for what is no manifest of a format we know."""
        try:
            if value["format"] != FORMAT:
                raise _unusable(source, f"format {value['format']}", "take another backup")
            hosts = {str(name): Part(**part) for name, part in value["hosts"].items()}
            manifest = cls(FORMAT, str(value["stack"]), str(value["taken"]), hosts)
            named = NAME.fullmatch(manifest.name) and all(HOST.fullmatch(name) for name in hosts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _unusable(source, f"no manifest ({error})", "take another backup") from None
        if not named:
            raise _unusable(source, "a manifest with names that are none", "take another backup")
        return manifest


@dataclass(frozen=True)
class Sealed:
    """What is in `stack.age`: the stack's file, its state as `pulumi stack export` gives it, and its passphrase."""

    manifest: Manifest
    stack_file: str
    state: str
    passphrase: str

    def text(self) -> str:
        """As it is signed and encrypted."""
        return json.dumps({**asdict(self), "manifest": asdict(self.manifest)})

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Raises `Problems` for something else."""
        try:
            value = json.loads(text)
            manifest = Manifest.parse(value["manifest"], STACK)
            return cls(manifest, str(value["stack_file"]), str(value["state"]), str(value["passphrase"]))
        except (KeyError, TypeError, ValueError) as error:
            raise _unusable(STACK, f"something else ({error})", "take another backup") from None


def host_file(name: str) -> str:
    """The file of a host's part."""
    return f"host-{name}.age"


def read_manifest(folder: Path) -> Manifest:
    """The plain manifest of a backup, not yet vouched for."""
    try:
        value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(folder.name, f"no readable {MANIFEST} ({error})", "take another backup") from None
    return Manifest.parse(value, folder.name)


def verify(folder: Path, identity: Path, signer: str | None) -> Sealed:
    """Decrypt all of a backup once, keeping only the stack's part.

    Raises `Problems` unless this signer made it and each byte is as taken.
    """
    shown = read_manifest(folder)
    if shown.name != folder.name:
        raise _unusable(folder.name, f"the backup {shown.name} under another name", "name it as it was")
    signed = b"".join(age.decrypting(folder / STACK, identity))
    content = signature.content_of(signed, signer) if signer else None
    if content is None:
        raise Problems("nothing was restored", [_not_signed(folder.name, signature.signer_told(signed), signer)])
    sealed = Sealed.parse(content)
    if shown != sealed.manifest:
        raise _unusable(folder.name, f"a {MANIFEST} that is not the one sealed in {STACK}", "take another backup")
    findings = [
        _changed(host_file(name))
        for name, part in sealed.manifest.hosts.items()
        if _digest(_chunks(folder / host_file(name))) != part.sealed
    ]
    if findings:
        raise Problems("the backup is damaged; nothing was restored", findings)
    for name, part in sealed.manifest.hosts.items():
        if _digest(age.decrypting(folder / host_file(name), identity)) != part.plain:
            raise Problems("the backup is damaged; nothing was restored", [_changed(host_file(name))])
    return sealed


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    return _digest(_chunks(path))


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(age.CHUNK):
                yield chunk
    except FileNotFoundError:
        return


def _digest(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _changed(name: str) -> Finding:
    return error_about(
        name, "backup.damaged", expected="the file as it was taken", found="another digest, or no file",
        why="a half-restored host is worse than none", fix="copy the backup again, or take an older one: --backup NAME",
    )  # fmt: skip


def _not_signed(name: str, told: str, signer: str | None) -> Finding:
    known = f"signed by {signer}" if signer else "signed by whom you know: this machine has no passphrase of the stack"
    return error_about(
        name, "backup.signer", expected=f"a backup {known}", found=f"it says that it was signed by {told}",
        why="who can write to the place can put a backup there, and what is restored becomes root's on your hosts",
        fix="give --signer KEY if you noted that very one at a backup (each passphrase of the stack has its own); else "
        "export PULUMI_CONFIG_PASSPHRASE_FILE with your own copy of the passphrase, or name another with --backup",
    )  # fmt: skip


def _unusable(source: str, found: str, fix: str) -> Problems:
    finding = error_about(
        source, "backup.format", expected=f"a signed backup of format {FORMAT}", found=found,
        why="what is not understood is not restored", fix=fix,
    )  # fmt: skip
    return Problems("the backup cannot be used; nothing was restored", [finding])
