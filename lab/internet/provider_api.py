"""The hosting provider's API: reverse DNS of the addresses it rents out, `/provider/ptr/<address>`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from lab.internet.pointers import Pointers
from lab.internet.web import Request, Response

if TYPE_CHECKING:
    from lab.internet.authoritative import Publisher

PREFIX: Final = "/provider/ptr/"


class ProviderApi:
    """Answers GET, PUT `{"name": "smtp.example.test"}` and DELETE."""

    def __init__(self, publisher: Publisher) -> None:
        self._pointers = Pointers(publisher)

    def handle(self, request: Request) -> Response:
        """The answer: `{"ip", "name"}`, name null when the address has no reverse DNS."""
        address = request.path.removeprefix(PREFIX)
        try:
            self._pointers.get(address)
        except (ValueError, LookupError):
            return _error(404, "no address of yours; expected one of a rented server such as 198.51.100.10")
        if request.method == "PUT":
            name = request.body.get("name") if isinstance(request.body, dict) else None
            if not isinstance(name, str) or not name.strip("."):
                return _error(400, 'expected a body such as {"name": "smtp.example.test"}')
            self._pointers.set(address, name)
        elif request.method == "DELETE":
            self._pointers.set(address, "")
        elif request.method != "GET":
            return _error(405, "expected GET, PUT or DELETE")
        names = self._pointers.get(address)
        return Response(body={"ip": ip_address(address).compressed, "name": names[0] if names else None})


def _error(status: int, message: str) -> Response:
    return Response(status=status, body={"error": message})
