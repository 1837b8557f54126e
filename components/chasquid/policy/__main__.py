"""Starts the sender policy on the socket that systemd hands over (sd_listen_fds(3)); by hand: a path as argument."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from pathlib import Path

from . import limits, notices
from .service import Service, Settings

SETTINGS = Path("/etc/mailroom/current/policy.json")
STATE = Path("/var/lib/mailroom-policy")
FIRST_FD = 3


class ForJournal(logging.Formatter):
    """Tells the journal how bad it is (sd-daemon(3)): scripts/status.py shows errors alone."""

    def format(self, record: logging.LogRecord) -> str:
        """`<3>` for an error, `<4>` for a warning, `<6>` for the rest."""
        level = 3 if record.levelno >= logging.ERROR else 4 if record.levelno >= logging.WARNING else 6
        return f"<{level}>{super().format(record)}"


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM. `arguments`: nothing, or socket, settings and state folder for a run by hand."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        logging.getLogger().handlers[0].setFormatter(ForJournal())
    settings, state = (Path(arguments[1]), Path(arguments[2])) if arguments else (SETTINGS, STATE)
    with listener(arguments[0] if arguments else "") as listening:
        service = Service(Settings(settings), limits.Store(state))
        signal.signal(signal.SIGTERM, lambda *_: service.stop())
        notices.start()
        service.serve(listening)


def listener(path: str) -> socket.socket:
    """systemd's socket, or one of our own at `path`."""
    if not path:
        if os.environ.get("LISTEN_PID") != str(os.getpid()):
            sys.exit("error: no socket, expected the one of mailroom-policy.socket; start it with systemctl")
        return socket.socket(fileno=FIRST_FD)
    Path(path).unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(path)
    made.listen(128)
    return made


if __name__ == "__main__":
    main(sys.argv[1:])
