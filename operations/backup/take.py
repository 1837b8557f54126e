"""Takes a backup: every host's part by SSH straight into age, then the stack's own, then the manifest."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from operations import hosts, recovery, ssh, stacks
from operations.backup import age, archive, places, signature
from standards.finding import Finding, Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from components.settings import HostSettings, Settings

HOST_SECONDS = 3600
LOCK, BUSY = "/run/mailroom.lock", 75  # as every step of the program on a host


@dataclass(frozen=True)
class Taken:
    """A complete backup, who signed it, what is left out of it, and older ones that it was worth removing."""

    backup: str
    hosts: Sequence[str]
    signer: str
    findings: Sequence[Finding] = ()
    removed: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "findings": [str(finding) for finding in self.findings]}

    def __str__(self) -> str:
        lines = [f"{self.backup} is complete, signed by {self.signer}", *(f"removed {name}" for name in self.removed)]
        return "\n".join([*lines, "note the signer beside the identity: a machine without the passphrase asks for it"])


def take(
    stack: str,
    place: places.Place,
    recipients: Sequence[str],
    keep: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Taken:
    """Back up all hosts of a stack and its state, then remove all but the newest `keep`.

    Raises `Problems`, with nothing left in the place, if it cannot.
    """
    age.check_recipients(recipients)
    to_make = place.check()
    settings = stacks.settings(stack)
    stack_file = stack_path(stack).read_text(encoding="utf-8")
    state, findings = _state(stack)
    passphrase = _passphrase(stack)
    key = signature.key_of(passphrase, stack)
    manifest = archive.Manifest.now(stack)
    if to_make:
        say(to_make)
    with place.writing(manifest.name) as folder:
        for host in settings.hosts:
            say(f"{host.name}: certificates, queue, counters")
            part, warnings = _host(settings, host, folder / archive.host_file(host.name), recipients)
            manifest = manifest.with_host(host.name, part)
            findings += warnings
        sealed = archive.Sealed(manifest, stack_file, state, passphrase)
        with age.encrypting(folder / archive.STACK, recipients) as stream:
            stream.write(signature.sign(sealed.text().encode(), key))
        (folder / archive.MANIFEST).write_text(manifest.text(), encoding="utf-8")
        say(f"writing {manifest.name}")
    gone = place.prune(stack, keep) if keep else []
    return Taken(manifest.name, sorted(manifest.hosts), signature.signer_of(key), findings, gone)


@dataclass(frozen=True)
class Listing:
    """The backups of a stack, the oldest first, and the stacks that the place holds backups of."""

    stack: str
    backups: Sequence[str]
    stacks: Sequence[str]

    @classmethod
    def of(cls, stack: str, names: Sequence[str]) -> Listing:
        """Out of the names of all backups of a place."""
        return cls(stack, places.of_stack(stack, names), places.stacks_of(names))

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def __str__(self) -> str:
        others = f"there are backups of {', '.join(self.stacks)}" if self.stacks else "there is no backup at all"
        return "\n".join(self.backups) or f"no backup of stack {self.stack} in this place; {others}"


def stack_path(stack: str) -> Path:
    """The stack's file of settings in this checkout."""
    return stacks.file_of(stack, stacks.CHECKOUT)


def locked(script: str) -> str:
    """A host script's command, under the lock of the program's own steps."""
    busy = "echo 'error: another run is at work on this host for 300 s; wait for it, then run again' >&2"
    line = f"flock -w 300 -E {BUSY} {LOCK} sh -c {hosts.SCRIPTS}/{script}"
    return f"{line} || {{ status=$?; [ $status != {BUSY} ] || {busy}; exit $status; }}"


def _host(
    settings: Settings, host: HostSettings, path: Path, recipients: Sequence[str]
) -> tuple[archive.Part, list[Finding]]:
    key = settings.ssh_private_key
    target = ssh.Target.of(host, key.get_secret_value() if key else None)
    payload = json.dumps({"host": host.name}).encode()
    digest = hashlib.sha256()
    with age.encrypting(path, recipients) as stream:

        def receive(chunk: bytes) -> None:
            digest.update(chunk)
            with suppress(BrokenPipeError):  # age says at its end why it ended early
                stream.write(chunk)

        done = ssh.stream(target, locked("backup.py"), [payload], receive, HOST_SECONDS)
        if done.exit_status:
            raise Problems(f"stack {settings.stack} was not backed up", [hosts.failed(host.name, "backup.py", done)])
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    return archive.Part(archive.digest_of(path), digest.hexdigest()), [_left_out(host.name, one) for one in warnings]


def _state(stack: str) -> tuple[str, list[Finding]]:
    """The state with its secrets encrypted as the backend holds them."""
    done = recovery.pulumi(stack, "stack", "export", capture=True)
    if done.returncode:
        raise Problems(f"stack {stack} was not backed up", [_no_state(stack, stacks.error(done))])
    deployment = json.loads(done.stdout).get("deployment") or {}
    if not deployment.get("resources"):
        raise Problems(f"stack {stack} was not backed up", [stacks.not_deployed(stack)])
    return done.stdout, [_pending(stack)] if deployment.get("pending_operations") else []


def _passphrase(stack: str) -> str:
    """What opens the stack's secrets and signs its backups."""
    if found := stacks.passphrase(stack):
        return found
    finding = error_about(
        f"stack {stack}", "backup.passphrase", expected="a passphrase, also where the backend needs none",
        found="none, or an empty one", why="the backup is signed with it, so that nobody else can make one",
        fix=f"where the backend needs none: `(umask 077; openssl rand -base64 32 > {stacks.passphrase_file(stack)})`; "
        f"else `pulumi stack change-secrets-provider passphrase -s {stack}`",
    )  # fmt: skip
    raise Problems(f"stack {stack} was not backed up", [finding])


def _no_state(stack: str, said: str) -> Finding:
    return error_about(
        f"stack {stack}", "stack.export", expected="a state that can be exported", found=said,
        why="the DKIM keys are in it", fix=f"run `pulumi stack export -s {stack}` and follow what it says",
    )  # fmt: skip


def _pending(stack: str) -> Finding:
    return Finding(
        severity="warning", id="backup.pending", subject=f"stack {stack}", expected="no run under way",
        found="a run is under way, or one was killed: what it had begun is in the state as such",
        why="after a restore the next `pulumi up` has to find out what came of it",
        fix=f"scripts/recover.py --stack {stack}, `pulumi up`, then back up again",
    )  # fmt: skip


def _left_out(host: str, line: str) -> Finding:
    return Finding(
        severity="warning", id="backup.left-out", subject=f"host {host}", expected="everything in the backup",
        found=line.removeprefix("warning: "), why="it cannot be restored from this backup",
        fix="see `journalctl -u mailroom-policy` there",
    )  # fmt: skip
