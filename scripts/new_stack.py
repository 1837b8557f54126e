#!/usr/bin/env python3
"""Make a stack: a few questions, a look at the zone, and a complete settings file with encrypted secrets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from operations import interview, new_stack, report
from operations.dns import CouldNotTell
from standards.finding import Problems

EPILOG = (
    "A terminal is asked for what is left out. Else domain, both tokens (the first may be in CLOUDFLARE_API_TOKEN), an "
    "address, user and forward-to are needed; else smtp.DOMAIN, forward-to, letsencrypt, root and amd64 are taken. "
    "Nothing is changed in DNS or on a host. exit status: 0 written, 2 failures, 3 could not tell, 4 not confirmed"
)
NOT_CONFIRMED = 4


def arguments() -> argparse.Namespace:
    """Flags for every question; tokens come from files, so that no process list shows them."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    parser.add_argument("stack", help="the name of the stack, e.g. prod: writes Pulumi.prod.yaml")
    for question in interview.QUESTIONS:
        told = f"{question.text}{f', e.g. {question.example}' if question.example else ''}".replace("%", "%%")
        parser.add_argument(question.option, dest=question.flag, help=told)
    parser.add_argument("--base-url", help="another base URL of the Cloudflare API")
    parser.add_argument(
        "--yes", action="store_true", help="replace the file of a stack that was never deployed without asking"
    )
    return parser.parse_args()


def main() -> int:
    """Ask, look, write, and say what comes next."""
    chosen, here = arguments(), sys.stdin.isatty()
    try:
        answers = interview.answers(vars(chosen), interactive=here)
        path = new_stack.path_of(answers.stack)
        if not (chosen.yes or new_stack.is_free(path) or (here and interview.confirms(f"replace {path.name}?"))):
            print(f"{path.name} is there and not the shipped example; it was left as it is")
            print("edit it, or replace it with --yes, which takes a stack that was never deployed")
            return NOT_CONFIRMED
        draft = new_stack.draft(answers, *new_stack.look(answers))
        new_stack.write(draft, lambda line: report.progress(f"... {line}"))
        print(interview.told(answers, draft))
    except (Problems, CouldNotTell) as trouble:
        return report.trouble(trouble, as_json=False)
    except EOFError:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
