"""What is known about the labs of this machine: one JSON file each, changed only under its lab's lock."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from lab.addresses import DEFAULT_LAB, LAST_INDEX, VPS_OCTETS, Mirror, Plan
from lab.errors import LabError
from lab.folders import LABS, Folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab.shell import Progress

ALL_LABS: Final = LABS / ".lock"


@dataclass(frozen=True, kw_only=True)
class VpsRecord:
    """One VPS of a lab."""

    name: str
    octet: int
    host_key: str
    ipv6: bool = True
    suite: str = "bookworm"


@dataclass(frozen=True, kw_only=True)
class State:
    """One lab: who owns it, which networks it has, which machines."""

    name: str
    index: int
    owner: str
    """The checkout whose `make up` started it; its code runs in the lab's guests."""
    mirrors: tuple[Mirror, ...] = ()
    services: str = ""
    """The base of the guest that runs the services; empty until they have answered once."""
    vps: tuple[VpsRecord, ...] = field(default=())

    @property
    def plan(self) -> Plan:
        """Addresses and names."""
        return Plan(name=self.name, index=self.index, mirrors=self.mirrors)

    def find(self, name: str) -> VpsRecord:
        """The VPS of this name."""
        for record in self.vps:
            if record.name == name:
                return record
        there = ", ".join(record.name for record in self.vps) or "none"
        raise LabError(f"the lab {self.name} has no VPS {name!r}; it has: {there}")

    def free_octet(self, wanted: int | None = None) -> int:
        """An address no machine has yet."""
        taken = {record.octet for record in self.vps}
        free = [octet for octet in VPS_OCTETS if octet not in taken]
        if wanted is not None:
            free = [octet for octet in free if octet == wanted]
        if not free:
            raise LabError(
                f"the lab {self.name} has no free address {'' if wanted is None else f'.{wanted} '}for a VPS; remove"
                " one first: python -m lab vps rm NAME"
            )
        return free[0]


def load(lab: str) -> State | None:
    """The state of a lab, none when there is no lab or its file was cut short by a crash."""
    try:
        raw: dict[str, Any] = json.loads(Folders(lab).state.read_text())
        mirrors = tuple(Mirror(**{**m, "ipv4": tuple(m["ipv4"])}) for m in raw.pop("mirrors"))
        vps = tuple(VpsRecord(**record) for record in raw.pop("vps"))
        return State(**raw, mirrors=mirrors, vps=vps)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(state: State) -> State:
    """Write the state in one step; returns it."""
    path = Folders(state.name).state
    new = path.with_suffix(".new")
    new.write_text(json.dumps(asdict(state), indent=2) + "\n")
    new.replace(path)
    return state


def claim(lab: str, owner: Path) -> State:
    """Make the state of a new lab with an index no other lab has."""
    with all_labs():
        taken = {state.index for state in map(load, labs()) if state is not None}
        free = [0] if lab == DEFAULT_LAB else [i for i in range(1, LAST_INDEX + 1) if i not in taken]
        if not free:
            raise LabError(f"{LAST_INDEX} labs run on this machine; take one down first: python -m lab --name X down")
        return save(State(name=lab, index=free[0], owner=str(owner)))


def labs() -> list[str]:
    """Names of the labs with a folder on this machine, in any condition."""
    return sorted(path.name for path in LABS.iterdir() if path.is_dir()) if LABS.is_dir() else []


def with_vps(state: State, record: VpsRecord) -> State:
    """The state with one more VPS, saved."""
    return save(replace(state, vps=(*state.vps, record)))


def without_vps(state: State, name: str) -> State:
    """The state with one VPS less, saved."""
    return save(replace(state, vps=tuple(record for record in state.vps if record.name != name)))


@contextmanager
def all_labs() -> Iterator[None]:
    """Hold what labs share on this machine: the choice of an index, and sysctls."""
    with _held(ALL_LABS, lambda _: None):
        yield


@contextmanager
def locked(lab: str, say: Progress) -> Iterator[None]:
    """Hold one lab; a second command waits for the first and says so."""
    with _held(
        Folders(lab).lock,
        lambda holder: say(f"waiting for another command on the lab {lab} (process {holder}) ..."),
    ):
        yield


@contextmanager
def _held(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock file that may be removed by its holder: then the file is made, and held, again."""
    while True:
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            lock = path.open("a+")
        except FileNotFoundError:  # the folder went while it was made: its last lab came down
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                waiting(lock.read().strip() or "unknown")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not _still_there(path, lock.fileno()):
                continue
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield
            return


def _still_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
