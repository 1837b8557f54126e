"""Property values survive the journey between engine and plugins, and differ where they should."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.engine.output import go_quoted
from lab.engine.values import ASSET, SIG, UNKNOWN, changes, has_unknown, plain, reveal, secret, struct

LEAF = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.just(UNKNOWN)
VALUE = st.recursive(LEAF, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


@given(st.dictionaries(st.text(), VALUE))
def test_properties_come_back_as_they_went(props: dict[str, Any]) -> None:
    assert plain(struct(props)) == props


@given(st.dictionaries(st.text(), VALUE))
def test_nothing_differs_from_itself(props: dict[str, Any]) -> None:
    assert list(changes(props, props)) == []


@given(st.text(), VALUE)
def test_a_secret_is_revealed_at_any_depth_and_marked_once(key: str, value: Any) -> None:
    marked = {key: [secret(secret(value))]}
    assert reveal(marked) == {key: [value]}


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({"a": 1}, {"a": 2}, [("a", "UPDATE")]),
        ({"a": 1}, {}, [("a", "DELETE")]),
        ({}, {"a": 1}, [("a", "ADD")]),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [("a.b", "UPDATE")]),
        ({"a": ["x"]}, {"a": ["y", "z"]}, [("a[0]", "UPDATE"), ("a[1]", "ADD")]),
        ({"a": "x"}, {"a": secret("x")}, [("a", "UPDATE")]),
        ({"a": secret({"b": 1})}, {"a": secret({"b": 2})}, [("a", "UPDATE")]),
        ({"a": {SIG: ASSET, "hash": "1"}}, {"a": {SIG: ASSET, "hash": "2"}}, [("a", "UPDATE")]),
    ],
)
def test_changes_name_the_paths_that_differ(old: Any, new: Any, found: Any) -> None:
    assert list(changes(old, new)) == found


def test_an_unknown_part_makes_the_whole_unknown() -> None:
    assert has_unknown({"a": [secret(UNKNOWN)]})
    assert not has_unknown({"a": ["known"]})


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ('say "hi"\n\t\\', '"say \\"hi\\"\\n\\t\\\\"'),
        ("\x00\x7f", '"\\x00\\x7f"'),
        ("ü€", '"ü€"'),
        ("\u200b", '"\\u200b"'),
    ],
)
def test_scripts_are_quoted_as_go_does(text: str, quoted: str) -> None:
    assert go_quoted(text) == quoted
