#!/usr/bin/env python3
"""Print the hash of a password, to be stored instead of it; or make an application token and print it with its hash.

The password comes from a prompt or from standard input, never from the command line, where everybody sees it.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from operations import report
from standards import passwords
from standards.finding import Invalid

EPILOG = (
    "The hash alone goes to stdout: `scripts/hash_password.py | pulumi config set -s prod --secret --path "
    "'mailroom:passwords[\"i@example.com\"]'` stores it. exit status: 0 done, 1 done with a warning, 2 not done"
)


def main() -> int:
    """Only the hash on stdout, so that it can be piped; what people read on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    parser.add_argument("--token", action="store_true", help="make a token and show it once, on stderr")
    chosen = parser.parse_args()
    try:
        secret = passwords.token(os.urandom(passwords.TOKEN_BYTES)) if chosen.token else asked()
        hashed = passwords.scrypt_hash(passwords.clear(secret), os.urandom(passwords.SALT_BYTES))
    except Invalid as reason:
        print(reason.at("password"), file=sys.stderr)
        return report.FAILURES
    except EOFError:
        return 130
    if chosen.token:
        print(f"token, shown only now: {secret}", file=sys.stderr)
    print(hashed)
    if len(secret) >= passwords.SHORT:
        return report.OK
    print(f"warning: it has fewer than {passwords.SHORT} characters; everybody may guess it at the ports 465 and 587",
          file=sys.stderr)  # fmt: skip
    return report.WARNINGS


def asked() -> str:
    """The password: typed twice at a terminal, else the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    typed = [getpass.getpass("Password: "), getpass.getpass("Again: ")]
    return passwords.same(*typed)


if __name__ == "__main__":
    sys.exit(main())
