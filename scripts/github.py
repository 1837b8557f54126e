#!/usr/bin/env python3
"""In a job of GitHub Actions: tell a pull request what a preview said, keep the issue about drift, find a plan."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from operations.github import GitHubError, Repository


def arguments() -> argparse.Namespace:
    """What the workflow wants."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="exit status: 0 done, 3 GitHub did not do it")
    verbs = parser.add_subparsers(dest="verb", required=True)
    comment = verbs.add_parser("comment", help="write or renew one comment per report on a pull request")
    comment.add_argument("number", type=int, metavar="NUMBER", help="the pull request's")
    drift = verbs.add_parser("drift", help="open, renew or close the issue of each report")
    for verb in (comment, drift):
        verb.add_argument("reports", nargs="+", type=Path, metavar="report.json")
    plan = verbs.add_parser("find-plan", help="write run=ID of the run that kept this artifact to $GITHUB_OUTPUT")
    plan.add_argument("artifact", metavar="NAME")
    plan.add_argument("commit", metavar="COMMIT", help="what is deployed; its own runs count, and its pull request's")
    return parser.parse_args()


def main() -> int:
    """Do it, and print where it can be seen."""
    chosen = arguments()
    try:
        repository = Repository.of_job()
        if chosen.verb == "find-plan":
            with open(os.environ.get("GITHUB_OUTPUT", "/dev/stdout"), "a", encoding="utf-8") as output:
                print(f"run={repository.run_with(chosen.artifact, chosen.commit)}", file=output)
            return 0
        for path in chosen.reports:
            report = json.loads(path.read_text(encoding="utf-8"))
            tell = repository.tell_drift if chosen.verb == "drift" else lambda it: repository.comment(chosen.number, it)
            print(f"{report['stack']}: {tell(report) or 'as its settings say'}")
    except GitHubError as error:
        print(f"::error::{error}" if "GITHUB_ACTIONS" in os.environ else error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
