"""Records of others merged into ours: who passes and who does not is as it is told; pyspf judges as receivers do."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from standards import spf, spf_merge
from tests.unit.standards.test_spf_tree import World, judged_by_pyspf

if TYPE_CHECKING:
    from collections.abc import Sequence


def test_the_terms_of_a_record_become_the_lines_of_our_settings() -> None:
    text = (
        "v=spf1 +ip4:192.0.2.7/32 a:www.Example.com mx ptr include:_spf.google.com include:_spf.d.test exp=x.test -all"
    )
    assert spf_merge.as_settings([text], "d.test") == {
        "mechanisms": ["ip4:192.0.2.7", "a:www.example.com", "mx"],
        "includes": ["_spf.google.com"],
        "all": "-all",
    }
    assert spf_merge.as_settings(["v=spf1 redirect=_spf.x.test", "v=spf1 +all"], "d.test") == {
        "includes": ["_spf.x.test"],
        "all": "~all",
    }
    assert spf_merge.as_settings(["v=spf1 ?include:a.test -include:b.test ~include:c.test ~all"], "d.test") == {
        "all": "~all"
    }


@pytest.mark.parametrize(
    ("texts", "end"),
    [
        (["v=spf1 ~all", "v=spf1 -all", "v=spf1 ?all"], "-all"),
        (["v=spf1 ?all", "v=spf1 ~ALL"], "~all"),
        (["v=spf1 ?all", "v=spf1 all"], "?all"),
        (["v=spf1 mx"], "~all"),
        (["v=spf1 ?all -all"], "?all"),
    ],
)
def test_of_several_ends_the_strictest_stays_in_whatever_order(texts: Sequence[str], end: str) -> None:
    assert {spf_merge.as_settings(order, "d.test")["all"] for order in (texts, texts[::-1])} == {end}


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("v=spf1 a ptr exp=x.test ~all", ["ptr", "exp=x.test"]),
        ("v=spf1 ?ptr:x.test other=1 +all", ["?ptr:x.test", "other=1", "+all"]),
        ("v=spf1 mx ALL -all", ["ALL"]),
        ("v=spf1 exists:%{i}=.x.test redirect=y.test", []),
        ("v=spf1 mx ~all ptr", []),
    ],
)
def test_what_ours_never_says_is_told(text: str, left_out: list[str]) -> None:
    assert spf_merge.dropped(text) == left_out
    assert spf_merge.missing([text], "v=spf1 a mx ~all", "d.test") == [
        term for term in ("exists:%{i}=.x.test", "include:y.test") if "exists" in text
    ]


@pytest.mark.parametrize(
    ("text", "ours", "end"),
    [
        ("v=spf1 -all", "v=spf1 ~all", "-all"),
        ("v=spf1 ~all", "v=spf1 ?all", "~all"),
        ("v=spf1 ~all", "v=spf1 -all", ""),
        ("v=spf1 -all", "v=spf1 -all", ""),
        ("v=spf1 mx", "v=spf1 ?all", ""),
        ("v=spf1 +all", "v=spf1 ?all", ""),
    ],
)
def test_an_end_that_refuses_more_than_ours_is_told(text: str, ours: str, end: str) -> None:
    assert spf_merge.stricter_end(text, ours) == end


@pytest.mark.parametrize(
    ("text", "merged", "terms"),
    [
        ("v=spf1 ip4:192.0.2.0/24 include:x.test -all", "v=spf1 ~all", []),
        ("v=spf1 -ip4:192.0.2.1 ip4:192.0.2.0/24 -all", "v=spf1 ip4:192.0.2.0/24 -ip4:192.0.2.1 ~all",
         ["-ip4:192.0.2.1"]),
        ("v=spf1 a -ip4:192.0.2.1 ip4:192.0.2.0/24 -all", "v=spf1 mx a -ip4:192.0.2.1 ip4:192.0.2.0/24 ~all", []),
        ("v=spf1 ?mx include:x.test -all", "v=spf1 ?mx include:x.test include:y.test ~all", ["?mx"]),
        ("v=spf1 -include:bad.test include:x.test ~all", "v=spf1 include:x.test ~all", ["-include:bad.test"]),
        ("v=spf1 a ~mx ~all", "v=spf1 include:_spf.d.test a ~mx ~all", []),
        ("v=spf1 a ~mx ~all", "v=spf1 ~mx a ~all", ["~mx"]),
        ("v=spf1 a ~mx ?include:x.test ~all", "v=spf1 a include:y.test ~all", []),
        ("v=spf1 redirect=x.test ~mx", "v=spf1 include:x.test ~all", ["~mx"]),
    ],
)  # fmt: skip
def test_terms_that_refuse_have_to_keep_their_place(text: str, merged: str, terms: list[str]) -> None:
    assert spf_merge.out_of_order(text, "v=spf1 ~all", merged, "d.test") == terms
    assert spf_merge.out_of_order(text, merged, merged, "d.test") == terms  # written by hand


def test_a_term_of_ours_does_not_come_to_stand_behind_one_that_refuses() -> None:
    theirs, ours = "v=spf1 -ip4:192.0.2.1 include:x.test ~all", "v=spf1 include:x.test ~all"
    merged = "v=spf1 -ip4:192.0.2.1 include:x.test ~all"
    assert spf_merge.out_of_order(theirs, ours, merged, "d.test") == ["-ip4:192.0.2.1"]


def test_pyspf_lets_those_pass_by_a_merged_record_whom_one_of_both_lets_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where order is said not to matter, and nothing is said to be left out."""
    world: World = {(f"{name}.test", "TXT"): [f"v=spf1 ip4:192.0.2.{name} -all"] for name in "12"}
    addresses = [f"192.0.2.{number}" for number in range(5)]
    terms = [*(f"ip4:{address}" for address in addresses), "ip4:192.0.2.0/30", "include:1.test", "include:2.test"]
    merged_ones = 0
    for seed in range(800):
        dice = random.Random(seed)
        theirs = [dice.choice(("", "", "", "+", "-", "~", "?")) + dice.choice(terms) for _ in range(dice.randint(0, 4))]
        theirs.insert(dice.randint(0, len(theirs)), dice.choice(("-all", "~all", "?all", "redirect=1.test")))
        ours = spf.record(dice.sample(terms[:6], 1), dice.sample(("1.test", "2.test"), 1), ending="~all")
        text = f"v=spf1 {' '.join(theirs)}"
        said = spf_merge.as_settings([ours, text], "d.test")
        merged = spf.record(said.get("mechanisms", ()), said.get("includes", ()), ending=said["all"])
        if spf_merge.out_of_order(text, ours, merged, "d.test"):
            continue
        merged_ones += 1
        for address in addresses:
            passes = [
                judged_by_pyspf(monkeypatch, world | {("d.test", "TXT"): [record]}, address) == "pass"
                for record in (ours, text, merged)
            ]
            assert passes[2] == (passes[0] or passes[1]), (seed, address, ours, text, merged)
    assert 300 < merged_ones < 700


@pytest.mark.parametrize(
    ("ours", "lacks"),
    [
        ("v=spf1 include:_spf.d.test ip4:192.0.2.7 include:x.test ~all", []),
        ("v=spf1 include:_spf.d.test ip4:192.0.2.7 ~all", ["include:x.test"]),
        ("v=spf1 include:_spf.d.test ~all", ["ip4:192.0.2.7", "include:x.test"]),
    ],
)
def test_what_ours_lacks_of_another_record_is_told(ours: str, lacks: Sequence[str]) -> None:
    assert spf_merge.missing(["v=spf1 ip4:192.0.2.7/32 include:X.test -all"], ours, "d.test") == lacks
