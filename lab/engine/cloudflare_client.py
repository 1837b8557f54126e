"""The HTTP client of the Cloudflare stand-in: how long it tries again, and what a person reads when it gives up."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from lab.engine.rpc import Failure, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.engine.values import Props

TIMEOUT = 30.0  # seconds for one request
RETRIES, FIRST_DELAY, LONGEST_DELAY = 10, 2.0, 30.0  # as the official client has them, seconds
RETRIED = {408, 409, 429}


@dataclass(frozen=True)
class Answer:
    """One answer of the API."""

    status: int
    reason: str
    headers: Mapping[str, str]
    text: str


class Api:
    """A client that keeps one connection a thread and tries again as long as the official one does."""

    def __init__(self, base: str, headers: dict[str, str], cancelled: threading.Event) -> None:
        self.base = urllib.parse.urlsplit(base.rstrip("/"))
        self.headers = {**headers, "Content-Type": "application/json"}
        self.local = threading.local()
        self.cancelled = cancelled

    def __call__(self, method: str, path: str, body: Props | None = None) -> Any:
        """The result of one request."""
        url = self.base.geturl() + path
        answer = self._persist(method, path, url, None if body is None else json.dumps(body))
        text = f'failed to make http request: {method} "{url}": {answer.status} {answer.reason} {answer.text.strip()}'
        if answer.status == http.HTTPStatus.NOT_FOUND:
            raise NotFound(text)
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise Failure(text)
        return json.loads(answer.text)["result"]

    def _persist(self, method: str, path: str, url: str, text: str | None) -> Answer:
        attempt = 0
        while True:
            answer: Answer | None
            try:
                answer = self._send(method, path, text)
                failure = None
            except (OSError, http.client.HTTPException) as error:
                self.local.connection, answer, failure = None, None, error
            if answer and (attempt == RETRIES or not worth_another(answer)):
                return answer
            if attempt == RETRIES:
                raise Failure(f'failed to make http request: {method} "{url}": {failure}')
            if self.cancelled.wait(delay(attempt, answer)):
                raise Failure(f'failed to make http request: {method} "{url}": context canceled')
            attempt += 1

    def _send(self, method: str, path: str, text: str | None) -> Answer:
        known = getattr(self.local, "connection", None)
        try:
            found = self._exchange(known or self._connect(), method, path, text)
        except (http.client.RemoteDisconnected, ConnectionError):
            if known is None:
                raise
            known.close()
            found = self._exchange(self._connect(), method, path, text)  # it had closed an idle connection
        return Answer(
            found.status, found.reason, cast("Mapping[str, str]", found.headers), found.read().decode(errors="replace")
        )

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self.base.scheme == "https" else http.client.HTTPConnection
        connection = self.local.connection = kind(self.base.netloc, timeout=TIMEOUT)
        return connection

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, text: str | None
    ) -> http.client.HTTPResponse:
        connection.request(method, self.base.path + path, text, self.headers)
        return connection.getresponse()


def worth_another(answer: Answer) -> bool:
    """Whether the request is sent again."""
    asked = answer.headers.get("x-should-retry")
    if asked in ("true", "false"):
        return asked == "true"
    return answer.status in RETRIED or answer.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR


def delay(attempt: int, answer: Answer | None) -> float:
    """The seconds to wait before the request is sent again."""
    asked = answer.headers.get("retry-after", "") if answer else ""
    if asked.isdecimal() and int(asked) < 60:  # noqa: PLR2004  (a minute, as in the official client)
        return float(asked)
    return float(min(FIRST_DELAY * 2**attempt, LONGEST_DELAY))
