"""A small valid stack as its file says it, to be changed by each test."""

from __future__ import annotations

import base64
import copy
from typing import TYPE_CHECKING, Any

from components.settings import Settings
from standards.finding import Finding, Problems

if TYPE_CHECKING:
    from collections.abc import Callable

ZONE = "0123456789abcdef0123456789abcdef"
OTHER_ZONE = "f" * 32
HOST_KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + b"k" * 32).decode()
CONFIG: dict[str, Any] = {
    "mailroom:hosts": [{"name": "smtp.example.com", "ipv4": "192.0.2.10", "ipv6": "2001:db8::10",
                        "hostKey": HOST_KEY}],
    "mailroom:domains": [{"name": "example.com", "zoneId": ZONE, "users": ["i"],
                          "aliases": {"i": ["someone@gmail.com"]}}],
    "mailroom:passwords": {"i@example.com": "correct horse battery"},
    "mailroom:acme": {"email": "you@example.com", "directory": "letsencrypt", "token": "t" * 40},
    "cloudflare:apiToken": "a" * 40,
}  # fmt: skip


def config(change: Callable[[dict[str, Any]], object] = lambda _: None) -> dict[str, Any]:
    values = copy.deepcopy(CONFIG)
    change(values)
    return values


def load(change: Callable[[dict[str, Any]], object] = lambda _: None, stack: str = "prod") -> Settings:
    return Settings.load(config(change).get, stack)


def refused(change: Callable[[dict[str, Any]], object], stack: str = "prod") -> list[Finding]:
    """The findings of a stack that must not load; empty when it does, so that an assertion fails clearly."""
    try:
        load(change, stack)
    except Problems as problems:
        return list(problems.findings)
    return []


def domain(**changes: Any) -> Callable[[dict[str, Any]], object]:
    """A change of the first domain."""
    return lambda values: values["mailroom:domains"][0].update(changes)


def host(**changes: Any) -> Callable[[dict[str, Any]], object]:
    """A change of the first host."""
    return lambda values: values["mailroom:hosts"][0].update(changes)


def second_domain(**keys: Any) -> Callable[[dict[str, Any]], object]:
    """One more domain."""
    return lambda values: values["mailroom:domains"].append({"name": "second.test", "zoneId": OTHER_ZONE, **keys})
