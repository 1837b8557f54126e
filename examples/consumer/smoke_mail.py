#!/usr/bin/python3
"""Sends one message with the settings of the .env file (JSON on standard input) and tells the server's answer."""

from __future__ import annotations

import json
import smtplib
import ssl
import sys
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any

SECONDS = 30


class Client(smtplib.SMTP_SSL):
    """TLS for the server's name, at an address that DNS need not know yet."""

    address: str | None = None

    def _get_socket(self, host: str, port: int, timeout: float) -> Any:
        return super()._get_socket(self.address or host, port, timeout)  # type: ignore[misc]


def send(settings: dict[str, str], to: str, address: str | None, ca_file: str | None) -> None:
    """Hand one message in; raises `OSError` (all of smtplib's errors are), and `ValueError` for what it cannot send."""
    if to.splitlines() != [to]:
        raise ValueError("smokeTo is empty or has a line break: `pulumi config set smokeTo` with one address")
    if not settings["SMTP_PASSWORD"].isascii():  # Python's own refusal would show a letter of it
        raise ValueError(
            "the password has letters beyond ASCII, and smtplib logs in with no such one: use an application token, "
            "made by `scripts/hash_password.py --token`"
        )
    message = EmailMessage()
    message["From"], message["To"] = settings["MAIL_FROM"], to
    message["Subject"] = "The application can send mail"
    domain = settings["MAIL_FROM"].partition("@")[2]
    message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain=domain)
    message["Auto-Submitted"] = "auto-generated"
    message.set_content("This message was sent on purpose, when the settings of the application changed.\n")
    Client.address = address
    context = ssl.create_default_context(cafile=ca_file)
    host, port = settings["SMTP_HOST"], int(settings["SMTP_PORT"])
    with Client(host, port, local_hostname=domain, timeout=SECONDS, context=context) as client:
        client.login(settings["SMTP_USER"], settings["SMTP_PASSWORD"])
        client.send_message(message)


def _by_whom(given: dict[str, Any], error: Exception) -> str:
    """The server, where it is the one that failed: the error itself names neither host nor port."""
    if not isinstance(error, OSError):
        return ""
    host, port = given["settings"]["SMTP_HOST"], given["settings"]["SMTP_PORT"]
    return f" by {host}:{port}" + (f" at {given['address']}" if given["address"] else "")


def main() -> int:
    """Do it; what went wrong ends with 1, and Pulumi tries again with its next run."""
    given = json.load(sys.stdin)
    try:
        send(given["settings"], given["to"], given["address"], given["ca_file"])
    except (OSError, ValueError) as error:
        print(f"error: no smoke mail was sent{_by_whom(given, error)}: {error}", file=sys.stderr)
        return 1
    print(f"accepted for {given['to']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
