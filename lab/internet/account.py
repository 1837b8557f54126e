"""The Cloudflare account's records: kept over restarts, rendered to the authoritative servers; no HTTP here."""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from lab.internet.names import ACCOUNT_ZONES, zone_id
from lab.internet.records import PROXIABLE, ApiError, Record, record, record_sets

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lab.internet.authoritative import Publisher

_FLATTENED: Final = {"A", "AAAA", "CNAME"}  # what may not stand beside an alias at a zone's own name
_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS records (id TEXT PRIMARY KEY, zone TEXT NOT NULL, body TEXT NOT NULL)"
_ROUTING_RECORDS: Final = (
    {"type": "MX", "name": "@", "content": "route1.mx.cloudflare.net", "priority": 18},
    {"type": "MX", "name": "@", "content": "route2.mx.cloudflare.net", "priority": 57},
    {"type": "MX", "name": "@", "content": "route3.mx.cloudflare.net", "priority": 95},
    {"type": "TXT", "name": "@", "content": '"v=spf1 include:_spf.mx.cloudflare.net ~all"'},
)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A record with what the API adds: its id never changes, whatever is updated."""

    id: str
    zone: str
    record: Record
    created_on: str
    modified_on: str
    email_routing: bool = False
    """Belongs to the provider's mail routing product and is locked by it."""

    def answer(self) -> dict[str, Any]:
        """The record as the API shows it."""
        content = self.record
        shown: dict[str, Any] = {
            "id": self.id,
            "name": content.name,
            "type": content.type,
            "content": content.content,
            "proxiable": content.type in PROXIABLE,
            "proxied": content.proxied,
            "ttl": content.ttl,
            "settings": {},
            "meta": {"email_routing": True, "read_only": True} if self.email_routing else {},
            "comment": content.comment,
            "tags": [],
            "created_on": self.created_on,
            "modified_on": self.modified_on,
        }
        if content.comment is not None:
            shown["comment_modified_on"] = self.modified_on
        if content.priority is not None:
            shown["priority"] = content.priority
        if content.data:
            shown["data"] = json.loads(content.data)
        return shown


class Account:
    """All records of all zones of the account; every change is in the DNS when the call returns."""

    def __init__(self, publisher: Publisher, path: Path | str = ":memory:") -> None:
        self._publisher = publisher
        self._lock = threading.RLock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.execute(_SCHEMA)
        self.zones = {zone_id(zone): zone for zone in ACCOUNT_ZONES}
        self._records = {stored.id: stored for stored in self._load()}

    def open(self, initial: Iterable[dict[str, Any]]) -> None:
        """Render everything, as the process may have died between a change and its rendering."""
        if not self._records:
            for body in initial:
                zone = self._publisher.zone_of(str(body["name"]))
                self._keep(_new(zone, record(body, zone)))
        for zone in ACCOUNT_ZONES:
            self._render(zone, [each.record for each in self.records(zone)])

    def records(self, zone: str) -> list[Stored]:
        """The records of a zone, oldest first."""
        with self._lock:
            return [stored for stored in self._records.values() if stored.zone == zone]

    def get(self, zone: str, identity: str) -> Stored:
        """One record."""
        stored = self._records.get(identity)
        if stored is None or stored.zone != zone:
            raise ApiError(404, 81044, "Record does not exist.")
        return stored

    def create(self, zone: str, wanted: Record) -> Stored:
        """Add a record."""
        with self._lock:
            self._check(zone, wanted)
            stored = _new(zone, wanted)
            self._put(stored)
        return stored

    def update(self, zone: str, identity: str, wanted: Record) -> Stored:
        """Give a record new content."""
        with self._lock:
            old = self.get(zone, identity)
            _refuse_locked(old)
            self._check(zone, wanted, besides=identity)
            stored = replace(old, record=wanted, modified_on=_now())
            self._put(stored, old)
        return stored

    def delete(self, zone: str, identity: str) -> None:
        """Remove a record."""
        with self._lock:
            old = self.get(zone, identity)
            _refuse_locked(old)
            self._drop(old)

    def enable_email_routing(self, zone: str) -> None:
        """Play the provider's mail routing product: it adds locked records to the zone."""
        with self._lock:
            if self._routed(zone):
                return
            stored = [_new(zone, record({"ttl": 1, **body}, zone), email_routing=True) for body in _ROUTING_RECORDS]
            for each in stored:
                self._keep(each)
            self._render(zone, [each.record for each in stored])

    def disable_email_routing(self, zone: str) -> None:
        """Remove what the mail routing product added."""
        with self._lock:
            for stored in self.records(zone):
                if stored.email_routing:
                    self._drop(stored)

    def _routed(self, zone: str) -> bool:
        return any(stored.email_routing for stored in self.records(zone))

    def _check(self, zone: str, wanted: Record, besides: str = "") -> None:
        if wanted.type == "MX" and wanted.name == zone and self._routed(zone):
            message = "This zone is managed by Email Routing. Disable Email Routing to add/modify MX records."
            raise ApiError(400, 890190, message)
        others = [stored.record for stored in self.records(zone) if stored.id != besides]
        same_name = [other for other in others if other.name == wanted.name]
        if any(other.value == wanted.value for other in same_name):
            raise ApiError(400, 81058, "An identical record already exists.")
        if any(other.type == "MX" == wanted.type and other.content == wanted.content for other in same_name):
            raise ApiError(400, 81057, "Record already exists.")
        if wanted.name == zone:
            same_name = [other for other in same_name if {other.type, wanted.type} <= _FLATTENED]
        if wanted.type == "CNAME" and same_name:
            raise ApiError(400, 81053, "An A, AAAA, or CNAME record with that host already exists.")
        if any(other.type == "CNAME" for other in same_name):
            raise ApiError(400, 81054, "A CNAME record with that host already exists.")

    def _render(self, zone: str, touched: Iterable[Record]) -> None:
        owners = {(each.name, each.zone_file[0]) for each in (_flattened(each, zone) for each in touched)}
        if owners:
            seen = (_flattened(stored.record, zone) for stored in self.records(zone))
            self._publisher.publish(zone, record_sets(seen, owners))

    def _put(self, stored: Stored, old: Stored | None = None) -> None:
        self._keep(stored)
        try:
            self._render(stored.zone, [stored.record, *([old.record] if old else [])])
        except ValueError as error:  # the server understands more of zone files than `records` does
            if old:
                self._keep(old)
            else:
                self._forget(stored)
            raise ApiError(400, 1004, f"DNS Validation Error: {error}") from error

    def _keep(self, stored: Stored) -> None:
        row = (stored.id, stored.zone, json.dumps(asdict(stored)))
        self._database.execute(
            "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body", row
        )
        self._records[stored.id] = stored

    def _forget(self, stored: Stored) -> None:
        self._records.pop(stored.id, None)
        self._database.execute("DELETE FROM records WHERE id = ?", (stored.id,))

    def _drop(self, stored: Stored) -> None:
        # The DNS goes first: a record that is still listed after a crash is rendered again, a lost one never leaves.
        del self._records[stored.id]
        self._render(stored.zone, [stored.record])
        self._forget(stored)

    def _load(self) -> Iterable[Stored]:
        for (text,) in self._database.execute("SELECT body FROM records ORDER BY rowid"):
            body = json.loads(text)
            yield Stored(**{**body, "record": Record(**body["record"])})


def _flattened(content: Record, zone: str) -> Record:
    """The world sees no alias at a zone's own name but addresses; here those of the edge, whatever the target's are."""
    return replace(content, proxied=True) if (content.type, content.name) == ("CNAME", zone) else content


def _new(zone: str, wanted: Record, *, email_routing: bool = False) -> Stored:
    now = _now()
    return Stored(
        id=uuid.uuid4().hex, zone=zone, record=wanted, created_on=now, modified_on=now, email_routing=email_routing
    )


def _refuse_locked(stored: Stored) -> None:
    if stored.email_routing:
        raise ApiError(400, 1046, "This DNS record is managed by Email Routing. Disable Email Routing to modify it.")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
