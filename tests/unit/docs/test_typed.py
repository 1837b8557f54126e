"""Who types the commands of the pages: each is typed by a test as it stands, or stands here with the reason why not.

A block is typed by the tests that the comment above it names, a sentence's command also by a file whose `TYPED` has it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.lab import test_demo, test_main_job
from tests.unit.docs import test_engine_commands, test_own_machine
from tests.unit.docs.commands import SPAN, asked_for, blocks, codes, commands
from tests.unit.docs.pages import INLINE, LINES, TEXTS

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCKS = [(page, block) for page, text in TEXTS.items() for block in blocks(text)]
CLAIMS = sorted({(page, test) for page, block in BLOCKS for test in block.tests})
TYPED = [*test_own_machine.TYPED, *test_engine_commands.TYPED, *test_main_job.TYPED, *test_demo.TYPED]
# What no test types, and why.
UNTYPED = {
    "apt-get install -y git make": "it installs what the tests were cloned and started with",
    "certbot revoke --cert-path old.pem --reason keycompromise": "it asks a CA of the internet",
    "dig +short TXT _mta-sts.example.com": "it asks the internet",
    "export PULUMI_BACKEND_URL=s3://my-bucket?region=eu-central-1": "there is no such bucket",
    "make test": "it runs the tests",
    "make lint": "`make test` runs it",
    "make preview-check": "it runs a test",
    "make sbom": "tests/lab/test_supply_chain.py judges what it writes",
    "make setup": "it would install anew what the tests run with",
    "scripts/setup.sh program": "it would install anew what the tests run with",
    "scripts/new_stack.py prod": "it asks a person; the guide's test types it with the answers as options",
    "scripts/new_stack.py prod --backend s3://my-bucket?region=eu-central-1": "it asks a person, and S3 for its bucket",
    ".venv/bin/python -m bench.hook_cost": "it measures for minutes, beside nothing else",
    ".venv/bin/python -m bench.token_logins": "it measures for minutes, beside nothing else",
    ".venv/bin/python -m bench.run_cost": "it measures for minutes, beside nothing else",
    ".venv/bin/python -m components.chasquid.build --arch amd64 --go PATH": "scripts/setup.sh does the same",
}


def same(words: list[str]) -> tuple[str, ...]:
    """A command whatever the order of its words."""
    return (words[0], *sorted(words[1:]))


def is_a_mention(words: list[str]) -> bool:
    """Whether a sentence names a program alone, and nothing to type."""
    return len(words) == 1 or (words[0] == "pulumi" and not [word for word in words if word.startswith("-")])


def typed() -> set[tuple[str, ...]]:
    """Every command that a test types."""
    lines = [line for _, block in BLOCKS if block.tests for line in block.lines]
    return {same(words) for line in (*lines, *TYPED) for words in commands(line) if words}


def left() -> Iterator[tuple[str, str]]:
    """Every command that no test types, with its page."""
    known = typed()
    found = [(page, words) for page, line in LINES for words in commands(line)]
    found += [(page, words) for page, line in INLINE for words in commands(line) if words and not is_a_mention(words)]
    yield from ((page, " ".join(words)) for page, words in found if words and same(words) not in known)


@pytest.mark.parametrize(("page", "test"), CLAIMS)
def test_a_file_that_is_said_to_type_the_blocks_of_a_page_asks_for_them(page: str, test: str) -> None:
    assert page in asked_for(test), f"{test} has no `to_type({page!r}, __file__)`"


def test_no_command_with_an_option_is_overlooked_in_a_sentence() -> None:
    found = [(page, code) for page, text in TEXTS.items() for code in codes(text)
             if re.match(r"\w[\w./-]* (.+ )?-", code) and not SPAN.fullmatch(code)]  # fmt: skip
    assert found == [], "PROGRAMS in commands.py lacks its program"


def test_each_command_of_the_pages_is_typed_by_a_test_or_it_is_said_why_not() -> None:
    assert [(page, command) for page, command in left() if command not in UNTYPED] == []


def test_no_reason_is_left_of_a_command_that_is_gone_or_typed() -> None:
    assert {command for _, command in left()} == set(UNTYPED)
