"""The PTR records of the addresses that the lab's hosting provider rents out, whatever API sets them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from lab.internet.authoritative import RecordSet

if TYPE_CHECKING:
    from lab.internet.authoritative import Publisher


class Pointers:
    """Reads and writes PTR records in the lab's reverse zones; raises LookupError for a stranger's address."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def get(self, address: str) -> list[str]:
        """The names of an address, without final dots; ValueError when it is none."""
        owner = ip_address(address).reverse_pointer
        self._publisher.zone_of(owner)
        found = self._publisher.record_set(owner, "PTR")
        return [name.rstrip(".") for name in found.contents] if found else []

    def under(self, zone: str) -> dict[str, str]:
        """The first name of every owner in one reverse zone."""
        sets = self._publisher.record_sets(zone)
        return {each.name: each.contents[0].rstrip(".") for each in sets if each.type == "PTR"}

    def set(self, address: str, name: str) -> None:
        """Let the address have this one name; none at all when it is empty."""
        owner = ip_address(address).reverse_pointer
        contents = (f"{name.rstrip('.').lower()}.",) if name else ()
        self._publisher.publish(self._publisher.zone_of(owner), [RecordSet(owner, "PTR", contents)])
