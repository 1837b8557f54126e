#!/usr/bin/env python3
"""How many messages a second a program gets out that logs in for each: with a password and with a token, by turns.

One server as it is released, with hook, policy and DKIM; 16 connections at a time, each for one message. chasquid
holds every login for at least 100 ms, so 16 connections can never send more than 160 messages a second.
"""

from __future__ import annotations

import secrets
import smtplib
import ssl
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from bench.hook_cost import DOMAIN, USER, Server, judged, running_server, unpacked
from standards import passwords

if TYPE_CHECKING:
    from collections.abc import Sequence

LOGIN = USER.replace("@", f"{passwords.TOKEN_MARK}app@")
CONNECTIONS = 16
TARGET = 60.0  # messages a second, on a quiet machine of two cores
LEAST = 2.0  # times as many as with a password, on any; 3.0 to 3.3 were seen on a quiet one
TURNS = 4
_numbers = count()


@dataclass(frozen=True)
class Rates:
    """Messages a second of each turn; equal places were measured next to each other."""

    password: Sequence[float]
    token: Sequence[float]

    @property
    def ratio(self) -> float:
        """How many times more messages leave with a token, over all turns of equal size."""
        return _mean(self.token) / _mean(self.password)

    def lines(self) -> list[str]:
        """What a person reads."""
        return [
            f"{CONNECTIONS} connections, a login for each message; messages a second",
            f"  password {_mean(self.password):.1f}",
            f"  token {_mean(self.token):.1f} (at least {TARGET:.0f} on a quiet machine of two cores)",
            f"  ratio {self.ratio:.1f} (at least {LEAST:.0f})",
        ]


def _mean(rates: Sequence[float]) -> float:
    """Messages over time, where each turn has as many messages: the harmonic mean."""
    return len(rates) / sum(1 / rate for rate in rates)


def send_one(server: Server, login: str, password: str, context: ssl.SSLContext) -> None:
    """Connect, log in, send, leave."""
    recipient = f"to-{next(_numbers)}@{DOMAIN}"
    with smtplib.SMTP_SSL("127.0.0.1", server.port, context=context, timeout=60) as client:
        client.login(login, password)
        client.sendmail(USER, [recipient], f"From: <{USER}>\r\nTo: <{recipient}>\r\n\r\nHello\r\n".encode())


def measure(messages: int) -> Rates:
    """Both logins by turns, every other time in the other order, after a few that only warm up."""
    token = passwords.token(secrets.token_bytes(passwords.TOKEN_BYTES))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place = folder / "server"
        server = stack.enter_context(running_server(unpacked(folder), place, hooked=True, others={LOGIN: token}))
        pool = stack.enter_context(ThreadPoolExecutor(CONNECTIONS))
        context = ssl.create_default_context(cafile=str(server.certificate))
        context.check_hostname = False  # it is reached by address

        def rate(login: str, number: int) -> float:
            password = token if login == LOGIN else server.password
            started = time.perf_counter()
            list(pool.map(lambda _: send_one(server, login, password, context), range(number)))
            return number / (time.perf_counter() - started)

        rates: dict[str, list[float]] = {USER: [], LOGIN: []}
        for login in rates:
            rate(login, CONNECTIONS)
        for turn in range(TURNS):
            for login in (USER, LOGIN)[:: 1 if turn % 2 else -1]:
                rates[login].append(rate(login, max(CONNECTIONS, messages // TURNS)))
        return Rates(rates[USER], rates[LOGIN])


def main() -> int:
    """0 when a token is so many times faster, 1 when it is not, 3 when it could not be measured."""

    def shown(messages: int) -> tuple[list[str], bool]:
        found = measure(messages)
        return list(found.lines()), found.ratio < LEAST

    return judged(__doc__, main.__doc__, "with each login", 400, shown)


if __name__ == "__main__":
    sys.exit(main())
