"""Contabo's login and its API of PTR records, as contabo/cntb describes them: what a client of them relies on."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any, Final

from lab.internet.names import CONTABO
from lab.internet.pointers import Pointers
from lab.internet.web import Request, Response

if TYPE_CHECKING:
    from lab.internet.authoritative import Publisher

PREFIX: Final = "/contabo/"
LOGIN: Final = f"{PREFIX}auth/realms/contabo/protocol/openid-connect/token"
PTRS: Final = f"{PREFIX}v1/dns/ptrs"
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class ContaboApi:
    """Answers the login and GET, POST and PUT of PTR records: POST makes those of IPv6 alone, PUT edits all."""

    def __init__(self, publisher: Publisher) -> None:
        self._pointers = Pointers(publisher)
        self._tokens: set[str] = set()

    def handle(self, request: Request) -> Response:
        """The answer."""
        if request.path == LOGIN:
            return self._login(request)
        if request.authorization.removeprefix("Bearer ") not in self._tokens:
            return _error(401, "Unauthorized")
        if not _UUID4.fullmatch(request.headers.get("x-request-id", "")):
            return _error(400, "x-request-id must be a UUID")
        try:
            return self._ptr(request, request.body if isinstance(request.body, dict) else {})
        except KeyError as missing:
            return _error(400, f"{missing.args[0]} should not be empty")
        except (LookupError, ValueError):
            return _error(404, "Entity not found")

    def _ptr(self, request: Request, body: dict[str, Any]) -> Response:
        if request.path == PTRS and request.method == "POST":
            return self._create(str(body["ip"]), str(body["ptr"]))
        if request.path.startswith(f"{PTRS}/"):
            return self._one(request.method, request.path.removeprefix(f"{PTRS}/"), body)
        raise LookupError(request.path)

    def _login(self, request: Request) -> Response:
        fields = ("client_id", "client_secret", "username", "password")
        given = dict(zip(CONTABO, (request.form.get(name) for name in fields), strict=True))
        if request.form.get("grant_type") != "password":
            return Response(status=400, body={"error": "unsupported_grant_type"})
        if {key: given[key] for key in ("clientId", "clientSecret")} != {
            key: CONTABO[key] for key in ("clientId", "clientSecret")
        }:
            said = {"error": "unauthorized_client", "error_description": "Invalid client or Invalid client credentials"}
            return Response(status=401, body=said)
        if given != CONTABO:
            said = {"error": "invalid_grant", "error_description": "Invalid user credentials"}
            return Response(status=401, body=said)
        token = secrets.token_urlsafe(32)
        self._tokens.add(token)
        return Response(body={"access_token": token, "expires_in": 300, "token_type": "Bearer"})

    def _create(self, address: str, name: str) -> Response:
        if ":" not in address:
            return _error(400, "Only IPv6 can be created")
        if self._pointers.get(address):
            return _error(409, "PTR record already exists")
        self._pointers.set(address, name)
        return Response(status=201, body=self._shown(address))

    def _one(self, method: str, address: str, body: dict[str, Any]) -> Response:
        known = self._pointers.get(address)
        if method not in {"GET", "PUT"}:
            return _error(405, "Method not allowed")
        if not known and (method == "GET" or ":" in address):
            return _error(404, "Entity not found")
        if method == "PUT":
            self._pointers.set(address, str(body["ptr"]))
        return Response(body=self._shown(address))

    def _shown(self, address: str) -> dict[str, Any]:
        names = self._pointers.get(address)
        data = [{"tenantId": "INT", "customerId": "1", "ip": address, "ptr": name} for name in names]
        return {"data": data, "_links": {"self": f"/v1/dns/ptrs/{address}"}}


def _error(status: int, message: str) -> Response:
    return Response(status=status, body={"statusCode": status, "message": message})
