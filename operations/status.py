"""What the hosts of a stack say about themselves, as findings and as a table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.table import Table

from operations import hosts, stacks
from standards.finding import Finding, error_about

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import Console

NOTABLE = 0.8  # of a limit: from here on the postmaster was told, too


def read(stack: str) -> dict[str, dict[str, Any]]:
    """The picture of every host by its name; raises `Problems` for those that could not be asked."""
    answers = hosts.ask(stacks.settings(stack), "status.py", {})
    return {host: json.loads(text) for host, text in answers.items()}


def findings(pictures: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """What deserves a word: services that are down, what clients see, who is suspended."""
    return [finding for host, picture in pictures.items() for finding in _of(host, picture)]


def _of(host: str, picture: Mapping[str, Any]) -> Iterator[Finding]:
    for unit, state in picture["services"].items():
        if state != "active":
            yield error_about(
                f"host {host}", "status.service", expected=f"{unit} active", found=state or "unknown",
                why="mail waits or is not guarded without it", fix=f"see `journalctl -u {unit}` there; `pulumi up`",
            )  # fmt: skip
    for problem in picture["problems"]:
        yield error_about(
            f"host {host}", "status.probe", expected="clients to be served safely", found=problem,
            why="this is what every client sees now", fix="see `journalctl -u chasquid -u mailroom-policy` there",
        )  # fmt: skip
    for entry in picture["suspended"]:
        yield Finding(
            severity="warning", id="status.suspended", subject=entry["user"], expected="every user may send",
            found=f"suspended on {host} since {entry['since']}" + (f": {entry['reason']}" if entry["reason"] else ""),
            why="somebody stopped this user with scripts/suspend.py",
            fix=f"when it is over: `scripts/suspend.py --stack STACK {entry['user']} --lift`",
        )  # fmt: skip


def show(console: Console, pictures: Mapping[str, Mapping[str, Any]]) -> None:
    """One table a host: its services, its queue, and what each user sent against the limits."""
    for host, picture in pictures.items():
        states = ", ".join(f"{unit} {state}" for unit, state in picture["services"].items())
        console.print(f"[bold]{host}[/bold]: {states}; {picture['queued']} queued", soft_wrap=True, highlight=False)
        table = Table("user", "minute", "hour", "day", "new recipients", box=None)
        for user, usage in picture["usage"].items():
            cells = [_cell(*usage[window]) for window in ("minute", "hour", "day", "newRecipients")]
            table.add_row(user, *cells)
        console.print(table)


def _cell(used: int, limit: int) -> str:
    text = f"{used}/{limit}"
    return f"[yellow]{text}[/yellow]" if used >= NOTABLE * limit else text
