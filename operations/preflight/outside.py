"""Whether the mail ports of a host can be reached from here, and what the host reaches itself; judges nothing."""

from __future__ import annotations

import json
import secrets
import shlex
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

from components.host import reach
from operations import ssh
from standards.finding import Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from operations.ssh import Target

SCRIPT = Path(reach.__file__).read_text(encoding="utf-8")
LISTEN_SECONDS = 8
CONNECT_SECONDS = 3.0
REFERENCE_SECONDS = 5.0
TRIES = 4  # of a server that runs: routers need a moment to hear of a new neighbour
PAUSE_SECONDS = 0.2
PORTS = reach.MAIL_PORTS
SMTP = 25
# What a try may come to: our listener, another server, or why there was no connection.
LISTENER, OTHER, REFUSED, SILENT, NO_ROUTE = "listener", "another server", "refused", "silent", "no route from here"


@dataclass(frozen=True)
class Inbound:
    """What came of port 25, 465 and 587 by address; `reference` says per family whether we reach port 25 anywhere."""

    ports: Mapping[str, Mapping[int, str]]
    reference: Mapping[int, bool] = field(default_factory=dict)


def outbound(target: Target, receivers: Sequence[str]) -> Mapping[str, Any]:
    """What the host reaches on port 25 of `receivers`; the answer of reach.py."""
    return _answer(target, ssh.run(target, f"python3 - out {shlex.join(receivers)}", SCRIPT, timeout=90))


def inbound(target: Target, addresses: Sequence[str], receivers: Mapping[int, str]) -> Inbound:
    """Listen on the host for some seconds and knock from here; the listener ends by itself whatever happens to us.

    `receivers` are an address of a mail server by IP version: what we reach there tells our own network's fault.
    """
    word = secrets.token_hex(8)
    with ThreadPoolExecutor(max_workers=16) as pool:
        versions = " ".join(sorted({str(ip_address(address).version) for address in addresses}))
        command = f"python3 - listen {word} {LISTEN_SECONDS} {versions}"
        listening = pool.submit(ssh.run, target, command, SCRIPT, timeout=60)
        tries = {
            (address, port): pool.submit(_knock_until, listening, address, port, word)
            for address in addresses
            for port in PORTS
        }
        references = {version: pool.submit(_reaches, address) for version, address in receivers.items()}
        found = {key: each.result() for key, each in tries.items()}
        known = {version: each.result() for version, each in references.items()}
        _answer(target, listening.result())
    return Inbound({address: {port: found[address, port] for port in PORTS} for address in addresses}, known)


def served(addresses: Sequence[str], ssh_port: int, receivers: Callable[[], Mapping[int, str]]) -> Inbound:
    """Connect to the mail ports of a server that runs; `receivers` as in `inbound`, asked for when 25 is closed.

    An address that is silent on its SSH port, too, is one that nobody gets to from here: IPv6 is often half there.
    """
    with ThreadPoolExecutor(max_workers=16) as pool:
        tries = {(address, port): pool.submit(_open, address, port) for address in addresses for port in PORTS}
        found = {key: each.result() for key, each in tries.items()}
        silent = [each for each in addresses if {found[each, port] for port in PORTS} == {SILENT}]
        for address in [each for each in silent if _open(each, ssh_port) == SILENT]:
            found |= {(address, port): NO_ROUTE for port in PORTS}
        closed = [address for address in addresses if found[address, SMTP] not in {OTHER, NO_ROUTE}]
        shut = {ip_address(address).version for address in closed}
        asked = receivers() if shut else {}
        references = {version: pool.submit(_reaches, asked[version]) for version in shut if version in asked}
        known: dict[int, bool] = {version: each.result() for version, each in references.items()}
    return Inbound({address: {port: found[address, port] for port in PORTS} for address in addresses}, known)


def _open(address: str, port: int) -> str:
    """What connecting to one port comes to in the end."""
    for _ in range(TRIES):
        try:
            socket.create_connection((address, port), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            outcome = outcome_of(error)
        else:
            return OTHER
        if outcome == NO_ROUTE:
            break
        sleep(PAUSE_SECONDS)
    return outcome


def _knock_until(listening: Future[ssh.Completed], address: str, port: int, word: str) -> str:
    """Knock until somebody answers or the listener has gone; what the last try came to."""
    while True:
        gone = listening.done()
        outcome = knock(address, port, word)
        if gone or outcome in {LISTENER, OTHER, NO_ROUTE}:
            return outcome
        sleep(PAUSE_SECONDS)


def knock(address: str, port: int, word: str, timeout: float = CONNECT_SECONDS) -> str:
    """One connection to a port of the host, and who answers there."""
    try:
        connection = socket.create_connection((address, port), timeout=timeout)
    except OSError as error:
        return outcome_of(error)
    with connection:
        try:
            connection.sendall(word.encode())
            return LISTENER if connection.recv(len(word)) == word.encode() else OTHER
        except OSError:
            return OTHER


def outcome_of(error: OSError) -> str:
    """What kind of failure that is."""
    if isinstance(error, ConnectionRefusedError):
        return REFUSED
    if isinstance(error, TimeoutError):
        return SILENT
    kind = reach.outcome_of(error)
    return NO_ROUTE if kind in {"Network is unreachable", "Cannot assign requested address"} else kind


def _reaches(address: str) -> bool:
    try:
        socket.create_connection((address, 25), timeout=REFERENCE_SECONDS).close()
    except OSError:
        return False
    return True


def _answer(target: Target, done: ssh.Completed) -> Mapping[str, Any]:
    if done.exit_status == 0 and done.stdout.startswith("{"):
        found: Mapping[str, Any] = json.loads(done.stdout)
        return found
    said = done.stderr.strip().splitlines() or [f"exit status {done.exit_status}"]
    finding = error_about(
        target,
        "preflight.not-tried",
        expected="a host on which a short Python script runs",
        found=said[-1][:200],
        why="the mail ports are tried from there",
        fix="run again; if it stays, log in and run `python3 --version`",
    )
    raise Problems(f"the mail ports of {target} could not be tried", [finding])
