"""Mail of the host to its postmaster: a user near a limit, one refused for forging; never in a verdict's way."""

from __future__ import annotations

import logging
import queue
import secrets
import smtplib
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime, localtime
from typing import TYPE_CHECKING, Any

from .message import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .message import Request

NOTICE = "notice"  # in the place of a client's address
ROOT = 0
ADDRESS, PORT = "127.0.0.1", 25
ATTEMPTS, PAUSE = 5, 30.0  # tries and seconds between them while the server is busy or restarts
FINAL = 500  # RFC 5321 section 4.2.1: from here on trying again is in vain
_waiting: queue.Queue[EmailMessage] = queue.Queue(100)
_own: deque[str] = deque(maxlen=1000)  # Message-IDs that nobody else can know
_log = logging.getLogger("notices")


def tell(subject: str, text: str, settings: Mapping[str, Any]) -> None:
    """Write to the postmaster; returns at once."""
    message = EmailMessage()
    message["From"] = f"Mailroom <postmaster@{settings['hostname']}>"
    message["To"], message["Subject"] = settings["postmaster"], one_line(subject)
    message["Date"], message["Auto-Submitted"] = format_datetime(localtime()), "auto-generated"  # RFC 3834
    message["Message-ID"] = f"<{secrets.token_hex(16)}@{settings['hostname']}>"
    message.set_content(text)
    _own.append(str(message["Message-ID"]))
    try:
        _waiting.put_nowait(message)
    except queue.Full:
        _log.warning("a notice was dropped: %s", subject)


def take(request: Request, connection: socket.socket, settings: Mapping[str, Any]) -> bool:
    """Send what another program of this host hands over as a request from "notice"; only root may."""
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))  # unix(7)
    if uid != ROOT:
        _log.warning("a notice of user %d was not sent, only root may", uid)
        return False
    header, _, text = request.message.decode(errors="replace").partition("\n\n")
    tell(header.removeprefix("Subject: "), text, settings)
    return True


def is_own(message_id: str, remote: str) -> bool:
    """Whether a message is one of these, on its way through our own server."""
    return remote.startswith("127.0.0.1:") and message_id.strip() in _own


def start() -> None:
    """Begin to deliver, in a thread that ends with the process."""
    threading.Thread(target=_deliver_all, name="notices", daemon=True).start()


def _deliver_all() -> None:
    while True:
        message = _waiting.get()
        for attempt in range(1, ATTEMPTS + 1):
            problem = _deliver(message)
            if problem is None:
                break
            _log.warning("notice %r not delivered (%d/%d): %s", message["Subject"], attempt, ATTEMPTS, problem)
            if problem.is_final:
                break
            time.sleep(PAUSE)


@dataclass(frozen=True)
class Problem:
    """Why a notice was not delivered this time."""

    text: str
    is_final: bool

    def __str__(self) -> str:
        return one_line(self.text)


def _deliver(message: EmailMessage) -> Problem | None:
    """With the null sender: a notice that cannot be delivered must not come back."""
    try:
        with smtplib.SMTP(ADDRESS, PORT, "localhost", timeout=60) as client:
            client.send_message(message, "", [str(message["To"])])
    except smtplib.SMTPRecipientsRefused as refused:
        ((code, reply),) = refused.recipients.values()
        return Problem(f"{code} {reply!r}", code >= FINAL)
    except smtplib.SMTPResponseException as refused:
        return Problem(str(refused), refused.smtp_code >= FINAL)
    except Exception as error:  # noqa: BLE001  (the thread must live)
        return Problem(f"{type(error).__name__}: {error}", is_final=False)
    return None
