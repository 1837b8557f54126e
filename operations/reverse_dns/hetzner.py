"""PTR records at Hetzner Cloud: `change_dns_ptr` of the address that holds them (docs.hetzner.cloud, hcloud-go).

A server's public addresses are Primary IPs and have their own PTRs there; the action of the server sets the same
ones. Floating IPs are the other kind. An IPv6 address is one out of a network of the account (/64).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final

from operations import web
from operations.reverse_dns import api

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

API: Final = "https://api.hetzner.cloud/v1"
KEY: Final = "mailroom:hetzner"
KINDS: Final = ("primary_ips", "floating_ips")
PER_PAGE: Final = 50
MOST_PAGES: Final = 100
# Another action on the same address is under way (error codes `conflict` and `locked`).
BUSY: Final = frozenset({HTTPStatus.CONFLICT, HTTPStatus.LOCKED})
ACTION_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.5


@dataclass
class Hetzner:
    """One project; `access` has its token (read and write), perhaps apiUrl."""

    access: Mapping[str, str] = field(repr=False)
    say: Callable[[str], None]

    def names(self, address: str) -> list[str]:
        """See Api."""
        return self._found(address)[1]

    def point(self, address: str, name: str) -> None:
        """See Api."""
        path = f"{self._found(address)[0]}/actions/change_dns_ptr"
        answer = self._ask(address, "POST", path, {"ip": address, "dns_ptr": name})
        self._wait_for(address, answer)

    def _found(self, address: str) -> tuple[str, list[str]]:
        """The path of the Primary or Floating IP that `address` is, or is in, and the names of `address` there."""
        ip = ip_address(address)
        try:
            for kind in KINDS:
                for entry in self._all(address, kind):
                    if ip in ip_network(entry["ip"], strict=False):
                        same = [each["dns_ptr"] for each in entry["dns_ptr"] if ip_address(each["ip"]) == ip]
                        return f"/{kind}/{entry['id']}", [api.spoken(name) for name in same if name]
        except (KeyError, TypeError, ValueError):
            raise api.failed(address, "Hetzner", "an answer that cannot be read: is this Hetzner's API?") from None
        raise api.stranger(address, "Hetzner", KEY, "the project has no Primary or Floating IP with it")

    def _all(self, address: str, kind: str) -> Iterator[dict[str, Any]]:
        page: int | None = 1
        for _ in range(MOST_PAGES):
            answer = self._ask(address, "GET", f"/{kind}?page={page}&per_page={PER_PAGE}")
            yield from answer.body[kind]
            page = answer.body["meta"]["pagination"]["next_page"]
            if page is None:
                return

    def _wait_for(self, address: str, answer: web.Answer) -> None:
        """Return when the action has succeeded."""
        end = time.monotonic() + ACTION_SECONDS
        while True:
            try:
                action = answer.body["action"]
                status, number = action["status"], action["id"]
            except (KeyError, TypeError):
                raise api.failed(address, "Hetzner", "an answer that cannot be read: is this Hetzner's API?") from None
            if status == "success":
                return
            if status == "error":
                raise api.failed(address, "Hetzner", f"Hetzner's action failed ({self._said(action)})")
            if time.monotonic() > end:
                found = f"Hetzner's action {number} still runs after {ACTION_SECONDS:.0f} s"
                raise api.failed(address, "Hetzner", found)
            time.sleep(POLL_SECONDS)
            answer = self._ask(address, "GET", f"/actions/{number}")

    def _ask(self, address: str, method: str, path: str, body: object = None) -> web.Answer:
        """A successful answer."""
        own = self.access.get("apiUrl")
        base = own or API
        headers = {"Authorization": f"Bearer {self.access['token']}"}
        try:
            answer = web.Client(base, direct=bool(own), say=self.say, busy=BUSY).send(method, path, headers, body=body)
        except web.NoAnswer as silence:
            raise api.unreachable(base, "Hetzner", str(silence)) from None
        if answer.ok:
            return answer
        said = f"{answer.status} {self._said(answer.body)}".strip()
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise api.unreachable(base, "Hetzner", said)
        if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise api.refused_login(
                f"{KEY}.token",
                f"the API refuses it ({said})",
                expected="a token with Read & Write for the project that the server is in",
                fix="make one in the Cloud Console > project > Security > API tokens, then "
                f"`pulumi config set --secret --path {KEY}.token`",
            )
        raise api.failed(address, "Hetzner", f"Hetzner refuses it ({said})")

    def _said(self, body: Any) -> str:
        """Code and message of an error, as answers and failed actions carry it."""
        error = body.get("error") if isinstance(body, dict) else None
        if not isinstance(error, dict):
            return ""
        return api.hidden(f"{error.get('code', '')}: {error.get('message', '')}", [self.access["token"]])
