#!/usr/bin/env python3
"""Send a test message as a user of a stack and show how it was received; or try what Gmail does; or explain mail."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from rich.console import Console

from operations import report, send_test
from operations.arguments import checked
from operations.dns import CouldNotTell
from standards import names
from standards.finding import Problems

CODES = "exit status: 0 all is well, 1 warnings, 2 failures, 3 could not tell"


def arguments() -> argparse.Namespace:
    """What the person wants."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=CODES)
    parser.add_argument("--stack", help="the stack that sends, e.g. dev")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--to", type=checked(names.email_address), metavar="ADDRESS",
                      help="send to this receiver, e.g. me@gmail.com")  # fmt: skip
    what.add_argument(
        "--as", dest="program", choices=("gmail",), help="log in and confirm as Gmail's Send mail as does"
    )
    what.add_argument("--explain", metavar="FILE", help="explain a received message (- for standard input)")
    parser.add_argument("--from", dest="sender", metavar="USER", help="who sends; default: the first with a password")
    parser.add_argument("--port", type=int, choices=(465, 587), default=465, help="465: TLS at once; 587: STARTTLS")
    parser.add_argument("--json", action="store_true", help="print JSON alone on stdout")
    chosen = parser.parse_args()
    if not chosen.explain and not chosen.stack:
        parser.error("which stack sends? Say for example --stack prod")
    return chosen


def main() -> int:
    """Do it, print it, judge it."""
    chosen = arguments()
    try:
        told, shown, findings = send_test.work(vars(chosen), report.progress)
    except (Problems, CouldNotTell) as trouble:
        return report.trouble(trouble, as_json=chosen.json)
    if chosen.json:
        print(json.dumps(told, indent=2))
    else:
        shown(Console())
    return report.exit_code(findings)


if __name__ == "__main__":
    sys.exit(main())
