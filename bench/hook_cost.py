#!/usr/bin/env python3
"""What the sender policy costs a message: one chasquid without the hook and one with it, asked by turns.

Both are the pinned binary with DKIM signing, on high ports of the loopback; submissions go over TLS with AUTH, on
connections that are kept, each to a recipient never written to before (the dearest case for the counters).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import secrets
import smtplib
import socket
import ssl
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from components.chasquid import build
from standards import passwords

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PART = Path(build.__file__).parent
DOMAIN, HOST, USER = "bench.test", "smtp.bench.test", "bench@bench.test"
OTHER = "somebody-else@bench.test"
ALLOWED = {50: 15.0, 99: 40.0}  # percentile -> milliseconds the hook may add
BLOCK = 5  # messages of each connection before it is the other server's turn
NO_LIMIT = 10**6
REFUSED = 554
START_SECONDS = 20
LINE = "A line of an ordinary letter, as long as lines of letters usually are.\r\n"


class CannotMeasure(Exception):  # noqa: N818  (it says what is missing)
    """What is missing, and what to do."""


# --- arithmetic ------------------------------------------------------------------------------------


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least `percent` % of all do not exceed (nearest rank)."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of each message without and with the hook; equal places were measured next to each other."""

    connections: int
    without: Sequence[float]
    hooked: Sequence[float]

    def added(self, percent: int) -> float:
        """How much higher the percentile is with the hook."""
        return percentile(self.hooked, percent) - percentile(self.without, percent)

    @property
    def paired(self) -> float:
        """The median of the differences between messages measured next to each other."""
        return statistics.median(more - less for less, more in zip(self.without, self.hooked, strict=True))

    @property
    def is_too_dear(self) -> bool:
        """Whether the hook adds more than it may."""
        return any(self.added(percent) > most for percent, most in ALLOWED.items())

    def lines(self) -> Iterator[str]:
        """What a person reads."""
        yield f"connections: {self.connections}; {len(self.hooked)} messages each; milliseconds a message"
        for percent, most in ALLOWED.items():
            without, hooked = percentile(self.without, percent), percentile(self.hooked, percent)
            added = f"{self.added(percent):+.1f} (at most {most:+.0f})"
            yield f"  p{percent}  without {without:.1f}  with {hooked:.1f}  added {added}"
        yield f"  median of the paired differences {self.paired:+.1f}"


# --- two servers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A running chasquid: where it takes submissions over TLS, and its user's password."""

    port: int
    password: str
    certificate: Path


@contextmanager
def running_server(
    binary: Path, folder: Path, *, hooked: bool, others: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Server]:
    """A chasquid, with the hook and the policy's service or without; `others` are passwords of further logins."""
    ports, password = free_ports(3), secrets.token_urlsafe(16)
    with ExitStack() as stack:
        write_configuration(folder, ports, {USER: password, **others})
        if hooked:
            stack.enter_context(running_policy(folder, [USER, *others]))
        log = stack.enter_context(running([binary, f"--config_dir={folder}"], folder, "chasquid"))
        wait_until_connected(socket.AF_INET, ("127.0.0.1", ports[-1]), log)
        yield Server(ports[-1], password, folder / "certs" / HOST / "fullchain.pem")


@contextmanager
def running_policy(folder: Path, logins: Sequence[str]) -> Iterator[None]:
    """The service as it is released, where the server asks it; only the socket is another."""
    hook, state, settings, asked = (
        folder / "hooks/post-data",
        folder / "state",
        folder / "policy.json",
        folder / "socket",
    )
    hook.parent.mkdir()
    state.mkdir()
    hook.symlink_to(asked)
    settings.write_text(json.dumps(policy(logins)))
    with running([sys.executable, "-B", "-m", "policy", asked, settings, state], PART, "policy", folder) as log:
        wait_until_connected(socket.AF_UNIX, str(asked), log)
        yield


def policy(logins: Sequence[str]) -> dict[str, object]:
    """A policy.json with every counter at work, and room for all that is sent here."""
    limits = dict.fromkeys(("minute", "hour", "day", "newRecipients"), NO_LIMIT)
    user = {"logins": list(logins), "identities": [USER], "limits": {**limits, "recipientsPerMessage": 50, "warmUp": 0}}
    domain = {"mail": "forward", "policy": "reject", "sp": "reject", "selectors": ["m1"], "aliases": {"*": [USER]}}
    return {
        "hostname": HOST, "addresses": ["127.0.0.1"], "postmaster": f"postmaster@{DOMAIN}", "warmUp": 0, "gate": True,
        "rspamd": False, "forwardRate": NO_LIMIT, "domains": {DOMAIN: domain}, "users": {USER: user},
    }  # fmt: skip


def write_configuration(folder: Path, ports: Sequence[int], logins: Mapping[str, str]) -> None:
    """All that chasquid reads; a catch-all takes every recipient, and what is delivered is thrown away."""
    domain, certificate = folder / "domains" / DOMAIN, folder / "certs" / HOST
    for made in (domain, certificate, folder / "data"):
        made.mkdir(parents=True)
    smtp, submission, over_tls = (f"127.0.0.1:{port}" for port in ports)
    (folder / "chasquid.conf").write_text(
        f'hostname: "{HOST}"\nsmtp_address: "{smtp}"\nsubmission_address: "{submission}"\n'
        f'submission_over_tls_address: "{over_tls}"\ndata_dir: "{folder / "data"}"\nmax_queue_items: 5000\n'
        'mail_delivery_agent_bin: "/bin/cat"\nmail_log_path: "<stderr>"\n'
    )
    users = {
        login.partition("@")[0]: passwords.scrypt_hash(password, secrets.token_bytes(passwords.SALT_BYTES))
        for login, password in logins.items()
    }
    (domain / "users").write_text(passwords.users_file(users))
    (domain / "aliases").write_text("*: bench\n")
    key = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    subprocess.run([*key, "-out", domain / "dkim:m1.pem"], check=True, capture_output=True)
    request = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    files = ("-keyout", certificate / "privkey.pem", "-out", certificate / "fullchain.pem")
    subprocess.run([*request, "-subj", f"/CN={HOST}", *files], check=True, capture_output=True)


def free_ports(number: int) -> list[int]:
    """Ports of the loopback that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def running(command: Sequence[str | Path], cwd: Path, name: str, logs: Path | None = None) -> Iterator[Path]:
    """A program until the end of the block; yields the file it writes to."""
    log = (logs or cwd) / f"{name}.log"
    with log.open("wb") as output, subprocess.Popen(command, cwd=cwd, stdout=output, stderr=output) as process:
        try:
            yield log
        finally:
            process.terminate()


def wait_until_connected(family: int, address: str | tuple[str, int], log: Path) -> None:
    """Return once somebody listens at the address."""
    end = time.monotonic() + START_SECONDS
    while True:
        with socket.socket(family) as asking:
            if not asking.connect_ex(address):
                return
        if time.monotonic() > end:
            raise CannotMeasure(f"nobody listens at {address} after {START_SECONDS} s; {log} ends:\n{tail(log)}")
        time.sleep(0.05)


def tail(log: Path) -> str:
    """The end of a program's output."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])


# --- measuring -------------------------------------------------------------------------------------


class Client:
    """One kept connection of a user who has logged in."""

    _numbers = count()

    def __init__(self, server: Server) -> None:
        context = ssl.create_default_context(cafile=str(server.certificate))
        context.check_hostname = False  # it is reached by address
        self._smtp = smtplib.SMTP_SSL("127.0.0.1", server.port, context=context, timeout=60)
        self._smtp.login(USER, server.password)

    def is_refused(self, sender: str) -> bool:
        """Whether the policy refuses this sender; chasquid alone takes any."""
        try:
            self._smtp.sendmail(sender, [USER], f"From: <{sender}>\r\n\r\n".encode())
        except smtplib.SMTPDataError as refusal:
            return refusal.smtp_code == REFUSED
        return False

    def send(self, messages: int) -> list[float]:
        """Milliseconds from MAIL FROM to the answer after the data, for each message."""
        return [self._send_one() for _ in range(messages)]

    def _send_one(self) -> float:
        recipient = f"to-{next(self._numbers)}@{DOMAIN}"
        head = f"From: <{USER}>\r\nTo: <{recipient}>\r\nSubject: A letter\r\nDate: Tue, 24 Nov 2026 12:00:00 +0000\r\n"
        started = time.perf_counter()
        self._smtp.sendmail(USER, [recipient], f"{head}Message-ID: <{recipient}>\r\n\r\n{LINE * 50}".encode())
        return (time.perf_counter() - started) * 1000


def compare(without: Server, hooked: Server, connections: int, messages: int) -> Comparison:
    """Send by turns, every other time in the other order; the first round only warms up."""
    clients = {server: [Client(server) for _ in range(connections)] for server in (without, hooked)}
    taken: dict[Server, list[float]] = {without: [], hooked: []}
    with ThreadPoolExecutor(connections) as pool:
        for turn in range(1 + math.ceil(messages / (connections * BLOCK))):
            for server in (without, hooked)[:: 1 if turn % 2 else -1]:
                blocks = list(pool.map(Client.send, clients[server], [BLOCK] * connections))
                taken[server].extend(chain(*blocks) if turn else [])
    return Comparison(connections, taken[without], taken[hooked])


def unpacked(folder: Path) -> Path:
    """The pinned chasquid, taken out of its release."""
    release = build.release({"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()])
    if not release.tar.exists():
        raise CannotMeasure(f"{release.tar} is missing; `make setup` builds it")
    with tarfile.open(release.tar) as archive:
        archive.extract("chasquid", folder)
    return folder / "chasquid"


def measure(messages: int) -> list[Comparison]:
    """Both servers at once, with one connection and with eight."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        binary = unpacked(folder)
        without = stack.enter_context(running_server(binary, folder / "without", hooked=False))
        hooked = stack.enter_context(running_server(binary, folder / "hooked", hooked=True))
        if Client(without).is_refused(OTHER) or not Client(hooked).is_refused(OTHER):
            raise CannotMeasure(f"only the server with the hook should refuse <{OTHER}> as sender; look at {PART}")
        return [compare(without, hooked, connections, messages) for connections in (1, 8)]


def note_load() -> None:
    """Say so where other work would be measured, too."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        print(f"note: this machine is busy (load {load:.1f} on {cores} cores), and waiting counts", file=sys.stderr)


def judged(
    doc: str | None,
    end: str | None,
    each: str,
    default: int,
    measure: Callable[[int], tuple[list[str], bool]],
    *,
    what: str = "messages",
) -> int:
    """What a benchmark's command line does: measure, show, and 0 or 1 as it was; 3 when it could not be measured."""
    parser = argparse.ArgumentParser(description=doc, epilog=end)
    parser.add_argument(f"--{what}", type=int, default=default, help=f"{each}, at least (default {default})")
    chosen = parser.parse_args()
    note_load()
    try:
        lines, failed = measure(getattr(chosen, what))
    except (CannotMeasure, OSError) as trouble:
        print(f"error: {trouble}", file=sys.stderr)
        return 3
    print(*lines, sep="\n")
    return int(failed)


def main() -> int:
    """0 when the hook adds no more than it may, 1 when it does, 3 when it could not be measured."""

    def shown(messages: int) -> tuple[list[str], bool]:
        found = measure(messages)
        lines = [line for comparison in found for line in comparison.lines()]
        return lines, any(comparison.is_too_dear for comparison in found)

    return judged(__doc__, main.__doc__, "to each server", 1000, shown)


if __name__ == "__main__":
    sys.exit(main())
