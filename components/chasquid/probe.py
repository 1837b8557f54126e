#!/usr/bin/python3
"""Looks at the running mail server as its clients do, from the host itself; changes nothing, prints what is wrong.

By hand: `probe.py </dev/null`. It looks at what a client must never get: AUTH without TLS, a foreign banner, a
certificate that is not the one on disk, and a forged sender taken from an authenticated user.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import ssl
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from components.certificates import deploy_hook
    from components.chasquid.policy import sender
    from components.host import hostlib
else:
    import deploy_hook
    import hostlib
    from policy import sender

CURRENT = Path("/etc/mailroom/current")
PASSWORD = Path("/etc/mailroom/probe.key")  # of this host alone, for root alone
ADDRESS = "127.0.0.1"
DOMAIN = sender.PROBE_DOMAIN
USER, FORGED = f"probe@{DOMAIN}", f"forged@{DOMAIN}"
LIMIT = 10  # seconds for one answer


def main() -> None:
    """Print each problem of what runs; exit status 1 if there is any."""
    problems = seen(CURRENT)
    print("\n".join(problems) or "ok: it serves as it should")
    sys.exit(bool(problems))


def password() -> str:
    """The probe user's password, made once; it opens nothing: the sender policy refuses all that this user sends."""
    if not PASSWORD.exists():
        hostlib.write_file(PASSWORD, secrets.token_hex(32), 0o600)
    return PASSWORD.read_text(encoding="ascii")


def users_file() -> bytes:
    """chasquid's users file of the probe's domain (internal/userdb/userdb.proto)."""
    return f'users: {{ key: "probe" value: {{ plain: {{ password: "{password()}" }} }} }}\n'.encode()


def seen(release: Path) -> list[str]:
    """What a client sees that it should not, with the facts of `release`."""
    facts = json.loads((release / "probe.json").read_text(encoding="utf-8"))
    hostname = facts["hostname"]
    problems = []
    for port in deploy_hook.STARTTLS:
        try:
            problems += speaks_before_tls(port, hostname)
        except OSError as error:
            problems.append(f"port {port} does not answer: {error}")
    if problems:
        return problems
    directories = [deploy_hook.directory_of(name, hostname) for name in facts["certificates"]]
    return deploy_hook.unserved(directories, hostname) or takes_forged_sender(release)


def speaks_before_tls(port: int, hostname: str) -> list[str]:
    """The banner names us; AUTH is neither offered nor accepted before TLS (RFC 4954 section 4)."""
    problems = []
    with (
        socket.create_connection((ADDRESS, port), timeout=LIMIT) as connection,
        connection.makefile("rb") as lines,
    ):
        if not (banner := reply(lines)).startswith(f"220 {hostname} "):
            problems.append(f"port {port} greets with {banner[:80]!r}, expected {hostname}")
        connection.sendall(b"EHLO localhost\r\n")
        if "AUTH" in reply(lines).upper():
            problems.append(f"port {port} offers AUTH without TLS")
        connection.sendall(b"AUTH PLAIN AG5vYm9keQBub3RoaW5n\r\n")
        if not (answer := reply(lines)).startswith(("4", "5")):
            problems.append(f"port {port} takes AUTH without TLS: {answer[:80]!r}")
    return problems


def takes_forged_sender(release: Path) -> list[str]:
    """chasquid sends unasked when it has no hook, so only a refusal proves the sender policy.

    The message would end at this host's own `no-local-delivery`, were it ever accepted.
    """
    if not (release / "hooks" / "post-data").exists():
        return ["there is no sender policy: hooks/post-data is missing"]
    message = f"From: {FORGED}\r\nTo: {USER}\r\nSubject: probe\r\n\r\nThe sender policy refuses this.\r\n.\r\n"
    try:
        with submission() as (connection, lines):
            login = base64.b64encode(f"\0{USER}\0{password()}".encode()).decode()
            session = {"EHLO localhost": "250", f"AUTH PLAIN {login}": "235", f"MAIL FROM:<{FORGED}>": "250",
                       f"RCPT TO:<{USER}>": "250", "DATA": "354"}  # fmt: skip
            for line, code in session.items():
                connection.sendall(f"{line}\r\n".encode())
                if not (answer := reply(lines)).startswith(code):
                    return [f"the probe of the sender policy stops at {line.split()[0]}: {answer[:80]!r}"]
            connection.sendall(message.encode())
            answer = reply(lines)
    except OSError as error:
        return [f"the sender policy cannot be probed: {error}"]
    if answer.startswith("554 5.7.1") and FORGED in answer:
        return []
    return [f"a forged sender is answered with {answer.strip()[:120]!r}, expected 554 5.7.1 and its name"]


@contextmanager
def submission() -> Iterator[tuple[ssl.SSLSocket, BinaryIO]]:
    """A session on port 465, after its greeting; whose certificate it is was looked at before."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((ADDRESS, deploy_hook.IMPLICIT_TLS[0]), timeout=LIMIT) as plain,
        context.wrap_socket(plain) as connection,
        connection.makefile("rb") as lines,
    ):
        reply(lines)
        yield connection, lines


def reply(lines: BinaryIO) -> str:
    """One SMTP reply with all its lines (RFC 5321 section 4.2)."""
    text = ""
    while line := lines.readline(1000).decode(errors="replace"):
        text += line
        if line[3:4] != "-":
            return text
    raise OSError("the connection ended before a reply")


if __name__ == "__main__":
    main()
