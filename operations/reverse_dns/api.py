"""What every provider's API of reverse DNS has to do, and how its refusals are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote_plus

from standards.finding import Finding, error_about

if TYPE_CHECKING:
    from collections.abc import Iterable

BY_HAND: Final = "or set it by hand in the provider's panel and write `reverseDns: {provider: manual}`"


class Refused(Exception):  # noqa: N818  (it carries the finding)
    """The API did not do it; a finding about one address has that address as its subject."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(str(finding))


class Api(Protocol):
    """The account at a provider that the addresses belong to. Both methods raise `Refused`."""

    def names(self, address: str) -> list[str]:
        """The names that `address` has, in lower case, without final dot; none when nothing is set."""

    def point(self, address: str, name: str) -> None:
        """Let `address` have this one name; doing it twice is harmless."""


def spoken(name: object) -> str:
    """A name as `Api.names` gives it."""
    return str(name).rstrip(".").lower()


def hidden(text: str, secrets: Iterable[str]) -> str:
    """`text` of an answer in one line and without the secrets that were sent: an API may repeat them."""
    line = " ".join(text.split())
    sent = {form for secret in secrets if secret for form in (secret, quote_plus(secret))}
    for form in sorted(sent, key=len, reverse=True):
        line = line.replace(form, "***")
    return line[:200]


def refused_login(key: str, found: str, *, expected: str, fix: str) -> Refused:
    """Our credentials, stored at the setting `key`, open nothing or not enough."""
    why = "without it no reverse DNS can be set"
    return Refused(error_about(key, "ptr.api-login", expected=expected, found=found, why=why, fix=f"{fix}, {BY_HAND}"))


def stranger(address: str, provider: str, key: str, found: str) -> Refused:
    """The address is not one of this account."""
    return Refused(
        error_about(
            address,
            "ptr.api-stranger",
            expected=f"an address of the {provider} account in {key}",
            found=found,
            why=f"{provider} sets reverse DNS for the addresses of the account alone",
            fix=f"compare it with the addresses in {provider}'s panel (another account or project?), {BY_HAND}",
        )
    )


def failed(address: str, provider: str, found: str) -> Refused:
    """The API knows the address and still does not set it."""
    return Refused(
        error_about(
            address,
            "ptr.api-refused",
            expected=f"{provider}'s API to read and set its reverse DNS",
            found=found,
            why="receivers refuse mail from an address without it",
            fix=f"run again, {BY_HAND}",
        )
    )


def unreachable(base: str, provider: str, found: str) -> Refused:
    """The API is down, busy or out of reach, and stayed so."""
    return Refused(
        error_about(
            base,
            "ptr.api-unreachable",
            expected=f"an answer of {provider}'s API",
            found=found,
            why="reverse DNS is neither read nor set",
            fix=f"run again in some minutes; when it stays so, look at {provider}'s status page, {BY_HAND}",
        )
    )
