"""First contact: a look at a host whose key nobody pinned yet, and waiting until it is the machine that was ordered."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.host import facts as host_facts
from components.host.requirements import is_supported, judge, unreadable
from operations import ssh
from standards.finding import Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from components.host.requirements import Wanted
    from operations.ssh import Target
    from standards.finding import Finding

FACTS = Path(host_facts.__file__).read_text(encoding="utf-8")
# An installer has no python3; what it calls itself is worth a word while we wait.
COMMAND = "if command -v python3 >/dev/null; then exec python3 -; else cat /etc/os-release; fi"
PAUSE_SECONDS = 5.0
REFUSED_SECONDS = 20.0  # OpenSSH 9.8 and fail2ban punish refused logins that come in quick succession
REPEAT_SECONDS = 60.0
HOPELESS = frozenset({"ssh.private-key", "ssh.no-key"})


@dataclass(frozen=True)
class Seen:
    """What a host said of itself, the key it showed then, and our clock at that moment."""

    facts: Mapping[str, Any]
    host_key: str
    fingerprint: str
    at: float

    @property
    def supported(self) -> bool:
        """Whether it runs a system we know: only then is its key worth keeping."""
        return is_supported(self.facts)


def look(target: Target, host: Wanted) -> Seen:
    """One look; raises `Problems` when nobody answers, lets us in or can be read."""
    if not target.private_key and not os.environ.get("SSH_AUTH_SOCK"):
        raise Problems(f"no way into {target}", [_no_key()])
    met = ssh.meet(target, COMMAND, FACTS)
    arrived = time.time()
    if met.done.stdout.startswith("{"):
        return Seen(json.loads(met.done.stdout), met.host_key, met.fingerprint, arrived)
    # Of a stranger: nothing that would reach the terminal as a control sequence.
    release = host_facts.os_release("".join(char for char in met.done.stdout if char.isprintable() or char == "\n"))
    bare = {"os_id": release.get("ID"), "os_version": release.get("VERSION_ID"), "os_name": release.get("PRETTY_NAME")}
    if is_supported(bare):
        said = met.done.stderr.strip() or "there is no python3"
        raise Problems(f"{target} cannot be read", [unreadable(host, said)])
    return Seen(bare, met.host_key, met.fingerprint, arrived)


def wait(target: Target, host: Wanted, limit: float, say: Callable[[str], None]) -> Seen:
    """Look again until a supported system answers whose first boot is over; `limit` in seconds.

    Says what it waits for when that changes, and once a minute. Raises `Problems` with the last reason when time
    is out. A host that is dark, refuses the login or runs an installer may still become the one that was ordered.
    """
    started, told, reason = time.monotonic(), -REPEAT_SECONDS, ""
    while True:
        try:
            seen = look(target, host)
        except Problems as problems:
            obstacle = problems.findings[0]
            if obstacle.id in HOPELESS:
                raise
            text = obstacle.found
        else:
            pending = _pending(seen, host)
            if pending is None:
                return seen
            obstacle, text = pending, f"{pending.found} (its key {seen.fingerprint} is not kept)"
        waited = time.monotonic() - started
        if text != reason or waited - told >= REPEAT_SECONDS:
            say(f"waiting for {target}, {waited:.0f} of {limit:.0f} s: {text}")
            told, reason = waited, text
        pause = REFUSED_SECONDS if obstacle.id == "ssh.login-refused" else PAUSE_SECONDS
        if waited + pause > limit:
            last = replace(obstacle, severity="error", found=f"{obstacle.found}; waited for {waited:.0f} s")
            raise Problems(f"{target} did not become ready", [last])
        time.sleep(pause)


def _pending(seen: Seen, host: Wanted) -> Finding | None:
    """What is still at work on the host."""
    unready = {"host-os", "host-cloud-init", "host-apt-lock"}
    return next((each for each in judge(seen.facts, host, seen.at) if each.id in unready), None)


def _no_key() -> Finding:
    return error_about(
        "the SSH login",
        "ssh.no-key",
        expected="a key to log in with: an agent (SSH_AUTH_SOCK), or mailroom:sshPrivateKey in the stack's settings",
        found="neither is there",
        why="passwords are never used, and the host would refuse us until time is out",
        fix="eval $(ssh-agent) && ssh-add, then run again",
    )
