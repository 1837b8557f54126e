"""README's first command: `make up`, again, what it says comes next, and `make down`, which leaves nothing."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from lab import demo
from lab.folders import CHECKOUT, Folders
from lab.lifecycle import status
from lab.shell import run

if TYPE_CHECKING:
    from collections.abc import Iterator

UP, DOWN, BY_HAND = TYPED = ("make up", "make down", 'eval "$(.venv/bin/python -m lab.demo env)"')


def typed(line: str) -> str:
    """What a line in a shell of one's own says; it has to succeed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PULUMI_"))}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=CHECKOUT, env=own, text=True, check=False, timeout=500,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def is_new() -> Iterator[bool]:
    """Whether the dev stack is this test's; one that somebody works with is left as it is."""
    was_there = status(demo.STACK)["up"]
    yield not was_there
    if not was_there:
        typed(DOWN)


def test_make_up_ends_with_both_messages_trusted_and_a_second_one_changes_nothing(is_new: bool) -> None:
    first, second = typed(UP), typed(UP)
    for said in (first, second):
        for port in demo.PORTS:
            assert f"through port {port}" in said
        assert len(re.findall(r"DMARC +\W pass", said)) == len(demo.PORTS)
    assert re.search(r"\+ [1-9]\d* created", first) or not is_new
    assert re.search(r"\n *[1-9]\d* unchanged\n", second)
    assert not re.search(r"\d (created|updated|replaced|deleted)", second)


@pytest.mark.usefixtures("is_new")
def test_what_make_up_says_comes_next_works_as_it_is_written() -> None:
    told = dict(re.findall(r"^  (\S[\w ]*?)  +(\S.*)$", typed(UP), re.MULTILINE))
    assert "lab dev: up" in typed(told["look around"])
    assert told["use pulumi"].startswith(f"{BY_HAND} && pulumi ")
    assert "unchanged" in typed(f"{told['use pulumi']} --expect-no-changes")
    assert "DKIM" in typed(told["another mail"])
    assert told["take it down"] == DOWN


def test_make_down_leaves_nothing(is_new: bool) -> None:
    if not is_new:
        pytest.skip("somebody works with the dev stack of this machine")
    assert re.search(r"- [1-9]\d* deleted", typed(DOWN))
    assert not Folders(demo.STACK).root.exists()
    assert f"mailroom-{demo.STACK}" not in run("ip", "netns", "list") + run("nft", "list", "tables")
    assert "nothing to remove" in typed(DOWN)
