"""Mail of the host to its postmaster: a user near a limit, one refused for forging; never in a verdict's way."""

from __future__ import annotations

import logging
import queue
import secrets
import smtplib
import threading
import time
from collections import deque
from email.message import EmailMessage
from email.utils import format_datetime, localtime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ADDRESS, PORT = "127.0.0.1", 25
DAY = 86400
ATTEMPTS, PAUSE = 5, 30.0  # tries and seconds between them while the server restarts
_waiting: queue.Queue[EmailMessage] = queue.Queue(100)
_own: deque[str] = deque(maxlen=1000)  # Message-IDs that nobody else can know
_told: dict[str, float] = {}
_log = logging.getLogger("notices")


def tell(topic: str, subject: str, text: str, settings: Mapping[str, Any]) -> None:
    """Write to the postmaster, once a day for each topic; returns at once."""
    now = time.time()
    if now - _told.get(topic, 0) < DAY or not settings.get("postmaster"):
        return
    _told[topic] = now
    message = EmailMessage()
    message["From"] = f"Mailroom <postmaster@{settings['hostname']}>"
    message["To"], message["Subject"] = settings["postmaster"], subject
    message["Date"], message["Auto-Submitted"] = format_datetime(localtime()), "auto-generated"  # RFC 3834
    message["Message-ID"] = f"<{secrets.token_hex(16)}@{settings['hostname']}>"
    message.set_content(text)
    _own.append(str(message["Message-ID"]))
    try:
        _waiting.put_nowait(message)
    except queue.Full:
        _log.warning("a notice was dropped: %s", subject)


def is_own(message_id: str, remote: str) -> bool:
    """Whether a message is one of these, on its way through our own server."""
    return remote.startswith("127.0.0.1:") and message_id.strip() in _own


def start() -> None:
    """Begin to deliver, in a thread that ends with the process."""
    threading.Thread(target=_deliver_all, name="notices", daemon=True).start()


def _deliver_all() -> None:
    while True:
        message = _waiting.get()
        for attempt in range(ATTEMPTS):
            try:
                _deliver(message)
                break
            except (OSError, smtplib.SMTPException) as error:
                _log.warning("notice %d/%d not delivered: %s", attempt + 1, ATTEMPTS, type(error).__name__)
                time.sleep(PAUSE)


def _deliver(message: EmailMessage) -> None:
    """With the null sender: a notice that cannot be delivered must not come back."""
    with smtplib.SMTP(ADDRESS, PORT, "localhost", timeout=60) as client:
        client.sendmail("", [str(message["To"])], message.as_bytes())
