"""One test message of a stack, from its user's hand-in to the receiver's verdict; the parts do the work."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from operations import report, stacks, submission, verdict
from operations.dns import Resolver, check_ptr
from operations.ssh import Target
from standards import passwords
from standards.finding import Finding, Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from components.settings import HostSettings, Settings

ARRIVAL_SECONDS = 60


@dataclass(frozen=True)
class Outcome:
    """What came of a test message; `report` is the verdict, where there is a receiver to ask."""

    accepted: submission.Accepted
    report: verdict.Report | None
    findings: Sequence[Finding] = ()


@dataclass(frozen=True)
class Trial:
    """A stack that is deployed, and whom it may send as."""

    settings: Settings = field(repr=False)
    lab: stacks.Lab | None
    host: HostSettings

    @classmethod
    def of(cls, stack: str) -> Trial:
        """Find everything out; raises `Problems` when the stack is missing or was never deployed."""
        name = stacks.outputs(stack)["submissionHost"]
        settings = stacks.settings(stack)
        for host in settings.hosts:
            if host.name == name:
                return cls(settings, stacks.lab(stack), host)
        raise Problems(f"stack {stack} is not deployed as its settings say", [_renamed(name, settings)])

    def user(self, wanted: str | None) -> tuple[str, str]:
        """The user to send as and the password; the first with a password when nobody is wanted."""
        users = {
            login: secret
            for login in self.settings.logins
            if passwords.TOKEN_MARK not in login
            and not passwords.is_hash(secret := self.settings.passwords[login].get_secret_value())
        }
        named = [address for address in users if not wanted or wanted.lower() in {address, address.partition("@")[0]}]
        if not named or (wanted and len(named) > 1):
            raise Problems("nobody to send as", [_no_password(wanted, list(users))])
        return named[0], users[named[0]]

    def endpoint(self, port: int) -> submission.Endpoint:
        """The host's port, as everybody outside finds and trusts it."""
        return submission.Endpoint(
            host=self.host.name,
            port=port,
            implicit_tls=port == submission.IMPLICIT_TLS,
            resolver=Resolver(self.settings.resolver) if self.settings.resolver else None,
            ca_file=self.lab.ca_file if self.lab else None,
        )

    def send(self, sender: tuple[str, str], recipient: str, port: int, log: Callable[[str], None]) -> Outcome:
        """Submit one message; at the lab's receiver wait for its verdict and judge it."""
        endpoint = self.endpoint(port)
        user, password = sender
        log(f"handing a message to {endpoint} as {user}")
        message = submission.compose(user, recipient, endpoint, datetime.now(UTC))
        accepted = submission.submit(endpoint, message, user, password)
        if not self.lab or _domain(recipient) != _domain(self.lab.receiver):
            return Outcome(accepted, None)
        return self._verdict(self.lab, accepted, user, recipient, log)

    def _verdict(
        self, lab: stacks.Lab, accepted: submission.Accepted, user: str, recipient: str, log: Callable[[str], None]
    ) -> Outcome:
        log("waiting for the receiver's verdict")
        seen, message = verdict.wait_for_verdict(lab.mail_dir, accepted.message_id, ARRIVAL_SECONDS, log)
        level = verdict.delivery_level(self._target(), _domain(recipient))
        seen_report = verdict.build_report(seen, message, accepted, level)
        expected = self._expected(_domain(user))
        resolver = Resolver(self.settings.resolver)
        reverse = {address: check_ptr(address, self.host.name, resolver) for address in expected.addresses}
        findings = verdict.judge(seen_report, expected, reverse)
        return Outcome(accepted, seen_report, findings)

    def _expected(self, domain: str) -> verdict.Expected:
        keys = next(known.dkim for known in self.settings.domains if known.name == domain)
        ipv6 = self.host.ipv6 if self.host.ipv6_outbound else None
        return verdict.Expected(
            host=self.host.name,
            addresses=tuple(address for address in (self.host.ipv4, ipv6) if address),
            domain=domain,
            selectors=tuple(key.selector for key in keys if key.stage == "active"),
        )

    def _target(self) -> Target:
        secret = self.settings.ssh_private_key
        return Target.of(self.host, secret.get_secret_value() if secret else None)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome for programs: the verdict's own keys on the top level, `result` and the findings beside."""
    return {
        **(outcome.report or {"message_id": outcome.accepted.message_id, "submission": asdict(outcome.accepted)}),
        "result": "fail" if outcome.findings else "pass" if outcome.report else "accepted",
        "findings": [asdict(finding) for finding in outcome.findings],
    }


def show(console: Console, outcome: Outcome, recipient: str) -> None:
    """Print the outcome for people; without a receiver to ask, say what to look at."""
    sent = outcome.accepted
    line = f"accepted by {sent.address} port {sent.port}: {sent.tls_version} {sent.cipher}, {sent.answer}"
    console.print(report.said(line))
    if outcome.report:
        console.print(verdict.table(outcome.report, outcome.findings))
        report.show(console, outcome.findings)
        return
    console.print(
        f"Now open the message {sent.message_id} at {recipient} and look at its headers (in Gmail: the three dots, "
        "Show original): SPF, DKIM and DMARC should say PASS. Is it in the spam folder? Say that it is none."
    )


def _domain(address: str) -> str:
    return address.rpartition("@")[2].lower()


def _no_password(wanted: str | None, users: Sequence[str]) -> Finding:
    return error_about(
        wanted or "mailroom:passwords",
        "trial.no-user",
        expected=f"one of {', '.join(users)}" if users else "a user with a password, not only a hash",
        found="no password that one could log in with",
        why="only a user with a password may send",
        fix="pulumi config set --secret --path 'mailroom:passwords[\"i@example.com\"]', then `pulumi up`",
    )


def _renamed(deployed: str, settings: Settings) -> Finding:
    return error_about(
        f"host {deployed}",
        "trial.host-renamed",
        expected=f"a host of the settings: {', '.join(host.name for host in settings.hosts)}",
        found="the stack was deployed with this name, the settings no longer have it",
        why="a test message goes to the server that runs now",
        fix="`pulumi up` first, or put the name back",
    )
