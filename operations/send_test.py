"""The three things that scripts/send_test.py does: send and be judged, try what Gmail does, explain a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from operations import explain, gmail, trial

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console

    from standards.finding import Finding

    Result = tuple[dict[str, Any], Callable[[Console], None], Sequence[Finding]]


def work(wishes: Mapping[str, Any], log: Callable[[str], None]) -> Result:
    """What was found: for programs, for people, and what is wrong; raises `Problems` and `CouldNotTell`."""
    if wishes["explain"]:
        made = explain.read(wishes["explain"])
        return made.as_json(), lambda console: explain.show(console, made), made.findings
    stack = trial.Trial.of(wishes["stack"])
    sender = stack.user(wishes["sender"])
    if wishes["program"]:
        seen = gmail.try_out(stack, sender, log)
        return seen.as_json(), lambda console: gmail.show(console, seen), seen.findings
    sent = stack.send(sender, wishes["to"], wishes["port"], log)
    return trial.as_json(sent), lambda console: trial.show(console, sent, wishes["to"]), sent.findings
