#!/usr/bin/python3
"""Stops a user of this host from sending, or lifts that; the sender policy looks at each message.

Payload: {"user": "i@example.com", "lift": false, "reason": "stolen laptop"}.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.host import hostlib
else:
    import hostlib

SUSPENDED = Path("/var/lib/mailroom-policy/suspended")
ACCOUNT = "mailroom-policy"
ADDRESS = re.compile(r"[^@/\s.][^@/\s]*@[^@/\s]+")


def main() -> None:
    """Write or remove the user's mark."""
    payload = hostlib.read_payload()
    user = payload["user"].strip().lower()
    if not ADDRESS.fullmatch(user):
        hostlib.fail(
            f"{user!r} is no user's address",
            "expected one such as i@example.com",
            "run it again with the whole address",
        )
    become(ACCOUNT)
    mark = SUSPENDED / user
    if payload["lift"]:
        lifted = mark.exists()
        mark.unlink(missing_ok=True)
        hostlib.finish([f"{user} may send again"] if lifted else [])
    if mark.exists():
        hostlib.finish([])
    hostlib.make_directory(SUSPENDED, 0o750, ACCOUNT, ACCOUNT)
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = json.dumps({"since": since, "reason": payload.get("reason", "")})
    hostlib.write_file(mark, text, 0o640, ACCOUNT, ACCOUNT)
    hostlib.finish([f"{user} may not send any more"])


def become(account: str) -> None:
    """Go on as the service: the folder is its own, and root could be led elsewhere by a link in it."""
    try:
        entry = pwd.getpwnam(account)
    except KeyError:
        hostlib.fail(f"there is no account {account} here", "expected a host with a sender policy", "run `pulumi up`")
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


if __name__ == "__main__":
    main()
