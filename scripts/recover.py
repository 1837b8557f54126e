#!/usr/bin/env python3
"""Take up a stack where a killed `pulumi up` left it; then run `pulumi up` again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from operations import recovery, report
from standards.finding import Problems


def main() -> int:
    """0 when the stack can be used, 2 when somebody is at work on it, 3 when it cannot be read."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="exit status: 0 it can be used, 2 somebody is at work on it, 3 it cannot be read",
    )
    parser.add_argument("--stack", required=True, help="the stack whose run was killed, e.g. prod")
    try:
        recovery.recover(parser.parse_args().stack)
    except Problems as problems:
        return report.trouble(problems, as_json=False)
    print("the stack can be used; now run `pulumi up` again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
