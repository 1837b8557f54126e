#!/usr/bin/env python3
"""Stop a user from sending, at once and on every host of a stack, until the same command with --lift."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from operations import report, suspension
from standards.finding import Problems


def main() -> int:
    """0 when every host refuses (or takes) the user's mail now."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="A suspension lies on the hosts: no `pulumi up` undoes it. Mail that is queued already still leaves. "
        "exit status: 0 done on every host, 2 not done everywhere, 3 could not tell",
    )
    parser.add_argument("--stack", required=True, help="the stack that the user sends by, e.g. prod")
    parser.add_argument("user", metavar="USER", help="the user's address, e.g. i@example.com")
    parser.add_argument("--lift", action="store_true", help="let the user send again")
    parser.add_argument("--reason", default="", help="a note for colleagues, shown by scripts/status.py")
    chosen = parser.parse_args()
    try:
        print(suspension.change(chosen.stack, chosen.user, lift=chosen.lift, reason=chosen.reason))
    except Problems as problems:
        return report.trouble(problems, as_json=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
