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


class Problems(Exception):  # noqa: N818  (it carries findings, it is not one error)
    """Everything that is wrong, said at once; `str()` is what a person reads."""

    def __init__(self, headline: str, findings: Sequence[Finding]) -> None:
        self.headline = headline
        self.findings = tuple(findings)
        super().__init__("\n".join([headline, *map(str, self.findings)]))
