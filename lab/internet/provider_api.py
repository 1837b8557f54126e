"""The hosting provider's API: reverse DNS of the addresses it rents out, `/provider/ptr/<address>`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from lab.internet.authoritative import RecordSet
from lab.internet.web import Request, Response

if TYPE_CHECKING:
    from lab.internet.authoritative import Publisher

PREFIX: Final = "/provider/ptr/"


class ProviderApi:
    """Answers GET, PUT `{"name": "smtp.example.test"}` and DELETE."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def handle(self, request: Request) -> Response:
        """The answer: `{"ip", "name"}`, name null when the address has no reverse DNS."""
        try:
            address = ip_address(request.path.removeprefix(PREFIX))
            zone = self._publisher.zone_of(address.reverse_pointer)
        except (ValueError, LookupError):
            return _error(404, "no address of yours; expected one of a rented server such as 198.51.100.10")
        owner = address.reverse_pointer
        if request.method == "PUT":
            name = request.body.get("name") if isinstance(request.body, dict) else None
            if not isinstance(name, str) or not name.strip("."):
                return _error(400, 'expected a body such as {"name": "smtp.example.test"}')
            self._publisher.publish(zone, [RecordSet(owner, "PTR", (f"{name.rstrip('.').lower()}.",))])
        elif request.method == "DELETE":
            self._publisher.publish(zone, [RecordSet(owner, "PTR", ())])
        elif request.method != "GET":
            return _error(405, "expected GET, PUT or DELETE")
        found = self._publisher.record_set(owner, "PTR")
        return Response(body={"ip": str(address), "name": found.contents[0].rstrip(".") if found else None})


def _error(status: int, message: str) -> Response:
    return Response(status=status, body={"error": message})
