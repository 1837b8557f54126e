"""docs/faq.md quotes what the program says: each quoted text stands in the code today."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
FAQ = " ".join((CHECKOUT / "docs/faq.md").read_text(encoding="utf-8").split())
QUOTED = re.findall(r'\*\*"([^"]+)"\*\*', FAQ)
ROOMS = ("components", "operations", "standards", "scripts", "lab/engine")


@cache
def said() -> list[str]:
    """Every text of the program, the constant parts of an f-string as one with `...` between."""
    texts: list[str] = []
    for room in ROOMS:
        for path in sorted((CHECKOUT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values]
                    texts.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return texts


def is_in(quoted: str, text: str) -> bool:
    """Whether the quoted words stand in `text` in their order, with anything where `...` is."""
    place = 0
    for part in quoted.split("..."):
        place = text.find(part, place) + len(part)
        if place < len(part):
            return False
    return True


@pytest.mark.parametrize("quoted", QUOTED)
def test_each_quoted_text_is_one_that_the_program_says(quoted: str) -> None:
    assert len(max(quoted.split("..."), key=len)) > 7, "too little of it is fixed to be looked for"
    assert any(is_in(quoted, text) for text in said())


def test_the_commonest_failures_are_told() -> None:
    assert len(QUOTED) >= 50


def test_a_text_that_nobody_says_would_be_found() -> None:
    assert not any(is_in("the host refuses ...; put on ...", text) for text in said())
