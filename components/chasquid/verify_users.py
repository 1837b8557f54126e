#!/usr/bin/python3
"""Proves that users can log in with their passwords, from the host itself, over TLS with the certificate on disk.

Payload: {"hostname": ..., "users": {address: password}}. Passwords are never printed, not even wrong ones.
"""

from __future__ import annotations

import base64
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.certificates import deploy_hook
    from components.chasquid import probe
    from components.host import hostlib
else:
    import deploy_hook
    import hostlib
    import probe

CERTIFICATES = Path("/etc/mailroom/certs")
PORT = 465
PARALLEL = 8
RELOAD_LIMIT = 40  # seconds; chasquid re-reads its users every 30


def main() -> None:
    """Try every user until all can log in or the limit is reached."""
    payload = hostlib.read_payload()
    hostname, left = payload["hostname"], dict(payload["users"])
    file = CERTIFICATES / deploy_hook.directory_of(hostname, hostname) / "fullchain.pem"
    leaf = deploy_hook.leaf_of(file.read_bytes()) if left else b""
    end = time.monotonic() + RELOAD_LIMIT
    while left := refused(left, hostname, leaf):
        if time.monotonic() > end:
            hostlib.fail(
                f"{', '.join(sorted(left))} cannot log in on port {PORT}", "expected every set password to work",
                "see `journalctl -u chasquid` on the host, then run `pulumi up` again",
            )  # fmt: skip
        time.sleep(2)
    proven = len(payload["users"])
    print(f"ok: {proven} login{'s' * (proven != 1)} proven" if proven else "ok: nothing to do")


def refused(users: dict[str, str], hostname: str, leaf: bytes) -> dict[str, str]:
    """Those who cannot log in now."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        worked = pool.map(lambda user: can_log_in(user[0], user[1], hostname, leaf), users.items())
    return {address: password for (address, password), works in zip(users.items(), worked, strict=True) if not works}


def can_log_in(address: str, password: str, hostname: str, leaf: bytes) -> bool:
    """AUTH PLAIN (RFC 4616) over implicit TLS; the password leaves only to the server whose certificate is ours."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # compared with the file byte by byte instead
    credentials = base64.b64encode(f"\0{address}\0{password}".encode())
    try:
        with (
            socket.create_connection((probe.ADDRESS, PORT), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname=hostname) as secure,
            secure.makefile("rb") as lines,
        ):
            if secure.getpeercert(binary_form=True) != leaf:
                return False
            probe.reply(lines)
            secure.sendall(b"EHLO localhost\r\n")
            probe.reply(lines)
            secure.sendall(b"AUTH PLAIN " + credentials + b"\r\n")
            return probe.reply(lines).startswith("235")
    except OSError:
        return False


if __name__ == "__main__":
    main()
