"""What differs between two texts of a file, line by line: readable, and without what looks like a secret."""

from __future__ import annotations

import bisect
import difflib
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from operations.explain_preview.markdown import LONGEST, contrast, cut
from operations.explain_preview.secrecy import HIDDEN, in_clear

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LINES: Final = 160  # shown of one file
PIECE: Final = 500  # lines that are compared at once, where the texts have a line to part them at
MOST: Final = 5_000  # and where they have none: difflib's time grows with the square


def diff(path: str, before: str | None, after: str | None) -> list[str]:
    """A unified diff, cut after LINES lines; of a long line what differs is shown."""
    found = list(_hunks(_cleaned(before), _cleaned(after)))
    hidden = max(0, len(found) - LINES + 2)
    shown = found[: LINES - 2] if hidden > 1 else found
    old, new = ("/dev/null" if text is None else path for text in (before, after))
    return [f"--- {old}", f"+++ {new}", *_readable(shown), *([f"# ... {hidden} more lines"] if hidden > 1 else [])]


def _hunks(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    for (old, new), (old_end, new_end) in itertools.pairwise(_partings(before, after)):
        gone, come = before[old:old_end], after[new:new_end]
        if gone == come:
            continue
        groups: Iterable[list[tuple[str, int, int, int, int]]] = [[("replace", 0, len(gone), 0, len(come))]]
        if len(gone) + len(come) <= MOST:
            groups = difflib.SequenceMatcher(None, gone, come).get_grouped_opcodes()
        for group in groups:
            (_, i, _, j, _), (_, _, i_end, _, j_end) = group[0], group[-1]
            yield f"@@ -{_range(old + i, i_end - i)} +{_range(new + j, j_end - j)} @@"
            for tag, i1, i2, j1, j2 in group:
                yield from (f"{' ' if tag == 'equal' else '-'}{line}" for line in gone[i1:i2])
                yield from (f"+{line}" for line in come[j1:j2] if tag != "equal")


def _range(start: int, length: int) -> str:
    """As `diff -u` counts lines: from 1, and from the line before where there is none."""
    return f"{start + 1}" if length == 1 else f"{start + bool(length)},{length}"


def _partings(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where both texts are parted, from their beginnings to their ends: at lines that each of them has once."""
    yield 0, 0
    once = set.intersection(*({line for line, n in Counter(text).items() if n == 1} for text in (before, after)))
    places = {line: at for at, line in enumerate(after) if line in once}
    last = 0
    for old, new in _rising([(at, places[line]) for at, line in enumerate(before) if line in places]):
        if old - last >= PIECE:
            yield old, new
            last = old
    yield len(before), len(after)


def _rising(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """As many of the pairs as rise on both sides: the longest rising subsequence of the second."""
    ends: list[int] = []  # the least second with which so many pairs rise
    chains: list[tuple[tuple[int, int], Any]] = []
    for pair in pairs:
        at = bisect.bisect_left(ends, pair[1])
        chain = (pair, chains[at - 1] if at else None)
        ends[at : at + 1] = [pair[1]]
        chains[at : at + 1] = [chain]
    found = []
    link: Any = chains[-1] if chains else None
    while link:
        found.append(link[0])
        link = link[1]
    return found[::-1]


def _readable(lines: Iterable[str]) -> Iterator[str]:
    """Long lines cut: what stays at its end, what is exchanged for another only where both are alike."""
    for mark, run in itertools.groupby(lines, lambda line: line[0] in "-+"):
        if not mark:
            yield from map(cut, run)
            continue
        sides = list(run)
        gone = [line for line in sides if line[0] == "-"]
        come = [line for line in sides if line[0] == "+"]
        pairs = [contrast(old[1:], new[1:]) for old, new in zip(gone, come, strict=False)]
        yield from (f"-{old}" for old, _ in pairs)
        yield from (cut(line, LONGEST) for line in gone[len(pairs) :])
        yield from (f"+{new}" for _, new in pairs)
        yield from (cut(line, LONGEST) for line in come[len(pairs) :])


def _cleaned(text: str | None) -> list[str]:
    """The lines of a file, those that look like a secret hidden."""
    lines = (text or "").split("\n")  # and at nothing else: another sign for the end of a line is a difference
    lines = lines[:-1] if not lines[-1] else [*lines, "\\ no newline at the end"]
    secret = {line for _, found in in_clear([text or ""]) for line in found.split("\n")}
    return [HIDDEN if line in secret or any(in_clear([line])) else line for line in lines]
