"""The journals of a stack's hosts as they are written, as readable lines; goes on after a broken connection."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from operations import hosts, ssh
from standards.finding import Problems, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from components.settings import Settings
    from standards.finding import Finding

UNITS = (
    "chasquid.service", "mailroom-policy.service", "certbot.service", "fail2ban.service",
    "mailroom-firewall.service", "mailroom-rollback.service",
)  # fmt: skip
BEFORE = 20  # lines shown of what was written before
PAUSE_SECONDS = 2.0
PASSING = {"ssh.no-answer", "ssh.refused", "ssh.broken"}  # a host that reboots, a network that changes
CURSOR = re.compile(r"[A-Za-z0-9=;]+")  # systemd.journal-fields(7): opaque, but of these


def follow(settings: Settings, form: Callable[[str, dict[str, Any]], str]) -> None:
    """Print every entry in this form until interrupted, and on stderr what happens to the connections.

    Raises `Problems` when no host lets us in.
    """
    asyncio.run(_follow_all(settings, form))


async def _follow_all(settings: Settings, form: Callable[[str, dict[str, Any]], str]) -> None:
    async def one(name: str, target: ssh.Target) -> Sequence[Finding]:
        try:
            await _follow(name, target, form)
        except Problems as problems:
            _tell(name, str(problems))
            return problems.findings
        return ()

    ended = await asyncio.gather(*(one(host.name, hosts.target(settings, host)) for host in settings.hosts))
    raise Problems("there is no journal to follow any more", [finding for found in ended for finding in found])


async def _follow(name: str, target: ssh.Target, form: Callable[[str, dict[str, Any]], str]) -> None:
    """Follow one host; raises `Problems` where waiting does not help."""
    cursor, lost = "", False
    while True:
        reason = "the journal ended"
        try:
            async for line in ssh.lines(target, command(cursor)):
                if entry := parsed(line):
                    if lost:
                        _tell(name, "connected again")
                    lost, cursor = False, entry["cursor"] or cursor
                    print(form(name, entry), flush=True)
        except Problems as problems:
            if any(finding.id not in PASSING for finding in problems.findings):
                raise
            reason = problems.findings[0].found
        if not lost:
            _tell(name, f"{reason}; trying again")
        lost = True
        await asyncio.sleep(PAUSE_SECONDS)


def _tell(name: str, text: str) -> None:
    print(f"{name}: {text}", file=sys.stderr, flush=True)


def command(cursor: str) -> str:
    """journalctl from where we were, or from the last few lines."""
    start = [f"--after-cursor={cursor}", "--lines=all"] if cursor else [f"--lines={BEFORE}"]
    return shlex.join(
        ["journalctl", "--quiet", "--follow", "--output=json", *start, *(f"--unit={unit}" for unit in UNITS)]
    )


def parsed(line: str) -> dict[str, Any] | None:
    """An entry of `journalctl --output=json`: cursor, time, unit, text; None for what is none."""
    try:
        entry = json.loads(line)
        cursor, message = str(entry.get("__CURSOR", "")), entry.get("MESSAGE") or ""
        if isinstance(message, list):  # not UTF-8, or with control characters
            message = bytes(message).decode(errors="replace")
        return {
            "cursor": cursor if CURSOR.fullmatch(cursor) else "",
            "time": int(entry["__REALTIME_TIMESTAMP"]) / 1e6,
            "unit": printable(
                str(entry.get("UNIT") or entry.get("_SYSTEMD_UNIT") or entry.get("SYSLOG_IDENTIFIER") or "?")
            ),
            "text": printable(str(message)).replace("\n", " ").strip(),  # clients write into it
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def as_line(host: str, entry: dict[str, Any]) -> str:
    """For a person, in local time."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["time"]))
    return f"{at} {host} {entry['unit'].removesuffix('.service')}: {entry['text']}"


def as_json(host: str, entry: dict[str, Any]) -> str:
    """For programs."""
    return json.dumps({"host": host, **entry})
