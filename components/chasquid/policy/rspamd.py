"""Asks rspamd on this host about a message over its HTTP protocol (/checkv2); the operator installs and runs it."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any

from .message import Verdict

if TYPE_CHECKING:
    from .message import Request

ADDRESS, PORT = "127.0.0.1", 11333
SECONDS = 15.0
DOWN = "4.7.1 The spam filter of this server does not answer; try again later"


def judge(request: Request) -> Verdict:
    """Refuse, defer, or accept with a mark where rspamd wants one; without an answer the message waits."""
    try:
        answer = ask(request)
        action, score = (
            str(answer["action"]),
            f"score={float(answer['score']):.1f} required={float(answer['required_score']):.1f}",
        )
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return Verdict.defer(DOWN)
    if action == "reject":
        return Verdict.refuse(f"5.7.1 The spam filter refuses this message ({score}); ask the postmaster if in doubt")
    if action in {"soft reject", "greylist"}:
        return Verdict.defer("4.7.1 The spam filter wants to see this message again; try again in some minutes")
    if action in {"add header", "rewrite subject"}:
        return Verdict.accept([f"X-Spam-Status: Yes, {score}"])
    return Verdict.accept()


def ask(request: Request) -> Any:
    """The answer of rspamd; raises OSError, HTTPException or ValueError without one."""
    connection = http.client.HTTPConnection(ADDRESS, PORT, timeout=SECONDS)
    try:
        connection.putrequest("POST", "/checkv2")
        facts = [
            ("IP", request.remote.rpartition(":")[0].strip("[]")),
            ("Helo", request.ehlo),
            ("From", request.sender),
            *(("Rcpt", recipient) for recipient in request.recipients),
            ("Content-Length", str(len(request.message))),
        ]
        for name, value in facts:
            connection.putheader(name, value.encode())
        connection.endheaders(request.message)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise http.client.HTTPException(response.reason)
        return json.loads(response.read())
    finally:
        connection.close()
