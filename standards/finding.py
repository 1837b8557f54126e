"""The one finding type of settings validation, gates, previews and reports; no checks live here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing seen, against what was expected.

    `subject` names the key, host or record (`mailroom:hosts[0].ipv4`, `smtp.example.com`), `expected` carries
    an example, `why` says what breaks otherwise, `fix` what to do next. Each is one line of plain text
    without secrets.
    """

    severity: Severity
    id: str
    subject: str
    expected: str
    found: str
    why: str
    fix: str

    def __str__(self) -> str:
        lines = [f"{self.severity}: {self.subject}: {self.found}", f"  expected: {self.expected}"]
        if self.why:
            lines.append(f"  why: {self.why}")
        lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class Invalid(ValueError):  # noqa: N818  (it says what the value is)
    """One value that is not what it should be, before anybody knows which setting or record it belongs to.

    `found` never repeats a secret. `at(subject)` makes the finding once the place is known.
    """

    def __init__(self, found: str, *, expected: str, fix: str, why: str = "", id: str = "value-invalid") -> None:  # noqa: A002
        self.id, self.found, self.expected, self.why, self.fix = id, found, expected, why, fix
        super().__init__(f"{found}; expected {expected}")

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
        self.headline = headline
        self.findings = tuple(findings)
        super().__init__("\n".join([headline, *map(str, self.findings)]))
