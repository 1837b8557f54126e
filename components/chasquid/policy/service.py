"""Answers chasquid (post_data.go) over a unix socket: one connection a message, one verdict a connection.

Whatever goes wrong here defers the message: it is never taken unjudged.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import gate, limits, notices, sender, signature
from .message import ACCEPT, DEFER, REFUSE, Headers, Malformed, Request, Verdict, one_line

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

WORKERS = 64  # requests at once
STRANGERS = 48  # of them from outside, which may wait for DNS: users always find a worker
LIMIT = 45.0  # seconds for a request; chasquid gives up after 50
SIZE = 32 * 2**20  # bytes; chasquid takes messages of 25 MB
FORGERIES = 10  # in a day: one more, and the postmaster hears of it
TELLING = (OSError, sqlite3.Error)  # errors whose text is of the system, never of a message
DAMAGE = (
    "The file with the counters of the sending limits was damaged. It is kept in /var/lib/mailroom-policy under a name "
    "that begins with damaged-.\n\nCounting began anew: users and this server's addresses are new again, and what "
    "`warmUp` allows on a first day holds today. Look at the disk of this host.\n"
)
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
        self._strangers = threading.BoundedSemaphore(STRANGERS)

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
                except OSError as error:  # such as too many open files: passes when others are answered
                    _log.warning("no request can be taken: %s", error)
                    time.sleep(0.2)
                    continue
                workers.submit(self._answer, connection, time.monotonic() + LIMIT)

    def _answer(self, connection: socket.socket, end: float) -> None:
        """Read, judge, answer; who waited for a worker until `end` has given up, and nothing may count any more."""
        with connection:
            try:
                request = Request.parse(_read_all(connection, end))
            except (OSError, Malformed) as error:
                _log.warning("a request could not be read: %s", error)
                return
            verdict = self._notice(request, connection) if request.remote == notices.NOTICE else self._verdict(request)
            try:
                connection.sendall(verdict.reply())
            except OSError as error:
                _log.warning("an answer could not be given: %s", error)

    def _notice(self, request: Request, connection: socket.socket) -> Verdict:
        """What another part of this host wants the postmaster to know."""
        try:
            taken = notices.take(request, connection, self._settings.now())
        except (OSError, ValueError) as error:
            _log.error("a notice was not sent: %s", trace(error))
            taken = False
        return Verdict.accept() if taken else Verdict.refuse("5.7.1 Not yours")

    def _verdict(self, request: Request) -> Verdict:
        started = time.monotonic()
        try:
            verdict = self.judge(request, self._settings.now())
        except Exception as error:  # noqa: BLE001  (the last line of defence: nothing is taken unjudged)
            _log.error("no decision about a message of %s: %s", one_line(request.user or request.remote), trace(error))
            verdict = Verdict.defer("4.3.0 The sender policy of this server could not decide; try again later")
        took = (time.monotonic() - started) * 1000
        who = f"user={one_line(request.login) or '-'} remote={one_line(request.remote)}"
        mail = f"from=<{one_line(request.sender)}> to={len(request.recipients)} ms={took:.0f}"
        _log.info("%s %s %s %s", WORDS[verdict.status], who, mail, "" if verdict.status == ACCEPT else verdict.text)
        return verdict

    def judge(self, request: Request, settings: Mapping[str, Any]) -> Verdict:
        """What becomes of a message under these settings."""
        try:
            headers = Headers.parse(request.message)
        except Malformed as reason:
            return Verdict.refuse(f"5.6.0 The message cannot be read safely: {reason}")
        if self._store.damaged:
            self._store.damaged = False
            self._tell("damage", "The sender policy has lost its counters", DAMAGE, settings)
        if request.user:
            return self._judge_user(request, headers, settings)
        if not self._strangers.acquire(blocking=False):
            return Verdict.defer("4.3.2 Too many messages are being looked at; try again in a few minutes")
        try:
            return gate.judge(request, headers, settings, self._store)
        finally:
            self._strangers.release()

    def _judge_user(self, request: Request, headers: Headers, settings: Mapping[str, Any]) -> Verdict:
        user = request.user
        if self._store.suspended(user):
            return Verdict.refuse(f"5.7.1 {request.user} may not send for now; ask the postmaster")
        if not sender.is_login(request, settings):
            return Verdict.refuse(f"5.7.1 {request.login} may not send any more; log in again, or ask the postmaster")
        if objection := sender.objection(request, headers, settings):
            self._count_forgery(user, objection, settings)
            return Verdict.refuse(objection)
        most = limits.limits_of(user, settings)["recipientsPerMessage"]
        if len(request.recipients) > most:
            return Verdict.refuse(
                f"5.5.3 {len(request.recipients)} recipients in one message, {most} are allowed; send several messages"
            )
        try:
            extra = signature.headers(request, headers, settings)  # before anything is counted: it may fail
        except signature.Unsigned as reason:
            return Verdict.defer(f"4.7.5 {reason}; ask the postmaster")
        return self._within_limits(request, settings) or Verdict.accept(extra)

    def _within_limits(self, request: Request, settings: Mapping[str, Any]) -> Verdict | None:
        """Count the message; what becomes of it if it may not be sent now."""
        user = request.user
        admitted = self._store.admit(user, request.recipients, settings)
        if isinstance(admitted, limits.Over):
            text = admitted.text(self._store.clock())
            if admitted.is_final:
                return Verdict.refuse(text)
            self._tell_of_limit(user, admitted.what, f"has mail waiting, its limit is {admitted.limit}", settings)
            return Verdict.defer(text)
        for near in admitted:
            self._tell_of_limit(user, near.what, f"has sent to {near.used} of {near.limit}", settings)
        return None

    def _tell_of_limit(self, user: str, what: str, fact: str, settings: Mapping[str, Any]) -> None:
        self._tell(
            f"{user} {what}",
            f"{user} is close to a sending limit",
            f"{user} {fact} recipients {what}.\n\n"
            "If that is not you: stop the user with scripts/suspend.py and change the password.\n"
            "If it is: raise `limits` of the user in the stack's settings.\n",
            settings,
        )

    def _count_forgery(self, user: str, objection: str, settings: Mapping[str, Any]) -> None:
        is_forgery = objection.startswith("5.7.1") and not sender.is_probe(user)
        if is_forgery and self._store.take(f"forgery:{user}", 1, limits.DAY, FORGERIES):
            self._tell(
                f"{user} forges",
                f"{user} tries to send as somebody else",
                f"More than {FORGERIES} messages of {user} were refused within a day: their sender was not an address "
                "of this user.\n\nA stolen password looks like this. scripts/suspend.py stops the user; an address "
                "that is meant to be used belongs into `identities` of the user in the stack's settings.\n",
                settings,
            )

    def _tell(self, topic: str, subject: str, text: str, settings: Mapping[str, Any]) -> None:
        """A notice to the postmaster, once a day for each topic, also across restarts."""
        if not self._store.take(f"notice:{topic}", 1, limits.DAY, 1):
            notices.tell(subject, text, settings)


def trace(error: Exception) -> str:
    """Where an error came from, in one line; its text only where no part of a message can be in it."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    text = f" ({error})" if isinstance(error, TELLING) else ""
    return one_line(f"{type(error).__name__}{text} at {places}")


def _read_all(connection: socket.socket, end: float) -> bytes:
    """Everything up to the end of the message; OSError when it does not come in time."""
    parts: list[bytes] = []
    size = 0
    while True:
        if (left := end - time.monotonic()) <= 0:
            raise OSError(f"it did not come within {LIMIT:.0f} s")
        connection.settimeout(left)
        part = connection.recv(2**18)
        if not part:
            return b"".join(parts)
        size += len(part)
        if size > SIZE:
            raise OSError(f"a message of more than {SIZE} bytes")
        parts.append(part)
