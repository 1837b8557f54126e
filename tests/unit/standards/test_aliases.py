"""The aliases file: its atoms, its lines for each kind of domain, and where mail ends."""

from __future__ import annotations

from typing import Any

import pytest

from components.settings import DomainSettings
from standards import aliases, limits
from standards.aliases import Book, End
from standards.finding import Invalid
from tests.unit.standards.example_stack import ZONE, domain, load, second_domain


@pytest.mark.parametrize("text", ["i", "First.Last", "sales+news", "*", "a_b-c", "x" * 64])
def test_a_name_is_a_local_part_or_everybody(text: str) -> None:
    assert aliases.alias_name(text) == text.lower()


@pytest.mark.parametrize("text", ["", "a b", "a:b", "a,b", "a@b.example", "#a", "|a", "**", "a+", "x" * 65])
def test_a_name_that_breaks_the_line_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="cannot be aliased"):
        aliases.alias_name(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" Someone@Gmail.com ", "someone@gmail.com"),
        ("i", "i"),
        ("*@other.example", "*@other.example"),
        ("* via mx1.example.net/MX2.example.net", "* via mx1.example.net/mx2.example.net"),
        ("a@b.example via mx.example.net", "a@b.example via mx.example.net"),
    ],
)
def test_a_destination_has_one_spelling(text: str, canonical: str) -> None:
    assert aliases.target(text) == canonical


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be aliased"),
        ("| /bin/cat", "runs a program"),
        ("|cat", "runs a program"),
        ("a@b.example, c@d.example", "comma"),
        ("a@nodot", "no dot"),
        ("a@b.example via", "via"),
        ("a@b.example via mx.example.net/", "empty"),
        ("a@b.example via mx.example.net:25", "letters, digits"),
        ("a@b.example c@d.example", "before the @"),
        ("a#b c", "cannot be aliased"),
    ],
)
def test_a_destination_that_breaks_the_line_is_refused(text: str, said: str) -> None:
    with pytest.raises(Invalid, match="is not a destination for mail") as refused:
        aliases.target(text)
    assert said in refused.value.found


def test_the_file_is_sorted_with_everybody_last() -> None:
    file = {"*": ("a@x.example",), "i": ("a@x.example", "b@x.example"), "abuse": ("i",)}
    assert aliases.render(file) == "abuse: i\ni: a@x.example, b@x.example\n*: a@x.example\n"


def test_postmaster_and_abuse_go_to_the_first_user_with_a_destination() -> None:
    keys: dict[str, Any] = {"users": ["z", "i"], "aliases": {"i": "someone@gmail.com"}}
    one = DomainSettings(name="example.com", zone_id=ZONE, **keys)
    assert aliases.lines(one, "acme@example.net") == {
        "i": ("someone@gmail.com",),
        "postmaster": ("i",),
        "abuse": ("i",),
    }


def test_without_any_destination_they_go_to_the_acme_account() -> None:
    settings = load(second_domain())
    assert aliases.lines(settings.domains[1], "me@example.net") == {
        "postmaster": ("me@example.net",),
        "abuse": ("me@example.net",),
    }


def test_a_role_with_its_own_alias_keeps_it() -> None:
    settings = load(domain(aliases={"i": "a@x.example", "abuse": "b@x.example"}))
    assert aliases.lines(settings.domains[0], "acme@example.net")["abuse"] == ("b@x.example",)


def test_everybody_includes_users_without_an_alias_who_would_win_over_it() -> None:
    settings = load(domain(aliases={"*": "a@x.example"}))
    assert aliases.lines(settings.domains[0], "acme@example.net") == {"i": ("a@x.example",), "*": ("a@x.example",)}


def test_mail_of_an_external_domain_goes_to_its_own_servers_users_included() -> None:
    settings = load(domain(mail="external", mx=["mx1.example.net", "mx2.example.net"], aliases={}))
    elsewhere = ("* via mx1.example.net/mx2.example.net",)
    assert aliases.lines(settings.domains[0], "acme@example.net") == {"i": elsewhere, "*": elsewhere}


def test_a_silent_domain_has_no_aliases() -> None:
    settings = load(second_domain(mail="none"))
    assert aliases.lines(settings.domains[1], "acme@example.net") == {}
    assert set(aliases.book(settings).files) == {"example.com"}


FILES = {
    "x.test": {"a": ("b",), "b": ("z@out.test", "c@y.test"), "f.l": ("p@out.test",), "s": ("one@out.test",),
               "s+t": ("two@out.test",), "v": ("* via m.test",), "dead": ("me",), "*": ("*@y.test",)},
    "y.test": {"c": ("c@out.test",), "loop": ("loop2",), "loop2": ("loop@y.test",), "w": ("nobody",)},
}  # fmt: skip
USERS = {"me@x.test", "u.v@y.test"}


@pytest.mark.parametrize(
    ("address", "ends"),
    [
        ("who@out.test", {End("elsewhere", "who@out.test")}),
        ("a@x.test", {End("elsewhere", "z@out.test"), End("elsewhere", "c@out.test")}),
        ("f.l@x.test", {End("elsewhere", "p@out.test")}),
        ("fl@x.test", {End("elsewhere", "p@out.test")}),
        ("f.l+any.thing@x.test", {End("elsewhere", "p@out.test")}),
        ("s+t@x.test", {End("elsewhere", "two@out.test")}),
        ("s+u@x.test", {End("elsewhere", "one@out.test")}),
        ("v+tag@x.test", {End("elsewhere", "v+tag@x.test")}),
        ("me@x.test", {End("mailbox", "me@x.test")}),
        ("dead@x.test", {End("mailbox", "me@x.test")}),
        ("c@x.test", {End("elsewhere", "c@out.test")}),
        ("other@x.test", {End("nobody", "other@y.test")}),
        ("u.v@y.test", {End("mailbox", "u.v@y.test")}),
        ("w@y.test", {End("nobody", "nobody@y.test")}),
        ("loop@y.test", {End("loop", "loop@y.test")}),
    ],
)
def test_mail_ends_where_chasquid_takes_it(address: str, ends: set[End]) -> None:
    assert Book(FILES, USERS).ends(address) == ends


@pytest.mark.parametrize("address", ["A@x.test", "A@X.test"])
def test_mail_ends_there_in_every_spelling(address: str) -> None:
    assert Book(FILES, USERS).ends(address) == Book(FILES, USERS).ends("a@x.test")


def test_mail_to_a_silent_domain_of_ours_arrives_nowhere() -> None:
    settings = load(second_domain(mail="none"))
    assert aliases.book(settings).ends("a@second.test") == {End("nobody", "a@second.test")}


@pytest.mark.parametrize(
    ("address", "passed"),
    [
        ("a@x.test", {"a@x.test", "b@x.test", "z@out.test", "c@y.test", "c@out.test"}),
        ("F.L+tag@x.test", {"fl@x.test", "p@out.test"}),
        ("s+t@x.test", {"s+t@x.test", "two@out.test"}),
        ("s+u@x.test", {"s@x.test", "one@out.test"}),
        ("v@x.test", {"v@x.test"}),
        ("dead@x.test", {"dead@x.test", "me@x.test"}),
        ("other@x.test", {"other@x.test", "other@y.test"}),
        ("u.v@y.test", {"uv@y.test"}),
        ("loop@y.test", {"loop@y.test", "loop2@y.test"}),
    ],
)
def test_mail_passes_what_lies_on_its_way(address: str, passed: set[str]) -> None:
    assert Book(FILES, USERS).passes(address) == passed


def test_a_message_passes_no_more_than_the_local_part_of_its_new_sender_holds() -> None:
    sender = "s" * (aliases.longest_sender("sales") - len("@x.test")) + "@x.test"
    rewritten = f"sales+fwd_from={sender.replace('@', '=')}"
    assert len(rewritten) == limits.LOCAL_PART


def chain(length: int, end: str = "z@out.test") -> Book:
    hops = {f"n{number}": (f"n{number + 1}",) for number in range(1, length)}
    return Book({"x.test": {**hops, f"n{length}": (end,)}}, ())


def test_nine_aliases_in_a_row_arrive_and_ten_do_not() -> None:
    assert chain(9).ends("n1@x.test") == {End("elsewhere", "z@out.test")}
    assert End("too deep", "n1@x.test") in chain(10).ends("n1@x.test")


def test_a_destination_with_servers_costs_no_level() -> None:
    assert chain(10, "z@out.test via m.test").ends("n1@x.test") == {End("elsewhere", "z@out.test")}


def test_many_paths_to_one_place_are_walked_once() -> None:
    wide = {f"n{number}": tuple(f"n{number + 1}" for _ in range(50)) for number in range(1, 9)}
    book = Book({"x.test": {**wide, "n9": ("z@out.test",)}}, ())
    assert book.ends("n1@x.test") == {End("elsewhere", "z@out.test")}
