#!/usr/bin/env python3
"""Restore a stack from a backup: what is missing comes back, what is there in a newer state stays.

On an empty machine it brings the stack's file and state back, too. On a new host run it before `pulumi up`: the
certificates are then there already, and queued mail leaves as soon as the server runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from operations import report
from operations.backup import places, restore
from standards.finding import Problems


def main() -> int:
    """0 when all is back, 1 when something was kept as it is."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="exit status: 0 restored, 1 some things kept as they are, 2 failed, 3 could not tell",
    )
    add = parser.add_argument
    add("--stack", required=True, help="the stack, e.g. prod")
    add("--from", required=True, dest="place", metavar="PLACE", help="as backup.py --to, e.g. /mnt/backup")
    add("--identity", required=True, type=Path, metavar="FILE", help="private key: from age-keygen, or an SSH key")
    add("--backup", metavar="NAME", help="which one, see backup.py --list (default: the newest)")
    add("--signer", metavar="KEY", help="who made it, as backup.py said (default: who has this machine's passphrase)")
    add("--check", action="store_true", help="decrypt and verify all of it, change nothing")
    add("--only", choices=("all", "stack", "hosts"), default="all", help="restore one side alone")
    queue = parser.add_mutually_exclusive_group()
    queue.add_argument("--without-queue", dest="queue", action="store_const", const="never", default="new machine",
                       help="no queued mail: what left after the backup would leave again")  # fmt: skip
    queue.add_argument("--requeue", dest="queue", action="store_const", const="always",
                       help="queued mail on the machine it is from, too (default: on a new one only)")  # fmt: skip
    add("--replace-certificates", action="store_true", help="also over newer ones; those are set aside on the host")
    add("--force", action="store_true", help="also a backup of another stack (hosts only) or host")
    add("--passphrase-to", type=Path, metavar="FILE", help="write the stack's passphrase there, for you alone")
    add("--json", action="store_true", help="print JSON alone on stdout")
    chosen = parser.parse_args()
    wanted = restore.Wanted(**{name: getattr(chosen, name) for name in restore.Wanted.__dataclass_fields__})
    try:
        place = places.place(chosen.place)
        outcome = restore.restore(chosen.stack, place, chosen.identity, wanted, report.progress)
    except Problems as problems:
        return report.trouble(problems, as_json=chosen.json)
    print(json.dumps(outcome.as_json(), indent=2) if chosen.json else outcome)
    return report.WARNINGS if outcome.kept and not chosen.check else report.OK


if __name__ == "__main__":
    sys.exit(main())
