"""What an explanation shows of a text: what differs, in Markdown that nothing breaks out of, and without a secret."""

from __future__ import annotations

import difflib
import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from operations.explain_preview import diffs
from operations.explain_preview.diffs import diff
from operations.explain_preview.markdown import LIMIT, WHOLE, Section, code, contrast, fence, render, words
from operations.explain_preview.secrecy import Scrubber

MARKDOWN = MarkdownIt("gfm-like", {"linkify": False, "html": True})


def inline(text: str) -> list[Any]:
    return [child for token in MARKDOWN.parse(text) for child in token.children or []]


# Long texts that differ little, and what may look the same though it is not.
ALIKE = st.lists(st.sampled_from(["x" * 500, "a", "b", "\\", "u200b", "\u200b", "\t", "    ", "\r", "\x0b", "`", "\n"]),
                 max_size=6).map("".join)  # fmt: skip


@given(ALIKE, ALIKE)
@example("\u200b", "\\u200b")
def test_values_that_differ_look_different(before: str, after: str) -> None:
    old, new = (code(side, WHOLE) for side in contrast(before, after))
    assert (old == new) == (before == after)


@given(ALIKE, ALIKE)
@example("\u200b", "\\u200b")
@example("a\tb", "a    b")
@example("a\rb", "a\nb")
@example("a", "a\n")
def test_lines_that_differ_look_different(before: str, after: str) -> None:
    lines = fence(diff("x", before, after)).split("\n")[1:-1]
    gone, come = ([line[1:] for line in lines[2:] if line[0] == sign] for sign in "-+")
    assert (gone == come) == (before == after)


def patched(before: list[str], shown: list[str]) -> list[str]:
    """The lines that come of a diff, as `patch` reads it."""
    made, at = [], 0
    for line in shown[2:]:
        if line.startswith("@@"):
            start, _, length = line.split()[1].removeprefix("-").partition(",")
            begin = int(start) - (length != "0")
            made += before[at:begin]
            at = begin
        elif line.startswith("+"):
            made.append(line[1:])
        else:
            assert before[at] == line[1:]
            made += [line[1:]] * line.startswith(" ")
            at += 1
    return made + before[at:]


TEXT = st.lists(st.sampled_from("aaab0123456789"), max_size=40)


@given(TEXT, TEXT, st.sampled_from([2, 5, 500]), st.sampled_from([4, 5_000]))
def test_a_diff_makes_the_one_of_the_other_however_the_texts_are_parted(
    before: list[str], after: list[str], piece: int, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffs, "PIECE", piece)
        patch.setattr(diffs, "MOST", most)
        shown = diffs.diff("x", "".join(f"{line}\n" for line in before), "".join(f"{line}\n" for line in after))
    assert patched(before, shown) == after


def test_a_long_file_is_compared_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    def limits(hour: int) -> str:
        users = {f"u{at}@example.com": {"minute": 60, "hour": hour, "day": 1000} for at in range(4000)}
        return json.dumps(users, indent=1)

    compared: list[int] = []
    matcher = difflib.SequenceMatcher

    def counted(_: None, one: list[str], other: list[str]) -> Any:
        compared.append(len(one) + len(other))
        return matcher(None, one, other)

    monkeypatch.setattr(difflib, "SequenceMatcher", counted)
    shown = diffs.diff("policy.json", limits(300), limits(400))
    assert shown[3:8] == [" {", '  "u0@example.com": {', '   "minute": 60,', '-  "hour": 300,', '+  "hour": 400,']
    assert max(compared) < 3 * diffs.PIECE
    assert shown[-1].endswith(" more lines")


def test_a_long_file_without_a_line_to_part_it_at_is_not_compared_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difflib, "SequenceMatcher", lambda *_: pytest.fail("it was compared"))
    shown = diffs.diff("x", "a\nb\n" * 20_000, "b\na\n" * 20_001)
    assert shown[2] == "@@ -1,40000 +1,40002 @@"
    assert shown[-1] == f"# ... {80_003 - 158} more lines"


def test_only_what_both_have_is_cut() -> None:
    same = "x" * 500
    head, tail = f" ...(441 characters)... {'x' * 59} ", f" {'x' * 59} ...(441 characters)... "
    assert contrast(f"{same} old {same}", f"{same} new {same}") == (f"{head}old{tail}", f"{head}new{tail}")


@given(st.text())
def test_a_code_span_shows_its_value_and_nothing_else(value: str) -> None:
    [only, *others] = (
        inline(f"x{code(value)}")[1:] if code(value) != "(empty)" else [SimpleNamespace(type="code_inline")]
    )
    assert (only.type, others) == ("code_inline", [])


@given(st.text(alphabet="ab `|<\\*", min_size=1, max_size=30))
def test_a_code_span_keeps_every_character(value: str) -> None:
    assert inline(f"x{code(value)}")[1].content == value


@pytest.mark.parametrize("unseen", ["\u202e", "\u200b", "\u3164", "\u115f", "\ufe0f", "\U000e0041", "\u2800", "\x9b"])
def test_what_cannot_be_seen_is_shown_as_its_number(unseen: str) -> None:
    number = f"\\u{ord(unseen):04x}"
    assert code(f"a{unseen}b") == f"`a{number}b`"
    assert f"+a{number}b" in fence([f"+a{unseen}b"])


@given(st.lists(st.text(alphabet="`~ \n<ab\t"), min_size=1, max_size=6))
def test_a_fenced_block_is_left_only_at_its_end(lines: list[str]) -> None:
    tokens = MARKDOWN.parse(f"{fence(lines)}\n\nafter")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]


@given(st.text(alphabet="ab .:/w@#*_[]()<>`|&;!-1"))
def test_words_of_others_are_text_or_code(value: str) -> None:
    for before in ("x ", "- "):
        found = {token.type for token in inline(f"{before}{words(value)}")}
        assert found <= {"text", "code_inline"}


def test_a_secret_that_is_seen_later_is_taken_out_from_then_on() -> None:
    scrub = Scrubber()
    scrub.add("canary-0123")
    assert scrub("canary-0123 canary-4567") == "[secret] canary-4567"
    scrub.add("canary-4567")
    assert scrub("canary-0123 canary-4567") == "[secret] [secret]"


@pytest.mark.parametrize("secret", ["canary-0123`", "canary-0123` - ``why", "` - ``why``"])
def test_a_secret_cannot_take_away_the_end_of_a_code_span(secret: str) -> None:
    scrub = Scrubber()
    scrub.add(secret)
    shown = scrub("`canary-0123` - ``why``")
    assert "[secret]" in shown
    assert re.findall("`+", shown) == ["`", "`", "``", "``"]


@pytest.mark.parametrize("text", ["---", "- a", "1. x", "2) x", "GH-12", "see gh-12", "a :smile: b", ":-1:", ""])
def test_words_that_act_as_markdown_are_code(text: str) -> None:
    assert words(text) == code(text)
    [item, *_] = [token for token in MARKDOWN.parse(f"- {words(text)}") if token.type == "inline"]
    assert [child.type for child in item.children or [] if child.content] == ["text" if text == "" else "code_inline"]


@pytest.mark.parametrize("text", ["A note: read it, e.g. once (RFC 7208)", "Says what receivers do: or not"])
def test_words_that_do_nothing_are_text(text: str) -> None:
    assert words(text) == text


@given(st.integers(700, 3000), st.lists(st.integers(1, 400), max_size=30))
def test_what_is_rendered_never_exceeds_its_limit(limit: int, sizes: list[int]) -> None:
    sections = [Section("S", "things", ["x" * size for size in sizes])] * 3
    assert len(render("## head", sections, limit)) <= limit
    assert LIMIT < 65_000
