"""Suspends a user of a stack on all its hosts, or lifts that; the state stays on the hosts."""

from __future__ import annotations

from operations import hosts, stacks
from standards.finding import Finding, Problems, error_about, printable


def change(stack: str, user: str, *, lift: bool, reason: str = "") -> str:
    """Suspend `user` (a full address, or the part before the @ where only one user has it); what each host said.

    Raises `Problems` for an unknown user and for hosts that could not be told; lifting works for removed users, too.
    """
    settings = stacks.settings(stack)
    known = [f"{one.name}@{domain.name}" for domain in settings.domains for one in domain.users]
    address = user.strip().lower()
    matching = [one for one in known if address in {one, one.partition("@")[0]}]
    if len(matching) == 1:
        address = matching[0]
    elif not (lift and "@" in address):
        raise Problems(f"nobody was suspended in stack {stack}", [_unknown(user, matching or known)])
    said = hosts.ask(settings, "suspend.py", {"user": address, "lift": lift, "reason": reason})
    return "\n".join(f"{host}: {printable(text)}" for host, text in said.items())


def _unknown(user: str, choices: list[str]) -> Finding:
    return error_about(
        user,
        "suspension.user",
        expected=f"one of {', '.join(choices)}" if choices else "a user of the stack's settings",
        found="no user of that name" if user not in {one.partition("@")[0] for one in choices} else "several users",
        why="only a user of the stack can send through it",
        fix="write the whole address, such as i@example.com",
    )
