"""Requests to the APIs of providers: JSON answers, bounded retries, no redirects; no API's own rules live here."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from email.message import Message

TIMEOUT_SECONDS: Final = 20
ATTEMPTS: Final = 4
LONGEST_PAUSE: Final = 30.0


@dataclass(frozen=True)
class Answer:
    """What came back; `body` is None where it is no JSON."""

    status: int
    body: Any = None

    @property
    def ok(self) -> bool:
        """Whether the API did what it was asked."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


class NoAnswer(OSError):  # noqa: N818  (it says what is missing)
    """Nothing came back in HTTP; the text says what happened."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the secrets to wherever it points."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def worth_retrying(status: int, headers: Message) -> bool:
    """Whether the same request may succeed later: the API's own word, else too many requests and its own faults."""
    wish = headers.get("x-should-retry")
    if wish in ("true", "false"):
        return bool(wish == "true")
    return status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def pause(attempt: int, headers: Mapping[str, str] | Message) -> float:
    """Seconds until the next attempt: what the API asks for, within bounds, else 0.5 s doubled each time."""
    try:
        asked = float(headers["Retry-After"])
    except (KeyError, TypeError, ValueError):
        asked = 0.5 * 2.0**attempt
    return min(max(asked, 0.0), LONGEST_PAUSE)


def text_of(error: urllib.error.HTTPError) -> bytes:
    """What an error says; nothing where it breaks off, as its status says the most."""
    try:
        return error.read()
    except (OSError, HTTPException):
        return b""


def told(error: OSError | HTTPException) -> str:
    """Why there was no answer, on one line."""
    return " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__


def opener(*, direct: bool) -> urllib.request.OpenerDirector:
    """Follows no redirect; `direct` passes by the proxies for the Internet, which do not know an API that is near."""
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if direct:
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


@dataclass(frozen=True)
class Client:
    """One API at `base`. Every request may be repeated, so only idempotent ones belong here.

    `busy` are further status codes that pass by waiting; `say` hears of each wait. With `attempts=1` it takes what is
    not idempotent, too.
    """

    base: str
    direct: bool
    say: Callable[[str], None]
    busy: Collection[int] = field(default=())
    attempts: int = ATTEMPTS

    def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        body: object = None,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        """The last answer of up to `attempts`, success or not; raises `NoAnswer` when there was none."""
        data, kind = _encoded(body, form)
        request = urllib.request.Request(  # noqa: S310  (the address is a validated setting)
            self.base + path, data, {"Accept": "application/json", **kind, **headers}, method=method
        )
        for attempt in range(self.attempts):
            last = attempt == self.attempts - 1
            seconds = pause(attempt, {})
            try:
                with opener(direct=self.direct).open(request, timeout=TIMEOUT_SECONDS) as response:
                    return Answer(response.status, _parsed(response.read()))
            except urllib.error.HTTPError as error:
                with error:
                    if last or not (error.code in self.busy or worth_retrying(error.code, error.headers)):
                        return Answer(error.code, _parsed(text_of(error)))
                    reason, seconds = f"answers {error.code}", pause(attempt, error.headers)
            except (OSError, HTTPException) as error:
                reason = f"gives no answer ({told(error)})"
                if last:
                    raise NoAnswer(f"{self.base} {reason}, asked {self.attempts} times") from None
            self.say(f"{self.base} {reason}; asking again in {seconds:.0f} s")
            time.sleep(seconds)
        raise AssertionError("the last attempt returns or raises")


def _encoded(body: object, form: Mapping[str, str] | None) -> tuple[bytes | None, dict[str, str]]:
    if form is not None:
        return urlencode(form).encode(), {"Content-Type": "application/x-www-form-urlencoded"}
    if body is not None:
        return json.dumps(body).encode(), {"Content-Type": "application/json"}
    return None, {}


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
