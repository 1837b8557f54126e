"""Markdown that no value can break out of, and that fits into a comment."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from standards.finding import shows

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT: Final = 64_900  # characters; a comment at GitHub holds 65,536, and a line of the caller's own may come first
LINE: Final = 400  # characters of one value
LONGEST: Final = 4_000  # characters of one that is new or goes as a whole
WHOLE: Final = sys.maxsize
SHARED: Final = 60  # characters shown on each side of what differs
# Not: what begins a list, a rule or another block, links at GitHub, and its `:smile:`.
_PLAIN: Final = re.compile(r"(?!.*(\bwww\.|\bGH-[0-9]|:[A-Za-z0-9-]+:))[A-Za-z][A-Za-z0-9 ,.;:'()-]*", re.IGNORECASE)


def visible(text: str) -> str:
    """`text` on one line: what would act instead of being shown, or shows nothing, is written as its number."""
    return "".join(char if shows(char) else f"\\u{ord(char):04x}" for char in text)


def cut(text: str, limit: int = LINE) -> str:
    """The beginning of a text that is too long, and how long it is."""
    return text if len(text) <= limit else f"{text[: limit - 20]}... ({len(text)} characters)"


def contrast(before: str, after: str, limit: int = LINE) -> tuple[str, str]:
    """Both texts, where they are long cut at what they share at their ends: what differs is always shown."""
    if before != after and visible(before) == visible(after):  # one spells out the number of what the other has
        before, after = (text.replace("\\", "\\\\") for text in (before, after))
    if max(len(before), len(after)) <= limit:
        return before, after
    head = _alike(before, after)
    tail = _alike(before[head:][::-1], after[head:][::-1])
    first, last = max(0, head - SHARED), max(0, tail - SHARED)
    old, new = (f"{_gap(first)}{text[first : len(text) - last]}{_gap(last)}" for text in (before, after))
    return old, new


def _alike(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def _gap(left_out: int) -> str:
    return f" ...({left_out} characters)... " if left_out else ""


def code(value: object, limit: int = LINE) -> str:
    """A code span that shows exactly the value (CommonMark 6.1: nothing is special in it but its own backticks)."""
    text = visible(str(value))
    if not text:
        return "(empty)"
    text = cut(text, limit)
    ticks = "`" * (_longest_run(text) + 1)
    pad = " " if text.strip(" ") and (text[0] in "` " or text[-1] in "` ") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def words(text: str) -> str:
    """A sentence somebody else wrote: as it is while it has nothing Markdown acts on, else as a code span."""
    return text if text.strip() == text and _PLAIN.fullmatch(text) else code(text)


def fence(lines: Sequence[str], language: str = "diff") -> str:
    """A fenced block, its fence longer than any in it (CommonMark 4.5)."""
    shown = [visible(line) for line in lines]
    ticks = "`" * max(3, _longest_run("\n".join(shown)) + 1)
    return "\n".join([f"{ticks}{language}", *shown, ticks])


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


@dataclass(frozen=True)
class Section:
    """A title, what its blocks are called when some are left out (plural), and the blocks, each complete in itself."""

    title: str
    noun: str
    blocks: Sequence[str]
    rank: int = 0  # lower ones get their room first


def render(head: str, sections: Sequence[Section], limit: int = LIMIT) -> str:
    """All sections in their order; blocks that do not fit are left out, and the last sentence says which."""
    room = limit - len(head) - 600  # the last sentence
    fitting: dict[int, list[str]] = {}
    for at, section in sorted(enumerate(sections), key=lambda pair: pair[1].rank):
        left = room - len(section.title) - 8
        fitting[at] = []
        for block in section.blocks:
            if len(block) + 2 <= left:
                fitting[at].append(block)
                left -= len(block) + 2
        if fitting[at]:
            room = left
    parts, missing = [head], []
    for at, section in enumerate(sections):
        if fitting[at]:
            parts.append("\n".join([f"### {section.title}\n", *fitting[at]]).rstrip())
        if dropped := len(section.blocks) - len(fitting[at]):
            missing.append(f"{dropped} of {len(section.blocks)} {section.noun}")
    if missing:
        parts.append(f"**Left out for length:** {', '.join(missing)}. `pulumi preview --diff` shows everything.")
    return "\n\n".join(parts) + "\n"
