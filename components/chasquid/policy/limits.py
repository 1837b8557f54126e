"""How much each user may send, and who may not at all: counters that survive restarts, and suspensions.

Windows slide: a message counts until a minute, an hour or a day after it was taken, to a sixtieth of that, rounded up.
So each window has sixty rows whatever is sent; windows that begin anew would let a stolen password send twice a limit
around midnight.
"""

from __future__ import annotations

import json
import logging
import math
import os
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
COUNTED = {"minute": ("sent", MINUTE), "hour": ("sent", HOUR), "day": ("sent", DAY), "newRecipients": ("known", DAY)}
REMEMBERED = 90 * DAY  # a recipient not written to for so long is new again
RAMP_DAYS = 14  # of a host's sending address
STEPS = 60  # of a window
NOTABLE = 0.8  # of a limit: the postmaster hears of it
FILE = "counters.sqlite"
MARK = 10_000  # bytes of a suspension that are read
SCHEMA = """
CREATE TABLE IF NOT EXISTS sent (key TEXT NOT NULL, span REAL NOT NULL, at REAL NOT NULL, amount INTEGER NOT NULL,
                                 PRIMARY KEY (key, span, at)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sent_by_end ON sent (at + span);
CREATE TABLE IF NOT EXISTS known (key TEXT NOT NULL, recipient TEXT NOT NULL, first REAL NOT NULL, last REAL NOT NULL,
                                  PRIMARY KEY (key, recipient)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS known_by_first ON known (key, first);
CREATE INDEX IF NOT EXISTS known_by_last ON known (last);
CREATE TABLE IF NOT EXISTS since (key TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""
# What lies further ahead than a window was counted by a clock that was wrong, and counts no more.
IN_WINDOW = {
    "sent": "FROM sent WHERE key = :key AND span = :window AND at > :now - :window AND at <= :now + :window",
    "known": "FROM known WHERE key = :key AND first > :now - :window AND first <= :now + :window",
}
COUNT = "INSERT INTO sent VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount"
PAST = (
    ("DELETE FROM sent WHERE (key, span, at) IN (SELECT key, span, at FROM sent WHERE at + span <= ? LIMIT 50)", 0),
    ("DELETE FROM known WHERE (key, recipient) IN (SELECT key, recipient FROM known WHERE last <= ? LIMIT 50)",
     REMEMBERED),
)  # fmt: skip
MERGED = {
    "sent": "INSERT INTO sent VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET amount = max(amount, excluded.amount)",
    "known": "INSERT INTO known VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
    "SET first = min(first, excluded.first), last = max(last, excluded.last)",
    "since": "INSERT INTO since VALUES (?, ?) ON CONFLICT DO UPDATE SET at = min(at, excluded.at)",
}
_log = logging.getLogger("limits")


@dataclass(frozen=True)
class Limit:
    """At most `most` of what `table` counts for `key` in a window, and `ever` once a ramp is over."""

    table: str
    key: str
    window: float
    most: float
    ever: float
    what: str


@dataclass(frozen=True)
class Over:
    """A limit that a message would pass: seconds until it fits, infinitely many if it is too big for the limit."""

    what: str
    limit: int
    wait: float

    @property
    def is_final(self) -> bool:
        """Whether trying again is in vain."""
        return self.wait == math.inf

    def text(self, now: float) -> str:
        """The reply to the client."""
        if self.is_final:
            return (f"5.5.3 This message can never be sent: {self.limit} recipients {self.what} are allowed; "
                    "send it to fewer")  # fmt: skip
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
        self.damaged = False  # whether the counters were lost since somebody looked
        self._lock = threading.Lock()
        self._database = self._open()

    def suspended(self, user: str) -> bool:
        """Whether a person has stopped this user (scripts/suspend.py)."""
        try:
            os.stat(self.folder / "suspended" / user)
        except FileNotFoundError:
            return False
        return "/" not in user

    def admit(self, user: str, recipients: Sequence[str], settings: Mapping[str, Any]) -> Over | list[Near]:
        """Count a message of `user` unless it passes a limit; a refused message counts nothing."""
        now, amount = self.clock(), len(recipients)
        with self._transaction() as database:
            fresh = _unknown(database, user, recipients, now)
            asked = [
                (limit, plus, _used(database, limit, now))
                for limit in self._limits(user, settings, now)
                if limit.most != math.inf and (plus := len(fresh) if limit.table == "known" else amount)
            ]
            over = [found for limit, plus, used in asked if (found := _over(database, limit, plus, used, now))]
            if over:
                return max(over, key=lambda found: found.wait)
            starting = [(key, now) for key in (user, *settings["addresses"])]
            database.executemany("INSERT OR IGNORE INTO since VALUES (?, ?)", starting)
            for key, window in ((user, MINUTE), (user, HOUR), (user, DAY), ("host", DAY)):
                _count(database, key, window, amount, now)
            for recipient in fresh:
                database.execute("INSERT OR REPLACE INTO known VALUES (?1, ?2, ?3, ?3)", (user, recipient, now))
            for recipient in {recipient.lower() for recipient in recipients} - fresh:
                database.execute("UPDATE known SET last = ? WHERE key = ? AND recipient = ?", (now, user, recipient))
            _forget(database, now)
        return [
            Near(user, limit.what, used + plus, int(limit.most))
            for limit, plus, used in asked
            if used < NOTABLE * limit.most <= used + plus
        ]

    def take(self, key: str, amount: int, window: float, limit: int) -> float:
        """`take_all` of one key."""
        return self.take_all({key: amount}, window, limit)

    def take_all(self, amounts: Mapping[str, int], window: float, limit: int) -> float:
        """Count each key's amount unless `window` would hold more than `limit` of one: then none counts.

        The seconds to wait: 0 if counted, infinitely many for an amount beyond the limit itself.
        """
        now = self.clock()
        with self._transaction() as database:
            wait = 0.0
            for key, amount in amounts.items():
                counted = Limit("sent", key, window, limit, limit, "")
                if over := _over(database, counted, amount, _used(database, counted, now), now):
                    wait = max(wait, over.wait, 1.0)
            if not wait:
                for key, amount in amounts.items():
                    _count(database, key, window, amount, now)
                _forget(database, now)
            return wait

    def merge(self, other: Path) -> None:
        """Count what another file of counters has counted, too; to do it twice changes nothing.

        Raises `sqlite3.DatabaseError` for a file that is none.
        """
        database = sqlite3.connect(f"file:{other}?mode=ro&immutable=1", uri=True)
        try:
            rows = {table: database.execute(f"SELECT * FROM {table}").fetchall() for table in MERGED}  # noqa: S608
        finally:
            database.close()
        with self._transaction() as merged:
            for table, statement in MERGED.items():
                merged.executemany(statement, rows[table])

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _limits(self, user: str, settings: Mapping[str, Any], now: float) -> list[Limit]:
        limits = limits_of(user, settings)
        day = min(limits["day"], _ramp(limits["warmUp"], self._age(user, now)))
        age = min((self._age(address, now) for address in settings["addresses"]), default=math.inf)
        host = _ramp(settings["warmUp"], age) if age < RAMP_DAYS else math.inf
        return [
            Limit("sent", user, MINUTE, limits["minute"], limits["minute"], "a minute"),
            Limit("sent", user, HOUR, limits["hour"], limits["hour"], "an hour"),
            Limit("sent", user, DAY, day, limits["day"],
                  "a day" if day == limits["day"] else "a day while the user is new"),
            Limit("sent", "host", DAY, host, math.inf, "a day while this server's address is new"),
            Limit("known", user, DAY, limits["newRecipients"], limits["newRecipients"],
                  "a day that this user never wrote to before"),
        ]  # fmt: skip

    def _age(self, key: str, now: float) -> float:
        """Days since the first message of `key`, which this one may be."""
        found = self._database.execute("SELECT at FROM since WHERE key = ?", (key,)).fetchone()
        return (now - float(found[0])) / DAY if found else 0.0

    def _open(self) -> sqlite3.Connection:
        """The database; a damaged one is put aside: to count anew is better than mail that never leaves."""
        path = self.folder / FILE
        try:
            return _connect(path)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
        for file in sorted(path.parent.glob(f"{FILE}*"), reverse=True):  # the log before what it belongs to
            file.replace(file.with_name(f"damaged-{file.name}"))
        _log.error("%s was damaged: it is put aside as damaged-%s, counting begins anew", path, FILE)
        self.damaged = True
        return _connect(path)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                with _committed(self._database):
                    yield self._database
            except sqlite3.DatabaseError as error:
                if _is_damage(error):
                    self._database.close()
                    self._database = self._open()
                raise


def limits_of(user: str, settings: Mapping[str, Any]) -> dict[str, int]:
    """The limits of a user; the defaults for one the settings do not know."""
    return {**DEFAULTS, **settings["users"].get(user, {}).get("limits", {})}


def usage(folder: Path, user: str, settings: Mapping[str, Any], now: float | None = None) -> dict[str, tuple[int, int]]:
    """(used, limit) of a user by window, for people to look at; nothing is changed."""
    limits, now = limits_of(user, settings), time.time() if now is None else now
    if not (folder / FILE).exists():
        return {window: (0, limits[window]) for window in COUNTED}
    database = sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True, timeout=5)
    try:
        return {
            name: (_used(database, Limit(table, user, window, 0, 0, ""), now), limits[name])
            for name, (table, window) in COUNTED.items()
        }
    finally:
        database.close()


def suspended(folder: Path) -> list[dict[str, str]]:
    """Who may not send, since when and why."""
    return [{"user": file.name, **_mark(file)} for file in sorted((folder / "suspended").glob("*@*"))]


def _mark(file: Path) -> dict[str, str]:
    """What a mark says; a damaged one suspends as well as any other."""
    try:
        mark: Any = json.loads(file.read_bytes()[:MARK]) if file.is_file() else None
        return {"since": str(mark["since"]), "reason": str(mark["reason"])}
    except (OSError, ValueError, LookupError, TypeError) as error:
        return {"since": "an unknown time", "reason": f"its mark is damaged ({type(error).__name__}): {file}"}


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # a kill loses nothing, a power cut the last moments
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found == "ok":
            database.executescript(SCHEMA)
            return database
    except BaseException:
        database.close()
        raise
    database.close()
    raise sqlite3.DatabaseError(found)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is bad: what is locked, full or unreadable for now is an error of a narrower class."""
    return type(error) is sqlite3.DatabaseError


@contextmanager
def _committed(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _used(database: sqlite3.Connection, limit: Limit, now: float) -> int:
    amount = "COALESCE(SUM(amount), 0)" if limit.table == "sent" else "COUNT(*)"
    values = {"key": limit.key, "now": now, "window": limit.window}
    return int(database.execute(f"SELECT {amount} {IN_WINDOW[limit.table]}", values).fetchone()[0])


def _count(database: sqlite3.Connection, key: str, window: float, amount: int, now: float) -> None:
    step = window / STEPS
    database.execute(COUNT, (key, window, math.ceil(now / step) * step, amount))


def _over(database: sqlite3.Connection, limit: Limit, plus: int, used: int, now: float) -> Over | None:
    """How long until `plus` more fit, as what was sent first leaves the window."""
    excess = used + plus - limit.most
    if excess <= 0:
        return None
    if plus > limit.ever:
        return Over(limit.what, int(limit.ever), math.inf)
    values = {"key": limit.key, "now": now, "window": limit.window}
    columns = "at, amount" if limit.table == "sent" else "first, 1"
    for at, amount in database.execute(f"SELECT {columns} {IN_WINDOW[limit.table]} ORDER BY 1", values):
        excess -= amount
        if excess <= 0:
            return Over(limit.what, int(limit.most), at + limit.window - now)
    return Over(limit.what, int(limit.most), limit.window)  # more than a ramp allows today


def _unknown(database: sqlite3.Connection, user: str, recipients: Sequence[str], now: float) -> set[str]:
    """Recipients that the user never wrote to, or too long ago."""
    query = "SELECT 1 FROM known WHERE key = ? AND recipient = ? AND last > ?"
    wanted = {recipient.lower() for recipient in recipients}
    return {one for one in wanted if database.execute(query, (user, one, now - REMEMBERED)).fetchone() is None}


def _ramp(first_day: int, age: float) -> float:
    """What a new address may send a day: doubling daily from its first day on; no bound without a ramp."""
    return first_day * 2.0 ** min(int(age), 30) if first_day else math.inf


def _forget(database: sqlite3.Connection, now: float) -> None:
    """Drop what no window sees any more, a bounded number of rows a message."""
    for statement, kept in PAST:
        database.execute(statement, (now - kept,))
