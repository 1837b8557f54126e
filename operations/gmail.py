"""Does what Gmail does when a person adds an address under "Send mail as", and says which of its fields is wrong."""

from __future__ import annotations

import errno
import secrets
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from operations import report, submission, verdict
from standards.finding import Finding, Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from email.message import EmailMessage

    from rich.console import Console

    from operations.submission import Endpoint, Seen
    from operations.trial import Trial

ARRIVAL_SECONDS: Final = 60
EXPIRY_DAYS: Final = 14
FIELDS: Final = ("SMTP server", "port", "username", "password", "secured connection")
MODES: Final = {submission.IMPLICIT_TLS: "SSL", submission.STARTTLS: "TLS"}
# What each way to fail says about the fields: the wrong ones; those before them in the order of a session are right.
BLAME: Final = {
    "submission.unresolved": ("SMTP server",),
    "submission.unreachable": ("port",),
    "submission.certificate-name": ("SMTP server",),
    "submission.certificate-expired": ("secured connection",),
    "submission.certificate-untrusted": ("secured connection",),
    "submission.no-tls": ("secured connection",),
    "submission.no-auth": ("secured connection",),
    "submission.login": ("username", "password"),
}
_ORDER: Final = ("SMTP server", "port", "secured connection", "username", "password")
_NO_ROUTE: Final = (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@dataclass(frozen=True)
class Attempt:
    """One port at one address: each field `ok`, `wrong` or `not reached`, and what the session was like."""

    port: int
    address: str
    fields: dict[str, str]
    seen: Seen | None = None


@dataclass(frozen=True)
class Outcome:
    """All attempts, and what became of the confirmation: `read` at the receiver, `sent`, or `not sent`."""

    user: str
    host: str
    attempts: Sequence[Attempt]
    confirmation: str
    code: str = field(default="", repr=False)
    findings: Sequence[Finding] = ()

    def as_json(self) -> dict[str, Any]:
        """The outcome for programs."""
        return {
            "result": ("pass", "warn", "fail")[report.exit_code(self.findings)],
            "user": self.user,
            "fields": {"SMTP server": self.host, "username": self.user},
            "attempts": [asdict(attempt) for attempt in self.attempts],
            "confirmation": self.confirmation,
            "code": self.code,
            "findings": [asdict(finding) for finding in self.findings],
        }


def try_out(trial: Trial, sender: tuple[str, str], log: Callable[[str], None]) -> Outcome:
    """Log in at every address and both ports, then send the user a code and, in the lab, read it where it arrives."""
    user, password = sender
    attempts: list[Attempt] = []
    findings: list[Finding] = []
    for port, mode in MODES.items():
        endpoint = trial.endpoint(port)
        for address in _addresses(endpoint, findings):
            if any(finding.id == "submission.login" for finding in findings):
                # the same words again would only bring this machine nearer to a ban
                attempts.append(Attempt(port, address, dict.fromkeys(FIELDS, "not tried")))
                continue
            log(f"{endpoint} ({address}): {mode}, user {user}")
            attempt, found = _attempt(replace(endpoint, address=address), user, password)
            attempts.append(attempt)
            findings += found
    findings = list(dict.fromkeys(findings))
    good = next((one for one in attempts if set(one.fields.values()) == {"ok"}), None)
    if not good:
        return Outcome(user, trial.host.name, attempts, "not sent", findings=findings)
    code = f"{secrets.randbelow(10**9):09}"
    endpoint = replace(trial.endpoint(good.port), address=good.address)
    message = _confirmation(user, code, datetime.now(UTC))
    log(f"sending {user} a confirmation code")
    try:
        accepted = submission.submit(endpoint, message, user, password)
    except Problems as problems:
        return Outcome(user, trial.host.name, attempts, "not sent", findings=[*findings, *problems.findings])
    if not trial.lab:
        return Outcome(user, trial.host.name, attempts, "sent", code, findings)
    _, path = verdict.wait_for_verdict(trial.lab.mail_dir, accepted.message_id, ARRIVAL_SECONDS, log)
    arrived = message_from_bytes(path.read_bytes(), policy=policy.default)
    if code not in str(arrived["Subject"]):
        findings.append(_changed(user, str(arrived["Subject"])))
    return Outcome(user, trial.host.name, attempts, "read", code, findings)


def _addresses(endpoint: Endpoint, findings: list[Finding]) -> list[str]:
    try:
        return submission.addresses(endpoint)
    except Problems as problems:
        findings += problems.findings
        return []


def _attempt(endpoint: Endpoint, user: str, password: str) -> tuple[Attempt, list[Finding]]:
    address = endpoint.address or ""
    try:
        seen = submission.log_in(endpoint, user, password)
    except Problems as problems:
        (finding,) = problems.findings
        if finding.id == "submission.unreachable" and _no_route(finding.found):
            return Attempt(endpoint.port, address, dict.fromkeys(FIELDS, "not tried")), [_untried(endpoint)]
        return Attempt(endpoint.port, address, judged(finding.id)), [finding]
    return Attempt(endpoint.port, address, dict.fromkeys(FIELDS, "ok"), seen), list(_certificate(endpoint, seen))


def judged(finding_id: str) -> dict[str, str]:
    """Each field by the one finding of a session: what comes before it in a session was right."""
    blamed = BLAME.get(finding_id, ("port",))
    at = _ORDER.index(blamed[0])
    states = {name: "ok" if place < at else "not reached" for place, name in enumerate(_ORDER)}
    return {name: "wrong" if name in blamed else states[name] for name in FIELDS}


def _no_route(found: str) -> bool:
    import os

    return any(os.strerror(code) in found for code in _NO_ROUTE)


def _certificate(endpoint: Endpoint, seen: Seen) -> Iterator[Finding]:
    days = (datetime.fromisoformat(seen.expires) - datetime.now(UTC)).days
    if days < EXPIRY_DAYS:
        yield Finding(
            severity="warning",
            id="gmail.certificate-ends",
            subject=str(endpoint),
            expected=f"a certificate good for {EXPIRY_DAYS} days or more",
            found=f"it ends in {days} days",
            why="it is renewed 30 days before its end, so renewal has failed; Gmail stops sending the day it ends",
            fix="on the host `certbot renew` says why; then `pulumi up`",
        )


def _untried(endpoint: Endpoint) -> Finding:
    return Finding(
        severity="note",
        id="gmail.no-route",
        subject=f"{endpoint} ({endpoint.address})",
        expected="a way to this address from here",
        found="this machine has none (no IPv6?)",
        why="Gmail may come by either family",
        fix="run this from a machine that has both",
    )


def _changed(user: str, subject: str) -> Finding:
    return Finding(
        severity="error",
        id="gmail.code",
        subject=user,
        expected="the confirmation arrives with its code",
        found=f"the subject {subject!r}",
        why="nobody could type the code into Gmail",
        fix="look what changes messages on their way to the alias's destination",
    )


def _confirmation(user: str, code: str, now: datetime) -> EmailMessage:
    """To the user's own address, as Gmail's is, so that its way back through the alias is tried, too."""
    message = submission.letter(user, user, f"Confirmation code {code} for {user}", now)
    message.set_content(
        f"This message came as Gmail's confirmation would: it was sent with your password to {user} and found its way\n"
        f"to where you read it. The code is {code}; Gmail would send one of its own.\n",
        charset="utf-8",
        cte="quoted-printable",
    )
    return message


def show(console: Console, outcome: Outcome) -> None:
    """Print the outcome for people: each attempt with Gmail's fields, then what to type there."""
    made = Table("port", "address", *FIELDS, title=f"as Gmail sees {outcome.host}", title_justify="left")
    for one in outcome.attempts:
        states = set(one.fields.values())
        style = "bold red" if "wrong" in states else "green" if states == {"ok"} else "yellow"
        made.add_row(str(one.port), one.address, *(one.fields[name] for name in FIELDS), style=style)
    console.print(made)
    report.show(console, outcome.findings)
    done = {
        "read": f"The confirmation code {outcome.code} arrived where mail to {outcome.user} goes.",
        "sent": f"A message with the code {outcome.code} is on its way to {outcome.user}: Gmail's own takes the "
        "same way. It must arrive where you read that address.",
        "not sent": "No confirmation was sent: no port took the login.",
    }[outcome.confirmation]
    console.print(done, soft_wrap=True)
    if outcome.confirmation != "not sent":
        console.print(
            f"In Gmail: Settings, Accounts, Add another email address: {outcome.user}; SMTP server {outcome.host}, "
            f"port 465, username {outcome.user}, its password, SSL (or port 587, TLS).",
            soft_wrap=True,
        )
