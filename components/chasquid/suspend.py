#!/usr/bin/python3
"""Stops a user of this host from sending, or lifts that; the sender policy looks at each message.

Payload: {"user": "i@example.com", "lift": false, "reason": "stolen laptop"}.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.host import hostlib
else:
    import hostlib

SUSPENDED = Path("/var/lib/mailroom-policy/suspended")
GROUP = "mailroom-policy"


def main() -> None:
    """Write or remove the user's mark."""
    payload = hostlib.read_payload()
    user = payload["user"].strip().lower()
    if "/" in user or not user.partition("@")[0]:
        hostlib.fail(f"{user!r} cannot be suspended", "expected an address such as i@example.com", "correct it")
    mark = SUSPENDED / user
    if payload["lift"]:
        lifted = mark.exists()
        mark.unlink(missing_ok=True)
        hostlib.finish([f"{user} may send again"] if lifted else [])
    if mark.exists():
        hostlib.finish([])
    hostlib.make_directory(SUSPENDED, 0o750, group=GROUP)
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    hostlib.write_file(mark, json.dumps({"since": since, "reason": payload["reason"]}), 0o640, group=GROUP)
    hostlib.finish([f"{user} may not send any more"])


if __name__ == "__main__":
    main()
