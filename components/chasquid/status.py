#!/usr/bin/python3
"""Tells how the mail server of this host is, as one JSON object; changes nothing.

{"services": {unit: state}, "queued": 0, "suspended": [{"user": ..., "since": ..., "reason": ...}],
"usage": {user: {window: recipients}}, "problems": [what a client sees that it should not]}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.chasquid import probe
    from components.chasquid.policy import limits
    from components.host import hostlib
else:
    import hostlib
    import probe
    from policy import limits

SERVICES = ("chasquid.service", "mailroom-policy.service", "mailroom-policy.socket", "fail2ban.service")
QUEUE = Path("/var/lib/chasquid/queue")
STATE = Path("/var/lib/mailroom-policy")
CURRENT = Path("/etc/mailroom/current")


def main() -> None:
    """Print the whole picture."""
    print(json.dumps(picture(), indent=1, sort_keys=True))
    sys.exit(0)


def picture() -> dict[str, Any]:
    """Everything that a person asks about first."""
    policy = json.loads((CURRENT / "policy.json").read_text(encoding="utf-8"))
    return {
        "services": {unit: hostlib.run(["systemctl", "is-active", unit]).stdout.strip() for unit in SERVICES},
        "queued": len(list(QUEUE.glob("m:*"))),
        "suspended": limits.suspended(STATE),
        "usage": {user: limits.usage(STATE, user, policy) for user in policy["users"]},
        "problems": probe.seen(CURRENT),
    }


if __name__ == "__main__":
    main()
