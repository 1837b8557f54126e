"""The reverse DNS part of the Hetzner Cloud API: Primary and Floating IPs in pages, `change_dns_ptr`, actions."""

from __future__ import annotations

import itertools
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from lab.addresses import VPS_OCTETS
from lab.internet.names import HETZNER_TOKEN
from lab.internet.pointers import Pointers
from lab.internet.web import Request, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.addresses import Plan
    from lab.internet.authoritative import Publisher

PREFIX: Final = "/hetzner/v1/"
FLOATING_OCTET: Final = VPS_OCTETS[-1]
"""The one address that is no server's own."""
IPV6_ID: Final = 6
_CHANGE = re.compile(r"(primary_ips|floating_ips)/(\d+)/actions/change_dns_ptr")


class HetznerApi:
    """Every IPv4 address of a VPS is a resource of its own; the lab's IPv6 network is one, as a server's /64 is."""

    def __init__(self, publisher: Publisher, plan: Plan) -> None:
        self._pointers = Pointers(publisher)
        self._plan = plan
        self._numbers = itertools.count(1)
        self._running: set[int] = set()

    def handle(self, request: Request) -> Response:
        """The answer."""
        if request.authorization != f"Bearer {HETZNER_TOKEN}":
            return _error(401, "unauthorized", "unable to authenticate")
        path = request.path.removeprefix(PREFIX)
        if path in {"primary_ips", "floating_ips"} and request.method == "GET":
            return _page(path, self._holders(path), request.query)
        if (change := _CHANGE.fullmatch(path)) and request.method == "POST":
            return self._change(change[1], int(change[2]), request.body if isinstance(request.body, dict) else {})
        if (number := path.removeprefix("actions/")).isdigit() and request.method == "GET":
            self._running.discard(int(number))  # it is done by the time anybody asks
            return Response(body={"action": self._action(int(number))})
        return _error(404, "not_found", f"no such route: {request.method} {path}")

    def _holders(self, kind: str) -> list[dict[str, Any]]:
        zone4, zone6 = self._plan.reverse_zones
        names4, names6 = self._pointers.under(zone4), self._pointers.under(zone6)
        holders = []
        for octet in VPS_OCTETS:
            ip = self._plan.address(octet).ipv4
            name = names4.get(ip_address(ip).reverse_pointer)
            pointers = [{"ip": ip, "dns_ptr": name}] if name else []
            if (octet == FLOATING_OCTET) == (kind == "floating_ips"):
                holders.append({"id": 1000 + octet, "ip": ip, "type": "ipv4", "dns_ptr": pointers})
        if kind == "primary_ips":
            pointers = [{"ip": _address(owner), "dns_ptr": name} for owner, name in names6.items()]
            holders.append({"id": IPV6_ID, "ip": str(self._plan.ipv6), "type": "ipv6", "dns_ptr": pointers})
        return holders

    def _change(self, kind: str, number: int, body: dict[str, Any]) -> Response:
        holder = next((each for each in self._holders(kind) if each["id"] == number), None)
        if holder is None:
            return _error(404, "not_found", f"{kind} with ID {number} not found")
        ip, name = str(body.get("ip", "")), body.get("dns_ptr", "")
        inside = ip == holder["ip"] or (holder["type"] == "ipv6" and _inside(ip, self._plan))
        if not inside or not (name is None or re.fullmatch(r"[a-z0-9.-]+", str(name))):
            return _error(422, "invalid_input", "invalid input in fields 'ip', 'dns_ptr'")
        self._pointers.set(ip, name or "")
        action = next(self._numbers)
        self._running.add(action)
        return Response(status=201, body={"action": self._action(action)})

    def _action(self, number: int) -> dict[str, Any]:
        status = "running" if number in self._running else "success"
        return {"id": number, "command": "change_dns_ptr", "status": status, "error": None}


def _inside(address: str, plan: Plan) -> bool:
    try:
        return ip_address(address) in plan.ipv6
    except ValueError:
        return False


def _address(owner: str) -> str:
    digits = owner.removesuffix(".ip6.arpa").split(".")[::-1]
    return ip_address(":".join("".join(digits[place : place + 4]) for place in range(0, 32, 4))).compressed


def _page(kind: str, found: list[dict[str, Any]], query: Mapping[str, str]) -> Response:
    page, size = int(query.get("page", 1)), min(int(query.get("per_page", 25)), 50)
    last = max(1, -(-len(found) // size))
    pagination = {
        "page": page,
        "per_page": size,
        "previous_page": page - 1 if page > 1 else None,
        "next_page": page + 1 if page < last else None,
        "last_page": last,
        "total_entries": len(found),
    }
    return Response(body={kind: found[(page - 1) * size : page * size], "meta": {"pagination": pagination}})


def _error(status: int, code: str, message: str) -> Response:
    return Response(status=status, body={"error": {"code": code, "message": message, "details": {}}})
