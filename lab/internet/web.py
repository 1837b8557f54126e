"""Requests and answers of the lab's HTTP APIs, and the server that carries them; no API's rules live here."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request; `query` has the last value of each key, `body` is None when there is none or it is no JSON."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    authorization: str = ""
    body: Any = None
    target: str = ""
    """Path and query as sent."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """All headers, their names in lower case."""
    form: Mapping[str, str] = field(default_factory=dict)
    """The fields of a form, where one was sent."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """One answer; `lost` closes the connection without a word, as a broken network does."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    lost: bool = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is two writes, and the second would wait 40 ms
    server: Server

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length)
        url = urlsplit(self.path)
        response = self.server.handle(
            Request(
                method=self.command,
                path=url.path,
                query=dict(parse_qsl(url.query, keep_blank_values=True)),
                authorization=self.headers.get("Authorization") or "",
                body=_parsed(text),
                target=self.path,
                headers={name.lower(): value for name, value in self.headers.items()},
                form=_form(text) if "form-urlencoded" in (self.headers.get("Content-Type") or "") else {},
            )
        )
        if response.lost:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = json.dumps(response.body).encode()
        self.send_response(response.status)
        for name, value in {"Content-Type": "application/json", **response.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  (http.server's names)

    def log_message(self, *args: object) -> None:
        """Say nothing: the request log of the lab is an API of its own."""


class Server(ThreadingHTTPServer):
    """Serves one handler on one address."""

    daemon_threads = True

    def __init__(self, address: str, port: int, handle: Callable[[Request], Response]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.handle = handle
        super().__init__((address, port), _Handler)


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def _form(text: bytes) -> dict[str, str]:
    return dict(parse_qsl(text.decode(errors="replace"), keep_blank_values=True))
