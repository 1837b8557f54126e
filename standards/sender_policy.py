"""What the sender policy of a host goes by: who may send as whom, how much, and what is known of each domain.

The decisions themselves are made on the host, message by message.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING, Any

from standards import aliases, names
from standards.records import sending_addresses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from components.settings import DomainSettings, HostSettings, Settings, UserSettings


def policy(settings: Settings, host: HostSettings) -> dict[str, Any]:
    """The content of policy.json; the order of users, domains and aliases in the settings does not matter."""
    received = _received(settings)
    served = sorted(settings.served, key=lambda domain: domain.name)
    return {
        "hostname": host.name,
        "addresses": list(chain(*sending_addresses([host]))),
        "postmaster": postmaster(settings),
        "warmUp": settings.warm_up,
        "gate": settings.gate,
        "rspamd": settings.rspamd,
        "forwardRate": settings.forward_rate,
        "domains": {domain.name: _domain(domain, settings) for domain in served},
        "users": {
            f"{user.name}@{domain.name}": {
                "logins": sorted(user.logins(domain.name)),
                "identities": _identities(domain, user, received),
                "limits": settings.limits_of(user).model_dump(by_alias=True),
            }
            for domain in served
            for user in sorted(domain.users, key=lambda user: user.name)
        },
    }


def postmaster(settings: Settings) -> str:
    """Who reads what a host has to say: postmaster@ of the first domain it receives for, else the ACME account."""
    domain = next((domain.name for domain in settings.served if domain.mail == "forward"), None)
    return f"postmaster@{domain}" if domain else settings.acme.email


def _identities(domain: DomainSettings, user: UserSettings, received: Mapping[str, set[str]]) -> list[str]:
    """The addresses a user may send as, its own first, in the form chasquid compares."""
    own = names.canonical_address(f"{user.name}@{domain.name}")
    extra = {names.canonical_address(address) for address in user.identities}
    return [own, *sorted((received[own] | extra) - {own})]


def _received(settings: Settings) -> Mapping[str, set[str]]:
    """For each address the aliases whose mail comes by it: whoever receives an alias may answer from it.

    The catch-all gives none, not even the lines it makes for users without an alias; an alias with a suffix gives
    none either, since its comparable form is the name without it.
    """
    book = aliases.book(settings)
    received: defaultdict[str, set[str]] = defaultdict(set)
    for domain in settings.served:
        for name in aliases.lines(domain, settings.acme.email):
            if name != aliases.CATCH_ALL and "+" not in name and (name in domain.aliases or name in aliases.ROLES):
                alias = f"{name}@{domain.name}"
                for address in book.passes(alias):
                    received[address].add(names.canonical_address(alias))
    return received


def _domain(domain: DomainSettings, settings: Settings) -> dict[str, Any]:
    lines = aliases.lines(domain, settings.acme.email)
    return {
        "mail": domain.mail,
        "policy": domain.dmarc.policy,
        "sp": domain.dmarc.sp or domain.dmarc.policy,
        "selectors": sorted(key.selector for key in domain.dkim if key.stage == "active"),
        "aliases": {name: list(lines[name]) for name in sorted(lines)},
    }
