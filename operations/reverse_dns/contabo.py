"""PTR records at Contabo: OAuth 2 password grant, then /v1/dns/ptrs (api.contabo.com, and the client contabo/cntb).

Every address of an account has a PTR over IPv4, to be edited; one over IPv6 has to be created first.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from operations import web
from operations.reverse_dns import api

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

API: Final = "https://api.contabo.com"
AUTH: Final = "https://auth.contabo.com/auth/realms/contabo/protocol/openid-connect/token"
KEY: Final = "mailroom:contabo"
PTRS: Final = "/v1/dns/ptrs"
NOT_YET: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY})


@dataclass
class Contabo:
    """One account; `access` has clientId, clientSecret, apiUser and apiPassword, perhaps apiUrl and authUrl."""

    access: Mapping[str, str] = field(repr=False)
    say: Callable[[str], None]
    _token: str | None = field(default=None, repr=False)

    def names(self, address: str) -> list[str]:
        """See Api."""
        return self._found(address)[1]

    def point(self, address: str, name: str) -> None:
        """See Api."""
        spelling, names = self._found(address)
        if ":" in address and not names:
            answer = self._ask("POST", PTRS, {"ip": address, "ptr": name})
            if answer.status in NOT_YET and self.names(address) == [name]:
                return  # an earlier attempt made it, and its answer was lost
        else:
            answer = self._ask("PUT", _path(spelling), {"ptr": name})
        self._must(address, answer)

    def _found(self, address: str) -> tuple[str, list[str]]:
        """How the account spells the address, and the names it has there."""
        for spelling in _spellings(address):
            answer = self._ask("GET", _path(spelling))
            if answer.status != HTTPStatus.NOT_FOUND:
                self._must(address, answer)
                return spelling, self._names_in(answer, address)
        return address, []

    def _names_in(self, answer: web.Answer, address: str) -> list[str]:
        try:
            entries = [entry for entry in answer.body["data"] if ip_address(entry["ip"]) == ip_address(address)]
            return [api.spoken(entry["ptr"]) for entry in entries if entry["ptr"]]
        except (KeyError, TypeError, ValueError):
            raise api.failed(address, "Contabo", "an answer without its PTR: is this Contabo's API?") from None

    def _ask(self, method: str, path: str, body: object = None) -> web.Answer:
        base = self.access.get("apiUrl") or API
        if self._token is None:
            self._token = self._login()
        # Each request needs a UUID of its own, for Contabo's support to find it by.
        headers = {"Authorization": f"Bearer {self._token}", "x-request-id": str(uuid.uuid4())}
        return self._send(base, method, path, headers, body=body)

    def _send(self, base: str, *request: Any, **content: Any) -> web.Answer:
        own = bool(self.access.get("apiUrl") or self.access.get("authUrl"))
        try:
            answer = web.Client(base, direct=own, say=self.say).send(*request, **content)
        except web.NoAnswer as silence:
            raise api.unreachable(base, "Contabo", str(silence)) from None
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise api.unreachable(base, "Contabo", self._said(answer))
        return answer

    def _login(self) -> str:
        form = {
            "grant_type": "password",
            "client_id": self.access["clientId"],
            "client_secret": self.access["clientSecret"],
            "username": self.access["apiUser"],
            "password": self.access["apiPassword"],
        }
        answer = self._send(self.access.get("authUrl") or AUTH, "POST", "", {}, form=form)
        token = answer.body.get("access_token") if answer.ok and isinstance(answer.body, dict) else None
        if isinstance(token, str) and token:
            return token
        raise self._refused_login(f"Contabo lets nobody in with these values ({self._said(answer)})")

    def _must(self, address: str, answer: web.Answer) -> None:
        said = self._said(answer)
        if answer.ok:
            return
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise self._refused_login(f"the API does not accept the login ({said})")
        if answer.status == HTTPStatus.FORBIDDEN:
            raise self._refused_login(f"the API user may not touch reverse DNS of {address} ({said})")
        if answer.status == HTTPStatus.NOT_FOUND:
            raise api.stranger(address, "Contabo", KEY, f"Contabo knows no such address in this account ({said})")
        raise api.failed(address, "Contabo", f"Contabo refuses it ({said})")

    def _refused_login(self, found: str) -> api.Refused:
        return api.refused_login(
            KEY,
            found,
            expected="clientId, clientSecret, apiUser and apiPassword of a user who may manage DNS",
            fix="copy them from Customer Control Panel > Account > API (the API password is set there), each with "
            f"`pulumi config set --secret --path {KEY}.apiPassword`",
        )

    def _said(self, answer: web.Answer) -> str:
        """What the API wrote (its messages come as `message`, those of the login as `error_description`)."""
        body = answer.body if isinstance(answer.body, dict) else {}
        text = body.get("error_description") or body.get("message") or body.get("error") or ""
        return f"{answer.status} {api.hidden(str(text), self._secrets())}".strip()

    def _secrets(self) -> Iterable[str]:
        return [self.access["clientSecret"], self.access["apiPassword"], self._token or ""]


def _path(address: str) -> str:
    return f"{PTRS}/{quote(address, safe=':')}"


def _spellings(address: str) -> list[str]:
    """IPv6 as RFC 5952 writes it, then in full, as Contabo's own panel shows it."""
    parsed = ip_address(address)
    return list(dict.fromkeys([parsed.compressed, parsed.exploded]))
