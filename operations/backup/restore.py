"""Puts a backup back: the stack's file and state where this machine has none, then each host's part by SSH.

All of it is decrypted and verified, its signature first, before anything changes. Everything may be done twice, and
what is there in a newer state stays: the outcome says what was done and what was kept.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from operations import files, hosts, recovery, ssh, stacks
from operations.backup import age, archive, places, signature, take
from standards.finding import Finding, Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from components.settings import HostSettings, Settings

HOST_SECONDS = 3600
PASSPHRASE = "PULUMI_CONFIG_PASSPHRASE"  # noqa: S105  (the variable's name)
SECRET = "4dabf18193072939515e22adb298388d"  # noqa: S105  (how Pulumi marks special values, sdk/go/common/resource)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to restore: `backup` by its name or the newest, `only` one side, `force` for another host's or stack's.

    `signer` who must have made it, where that is not whoever knows the passphrase that this machine has.
    """

    backup: str | None = None
    signer: str | None = None
    only: Literal["all", "stack", "hosts"] = "all"
    queue: Literal["new machine", "always", "never"] = "new machine"
    replace_certificates: bool = False
    force: bool = False
    check: bool = False
    passphrase_to: Path | None = None


@dataclass
class Outcome:
    """What was put back, what was kept as it is and why."""

    backup: str
    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [*(f"restored {one}" for one in self.done), *(f"kept {one}" for one in self.kept)]
        return "\n".join(lines) or "everything was there"


def restore(
    stack: str, place: places.Place, identity: Path, wanted: Wanted, say: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Restore `stack`.

    Raises `Problems`, before any change, for a backup that is damaged, forged, foreign or stays closed.
    """
    if not identity.is_file():
        raise Problems("nothing was restored", [_no_identity(identity)])
    name = _chosen(stack, place, wanted.backup)
    with place.reading(name) as folder:
        say(f"verifying {name}")
        sealed = archive.verify(folder, identity, wanted.signer or _signer(stack, archive.read_manifest(folder)))
        _judge(stack, sealed, wanted)
        outcome = Outcome(name)
        if wanted.check:
            outcome.kept.append(f"everything as it is: the stack and {len(sealed.manifest.hosts)} host(s) verified")
            return outcome
        if wanted.passphrase_to:
            _write_passphrase(wanted.passphrase_to, sealed.passphrase, outcome)
        if wanted.only != "hosts" and sealed.manifest.stack == stack:
            say(f"stack {stack}: settings and state")
            _stack(stack, sealed, outcome)
        if wanted.only != "stack":
            _hosts(stack, _Source(folder, identity, sealed), wanted, outcome, say)
        return outcome


def _judge(stack: str, sealed: archive.Sealed, wanted: Wanted) -> None:
    """Raise `Problems` for another stack's or host's backup, as far as this machine knows its own yet."""
    if sealed.manifest.stack != stack and not wanted.force:
        raise Problems("nothing was restored", [_foreign(f"stack {stack}", f"stack {sealed.manifest.stack}")])
    if wanted.only != "stack":
        _open_with(sealed)
        if recovery.exists(stack):
            _pairs(stacks.settings(stack), sealed, force=wanted.force)


@dataclass(frozen=True)
class _Source:
    """A verified backup, and what opens it."""

    folder: Path
    identity: Path
    sealed: archive.Sealed

    def plain(self, host: str) -> Iterator[bytes]:
        """What is in a host's part."""
        return age.decrypting(self.folder / archive.host_file(host), self.identity)


def _chosen(stack: str, place: places.Place, name: str | None) -> str:
    """The backup of this name, else the stack's newest. Raises `Problems` when there is none."""
    names = place.names()
    listing = take.Listing.of(stack, names)
    newest = listing.backups[-1] if listing.backups else None
    if chosen := (name if name in names else None) if name else newest:
        return chosen
    finding = error_about(
        f"stack {stack}", "backup.none", expected="a complete backup of it", why="",
        found=f"no backup {name} in this place" if newest else str(listing),
        fix=f"--backup {newest} is the newest; `scripts/backup.py --list` shows all" if newest
        else "name another place with --from, or another --stack",
    )  # fmt: skip
    raise Problems("nothing was restored", [finding])


def _signer(stack: str, shown: archive.Manifest) -> str | None:
    """Who signs backups with the passphrase that this machine has; None when it has none."""
    passphrase = stacks.passphrase(stack)
    return signature.signer_of(signature.key_of(passphrase, shown.stack)) if passphrase else None


# --- the stack --------------------------------------------------------------------------------------------------


def _stack(stack: str, sealed: archive.Sealed, outcome: Outcome) -> None:
    """The stack's file and state, unless there are some: those are newer, or somebody's work."""
    path = take.stack_path(stack)
    if not path.exists():
        files.write(path, sealed.stack_file)
        outcome.done.append(path.name)
    elif path.read_text(encoding="utf-8") != sealed.stack_file:
        outcome.kept.append(f"{path.name}: this checkout has another one")
    _open_with(sealed)
    recovery.ensure(stack)
    now = recovery.pulumi(stack, "stack", "export", capture=True)
    deployment = json.loads(now.stdout).get("deployment") or {} if now.returncode == 0 else {}
    if count := len(deployment.get("resources") or []):
        same = _masked(deployment) == _masked(json.loads(sealed.state)["deployment"])
        outcome.kept += [] if same else [f"the state: the backend has one of {count} resources"]
        return
    _import(stack, sealed.state)
    outcome.done.append(f"state of stack {stack}")


def _masked(deployment: dict[str, Any]) -> Any:
    """Resources without their secrets, which every import encrypts anew."""

    def mask(value: Any) -> Any:
        if isinstance(value, dict):
            return "secret" if SECRET in value else {key: mask(item) for key, item in value.items()}
        return [mask(item) for item in value] if isinstance(value, list) else value

    return mask(deployment.get("resources") or [])


def _open_with(sealed: archive.Sealed) -> None:
    """Let the engine, our child, open the stack with the backup's passphrase where this machine knows none."""
    if not stacks.passphrase_is_exported():
        os.environ[PASSPHRASE] = sealed.passphrase


def _import(stack: str, state: str) -> None:
    done = stacks.run(stack, ["stack", "import", "--stack", stack], state)
    if done.returncode:
        finding = error_about(
            f"stack {stack}", "stack.import", expected="a backend that takes the state", found=stacks.error(done),
            why="the DKIM keys are in it", fix="`pulumi login` to the backend, or export PULUMI_BACKEND_URL; run again",
        )  # fmt: skip
        raise Problems("the state was not restored", [finding])


def _write_passphrase(path: Path, passphrase: str, outcome: Outcome) -> None:
    """For us alone, from its first byte on; a file that is there stays."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(passphrase + "\n")
    except FileExistsError:
        outcome.kept.append(f"{path}: it is there already")
    else:
        outcome.done.append(f"passphrase in {path}")


# --- the hosts --------------------------------------------------------------------------------------------------


def _hosts(stack: str, source: _Source, wanted: Wanted, outcome: Outcome, say: Callable[[str], None]) -> None:
    """Every host; one that fails holds up no other."""
    _open_with(source.sealed)
    settings = stacks.settings(stack)
    findings: list[Finding] = []
    for host, name in _pairs(settings, source.sealed, force=wanted.force):
        say(f"{host.name}: certificates, queue, counters")
        try:
            _host(settings, host, name, source, wanted, outcome)
        except Problems as problems:
            findings += problems.findings
    if findings:
        done = f"; done so far: {', '.join(outcome.done)}" if outcome.done else ""
        raise Problems(f"not every host was restored{done}", findings)


def _pairs(settings: Settings, sealed: archive.Sealed, *, force: bool) -> list[tuple[HostSettings, str]]:
    """Each host of the settings with the name of its part. With `force`, a single one takes over another's."""
    ours, theirs = {host.name: host for host in settings.hosts}, list(sealed.manifest.hosts)
    strangers = [name for name in theirs if name not in ours]
    if strangers and not force:
        raise Problems("nothing was restored", [_foreign(", ".join(ours), ", ".join(strangers))])
    if strangers and len(ours) == len(theirs) == 1:
        return [(settings.hosts[0], theirs[0])]
    return [(ours[name], name) for name in theirs if name in ours]


def _host(settings: Settings, host: HostSettings, name: str, source: _Source, wanted: Wanted, outcome: Outcome) -> None:
    key = settings.ssh_private_key
    target = ssh.Target.of(host, key.get_secret_value() if key else None)
    _bring_scripts(target, host.name)
    payload = {
        "host": host.name, "sha256": source.sealed.manifest.hosts[name].plain, "queue": wanted.queue,
        "replaceCertificates": wanted.replace_certificates,
    }  # fmt: skip
    answer: list[bytes] = []
    chunks = itertools.chain([json.dumps(payload).encode() + b"\n"], source.plain(name))
    done = ssh.stream(target, take.locked("restore.py"), chunks, answer.append, HOST_SECONDS)
    if done.exit_status:
        raise Problems(f"host {host.name} was not restored", [hosts.failed(host.name, "restore.py", done)])
    said = json.loads(b"".join(answer))
    outcome.done += [f"{host.name}: {one}" for one in said["done"]]
    outcome.kept += [f"{host.name}: {one}" for one in said["kept"]]


def _bring_scripts(target: ssh.Target, host: str) -> None:
    """A machine before its first `pulumi up` has none of our scripts; one that is newer or older keeps its own."""
    if ssh.run(target, f"test -x {hosts.SCRIPTS}/restore.py").exit_status == 0:
        return
    from components.host.bundle import bundle

    done = ssh.run(target, bundle().installer(), bundle().text, timeout=300)
    if done.exit_status:
        raise Problems(f"host {host} was not restored", [hosts.failed(host, "install_scripts", done)])


def _foreign(ours: str, theirs: str) -> Finding:
    return error_about(
        ours, "backup.foreign", expected=f"a backup of {ours}", found=f"one of {theirs}",
        why="another server's keys and queue would be mixed into this one's",
        fix="name the right --stack or --backup; to restore it all the same: --force",
    )  # fmt: skip


def _no_identity(path: Path) -> Finding:
    return error_about(
        "--identity", "backup.identity", expected="the file with the private key, as age-keygen or ssh-keygen wrote it",
        found=f"no file {path}", why="the backup is encrypted to its public key", fix="name the file",
    )  # fmt: skip
