"""How findings become an exit code and text for people; one place, so that all scripts say it the same way."""

from __future__ import annotations

import argparse
import io
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NoReturn

from rich.text import Text

from operations.dns import CouldNotTell
from standards.finding import Problems, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from standards.finding import Finding

OK: Final = 0
WARNINGS: Final = 1
FAILURES: Final = 2
COULD_NOT_TELL: Final = 3
# Findings that say why nothing could be seen, not that something is wrong with the mail server.
BLIND: Final = ("stack.", "engine.", "trial.", "submission.unresolved")
STYLES: Final = {"error": "bold red", "warning": "yellow", "note": "cyan"}


class Arguments(argparse.ArgumentParser):
    """A wrong command line ends with `COULD_NOT_TELL`: 2, as usual, would say that something bad was found."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End as argparse does, with our status."""
        super().exit(COULD_NOT_TELL if status else OK, message)


def exit_code(findings: Sequence[Finding]) -> int:
    """What a script that found these ends with."""
    severities = {finding.severity for finding in findings}
    if "error" in severities:
        return FAILURES
    return WARNINGS if "warning" in severities else OK


def trouble_code(trouble: Problems | CouldNotTell) -> int:
    """What a script ends with that could not go on."""
    if isinstance(trouble, CouldNotTell) or all(one.id.startswith(BLIND) for one in trouble.findings):
        return COULD_NOT_TELL
    return exit_code(trouble.findings)


def trouble(found: Problems | CouldNotTell, *, as_json: bool) -> int:
    """Say on stderr, and to programs on stdout, why a script could not go on; what it ends with."""
    print(found, file=sys.stderr)
    if as_json:
        print(json.dumps(trouble_as_json(found), indent=2))
    return trouble_code(found)


def trouble_as_json(trouble: Problems | CouldNotTell) -> dict[str, Any]:
    """The same trouble for programs."""
    findings = trouble.findings if isinstance(trouble, Problems) else ()
    result = "fail" if trouble_code(trouble) == FAILURES else "could not tell"
    return {"result": result, "reason": str(trouble), "findings": [asdict(finding) for finding in findings]}


def write(text: str) -> None:
    """Markdown or JSON for stdout, in UTF-8 whatever the locale: it goes into files and comments."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    print(text, end="")


def progress(text: str) -> None:
    """One line about work that goes on; stdout stays for what comes of it."""
    print(printable(text), file=sys.stderr, flush=True)


def said(text: str, style: str = "") -> Text:
    """Text of a host, a server or a message for a page: no markup in it acts, and nothing that a terminal obeys."""
    return Text(printable(text), style)


def show(console: Console, findings: Sequence[Finding]) -> None:
    """Print each finding as it prints itself, its severity in colour where there is colour."""
    for finding in findings:
        text = Text(str(finding))
        text.stylize(STYLES[finding.severity], 0, len(finding.severity))
        console.print(text, soft_wrap=True)
