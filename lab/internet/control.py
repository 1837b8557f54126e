"""What only tests may do to the lab's internet: `/lab/...` sets faults, lag and records behind the APIs' backs."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lab.internet.authoritative import RECORD_TTL, RecordSet
from lab.internet.cloudflare_api import HEADERS, token_name
from lab.internet.web import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.internet.account import Account
    from lab.internet.authoritative import Publisher

PREFIX: Final = "/lab/"


@dataclass(kw_only=True)
class Fault:
    """What happens to the next `times` requests that fit: an error status, a lost answer, or just a delay."""

    method: str = "[A-Z]+"
    path: str = ".*"
    """Both are regular expressions for the whole."""
    times: int = 1
    delay: float = 0.0
    status: int | None = None
    retry_after: int | None = None
    retry: bool = False
    """Whether the client is told to try again (`x-should-retry`)."""
    lost_answer: bool = False
    """The request is carried out and its answer never arrives."""

    def takes(self, request: Request) -> bool:
        """Whether this request is hit; counts it."""
        hit = self.times > 0 and re.fullmatch(self.method, request.method) and re.fullmatch(self.path, request.path)
        self.times -= bool(hit)
        return bool(hit)

    def error(self) -> Response:
        """The injected error in Cloudflare's envelope."""
        text = "rate limited" if self.status == 429 else "injected failure"  # noqa: PLR2004
        errors = [{"code": 10000, "message": text}]
        headers = {**HEADERS, "x-should-retry": str(self.retry).lower()}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        body = {"result": None, "success": False, "errors": errors, "messages": []}
        return Response(status=self.status or 500, headers=headers, body=body)


class Control:
    """Wraps the APIs with faults and a request log, and answers `/lab/...`."""

    def __init__(self, account: Account, publisher: Publisher) -> None:
        self._account = account
        self._publisher = publisher
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._requests: list[dict[str, Any]] = []
        self.ready = False
        """Whether all zones are served by both servers."""

    def around(self, request: Request, handle: Callable[[Request], Response]) -> Response:
        """Let the API answer, unless a fault is set; log who asked what (never a token)."""
        entry = {"time": time.time(), "method": request.method, "path": request.target or request.path}
        entry["token"] = token_name(request.authorization)
        with self._lock:
            fault = next((fault for fault in self._faults if fault.takes(request)), None)
            self._requests.append(entry)
        response = self._faulty(fault, request, handle) if fault else handle(request)
        entry["status"] = None if response.lost else response.status
        return response

    def handle(self, request: Request) -> Response:
        """Answer a request below `/lab/`."""
        parts = request.path.removeprefix(PREFIX).split("/")
        resource = getattr(self, f"_on_{parts[0].replace('-', '_')}", None)
        if resource is None:
            return Response(status=404, body={"error": f"no such control: {parts[0]!r}"})
        try:
            return Response(body=resource(request, *parts[1:]))
        except (KeyError, TypeError, ValueError, LookupError) as error:
            return Response(status=400, body={"error": f"{type(error).__name__}: {error}"})

    @staticmethod
    def _faulty(fault: Fault, request: Request, handle: Callable[[Request], Response]) -> Response:
        time.sleep(fault.delay)
        if fault.status is not None:
            return fault.error()
        response = handle(request)
        return Response(lost=True) if fault.lost_answer else response

    def _on_ready(self, _request: Request) -> Any:
        return {"ready": self.ready}

    def _on_requests(self, request: Request) -> Any:
        with self._lock:
            seen = list(self._requests)
            if request.method == "DELETE":
                self._requests.clear()
        return seen

    def _on_faults(self, request: Request) -> Any:
        with self._lock:
            if request.method == "POST":
                self._faults.append(Fault(**request.body))
            elif request.method == "DELETE":
                self._faults.clear()
            return [vars(fault) for fault in self._faults if fault.times > 0]

    def _on_lag(self, request: Request) -> Any:
        self._publisher.lag(float(request.body["seconds"]))
        return {"seconds": request.body["seconds"]}

    def _on_email_routing(self, request: Request, zone: str) -> Any:
        if zone not in self._account.zones.values():
            raise LookupError(f"{zone!r} is no zone of the account")
        if request.method == "DELETE":
            self._account.disable_email_routing(zone)
        else:
            self._account.enable_email_routing(zone)
        return {"zone": zone}

    def _on_dns(self, request: Request, name: str, kind: str) -> Any:
        """Record sets straight at the authoritative servers; the account's own list does not learn of them."""
        owner, kind = name.rstrip(".").lower(), kind.upper()
        if request.method == "GET":
            found = self._publisher.record_set(owner, kind)
            return {"values": list(found.contents) if found else []}
        values = tuple(request.body["values"]) if request.method == "PUT" else ()
        ttl = request.body.get("ttl", RECORD_TTL) if request.body else RECORD_TTL
        self._publisher.publish(self._publisher.zone_of(owner), [RecordSet(owner, kind, values, ttl)])
        return {"values": list(values)}
