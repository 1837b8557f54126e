#!/usr/bin/env python3
"""Back up a stack: its state and settings, and what only its hosts have, encrypted with age.

A place is a folder, git+URL of a private repository (git+ssh://git@example.com/backups.git), or restic:REPOSITORY
(restic:s3:https://s3.example.com/bucket; credentials in restic's own variables).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from rich.console import Console

from operations import report
from operations.backup import places, take
from standards.finding import Problems


def main() -> int:
    """Take a backup, or list those there are."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="exit status: 0 complete, 1 with warnings, or none to list, 2 failed and nothing kept, 3 could not tell",
    )
    parser.add_argument("--stack", required=True, help="the stack, e.g. prod")
    parser.add_argument("--to", required=True, metavar="PLACE", help="where backups are kept, e.g. /mnt/backup")
    parser.add_argument("--recipient", action="append", default=[], metavar="KEY",
                        help="public key that may read it: age1... or 'ssh-ed25519 ...'; repeat for more")  # fmt: skip
    parser.add_argument("--keep", type=int, metavar="N", help="then remove all but the stack's newest N")
    parser.add_argument("--list", action="store_true", help="list the stack's backups, oldest first, and end")
    parser.add_argument("--json", action="store_true", help="print JSON alone on stdout")
    chosen = parser.parse_args()
    if chosen.keep is not None and chosen.keep < 1:
        parser.error(f"--keep {chosen.keep}: expected 1 or more")
    try:
        place = places.place(chosen.to)
        if chosen.list:
            listing = take.Listing.of(chosen.stack, place.names())
            print(json.dumps(listing.as_json()) if chosen.json else listing)
            return report.OK if listing.backups else report.WARNINGS
        taken = take.take(chosen.stack, place, chosen.recipient, chosen.keep, report.progress)
    except Problems as problems:
        return report.trouble(problems, as_json=chosen.json)
    print(json.dumps(taken.as_json(), indent=2) if chosen.json else taken)
    if not chosen.json:
        report.show(Console(), taken.findings)
    return report.exit_code(taken.findings)


if __name__ == "__main__":
    sys.exit(main())
