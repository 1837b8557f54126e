"""Answers chasquid's hook over a unix socket: one connection a message, one verdict a connection.

Whatever goes wrong here defers the message: it is never taken unjudged.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from . import gate, limits, notices, sender, signature
from .message import ACCEPT, DEFER, REFUSE, Headers, Malformed, Request, Verdict, one_line

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from pathlib import Path

WORKERS = 32  # more than chasquid handles at once before its clients notice
LIMIT = 45.0  # seconds for a request; the hook gives up after 50, chasquid after 60
SIZE = 32 * 2**20  # bytes; chasquid takes messages of 25 MB
FORGERIES = 10  # in a day, until the postmaster hears of it
WORDS = {ACCEPT: "accepted", REFUSE: "refused", DEFER: "deferred"}
_log = logging.getLogger("policy")


class Settings:
    """policy.json, read again whenever it is another file."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, (0, 0)
        self._value: dict[str, Any] = {}
        self._lock = threading.Lock()

    def now(self) -> dict[str, Any]:
        """What holds now; raises OSError and ValueError when it cannot be read."""
        status = self._path.stat()
        seen = status.st_ino, status.st_mtime_ns
        with self._lock:
            if seen != self._seen:
                self._value, self._seen = json.loads(self._path.read_text(encoding="utf-8")), seen
            return self._value


class Service:
    """The policy at work; `serve` ends when `stop` was called and running requests are answered."""

    def __init__(self, settings: Settings, store: limits.Store) -> None:
        self._settings, self._store = settings, store
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Take no new request; who asks now waits at the socket for our successor."""
        self._stopping.set()

    def serve(self, listener: socket.socket) -> None:
        """Answer until stopped."""
        listener.settimeout(0.2)
        with ThreadPoolExecutor(WORKERS) as workers:
            while not self._stopping.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                workers.submit(self._answer, connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                request = Request.parse(_read_all(connection))
            except (OSError, Malformed) as error:
                _log.warning("a request could not be read: %s", error)
                return
            verdict = self._verdict(request)
            try:
                connection.sendall(verdict.reply())
            except OSError as error:
                _log.warning("an answer could not be given: %s", error)

    def _verdict(self, request: Request) -> Verdict:
        started = time.monotonic()
        try:
            verdict = self.judge(request, self._settings.now())
        except Exception:  # noqa: BLE001  (the last line of defence: nothing is taken unjudged)
            _log.exception("no decision about a message of %s", one_line(request.user or request.remote))
            verdict = Verdict.defer("4.3.0 The sender policy of this server could not decide; try again later")
        took = (time.monotonic() - started) * 1000
        who = f"user={one_line(request.user) or '-'} remote={one_line(request.remote)}"
        mail = f"from=<{one_line(request.sender)}> to={len(request.recipients)} ms={took:.0f}"
        _log.info("%s %s %s %s", WORDS[verdict.status], who, mail, "" if verdict.status == ACCEPT else verdict.text)
        return verdict

    def judge(self, request: Request, settings: Mapping[str, Any]) -> Verdict:
        """What becomes of a message under these settings."""
        try:
            headers = Headers.parse(request.message)
        except Malformed as reason:
            return Verdict.refuse(f"5.6.0 The message cannot be read safely: {reason}")
        if not request.user:
            return gate.judge(request, headers, settings, self._store)
        return self._judge_user(request, headers, settings)

    def _judge_user(self, request: Request, headers: Headers, settings: Mapping[str, Any]) -> Verdict:
        user = request.user
        if self._store.suspended(user):
            return Verdict.refuse(f"5.7.1 {request.user} may not send for now; ask the postmaster")
        if objection := sender.objection(request, headers, settings):
            self._count_forgery(user, settings)
            return Verdict.refuse(objection)
        most = limits.limits_of(user, settings)["recipientsPerMessage"]
        if len(request.recipients) > most:
            return Verdict.refuse(
                f"5.5.3 {len(request.recipients)} recipients in one message, {most} are allowed; send several messages"
            )
        try:
            extra = signature.headers(request, headers, settings)  # before anything is counted
        except signature.Unsigned as reason:
            return Verdict.defer(f"4.7.0 {reason}; try again later")
        admitted = self._store.admit(user, request.recipients, settings)
        if isinstance(admitted, limits.Over):
            return Verdict.defer(admitted.text(self._store.clock()))
        for near in admitted:
            notices.tell(
                f"near {near.user} {near.what}",
                f"{near.user} is close to a sending limit",
                f"{near.user} has sent to {near.used} of {near.limit} recipients {near.what}.\n\n"
                "If that is not you: stop the user with scripts/suspend.py and change the password.\n"
                "If it is: raise `limits` of the user in the stack's settings.\n",
                settings,
            )
        return Verdict.accept(extra)

    def _count_forgery(self, user: str, settings: Mapping[str, Any]) -> None:
        if sender.is_probe(user) or not self._store.take(f"forgery:{user}", 1, limits.DAY, FORGERIES):
            return
        notices.tell(
            f"forgery {user}",
            f"{user} tries to send as somebody else",
            f"More than {FORGERIES} messages of {user} were refused within a day: their sender was not an address of "
            "this user.\n\nA stolen password looks like this. scripts/suspend.py stops the user; an address that is "
            "meant to be used belongs into `identities` of the user in the stack's settings.\n",
            settings,
        )


def _read_all(connection: socket.socket) -> bytes:
    """Everything up to the end of the message."""
    end, parts, size = time.monotonic() + LIMIT, [], 0
    while True:
        connection.settimeout(max(0.001, end - time.monotonic()))
        part = connection.recv(2**18)
        if not part:
            return b"".join(parts)
        size += len(part)
        if size > SIZE:
            raise OSError(f"a message of more than {SIZE} bytes")
        parts.append(part)
