#!/usr/bin/env python3
"""Explain what `pulumi preview --json` or a saved plan would change, as Markdown for a reviewer, with its risks."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)

from operations import report
from operations.dns import CouldNotTell
from operations.explain_preview import ANY, RISKS, explain, listed, text_of

CODES = (
    "exit status: 0 no risks, 1 risks, 2 a risk named by --fail-on, "
    "3 could not tell (no preview, one that failed or ended early, a wrong command line)"
)


def arguments() -> argparse.Namespace:
    """What the person wants."""
    parser = report.Arguments(
        description=__doc__,
        epilog=f"{CODES}\n\nrisks:\n{listed()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="?", default="-", metavar="FILE", help="a preview or plan; default: stdin")
    parser.add_argument(
        "--plan", metavar="FILE", help="what the same preview saved (--save-plan=FILE): judges the stack's outputs, too"
    )
    parser.add_argument(
        "--fail-on", action="append", default=[], choices=[*RISKS, ANY], metavar="RISK",
        help="end with 2 when the preview has this risk, or any; may be repeated",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON alone on stdout")
    return parser.parse_args()


def main() -> int:
    """Read, explain, judge."""
    chosen = arguments()
    try:
        text = text_of(chosen.file)
        found = explain(text)  # first: until here the pipe's other end writes the plan, and none if its preview failed
        if chosen.plan:
            found = explain(text, text_of(chosen.plan))
    except CouldNotTell as trouble:
        return report.trouble(trouble, as_json=chosen.json)
    report.write(json.dumps(found.as_json(chosen.fail_on), indent=2) if chosen.json else found.markdown)
    return found.exit_code(chosen.fail_on)


if __name__ == "__main__":
    sys.exit(main())
