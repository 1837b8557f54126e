"""The commands of a document, taken apart as by a shell; whether each is one that there is, without doing it."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from lab.engine import build

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[3]
BLOCK = re.compile(r"(?:^ *<!-- run by ([^>]*) -->\n)?^ *```sh\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
WHOLE_PAGE = re.compile(r"^<!-- each block run by ([^>]*) -->$", re.MULTILINE)
BLOCKS = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
# What the sentences tell people to type begins with one of these.
PROGRAMS = (
    r"scripts/\w+\.\w+", r"\.venv/bin/python -m", "make", "pulumi", "eval", "export", "git", "dig", "age-keygen",
    "apt-get", "cat", "certbot", "journalctl", "ssh-add", "ssh-keygen", "systemctl", "timedatectl",
)  # fmt: skip
CODE = re.compile(r"`([^`]+)`")
SPAN = re.compile(rf"(?:{'|'.join(PROGRAMS)})(?: .+)?")
BETWEEN = {"|", "&&", "||", ";"}
TARGETS = set(re.findall(r"(?m)^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Block:
    """One block of commands, and the tests that say they type it."""

    tests: tuple[str, ...]
    lines: tuple[str, ...]


def blocks(text: str) -> list[Block]:
    """Every block of shell commands in a document."""
    page = WHOLE_PAGE.search(text)
    return [
        Block(
            tuple(filter(None, re.split(r",\s*", named or (page[1] if page else "")))),
            tuple(line.strip() for line in body.splitlines() if line.strip()),
        )
        for named, body in BLOCK.findall(text)
    ]


def to_type(page: str, test: str) -> list[tuple[str, ...]]:
    """The lines of each block of `page` that names the file `test`: that file asks with `__file__`, and types them."""
    name = Path(test).resolve().relative_to(CHECKOUT.resolve()).as_posix()
    found = [block.lines for block in blocks((CHECKOUT / page).read_text(encoding="utf-8")) if name in block.tests]
    assert found, f"no block of {page} names {name}"
    return found


def asked_for(test: str) -> set[str]:
    """The pages whose blocks a test's file asks for by `to_type(page, __file__)`."""
    calls = (node for node in ast.walk(ast.parse((CHECKOUT / test).read_text(encoding="utf-8")))
             if isinstance(node, ast.Call) and ast.unparse(node.func) == "to_type")  # fmt: skip
    return {ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.args[1]) == "__file__"}


def codes(text: str) -> list[str]:
    """All that stands as code in the sentences of a document."""
    return [" ".join(code.split()) for code in CODE.findall(BLOCKS.sub("", text))]


def spans(text: str) -> list[str]:
    """Every command in the sentences of a document."""
    return [code for code in codes(text) if SPAN.fullmatch(code)]


def commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line, those in `$(...)` too: comments, redirections and variables are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for token in lexer:
        for inner in re.findall(r"\$\((.*)\)", token):
            yield from commands(inner)
        if token in BETWEEN:
            yield plain(words)
            words = []
        else:
            words.append(token)
    yield plain(words)


def plain(words: list[str]) -> list[str]:
    """Without what is not the command's own: `<` and what follows, leading assignments, and `eval` of another one."""
    for sign in ("<", ">", ">>"):
        words = words[: words.index(sign)] if sign in words else words
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return [] if words[:1] == ["eval"] else words


def check(words: list[str]) -> None:
    """Whether a command is one that there is, with options that it has; other programs than ours are not judged."""
    program, *arguments = words or [""]
    if program == "scripts/setup.sh":
        assert arguments == ["program"]
    elif program.startswith("scripts/"):
        assert (CHECKOUT / program).stat().st_mode & 0o111, f"{program} cannot be run"
        if arguments and arguments != ["--help"]:
            parse(f"scripts.{Path(program).stem}", arguments)
    elif program == "make":
        assert set(arguments) <= TARGETS
    elif program == "pulumi":
        _check_engine(arguments)
    elif program == ".venv/bin/python":
        assert arguments[0] == "-m"
        assert importlib.util.find_spec(arguments[1])
        if arguments[2:]:
            parse(arguments[1], arguments[2:])


def _check_engine(arguments: list[str]) -> None:
    named = [*takewhile(re.compile("[a-z]").match, arguments)][:2]
    text = _engine_help(*named)
    names = re.findall(r"(?m)^Usage:\n  pulumi ?((?:[a-z-]+ ?)*)", text)[0].split()
    also = re.findall(r"(?m)^Aliases:\n  (.+)$", text)
    assert names[:-1] == named[:-1], f"pulumi has no {named}"
    assert not named or named[-1] in {*names[-1:], *", ".join(also).split(", ")}, f"pulumi has no {named}"
    options = {option for pair in re.findall(r"(?m)^ +(-\w)?,? *(--[\w-]+)", text) for option in pair}
    asked = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    assert asked <= options, f"pulumi {' '.join(named)} has no {asked - options}"


@cache
def _engine_help(*command: str) -> str:
    engine = build.find(CHECKOUT)
    return subprocess.run(
        [engine.pulumi, *command, "--help"], check=True, env={**os.environ, **engine.environment()},
        capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip


class Parsed(BaseException):
    """The program has understood its arguments, and would begin."""


def parse(module: str, arguments: list[str]) -> None:
    """Give a program its arguments and stop; SystemExit when its own parser refuses them."""
    main = importlib.import_module(module).main
    real = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        parser.allow_abbrev = False
        real(parser)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *arguments])
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed):
            main()
