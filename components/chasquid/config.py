"""What chasquid reads, as pure functions of the settings: its configuration, aliases, unit, users and keys."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standards import aliases, sender_policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from components.settings import HostSettings, Settings

Files = dict[str, dict[str, Any]]  # path -> {"mode": "0640", "lines": [...]}

# What stands in a release as it stands here, with its mode.
AS_IT_IS = {
    "chasquid.service": "0644",
    "mailroom-policy.service": "0644",
    "mailroom-policy.socket": "0644",
    "no-local-delivery": "0755",
}


def chasquid_conf(host: HostSettings) -> list[str]:
    """chasquid.conf (internal/config/config.proto of chasquid 1.18)."""
    return [
        f'hostname: "{host.name}"',
        'smtp_address: ":25"',
        'submission_address: ":587"',
        'submission_over_tls_address: ":465"',
        'monitoring_address: "127.0.0.1:1099"',
        "max_data_size_mb: 25",  # what Gmail takes; more would bounce there
        'data_dir: "/var/lib/chasquid"',
        'mail_delivery_agent_bin: "/etc/mailroom/current/no-local-delivery"',
        'mail_delivery_agent_args: "%to%"',
        'mail_log_path: "<stdout>"',
        "max_queue_items: 5000",  # the default of 200 answers 451 to a mailing of 201
        'give_up_send_after: "120h"',  # RFC 5321 section 4.5.4.1: at least 4-5 days
    ]


def plain_files(settings: Settings, host: HostSettings) -> Files:
    """Everything a reviewer may read, by path below the configuration directory."""
    files: Files = {
        "chasquid.conf": _file(chasquid_conf(host)),
        **{name: _file(_source(name), mode) for name, mode in AS_IT_IS.items()},
        "policy.json": _file(json.dumps(sender_policy.policy(settings, host), indent=1).splitlines()),
    }
    for domain in settings.served:
        text = aliases.render(aliases.lines(domain, settings.acme.email))
        files[f"domains/{domain.name}/aliases"] = _file(text.splitlines())
    if not settings.served:
        # chasquid refuses to start with an empty domains directory.
        files[f"domains/{host.name}/aliases"] = _file([])
    return files


def secret_files(users: Mapping[str, str], keys: Mapping[tuple[str, str], str]) -> Files:
    """Users files by domain and DKIM keys by (domain, selector), by path below the configuration directory.

    Every key file in a domain's directory signs (docs/dkim.md), so only active selectors may be given.
    """
    files = {f"domains/{domain}/users": _file(text.splitlines()) for domain, text in users.items()}
    for (domain, selector), pem in keys.items():
        files[f"domains/{domain}/dkim:{selector}.pem"] = _file(pem.splitlines())
    return files


def served_domains(settings: Settings) -> list[str]:
    """The domains chasquid takes mail from and for."""
    return [domain.name for domain in settings.served]


def active_keys(settings: Settings) -> list[tuple[str, str]]:
    """(domain, selector) of every key that signs."""
    return [(domain.name, key.selector) for domain in settings.served for key in domain.dkim if key.stage == "active"]


def digest(files: Mapping[str, Any]) -> str:
    """The name of a staged set; stage.py computes the same from what it received."""
    text = json.dumps(files, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _source(name: str) -> list[str]:
    return Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()


def _file(lines: list[str], mode: str = "0640") -> dict[str, Any]:
    return {"mode": mode, "lines": lines}
