"""What a stranger finds at an address of a host."""

from __future__ import annotations

import errno
import socket
import time
from typing import Literal

NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
PATIENCE = 15.0  # seconds; routers need some to hear of a new neighbour
ONE_TRY = 4.0


def knock(address: str, port: int, *, patience: float = PATIENCE) -> Literal["answers", "silent", "no-route"]:
    """Whether anything answers at a TCP port, a refusal included; `no-route` when this machine lacks the family."""
    end = time.monotonic() + patience
    while True:
        try:
            with socket.create_connection((address, port), min(ONE_TRY, patience)):
                return "answers"
        except ConnectionRefusedError:
            return "answers"
        except OSError as error:
            if error.errno in NO_ROUTE:
                return "no-route"
        if time.monotonic() > end:
            return "silent"
        time.sleep(0.2)
