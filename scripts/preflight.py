#!/usr/bin/env python3
"""Say whether a server is fit for the mail server; with --wait until it is installed, with --pin keep its host key."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from rich.console import Console

from operations import preflight, report
from standards.finding import Problems

CODES = "Nothing is changed on the host. exit status: 0 fit, 1 warnings, 2 not fit, 3 could not tell"


def arguments() -> argparse.Namespace:
    """What the person wants."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=CODES)
    parser.add_argument("address", metavar="ADDRESS", help="the server's IP address, e.g. 192.0.2.10")
    parser.add_argument("--stack", help="the stack that lists it; default: the one stack file that does, if any")
    parser.add_argument("--user", help="login name; default: the stack's, else root")
    parser.add_argument("--port", type=int, help="SSH port; default: the stack's, else 22")
    parser.add_argument("--wait", action="store_true", help="wait until it is installed and its first boot is over")
    parser.add_argument("--limit", type=float, default=preflight.LIMIT_MINUTES, help="minutes to wait (default: 30)")
    parser.add_argument("--pin", action="store_true", help="write its host key into the stack's file")
    parser.add_argument("--repin", action="store_true", help="as --pin, and in place of another key")
    parser.add_argument("--receiver", action="append", metavar="HOST", help="mail server to try port 25 of; repeatable")
    parser.add_argument("--resolver", metavar="ADDRESS", help="default: the stack's, else this machine's")
    parser.add_argument("--json", action="store_true", help="print JSON alone on stdout")
    return parser.parse_args()


def main() -> int:
    """Look, show, judge."""
    chosen = arguments()
    try:
        result = preflight.run(preflight.Request.of(chosen), report.say)
    except Problems as problems:
        return report.trouble(problems, as_json=chosen.json)
    except KeyboardInterrupt:
        return 130
    if chosen.json:
        print(json.dumps(preflight.as_json(result), indent=2))
    else:
        preflight.show(Console(), result)
    return report.exit_code(result.findings)


if __name__ == "__main__":
    sys.exit(main())
