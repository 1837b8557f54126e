"""What a stack tells other stacks, scripts and people: flat, documented values; no secret unless asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi

from components.chasquid import build

if TYPE_CHECKING:
    from components.mail_server import MailServer
    from components.settings import Settings


def outputs(settings: Settings, server: MailServer) -> dict[str, Any]:
    """All stack outputs by name.

    `records` are {name, type, content, priority, ttl, reason}, `dkim` {domain, selector, stage, name, record},
    `users` are those that may send, `gmail` the fields of Gmail's "Send mail as" for each. `passwords` (secret) holds
    only users that say `export: true`, and their tokens.
    """
    return {
        "hosts": [_host(host) for host in settings.hosts],
        "submission": {
            "host": settings.hosts[0].name,
            "ports": [465, 587],
            "tls": "465: implicit, 587: STARTTLS, both required",
            "auth": "PLAIN",
        },
        "records": [
            {
                "name": record.name,
                "type": record.type,
                "content": content,
                "priority": record.priority,
                "ttl": record.ttl,
                "reason": record.reason,
            }
            for record, content in server.values
        ],
        "dkim": _dkim(settings, server),
        "users": addresses(settings),
        "gmail": [_gmail(settings, address) for address in addresses(settings)],
        "versions": {
            "chasquid": build.release(settings.hosts[0].arch).version,
            "os": server.systems,
        },
        **_exported(settings),
    }


def addresses(settings: Settings) -> list[str]:
    """The address of every user that may send, in the order of the settings."""
    return [f"{user.name}@{domain.name}" for domain in settings.domains for user in domain.users if user.send]


def _host(host: Any) -> dict[str, Any]:
    return {"name": host.name, "ipv4": host.ipv4, "ipv6": host.ipv6, "ssh": f"{host.ssh.user}:{host.ssh.port}",
            "hostKey": host.host_key}  # fmt: skip


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


def _gmail(settings: Settings, address: str) -> dict[str, Any]:
    """Gmail, Settings, Accounts, "Send mail as": the five fields it asks for."""
    return {
        "emailAddress": address,
        "smtpServer": settings.hosts[0].name,
        "port": 465,
        "username": address,
        "securedConnection": "SSL",
    }


def _exported(settings: Settings) -> dict[str, Any]:
    exported = {
        login for domain in settings.domains for user in domain.users if user.export
        for login in user.logins(domain.name)
    }  # fmt: skip
    if not exported:
        return {}
    chosen = {address: settings.passwords[address].get_secret_value() for address in sorted(exported)}
    return {"passwords": pulumi.Output.secret(chosen)}
