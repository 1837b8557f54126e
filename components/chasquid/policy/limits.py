"""How much each user may send, and who may not at all: counters that survive restarts, and suspensions.

Windows slide: a message counts until a minute, an hour or a day after it was taken, so no instant resets all.
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

DEFAULTS = {"minute": 60, "hour": 300, "day": 1000, "newRecipients": 200, "recipientsPerMessage": 50, "warmUp": 100}
MINUTE, HOUR, DAY = 60, 3600, 86400
WINDOWS = {"minute": MINUTE, "hour": HOUR, "day": DAY}
REMEMBERED = 90 * DAY  # a recipient not written to for so long is new again
RAMP_DAYS = 14  # of a host's sending address
NOTABLE = 0.8  # of a limit: the postmaster hears of it
FILE = "counters.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS sent (key TEXT NOT NULL, at REAL NOT NULL, amount INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS sent_by_key ON sent (key, at);
CREATE TABLE IF NOT EXISTS known (key TEXT NOT NULL, recipient TEXT NOT NULL, first REAL NOT NULL, last REAL NOT NULL,
                                  PRIMARY KEY (key, recipient)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS since (key TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Over:
    """A limit that a message would pass: what is limited, to how much, and how many seconds until it fits."""

    what: str
    limit: int
    wait: float

    def text(self, now: float) -> str:
        """The reply to the client."""
        at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now + self.wait + MINUTE - 1))
        return (f"4.7.1 Sending limit reached: {self.limit} recipients {self.what}; "
                f"try again in {math.ceil(self.wait / MINUTE)} min, after {at} UTC")  # fmt: skip


@dataclass(frozen=True)
class Near:
    """A limit that a message brought a user close to."""

    user: str
    what: str
    used: int
    limit: int


class Store:
    """The counters of a host in one SQLite file; every check and its counting is one transaction."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.clock = folder, clock
        self._lock = threading.Lock()
        self._database = _open(folder / FILE)

    def suspended(self, user: str) -> bool:
        """Whether a person has stopped this user (scripts/suspend.py)."""
        return "/" not in user and (self.folder / "suspended" / user).exists()

    def admit(self, user: str, recipients: Sequence[str], settings: Mapping[str, Any]) -> Over | list[Near]:
        """Count a message of `user` unless it passes a limit; a refused message counts nothing."""
        limits = limits_of(user, settings)
        now, amount = self.clock(), len(recipients)
        with self._transaction() as database:
            fresh = _unknown(database, user, recipients)
            day = min(limits["day"], _ramp(limits["warmUp"], self._age(user, now)))
            host = _ramp(settings["warmUp"], age) if (age := self._host_age(settings, now)) < RAMP_DAYS else math.inf
            rows = [
                ("sent", user, MINUTE, amount, limits["minute"], "a minute"),
                ("sent", user, HOUR, amount, limits["hour"], "an hour"),
                ("sent", user, DAY, amount, day, "a day" if day == limits["day"] else "a day while the user is new"),
                ("sent", "host", DAY, amount, host, "a day while this server's address is new"),
                ("known", user, DAY, len(fresh), limits["newRecipients"], "a day that this user never wrote to before"),
            ]
            over = [found for row in rows if (found := _over(database, now, *row))]
            if over:
                return max(over, key=lambda found: found.wait)
            near = [
                Near(user, what, used + plus, int(limit))
                for table, key, window, plus, limit, what in rows
                if plus and limit != math.inf
                and (used := _used(database, table, key, now - window)) < NOTABLE * limit <= used + plus
            ]  # fmt: skip
            database.executemany("INSERT INTO sent VALUES (?, ?, ?)", [(key, now, amount) for key in (user, "host")])
            database.executemany(
                "INSERT INTO known VALUES (?1, ?2, ?3, ?3) ON CONFLICT (key, recipient) DO UPDATE SET last = ?3",
                [(user, recipient.lower(), now) for recipient in recipients],
            )
            _forget(database, now)
            return near

    def take(self, key: str, amount: int, window: float, limit: int) -> float:
        """Count `amount` for `key` unless `window` would hold more than `limit`; the seconds to wait, 0 if counted."""
        now = self.clock()
        with self._transaction() as database:
            over = _over(database, now, "sent", key, window, amount, limit, "")
            if not over:
                database.execute("INSERT INTO sent VALUES (?, ?, ?)", (key, now, amount))
            return max(over.wait, 1.0) if over else 0.0

    def _age(self, key: str, now: float) -> float:
        """Days since the first message of `key`, which this one may be."""
        self._database.execute("INSERT OR IGNORE INTO since VALUES (?, ?)", (key, now))
        (at,) = self._database.execute("SELECT at FROM since WHERE key = ?", (key,)).fetchone()
        return (now - float(at)) / DAY

    def _host_age(self, settings: Mapping[str, Any], now: float) -> float:
        """Of the youngest sending address; without a ramp old enough."""
        if not settings["warmUp"]:
            return math.inf
        return min((self._age(address, now) for address in settings["addresses"]), default=math.inf)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")


def limits_of(user: str, settings: Mapping[str, Any]) -> dict[str, int]:
    """The limits of a user; the defaults for one the settings do not know."""
    return {**DEFAULTS, **settings["users"].get(user, {}).get("limits", {})}


def usage(folder: Path, user: str, settings: Mapping[str, Any], now: float | None = None) -> dict[str, tuple[int, int]]:
    """(used, limit) of a user by window, for people to look at; nothing is changed."""
    limits, now = limits_of(user, settings), time.time() if now is None else now
    if not (folder / FILE).exists():
        return {window: (0, limits[window]) for window in (*WINDOWS, "newRecipients")}
    database = sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True, timeout=5)
    try:
        found = {name: (_used(database, "sent", user, now - window), limits[name]) for name, window in WINDOWS.items()}
        return {**found, "newRecipients": (_used(database, "known", user, now - DAY), limits["newRecipients"])}
    finally:
        database.close()


def suspended(folder: Path) -> list[dict[str, str]]:
    """Who may not send, since when and why."""
    files = sorted((folder / "suspended").glob("*@*"))
    return [{"user": file.name, **json.loads(file.read_text(encoding="utf-8"))} for file in files]


def _open(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.DatabaseError:  # damaged: counting anew is better than mail that never leaves
        for damaged in path.parent.glob(f"{path.name}*"):
            damaged.rename(damaged.with_name(f"damaged-{damaged.name}"))
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")  # a kill loses nothing, a power cut the last moments
    database.executescript(SCHEMA)
    return database


def _used(database: sqlite3.Connection, table: str, key: str, after: float) -> int:
    query = {
        "sent": "SELECT COALESCE(SUM(amount), 0) FROM sent WHERE key = ? AND at > ?",
        "known": "SELECT COUNT(*) FROM known WHERE key = ? AND first > ?",
    }[table]
    return int(database.execute(query, (key, after)).fetchone()[0])


def _over(
    database: sqlite3.Connection, now: float, table: str, key: str, window: float, plus: int, limit: float, what: str
) -> Over | None:
    excess = _used(database, table, key, now - window) + plus - limit
    if excess <= 0 or not plus:
        return None
    query = {
        "sent": "SELECT at, amount FROM sent WHERE key = ? AND at > ? ORDER BY at",
        "known": "SELECT first, 1 FROM known WHERE key = ? AND first > ? ORDER BY first",
    }[table]
    for at, amount in database.execute(query, (key, now - window)):
        excess -= amount
        if excess <= 0:
            return Over(what, int(limit), at + window - now)
    return Over(what, int(limit), window)


def _unknown(database: sqlite3.Connection, user: str, recipients: Sequence[str]) -> set[str]:
    """Recipients that the user never wrote to, or too long ago."""
    query = "SELECT 1 FROM known WHERE key = ? AND recipient = ?"
    wanted = {recipient.lower() for recipient in recipients}
    return {one for one in wanted if database.execute(query, (user, one)).fetchone() is None}


def _ramp(first_day: int, age: float) -> float:
    """What a new address may send a day: doubling daily from its first day on; no bound without a ramp."""
    return first_day * 2.0 ** min(int(age), 30) if first_day else math.inf


def _forget(database: sqlite3.Connection, now: float) -> None:
    """Drop what no window sees any more, a bounded number of rows a message."""
    database.execute("DELETE FROM sent WHERE rowid IN (SELECT rowid FROM sent WHERE at < ? LIMIT 50)", (now - DAY,))
    database.execute(
        "DELETE FROM known WHERE (key, recipient) IN (SELECT key, recipient FROM known WHERE last < ? LIMIT 50)",
        (now - REMEMBERED,),
    )
