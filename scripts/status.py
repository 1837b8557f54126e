#!/usr/bin/env python3
"""Show how the mail server of a stack is: services, queue, certificates, updates, suspended users, what each sent."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from rich.console import Console

from operations import journal, report, stacks, status
from standards.finding import Problems

CODES = (
    "exit status: 0 all is well (and after --follow), 1 warnings (somebody is suspended, a message is stuck, a "
    "renewal failed, ...), 2 failures, 3 could not tell"
)


def main() -> int:
    """Ask every host, show, judge."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=CODES)
    parser.add_argument("--stack", required=True, help="the stack to look at, e.g. prod")
    parser.add_argument("--follow", action="store_true", help="show the services' journals as they come, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print JSON alone on stdout, with --follow one line each")
    chosen = parser.parse_args()
    try:
        settings = stacks.settings(chosen.stack)
        if chosen.follow:
            journal.follow(settings, journal.as_json if chosen.json else journal.as_line)
        pictures, trouble = status.read(settings)
    except Problems as problems:
        return report.trouble(problems, as_json=chosen.json and not chosen.follow)
    except KeyboardInterrupt:
        if chosen.follow:
            return report.OK
        raise
    found = [*trouble, *status.findings(pictures)]
    if chosen.json:
        print(json.dumps({"hosts": pictures, "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        status.show(Console(), pictures)
        report.show(Console(), found)
    return report.exit_code(found)


if __name__ == "__main__":
    sys.exit(main())
