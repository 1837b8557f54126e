"""Takes up a stack where a killed run left it: its lock, what it had begun, and records whose answer was lost.

A lock is removed only on a file backend of this machine, and only when its process is dead; a team's backend is
unlocked by a person who knows who holds it.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from operations import processes, stacks
from operations.cloudflare import Zone
from standards.finding import Finding, Problems, printable
from standards.ownership import owner

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

PROJECT = "mailroom"
DNS_RECORD = "cloudflare:index/dnsRecord:DnsRecord"


def pulumi(stack: str, *arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the engine on `stack`'s backend, in the checkout; the caller judges its status."""
    program, environment = stacks.command(stack)
    command = [program, *arguments, "--stack", stack, "--non-interactive"]
    return processes.run(command, folder=stacks.CHECKOUT, environment=environment, capture=capture)


def exists(stack: str) -> bool:
    """Whether the backend knows the stack."""
    return pulumi(stack, "stack", "output", "--json", capture=True).returncode == 0


def ensure(stack: str) -> None:
    """Create the stack unless the backend knows it; its file of settings is left as it is."""
    if exists(stack):
        return
    program, environment = stacks.command(stack)
    folder = _backend(environment)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    command = [program, "stack", "init", stack, "--non-interactive"]
    made = processes.run(command, folder=stacks.CHECKOUT, environment=environment, capture=True)
    if made.returncode and not exists(stack):
        raise Problems(f"stack {stack} cannot be created", [_not_created(stack, stacks.error(made))])


def recover(stack: str) -> None:
    """Make a killed run's stack usable; raises `Problems` while its run is alive."""
    _, environment = stacks.command(stack)
    folder = _backend(environment)
    locks = list(_locks(folder, stack)) if folder else []
    if alive := [lock for lock in locks if _is_alive(lock)]:
        raise Problems(f"stack {stack} is in use", [_in_use(stack, alive[0])])
    if locks:
        print(f"an earlier run of stack {stack} was killed: removing its lock", flush=True)
        pulumi(stack, "cancel", "--yes", capture=True)
    found = state(stack)
    if found.get("pending_operations"):
        print("forgetting what that run had only begun; it is done again", flush=True)
        pulumi(stack, "refresh", "--yes", "--skip-preview", "--clear-pending-creates", capture=True)
    _remove_unrecorded(stack, found)


def _backend(environment: dict[str, str]) -> Path | None:
    url = environment.get("PULUMI_BACKEND_URL", "")
    return Path(urlsplit(url).path) if url.startswith("file:///") else None


def _locks(folder: Path, stack: str) -> Iterator[dict[str, Any]]:
    for path in (folder / ".pulumi" / "locks" / "organization" / PROJECT / stack).glob("*.json"):
        yield dict(json.loads(path.read_text(encoding="utf-8")))


def _is_alive(lock: dict[str, Any]) -> bool:
    """Whether the run that took the lock may still be at work; on another machine nobody can tell."""
    if lock.get("hostname") != socket.gethostname():
        return True
    try:
        status = Path(f"/proc/{int(lock['pid'])}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # a zombie does nothing any more


def state(stack: str) -> dict[str, Any]:
    """The stack's state, empty before its first run; raises `Problems` when it cannot be read."""
    exported = pulumi(stack, "stack", "export", capture=True)
    if exported.returncode:
        raise Problems(f"the state of stack {stack} cannot be read", [stacks.unreadable(stack, exported)])
    return dict(json.loads(exported.stdout).get("deployment") or {})


def _remove_unrecorded(stack: str, state: dict[str, Any]) -> None:
    """Remove records of ours that the state does not know, as the API takes no second one of the same content.

    Their answer was lost with a connection or a killed run. Only in zones where this state has (or had begun)
    records: a zone that another state of the same name serves is none of our business.
    """
    begun = [operation["resource"] for operation in state.get("pending_operations") or []]
    known = [item for item in state.get("resources") or [] if item["type"] == DNS_RECORD]
    zones = {item["inputs"]["zoneId"] for item in (*known, *begun) if item["type"] == DNS_RECORD}
    recorded = {item["id"] for item in known if item.get("id")}
    if not zones:
        return
    api = stacks.settings(stack).cloudflare
    for zone_id in sorted(zones):
        zone = Zone(api.api_token.get_secret_value(), zone_id, api.base_url)
        for found in zone.records():
            if owner(found) == stack and found["id"] not in recorded:
                name = printable(found["name"])
                print(f"removing {found['type']} {name}, which a lost run had made; it is made again", flush=True)
                zone.remove(found["id"])


def _in_use(stack: str, lock: dict[str, Any]) -> Finding:
    holder = f"process {lock.get('pid')} of {lock.get('username')} on {lock.get('hostname')}"
    return Finding(
        severity="error",
        id="stack.locked",
        subject=f"stack {stack}",
        expected="one run at a time",
        found=f"{holder} works on it since {lock.get('timestamp')}",
        why="two runs at once would overwrite each other's state",
        fix=f"wait for it; if it is gone for good: pulumi cancel --stack {stack}",
    )


def _not_created(stack: str, said: str) -> Finding:
    return Finding(
        severity="error",
        id="stack.not-created",
        subject=f"stack {stack}",
        expected="a backend that takes a new stack",
        found=said,
        why="",
        fix="run it again; if it stays so, look at the backend that PULUMI_BACKEND_URL names",
    )
