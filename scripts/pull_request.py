#!/usr/bin/env python3
"""Preview a stack for its reviewers, apply exactly the reviewed plan, and see what others changed in DNS."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)

from operations import plans, report
from operations.dns import CouldNotTell
from operations.explain_preview import ANY, RISKS
from standards.finding import Problems


def risks(text: str) -> list[str]:
    """Risks by their ids, separated by blanks."""
    if unknown := sorted({*text.split()} - {*RISKS, ANY}):
        raise argparse.ArgumentTypeError(f"no such risk: {', '.join(unknown)}; scripts/explain_preview.py -h lists all")
    return text.split()


def arguments() -> argparse.Namespace:
    """What the person, or the workflow, wants."""
    parser = report.Arguments(description=__doc__, epilog="exit status: 0 done, 2 refused or risk, 3 could not tell")
    verbs = parser.add_subparsers(dest="verb", required=True)
    preview = verbs.add_parser("preview", help="write a preview for readers and its sealed plan into a folder")
    preview.add_argument("--fail-on", type=risks, default=[], metavar="'RISK ...'", help="end with 2 for these")
    up = verbs.add_parser("up", help="apply a sealed plan, if nothing has changed since")
    up.add_argument("--plan", required=True, type=Path, metavar="FILE")
    drift = verbs.add_parser("drift", help="write what differs from what was applied into a folder")
    for verb in (preview, up, drift):
        verb.add_argument("--stack", required=True)
    for verb in (preview, drift):
        verb.add_argument("--into", required=True, type=Path, metavar="FOLDER")
    return parser.parse_args()


def main() -> int:
    """Do it, and say what came of it."""
    chosen = arguments()
    try:
        if chosen.verb == "up":
            return plans.apply(chosen.stack, chosen.plan)
        if chosen.verb == "drift":
            found = plans.drift(chosen.stack, chosen.into)
        else:
            found = plans.preview(chosen.stack, chosen.into, chosen.fail_on)
    except (Problems, CouldNotTell) as trouble:
        return report.trouble(trouble, as_json=False)
    report.write(found.markdown)
    return found.status if found.status > report.WARNINGS else report.OK


if __name__ == "__main__":
    sys.exit(main())
