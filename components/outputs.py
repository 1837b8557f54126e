"""What a stack tells other stacks, scripts and people: every output is declared here once, with its type and promise.

docs/outputs.md lists the same outputs; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict

import pulumi

from components.chasquid import build
from standards import passwords

if TYPE_CHECKING:
    from collections.abc import Callable

    from components.mail_server import MailServer
    from components.settings import Settings

    Value: TypeAlias = Callable[[Settings, MailServer], Any]

# Raised when an output goes, changes its type or means something else; a new output or field leaves it as it is.
VERSION: Final = 1
TLS_PORT, STARTTLS_PORT = 465, 587  # RFC 8314 section 3.3, RFC 6409


class Host(TypedDict):
    """A mail server: its name, its addresses, and where and with which key SSH answers."""

    name: str
    ipv4: str | None
    ipv6: str | None
    sshUser: str
    sshPort: int
    hostKey: str


class Mx(TypedDict):
    """A published MX record; `host` is `.` where a domain takes no mail (RFC 7505)."""

    domain: str
    host: str
    priority: int


class Dkim(TypedDict):
    """A DKIM key: `stage` is active, or another one while it comes or goes; `record` is the TXT content."""

    domain: str
    selector: str
    stage: str
    name: str
    record: str


class DnsRecord(TypedDict):
    """A record that the stack publishes, and why."""

    name: str
    type: str
    content: str
    priority: int | None
    ttl: int
    reason: str


class Gmail(TypedDict):
    """The fields of Gmail, Settings, Accounts, "Send mail as"."""

    emailAddress: str
    smtpServer: str
    port: int
    username: str
    securedConnection: str


@dataclass(frozen=True)
class StackOutput:
    """One output: `type` is what a consumer may rely on, `since` the version that brought it.

    `value` gives None where the output is left out.
    """

    name: str
    type: Any
    meaning: str
    value: Value
    since: int = 1
    secret: bool = False


def outputs(settings: Settings, server: MailServer) -> dict[str, Any]:
    """All stack outputs by name."""
    values = {output: output.value(settings, server) for output in DECLARED}
    return {
        output.name: pulumi.Output.secret(value) if output.secret else value
        for output, value in values.items()
        if value is not None
    }


def _addresses(settings: Settings) -> list[str]:
    return [login for login in settings.logins if passwords.TOKEN_MARK not in login]


def _host(host: Any) -> dict[str, Any]:
    return {"name": host.name, "ipv4": host.ipv4, "ipv6": host.ipv6, "sshUser": host.ssh.user,
            "sshPort": host.ssh.port, "hostKey": host.host_key}  # fmt: skip


def _mx(server: MailServer) -> list[dict[str, Any]]:
    return [
        {"domain": record.name, "host": content, "priority": record.priority}
        for record, content in server.values
        if record.type == "MX"
    ]


def _dkim(settings: Settings, server: MailServer) -> list[dict[str, Any]]:
    contents = {record.dkim: (record.name, content) for record, content in server.values if record.dkim}
    return [
        {
            "domain": domain.name,
            "selector": key.selector,
            "stage": key.stage,
            "name": contents[domain.name, key.selector][0],
            "record": contents[domain.name, key.selector][1],
        }
        for domain in settings.served
        for key in domain.dkim
    ]


def _record(record: Any, content: Any) -> dict[str, Any]:
    return {
        "name": record.name,
        "type": record.type,
        "content": content,
        "priority": record.priority,
        "ttl": record.ttl,
        "reason": record.reason,
    }


def _gmail(settings: Settings, address: str) -> dict[str, Any]:
    return {
        "emailAddress": address,
        "smtpServer": settings.hosts[0].name,
        "port": TLS_PORT,
        "username": address,
        "securedConnection": "SSL",
    }


def _exported(settings: Settings) -> dict[str, str] | None:
    exported = {
        login for domain in settings.domains for user in domain.users if user.export
        for login in user.logins(domain.name)
    }  # fmt: skip
    return {login: settings.passwords[login].get_secret_value() for login in sorted(exported)} or None


DECLARED: Final = (
    StackOutput("outputsVersion", int, "the version of this contract", lambda *_: VERSION),
    StackOutput("submissionHost", str, "where programs hand in mail; the name that its certificate carries",
                lambda settings, _: settings.hosts[0].name),
    StackOutput("submissionPort", int, "TLS from the first byte", lambda *_: TLS_PORT),
    StackOutput("submissionStartTlsPort", int, "the same with STARTTLS, which is required", lambda *_: STARTTLS_PORT),
    StackOutput("submissionAuth", str, "the SASL mechanism, offered under TLS alone", lambda *_: "PLAIN"),
    StackOutput("users", list[str], "the address of every user that may send; it is the login name, too",
                lambda settings, _: _addresses(settings)),
    StackOutput("logins", list[str], "every login name: the users, and each application token as `user+token@domain`",
                lambda settings, _: settings.logins),
    StackOutput("domains", list[str], "the domains that mail is sent for",
                lambda settings, _: [domain.name for domain in settings.served]),
    StackOutput("receivingDomains", list[str], "those of them whose mail arrives here and is forwarded",
                lambda settings, _: [domain.name for domain in settings.domains if domain.mail == "forward"]),
    StackOutput("hosts", list[Host], "the mail servers",
                lambda settings, _: [_host(host) for host in settings.hosts]),
    StackOutput("ipv4", list[str], "the addresses mail may come from, for allow lists",
                lambda settings, _: [host.ipv4 for host in settings.hosts if host.ipv4]),
    StackOutput("ipv6", list[str], "the same, IPv6",
                lambda settings, _: [host.ipv6 for host in settings.hosts if host.ipv6 and host.ipv6_outbound]),
    StackOutput("mx", list[Mx], "the MX records the stack publishes", lambda _, server: _mx(server)),
    StackOutput("dkim", list[Dkim], "the DKIM keys", _dkim),
    StackOutput("records", list[DnsRecord], "every DNS record the stack publishes",
                lambda _, server: [_record(*value) for value in server.values]),
    StackOutput("gmail", list[Gmail], "what to type at Gmail for each user",
                lambda settings, _: [_gmail(settings, address) for address in _addresses(settings)]),
    StackOutput("chasquidVersion", str, "the release of the mail server",
                lambda settings, _: str(build.release(settings.hosts[0].arch).version)),
    StackOutput("systems", dict[str, str], "the operating system by host, as `debian 12`",
                lambda _, server: server.systems),
    StackOutput("passwords", dict[str, str], "the password by login name, only of users with `export: true`; left out "
                "when there are none", lambda settings, _: _exported(settings), secret=True),
)  # fmt: skip
