"""The commands of a document, taken apart as by a shell; what a script makes of its arguments, without doing it."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[3]
BLOCK = re.compile(r"(?:^<!-- run by ([^>]*) -->\n)?^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
BETWEEN = {"|", "&&", "||", ";"}


@dataclass(frozen=True)
class Block:
    """One block of commands, and the tests that say they run it."""

    tests: tuple[str, ...]
    lines: tuple[str, ...]


def blocks(text: str) -> list[Block]:
    """Every block of shell commands in a document."""
    found = BLOCK.findall(text)
    return [Block(tuple(filter(None, re.split(r",\s*", tests))), tuple(filter(None, body.splitlines())))
            for tests, body in found]  # fmt: skip


def commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line: comments, redirections and variables set for it are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for token in lexer:
        if token in BETWEEN:
            yield words
            words = []
        else:
            words.append(token)
    yield words


def plain(words: list[str]) -> list[str]:
    """Without what is not the command's own: `<` and what follows, and leading assignments."""
    for sign in ("<", ">", ">>"):
        words = words[: words.index(sign)] if sign in words else words
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


class Parsed(BaseException):
    """The script has reached the point where it knows its arguments, and would begin."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.options = {option for action in parser._actions for option in action.option_strings}
        super().__init__()


def parse(script: str, arguments: list[str] | None) -> set[str]:
    """Give `scripts/<script>` its arguments and stop; SystemExit when its own parser refuses them.

    All options it has; with None as arguments that alone.
    """
    module = importlib.import_module(f"scripts.{Path(script).stem}")
    real = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser) -> NoReturn:
        if arguments is not None:
            real(parser)
        raise Parsed(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *(arguments or ())])
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        try:
            module.main()
        except Parsed as parsed:
            return parsed.options
    raise AssertionError(f"{script} did not read its arguments")
