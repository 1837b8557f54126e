"""The one finding type of settings validation, gates, previews and reports; no checks live here."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Severity = Literal["error", "warning", "note"]


# Fillers, joiners and variation selectors: str.isprintable says yes, and a reader sees nothing.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def shows(char: str) -> bool:
    """Whether a reader sees this character as what it is: nothing acts on it, and it is not blank but for the space."""
    return char.isprintable() and not _BLANK.match(char)


def printable(text: str) -> str:
    """Text of others as a terminal may get it: the ends of lines stay, all else that it obeys or hides is replaced.

    DNS records, banners and what a host says can carry escape sequences; letters of every script stay.
    """
    return "".join(
        char if shows(char) or char == "\n" else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}" for char in text
    )


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing seen, against what was expected.

    `subject` names the key, host or record (`mailroom:hosts[0].ipv4`, `smtp.example.com`), `expected` carries
    an example, `why` says what breaks otherwise, `fix` what to do next. Each is one line of plain text
    without secrets; what is not printable in it is replaced, as much of it comes from outside.
    """

    severity: Severity
    id: str
    subject: str
    expected: str
    found: str
    why: str
    fix: str

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, printable(getattr(self, each.name)))

    def __str__(self) -> str:
        lines = [f"{self.severity}: {self.subject}: {self.found}", f"  expected: {self.expected}"]
        if self.why:
            lines.append(f"  why: {self.why}")
        lines.append(f"  fix: {self.fix}")
        return "\n".join(line.replace("\n", "\n    ") for line in lines)  # no value can pass for a line of ours


class Invalid(ValueError):  # noqa: N818  (it says what the value is)
    """One value that is not what it should be, before anybody knows which setting or record it belongs to.

    `found` never repeats a secret. `at(subject)` makes the finding once the place is known.
    """

    def __init__(self, found: str, *, expected: str, fix: str, why: str = "", id: str = "value-invalid") -> None:  # noqa: A002
        self.id, self.found, self.expected, self.why, self.fix = id, found, expected, why, fix
        super().__init__(printable(f"{found}; expected {expected}"))

    def at(self, subject: str, severity: Severity = "error") -> Finding:
        """The finding for this value at `subject`."""
        return Finding(
            severity=severity,
            id=self.id,
            subject=subject,
            expected=self.expected,
            found=self.found,
            why=self.why,
            fix=self.fix,
        )


def error_about(subject: object, finding_id: str, *, expected: str, found: str, why: str, fix: str) -> Finding:
    """An error about a thing that shows as its own subject, such as a host's login or a port."""
    return Finding(
        severity="error", id=finding_id, subject=str(subject), expected=expected, found=found, why=why, fix=fix
    )


class Problems(Exception):  # noqa: N818  (it carries findings, it is not one error)
    """Everything that is wrong, said at once; `str()` is what a person reads."""

    def __init__(self, headline: str, findings: Sequence[Finding]) -> None:
        self.headline = printable(headline)
        self.findings = tuple(findings)
        super().__init__("\n".join([self.headline, *map(str, self.findings)]))
