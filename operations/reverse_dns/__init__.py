"""Reverse DNS through the API of the hosting provider: one module a provider, behind one small interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from operations.reverse_dns.api import Api, Refused
from operations.reverse_dns.contabo import Contabo
from operations.reverse_dns.hetzner import Hetzner
from standards.finding import Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PROVIDERS: Final[Mapping[str, Callable[..., Api]]] = {"contabo": Contabo, "hetzner": Hetzner}
_Result = TypeVar("_Result")


def connect(provider: str, access: Mapping[str, str], say: Callable[[str], None]) -> Api:
    """The API of `provider` for one account; `access` are the values of its setting, by their keys. No I/O yet."""
    return PROVIDERS[provider](access, say)


def read(api: Api, addresses: Sequence[str]) -> dict[str, list[str]]:
    """The names that the provider has for each address; raises `Problems`."""
    return _each(addresses, api.names, "reverse DNS could not be read")


def ensure(api: Api, addresses: Sequence[str], name: str, say: Callable[[str], None]) -> dict[str, bool]:
    """Point each address at `name` where it has another one or none; whether it was changed.

    Raises `Problems` with every refusal; the addresses that were not refused are set.
    """

    def point(address: str) -> bool:
        found = api.names(address)
        if found == [name]:
            return False
        say(f"setting reverse DNS of {address} to {name} (it is {', '.join(found) or 'not set'})")
        api.point(address, name)
        return True

    return _each(addresses, point, f"reverse DNS of {name} could not be set")


def _each(addresses: Sequence[str], act: Callable[[str], _Result], headline: str) -> dict[str, _Result]:
    done: dict[str, _Result] = {}
    refusals = []
    for address in addresses:
        try:
            done[address] = act(address)
        except Refused as refused:
            refusals.append(refused.finding)
            if refused.finding.subject != address:
                break  # it is not about this address, so the next one would be refused as well
    if refusals:
        raise Problems(headline, refusals)
    return done
