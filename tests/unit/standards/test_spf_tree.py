"""What a record costs with all it includes; pyspf evaluates the same little worlds as a receiver does."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import spf as pyspf

from standards import spf_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

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
