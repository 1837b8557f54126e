#!/usr/bin/env python3
"""Show the records that stand at a stack's names, and take over those that the program would make as well."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from rich.console import Console

from operations import adoption, interview, report
from standards.finding import Problems

CODES = (
    "DNS stays as it is until the next `pulumi up`, which changes what was taken over in its place. exit status: 0 "
    "nothing is left to do, 1 records or settings wait for a yes, 2 conflicts or failures, 3 could not tell"
)


def main() -> int:
    """Look, show, take over what was agreed to, and look again."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=CODES)
    parser.add_argument("--stack", required=True, help="the stack that shall have the records, e.g. prod")
    parser.add_argument("--take", action="append", default=[], metavar="ID",
                        help="take a conflicting record over, too; may be repeated")  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="import and write without asking")
    parser.add_argument("--json", action="store_true", help="print JSON alone on stdout")
    chosen = parser.parse_args()
    try:
        plan = adoption.look(chosen.stack, chosen.take)
        if not chosen.json:
            adoption.show(Console(), plan)
        asks = sys.stdin.isatty() and not chosen.json
        if plan.has_work and (chosen.yes or (asks and interview.confirms("import these and write the settings?"))):
            adoption.carry_out(plan, report.progress)
            plan = adoption.look(chosen.stack)
            report.progress(adoption.told(plan))
    except Problems as problems:
        return report.trouble(problems, as_json=chosen.json)
    except (KeyboardInterrupt, EOFError):
        return 130
    found = plan.findings()
    if chosen.json:
        print(json.dumps({**plan.as_json(), "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        report.show(Console(), found)
    return report.exit_code(found)


if __name__ == "__main__":
    sys.exit(main())
