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

from components.settings import SshSettings
from components.settings_explain import check_of
from operations import preflight, report
from operations.arguments import checked, within
from standards import names
from standards.finding import Problems

CODES = "Nothing is changed on the host. exit status: 0 fit, 1 warnings, 2 not fit, 3 could not tell"


def arguments() -> argparse.Namespace:
    """What the person wants."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=CODES)
    add, ip_address, receiver = parser.add_argument, checked(names.ip_address), checked(preflight.receiver)
    add("address", type=ip_address, metavar="ADDRESS", help="the server's IP address, e.g. 192.0.2.10")
    add("--stack", help="the stack that lists it, e.g. prod; default: the one stack file that does, if any")
    add("--user", type=checked(check_of(SshSettings, "user")), help="login name; default: the stack's, else root")
    add("--port", type=within(int, 1, 65535, 22), help="SSH port; default: the stack's, else 22")
    add("--wait", action="store_true", help="wait until it is installed and its first boot is over")
    add("--limit", type=within(float, 1, 1440, 60), default=preflight.LIMIT_MINUTES, metavar="MINUTES",
        help="how long --wait waits, 1 to 1440 minutes (default: 30)")  # fmt: skip
    add("--pin", action="store_true", help="write its host key into the stack's file")
    add("--repin", action="store_true", help="as --pin, and in place of another key")
    add("--receiver", action="append", type=receiver, metavar="HOST", help="mail server to try port 25 of; repeatable")
    add("--resolver", type=ip_address, metavar="ADDRESS", help="resolver to ask; default: the stack's, else our own")
    add("--json", action="store_true", help="print JSON alone on stdout")
    return parser.parse_args()


def main() -> int:
    """Look, show, judge."""
    chosen = arguments()
    try:
        result = preflight.run(preflight.Request.of(chosen), report.progress)
    except Problems as problems:
        return report.trouble(problems, as_json=chosen.json)
    if chosen.json:
        print(json.dumps(preflight.as_json(result), indent=2))
    else:
        preflight.show(Console(), result)
    return report.exit_code(result.findings)


if __name__ == "__main__":
    sys.exit(main())
