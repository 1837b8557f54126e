"""What a record costs with all it includes; pyspf evaluates the same little worlds as a receiver does."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import spf as pyspf

from standards import spf, spf_tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

World = dict[tuple[str, str], list[str]]
STRANGERS = ("203.0.113.99", "2001:db8:ffff::99")


def review(world: Mapping[tuple[str, str], list[str]], domain: str = "d.test") -> list[tuple[str, str]]:
    (text,) = world[domain, "TXT"]
    findings, unanswered = spf_tree.review(domain, text, lambda name, kind: world.get((name, kind), []))
    assert unanswered == []
    return [(finding.id, finding.found) for finding in findings]


def judged_by_pyspf(monkeypatch: pytest.MonkeyPatch, world: World, address: str) -> str:
    def lookup(name: str, kind: str, *_: Any, **__: Any) -> list[Any]:
        values = world.get((name.rstrip(".").lower(), kind), [])
        if kind == "TXT":
            return [((name, kind), [value.encode()]) for value in values]
        if kind == "MX":
            return [((name, kind), (int(value.split()[0]), value.split()[1])) for value in values]
        return [((name, kind), value) for value in values]

    monkeypatch.setattr(pyspf, "DNSLookup", lookup)
    return str(pyspf.query(i=address, s="x@d.test", h="h.test").check()[0])


def chain(length: int) -> World:
    """Includes one in the other, the last one lets a host in."""
    world = {(f"i{n}.test", "TXT"): [f"v=spf1 include:i{n + 1}.test -all"] for n in range(1, length)}
    world[f"i{length}.test", "TXT"] = ["v=spf1 ip4:192.0.2.1 -all"]
    return {("d.test", "TXT"): ["v=spf1 include:i1.test ~all"]} | world


def test_ten_queries_are_fine_and_the_eleventh_is_named_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert review(chain(10)) == []
    assert judged_by_pyspf(monkeypatch, chain(10), STRANGERS[0]) == "softfail"
    ((identifier, found),) = review(chain(11))
    assert identifier == "spf-lookups"
    way = " > ".join(f"i{n}.test" for n in range(1, 11))
    assert found.startswith(f"d.test > {way} > include:i11.test: this is the 11th")
    assert judged_by_pyspf(monkeypatch, chain(11), STRANGERS[0]) == "permerror"


def test_two_terms_that_lead_nowhere_are_forgiven_and_the_third_is_named() -> None:
    world: World = {("d.test", "TXT"): ["v=spf1 a:x.test mx:y.test ~all"]}
    assert review(world) == []
    world["d.test", "TXT"] = ["v=spf1 a:x.test mx:y.test exists:z.test ~all"]
    ((identifier, found),) = review(world)
    assert identifier == "spf-void"
    assert found.startswith(
        "d.test > exists:z.test: 3 questions find nothing: d.test > a:x.test A; d.test > mx:y.test;"
    )


def test_a_name_with_one_family_is_void_for_the_other_alone() -> None:
    names = ("a.test", "b.test", "c.test")
    world: World = {("d.test", "TXT"): [f"v=spf1 {' '.join(f'a:{name}' for name in names)} ~all"]}
    world |= {(name, "A"): ["192.0.2.1"] for name in names}
    assert [identifier for identifier, _ in review(world)] == ["spf-void"]  # from an IPv6 client
    world |= {("a.test", "AAAA"): ["2001:db8::1"]}
    assert review(world) == []


@pytest.mark.parametrize(
    ("world", "identifier"),
    [
        ({("d.test", "TXT"): ["v=spf1 include:gone.test ~all"]}, "spf-include"),
        ({("d.test", "TXT"): ["v=spf1 include:i.test ~all"], ("i.test", "TXT"): ["v=spf1 -all", "v=spf1 a -all"]},
         "spf-include"),
        ({("d.test", "TXT"): ["v=spf1 include:i.test ~all"], ("i.test", "TXT"): ["v=spf1 include:d.test ~all"]},
         "spf-loop"),
        ({("d.test", "TXT"): ["v=spf1 mx ~all"], ("d.test", "MX"): [f"10 m{n}.test" for n in range(11)]}, "spf-mx"),
        ({("d.test", "TXT"): ["v=spf1 redirect=gone.test"]}, "spf-include"),
    ],
)  # fmt: skip
def test_what_ends_in_a_permanent_error_is_found(world: World, identifier: str) -> None:
    assert [found for found, _ in review(world)] == [identifier]


@pytest.mark.parametrize(
    "text",
    [
        "v=spf1 ~all include:gone.test",  # never evaluated
        "v=spf1 redirect=gone.test ~all",
        "v=spf1 include:%{d}.x.test ~all",  # depends on the message
    ],
)
def test_what_no_receiver_asks_for_is_not_asked_for(text: str) -> None:
    assert review({("d.test", "TXT"): [text]}) == []


def test_a_target_that_depends_on_the_message_costs_one_query() -> None:
    def world(length: int) -> World:
        return {("d.test", "TXT"): [f"v=spf1 {' '.join(f'include:%{{i}}.x{n}.test' for n in range(length))} ~all"]}

    assert review(world(10)) == []
    assert [identifier for identifier, _ in review(world(11))] == ["spf-lookups"]


def test_a_name_that_nobody_answers_for_is_told_apart_from_one_that_is_not_there() -> None:
    findings, unanswered = spf_tree.review("d.test", "v=spf1 include:i.test a:b.test ~all", lambda *_: None)
    assert findings == []
    assert [each.partition(": ")[2] for each in unanswered] == ["i.test TXT", "b.test A", "b.test AAAA"]


def little_world(seed: int) -> World:
    """Up to eight names, each perhaps with a record that includes later ones, addresses and exchangers."""
    dice = random.Random(seed)
    names = [f"n{n}.test" for n in range(8)]
    world: World = {}
    for place, name in enumerate(names):
        if dice.random() < 0.8:
            world[name, "A"] = ["192.0.2.1"]
            world[name, "AAAA"] = ["2001:db8::1"]
        if dice.random() < 0.8:
            world[name, "MX"] = [f"10 {names[0]}"] * dice.choice((1, 2))
        later = names[place + 1 :] or names
        terms = [dice.choice((f"a:{dice.choice(names)}", f"mx:{dice.choice(names)}", f"exists:{dice.choice(names)}",
                              f"include:{dice.choice(later)}", f"include:{dice.choice(later)}", "ip4:192.0.2.0/24"))
                 for _ in range(dice.randint(1, 4))]  # fmt: skip
        if dice.random() < 0.9:
            world[name, "TXT"] = [f"v=spf1 {' '.join(terms)} ~all"]
    world["d.test", "TXT"] = world.get(("n0.test", "TXT"), ["v=spf1 include:n1.test ~all"])
    return world


def test_pyspf_gives_up_exactly_where_we_find_something(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = set()
    for seed in range(400):
        world = little_world(seed)
        # exists matches everybody, which would end the evaluation early
        world = {key: [value.replace("exists:", "exists:x.") for value in values] for key, values in world.items()}
        theirs = {judged_by_pyspf(monkeypatch, world, address) for address in STRANGERS}
        assert ("permerror" in theirs) == bool(review(world)), (seed, world)
        outcomes |= theirs
    assert outcomes == {"permerror", "softfail"}


# What another record of the domain allows


def test_the_terms_of_a_record_become_the_lines_of_our_settings() -> None:
    text = (
        "v=spf1 +ip4:192.0.2.7/32 a:www.Example.com mx ptr include:_spf.google.com include:_spf.d.test exp=x.test -all"
    )
    assert spf.as_settings([text], "d.test") == {
        "mechanisms": ["ip4:192.0.2.7", "a:www.example.com", "mx"],
        "includes": ["_spf.google.com"],
        "all": "-all",
    }
    assert spf.as_settings(["v=spf1 redirect=_spf.x.test", "v=spf1 +all"], "d.test") == {
        "includes": ["_spf.x.test"],
        "all": "~all",
    }
    assert spf.as_settings(["v=spf1 ?include:a.test -include:b.test ~include:c.test ~all"], "d.test") == {"all": "~all"}


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
    assert {spf.as_settings(order, "d.test")["all"] for order in (texts, texts[::-1])} == {end}


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("v=spf1 a -all include:x.test redirect=y.test", ["a", "-all"]),
        ("v=spf1 redirect=y.test a ~all", ["a", "~all"]),
        ("v=spf1 a redirect=y.test", ["a", "redirect=y.test"]),
        ("v=spf1", []),
    ],
)
def test_what_follows_all_and_a_redirect_beside_it_does_not_count(text: str, terms: list[str]) -> None:
    assert spf.in_force(text) == terms


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
    assert spf.dropped(text) == left_out
    assert spf.missing([text], "v=spf1 a mx ~all", "d.test") == [
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
    assert spf.stricter_end(text, ours) == end


def test_the_mx_of_a_domain_is_written_as_the_hosts_that_it_has_now() -> None:
    text = "v=spf1 MX ?mx:D.test/24//64 mx//64 mx:other.test a:mx.test ~all"
    hosts = ["m1.test", "m2.test"]
    assert spf.with_hosts(text, "d.test", hosts) == (
        "v=spf1 a:m1.test a:m2.test ?a:m1.test/24//64 ?a:m2.test/24//64 a:m1.test//64 a:m2.test//64 "
        "mx:other.test a:mx.test ~all"
    )
    assert spf.with_hosts(text, "d.test", []) == text


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
    assert spf.out_of_order(text, "v=spf1 ~all", merged, "d.test") == terms
    assert spf.out_of_order(text, merged, merged, "d.test") == terms  # written by hand


def test_a_term_of_ours_does_not_come_to_stand_behind_one_that_refuses() -> None:
    theirs, ours = "v=spf1 -ip4:192.0.2.1 include:x.test ~all", "v=spf1 include:x.test ~all"
    merged = "v=spf1 -ip4:192.0.2.1 include:x.test ~all"
    assert spf.out_of_order(theirs, ours, merged, "d.test") == ["-ip4:192.0.2.1"]


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
        said = spf.as_settings([ours, text], "d.test")
        merged = spf.record(said.get("mechanisms", ()), said.get("includes", ()), ending=said["all"])
        if spf.out_of_order(text, ours, merged, "d.test"):
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
    assert spf.missing(["v=spf1 ip4:192.0.2.7/32 include:X.test -all"], ours, "d.test") == lacks
