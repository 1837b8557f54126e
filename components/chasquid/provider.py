"""chasquid's user databases: hashed once a password change, so a preview runs no scrypt; no host access here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import Resource

from components.dynamic_provider import Properties, Provider
from standards import passwords

if TYPE_CHECKING:
    from collections.abc import Mapping


class UsersProvider(Provider):
    """Turns address -> password (or ready hash) into one `users` file a domain.

    The hash of an unchanged password is kept, since each costs 70 ms of CPU (4 of a token); `changed` holds the clear
    passwords of this run, for the host to prove them by a login.
    """

    outputs = ("files", "hashes", "changed")

    def apply(self, inputs: Properties, previous: Mapping[str, Any]) -> Properties:
        """Return `files` (domain -> text), `hashes` (address -> PHC string) and `changed`."""
        wanted: Mapping[str, str] = inputs["passwords"]
        before: Mapping[str, str] = previous.get("passwords") or {}
        known: Mapping[str, str] = previous.get("hashes") or {}
        kept = {address for address in wanted if before.get(address) == wanted[address] and address in known}
        hashes = {address: known[address] if address in kept else _hash(wanted[address]) for address in wanted}
        changed = {
            address: password
            for address, password in wanted.items()
            if address not in kept and not passwords.is_hash(password)
        }
        return {"files": _files(inputs["domains"], hashes), "hashes": hashes, "changed": changed}


def _hash(password: str) -> str:
    if passwords.is_hash(password):
        return password
    return str(passwords.scrypt_hash(password, os.urandom(passwords.SALT_BYTES)))


def _files(domains: list[str], hashes: Mapping[str, str]) -> dict[str, str]:
    """One users file a domain, also for a domain without users: removing the last one must empty the file."""
    by_domain: dict[str, dict[str, passwords.ScryptHash]] = {domain: {} for domain in domains}
    for address, text in hashes.items():
        user, _, domain = address.rpartition("@")
        by_domain[domain][user] = passwords.parse(text)
    return {domain: passwords.users_file(users) for domain, users in by_domain.items()}


class Users(Resource, module="mailroom", name="Users"):
    """All user databases: `files` by domain, and `changed`, the clear passwords set by the last run; all secret."""

    files: pulumi.Output[dict[str, str]]
    changed: pulumi.Output[dict[str, str]]

    def __init__(
        self,
        name: str,
        *,
        domains: list[str],
        passwords: Mapping[str, pulumi.Input[str]],
        opts: pulumi.ResourceOptions,
    ) -> None:
        inputs = {
            "name": name,
            "domains": domains,
            "passwords": pulumi.Output.secret(dict(passwords)),
            "files": None,
            "hashes": None,
            "changed": None,
        }
        secret = pulumi.ResourceOptions(additional_secret_outputs=["passwords", "files", "hashes", "changed"])
        super().__init__(UsersProvider(), name, inputs, pulumi.ResourceOptions.merge(opts, secret))
