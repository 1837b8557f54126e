"""Writes zones to the two authoritative servers, ns2 as much later as asked; knows nothing of the APIs above it."""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from lab.internet import dnssec
from lab.internet.names import NAMESERVERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RECORD_TTL: Final = 5
"""Every record's TTL in the DNS, whatever was asked for, so that no test waits for a cache."""
NEGATIVE_TTL: Final = 1
SYNCHRONOUS_WAIT: Final = 3.0
"""How long a change waits for ns2 when it does not lag; later ns2 gets it in the background (it may be down)."""


@dataclass(frozen=True)
class RecordSet:
    """All records of one name and type in zone file form; no contents means there are none (any more)."""

    name: str
    type: str
    contents: tuple[str, ...]
    ttl: int = RECORD_TTL


class Server(Protocol):
    """One authoritative server."""

    def zones(self) -> set[str]:
        """Names of the zones it has."""

    def create(self, zone: str) -> None:
        """Add an empty zone, signed with the lab's key."""

    def replace(self, zone: str, changes: Sequence[RecordSet]) -> None:
        """Set or remove whole record sets in one step."""

    def record_sets(self, zone: str) -> list[RecordSet]:
        """Everything in the zone but what signing adds."""


class PowerDns:
    """A PowerDNS server with its HTTP API."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._base = f"{base_url}/api/v1/servers/localhost"
        self._api_key = api_key

    def zones(self) -> set[str]:
        """See Server."""
        return {zone["name"].rstrip(".") for zone in self._call("GET", "/zones")}

    def create(self, zone: str) -> None:
        """See Server. The key is imported before the zone has content, so that it is never seen unsigned."""
        body = {"name": f"{zone}.", "kind": "Native", "nameservers": [], "api_rectify": True, "soa_edit_api": ""}
        self._call("POST", "/zones", body)
        key = {"keytype": "csk", "active": True, "published": True, "content": dnssec.private_key_text()}
        self._call("POST", f"/zones/{zone}./cryptokeys", key)

    def replace(self, zone: str, changes: Sequence[RecordSet]) -> None:
        """See Server."""
        self._call("PATCH", f"/zones/{zone}.", {"rrsets": [self._rrset(change) for change in changes]})

    def record_sets(self, zone: str) -> list[RecordSet]:
        """See Server."""
        return [
            RecordSet(
                rrset["name"].rstrip("."),
                rrset["type"],
                tuple(record["content"] for record in rrset["records"]),
                rrset["ttl"],
            )
            for rrset in self._call("GET", f"/zones/{zone}.")["rrsets"]
        ]

    @staticmethod
    def _rrset(change: RecordSet) -> dict[str, Any]:
        rrset: dict[str, Any] = {"name": f"{change.name}.", "type": change.type}
        if not change.contents:
            return {**rrset, "changetype": "DELETE"}
        records = [{"content": content, "disabled": False} for content in change.contents]
        return {**rrset, "changetype": "REPLACE", "ttl": change.ttl, "records": records}

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-API-Key": self._api_key, "Content-Type": "application/json"}
        request = urllib.request.Request(self._base + path, data, headers, method=method)  # noqa: S310  (our URL)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"PowerDNS refuses {method} {path}: {error.read().decode()}") from error
        return json.loads(text) if text else None


@dataclass
class MemoryServer:
    """A server without a wire, for tests of what stands above."""

    content: dict[str, dict[tuple[str, str], RecordSet]] = field(default_factory=dict)

    def zones(self) -> set[str]:
        """See Server."""
        return set(self.content)

    def create(self, zone: str) -> None:
        """See Server."""
        self.content[zone] = {}

    def replace(self, zone: str, changes: Sequence[RecordSet]) -> None:
        """See Server."""
        for change in changes:
            self.content[zone].pop((change.name, change.type), None)
            if change.contents:
                self.content[zone][change.name, change.type] = change

    def record_sets(self, zone: str) -> list[RecordSet]:
        """See Server."""
        return list(self.content[zone].values())


@dataclass(frozen=True)
class _Pending:
    due: float
    zone: str
    changes: tuple[RecordSet, ...]
    applied: threading.Event


class Publisher:
    """The one place that writes to the authoritative servers: ns1 at once, ns2 in the same order, `lag` later."""

    def __init__(self, primary: Server, secondary: Server) -> None:
        self._primary = primary
        self._secondary = secondary
        self._lag = 0.0
        self._serials: dict[str, int] = {}
        self._writing = threading.Lock()
        self._wakeup = threading.Condition()
        self._queue: deque[_Pending] = deque()
        threading.Thread(target=self._follow, name="ns2", daemon=True).start()

    def open(self, zones: Mapping[str, Iterable[RecordSet]]) -> None:
        """Create the zones that do not exist and bring ns2 to the state of ns1 (its queue may have been lost)."""
        for server in (self._primary, self._secondary):
            for zone in zones.keys() - server.zones():
                server.create(zone)
        for zone, initial in zones.items():
            present = {(each.name, each.type): each for each in self._primary.record_sets(zone)}
            soa = present.get((zone, "SOA"))
            self._serials[zone] = int(soa.contents[0].split()[2]) if soa else 0
            if (zone, "NS") not in present:
                self.publish(zone, initial)
            self._copy(zone)

    def zone_of(self, name: str) -> str:
        """The zone a name lives in: the longest one that is a suffix."""
        found = [zone for zone in self._serials if name == zone or name.endswith(f".{zone}")]
        if not found:
            raise LookupError(f"no zone of the lab contains {name!r}, expected a name in {', '.join(self._serials)}")
        return max(found, key=len)

    def lag(self, seconds: float) -> None:
        """Let ns2 see later changes that much later; 0 also delivers what waits."""
        with self._wakeup:
            self._lag = seconds
            if not seconds:
                now = time.monotonic()
                self._queue = deque(_Pending(now, each.zone, each.changes, each.applied) for each in self._queue)
            self._wakeup.notify()

    def publish(self, zone: str, changes: Iterable[RecordSet]) -> None:
        """Write record sets under a new serial; returns when the servers that do not lag answer with them."""
        with self._writing:
            batch = (*changes, self._soa(zone))
            self._primary.replace(zone, batch)
            pending = _Pending(time.monotonic() + self._lag, zone, batch, threading.Event())
            with self._wakeup:
                self._queue.append(pending)
                self._wakeup.notify()
        if not self._lag:
            pending.applied.wait(SYNCHRONOUS_WAIT)

    def record_set(self, name: str, kind: str) -> RecordSet | None:
        """What ns1 has."""
        stored = self.record_sets(self.zone_of(name))
        return next((each for each in stored if (each.name, each.type) == (name, kind)), None)

    def record_sets(self, zone: str) -> list[RecordSet]:
        """Everything that ns1 has in a zone."""
        return self._primary.record_sets(zone)

    def _soa(self, zone: str) -> RecordSet:
        # The serial is ours, not the server's: equal on both when they are in step, as after a zone transfer.
        self._serials[zone] = serial = max(int(time.time()), self._serials[zone] + 1)
        times = f"60 30 604800 {NEGATIVE_TTL}"
        return RecordSet(zone, "SOA", (f"{NAMESERVERS[0]}. hostmaster.lab.test. {serial} {times}",), NEGATIVE_TTL)

    def _copy(self, zone: str) -> None:
        wanted = {(each.name, each.type): each for each in self._primary.record_sets(zone)}
        stored = {(each.name, each.type): each for each in self._secondary.record_sets(zone)}
        changes = [each for key, each in wanted.items() if stored.get(key) != each]
        changes += [RecordSet(name, kind, ()) for name, kind in stored.keys() - wanted.keys()]
        if changes:
            self._secondary.replace(zone, changes)

    def _follow(self) -> None:
        while True:
            with self._wakeup:
                while not self._queue or self._queue[0].due > time.monotonic():
                    self._wakeup.wait(max(0.0, self._queue[0].due - time.monotonic()) if self._queue else None)
                head = self._queue[0]
            try:
                self._secondary.replace(head.zone, head.changes)
            except OSError:
                time.sleep(0.5)  # ns2 is down: it must not lose a change
                continue
            except ValueError as error:
                print(f"ns2 refuses what ns1 accepted: {error}", file=sys.stderr, flush=True)
            with self._wakeup:
                self._queue.popleft()
            head.applied.set()
