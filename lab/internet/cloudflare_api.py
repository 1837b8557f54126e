"""The DNS part of the Cloudflare v4 API over an `Account`: routes, tokens, filters, pages, envelopes, errors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lab.internet import dnssec
from lab.internet.names import ACME_TOKEN, CLOUDFLARE_TOKEN, NAMESERVERS, READ_TOKEN
from lab.internet.records import ApiError, Record, full_name, record, unquoted
from lab.internet.web import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lab.internet.account import Account, Stored

PREFIX: Final = "/client/v4"
DEFAULT_ZONES_PER_PAGE: Final = 20
DEFAULT_RECORDS_PER_PAGE: Final = 100
HEADERS: Final = {
    "Ratelimit": '"default";r=1199;t=300',
    "Ratelimit-Policy": '"default";q=1200;w=300',
    # The official clients retry 5xx and 429 for minutes; a test that injects one wants to see it.
    "x-should-retry": "false",
}

_TOKEN = re.compile(r"Bearer [0-9A-Za-z_-]{40,80}")
_ROUTE = re.compile(r"/zones/(?P<zone>[^/]+)(?P<records>/dns_records)?(?P<dnssec>/dnssec)?(?:/(?P<record>[^/]+))?")


@dataclass(frozen=True)
class Token:
    """A named right; the name is what logs show."""

    name: str
    edits: Callable[[Record], bool]
    reads_all: bool = False

    def reads(self, wanted: Record) -> bool:
        """Whether it may see the record."""
        return self.reads_all or self.edits(wanted)


TOKENS: Final[Mapping[str, Token]] = {
    CLOUDFLARE_TOKEN: Token("edit", lambda _record: True),
    READ_TOKEN: Token("read", lambda _record: False, reads_all=True),
    ACME_TOKEN: Token("acme", lambda wanted: wanted.type == "TXT" and wanted.name.startswith("_acme-challenge.")),
}


def token_name(authorization: str) -> str | None:
    """Who asks, for a log that must not hold tokens: a known name, `unknown`, or None without a token."""
    token = TOKENS.get(authorization.removeprefix("Bearer "))
    return token.name if token else "unknown" if authorization else None


class CloudflareApi:
    """Answers requests below `/client/v4`."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def handle(self, request: Request) -> Response:
        """The answer, success or not, in the API's envelope."""
        try:
            result, info = self._route(request, _authenticated(request.authorization))
        except ApiError as error:
            errors = [{"code": error.code, "message": error.message}]
            body = {"result": None, "success": False, "errors": errors, "messages": []}
            return Response(status=error.status, body=body, headers=HEADERS)
        body = {"result": result, "success": True, "errors": [], "messages": []}
        return Response(body=body | ({"result_info": info} if info else {}), headers=HEADERS)

    def _route(self, request: Request, token: Token) -> tuple[Any, dict[str, int] | None]:
        path = request.path.removeprefix(PREFIX)
        if path == "/user/tokens/verify" and request.method == "GET":
            return {"id": "0" * 32, "status": "active"}, None
        if path == "/zones" and request.method == "GET":
            return self._zones(request.query)
        match = _ROUTE.fullmatch(path)
        if match is None:
            raise ApiError(404, 7000, "No route for that URI")
        zone = self._account.zones.get(match["zone"])
        if zone is None:
            message = f"Could not route to {path}, perhaps your object identifier is invalid?"
            raise ApiError(404, 7003, message)
        if match["records"]:
            if match["record"]:
                return self._one_record(request, token, zone, match["record"]), None
            return self._all_records(request, token, zone)
        if request.method == "GET" and not match["record"]:
            return (_dnssec(zone) if match["dnssec"] else _zone(match["zone"], zone)), None
        raise ApiError(405, 10405, "Method not allowed for this authentication scheme")

    def _zones(self, query: Mapping[str, str]) -> tuple[Any, dict[str, int]]:
        name = query.get("name")
        found = [_zone(key, zone) for key, zone in self._account.zones.items() if name in {None, zone}]
        return _page(found, query, DEFAULT_ZONES_PER_PAGE)

    def _all_records(self, request: Request, token: Token, zone: str) -> tuple[Any, dict[str, int] | None]:
        if request.method == "POST":
            wanted = record(_object(request.body), zone)
            _allow(token, wanted)
            return self._account.create(zone, wanted).answer(), None
        if request.method != "GET":
            raise ApiError(405, 10405, "Method not allowed for this authentication scheme")
        found = [
            stored.answer()
            for stored in self._account.records(zone)
            if token.reads(stored.record) and _selected(stored, request.query, zone)
        ]
        return _page(found, request.query, DEFAULT_RECORDS_PER_PAGE)

    def _one_record(self, request: Request, token: Token, zone: str, identity: str) -> Any:
        stored = self._account.get(zone, identity)
        if request.method == "GET" and token.reads(stored.record):
            return stored.answer()
        _allow(token, stored.record)
        if request.method == "DELETE":
            self._account.delete(zone, identity)
            return {"id": identity}
        if request.method not in {"PUT", "PATCH"}:
            raise ApiError(405, 10405, "Method not allowed for this authentication scheme")
        body = _object(request.body)
        wanted = record(body if request.method == "PUT" else {**stored.answer(), **body}, zone)
        _allow(token, wanted)
        return self._account.update(zone, identity, wanted).answer()


def _authenticated(authorization: str) -> Token:
    if not authorization:
        raise ApiError(400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")
    if not _TOKEN.fullmatch(authorization):
        raise ApiError(400, 6003, "Invalid request headers")
    token = TOKENS.get(authorization.removeprefix("Bearer "))
    if token is None:
        raise ApiError(403, 9109, "Invalid access token")
    return token


def _allow(token: Token, wanted: Record) -> None:
    if not token.edits(wanted):
        raise ApiError(403, 10000, "Authentication error")


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ApiError(400, 9207, "Request body is invalid.")
    return body


def _zone(identity: str, zone: str) -> dict[str, Any]:
    account = {"id": "0" * 32, "name": "Mailroom lab"}
    names = list(NAMESERVERS)
    return {
        "id": identity,
        "name": zone,
        "status": "active",
        "paused": False,
        "name_servers": names,
        "account": account,
    }


def _dnssec(zone: str) -> dict[str, Any]:
    tag, algorithm, digest_type, digest = dnssec.ds(zone).split()
    return {
        "status": "active",
        "key_tag": int(tag),
        "algorithm": algorithm,
        "digest_type": digest_type,
        "digest": digest.upper(),
        "ds": f"{zone}. 3600 IN DS {tag} {algorithm} {digest_type} {digest.upper()}",
    }


def _selected(stored: Stored, query: Mapping[str, str], zone: str) -> bool:
    """Whether all filters match; `name` and `content` alone mean exactly that."""
    if query.get("type") not in {None, stored.record.type}:
        return False
    shown = stored.record
    fields = {"name": shown.name, "content": shown.content, "comment": shown.comment or ""}
    for key, wanted in query.items():
        attribute, _, how = key.partition(".")
        if attribute in fields and not _matches(attribute, how or "exact", fields[attribute], wanted, zone):
            return False
    return True


def _matches(attribute: str, how: str, value: str, wanted: str, zone: str) -> bool:
    if how == "exact":
        if attribute == "name":
            return value == full_name(wanted, zone)
        return value == wanted or (attribute == "content" and unquoted(value) == unquoted(wanted))
    test = {"contains": value.__contains__, "startswith": value.startswith, "endswith": value.endswith}.get(how)
    if test is None:
        raise ApiError(400, 1004, f"DNS Validation Error: unknown filter {attribute}.{how}")
    return test(wanted)


def _page(found: Sequence[Any], query: Mapping[str, str], per_page: int) -> tuple[Any, dict[str, int]]:
    """One page; pages after the last are empty, which is how clients know that they have all."""
    try:
        page, size = int(query.get("page", 1)), int(query.get("per_page", per_page))
    except ValueError:
        raise ApiError(400, 1004, f"DNS Validation Error: page of {json.dumps(dict(query))} is no number") from None
    part = found[(page - 1) * size : page * size]
    info = {"page": page, "per_page": size, "count": len(part), "total_count": len(found)}
    return part, info | {"total_pages": -(-len(found) // size)}
