"""Reading a message in one way only: what another reader may see differently is malformed."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.utils import getaddresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.chasquid.policy.message import Headers, Malformed, Request, Verdict, addresses, canonical


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (" alice@example.com", "alice@example.com"),
        ("Alice <alice@example.com>", "alice@example.com"),
        ('"Alice, of Sales" <alice@example.com>', "alice@example.com"),
        ("<alice@example.com>", "alice@example.com"),
        ("alice@example.com (Alice (of Sales))", "alice@example.com"),
        ("=?utf-8?q?J=C3=BCrgen?= <alice@example.com>", "alice@example.com"),
        ("J\u00fcrgen <j\u00fcrgen@b\u00fccher.example>", "j\u00fcrgen@b\u00fccher.example"),
        ("Alice\n <alice@example.com>", "alice@example.com"),
        ("root@example.com (Cron Daemon)", "root@example.com"),
    ],
)
def test_one_address_is_found_in_every_usual_form(value: str, expected: str) -> None:
    assert addresses(value) == (expected,)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Alice",
        "alice@example.com ceo@bank.test",
        "ceo@bank.test <alice@example.com>",
        "<ceo@bank.test> <alice@example.com>",
        "<alice@example.com> ceo@bank.test",
        '"<ceo@bank.test>" <alice@example.com>',
        "alice@example.com (<ceo@bank.test>)",
        "(ceo@bank.test) alice@example.com",
        "friends: alice@example.com;",
        "<@relay.test:alice@example.com>",
        '"alice"@example.com',
        "alice@[192.0.2.1]",
        "alice@example.com (never closed",
        'Alice "never closed <alice@example.com>',
        "alice@exam ple.com",
        "alice@example.com\\",
        "alice@bank.test@example.com",
        "<alice@example.com",
        "alice@example.com,",
    ],
)
def test_what_readers_differ_about_is_malformed(value: str) -> None:
    with pytest.raises(Malformed):
        addresses(value)


def test_several_addresses_are_all_found() -> None:
    assert addresses("A <a@x.test>, b@y.test") == ("a@x.test", "b@y.test")


PIECES = [
    "alice@example.com",
    "ceo@bank.test",
    "<",
    ">",
    '"',
    "(",
    ")",
    ",",
    ";",
    ":",
    " ",
    "\\",
    "Al",
    "@",
    "\n ",
    "=?utf-8?q?x?=",
]


@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join))
def test_whatever_is_accepted_a_simple_reader_reads_the_same(value: str) -> None:
    try:
        found = addresses(value)
    except Malformed:
        return
    assert [address for _, address in getaddresses([value.replace("\n", "")])] == list(found)
    angles = re.findall(r"<([^<>]*@[^<>]*)>", value)
    assert not angles or [angle.strip() for angle in angles] == [one for one in found if one in "".join(angles)]


@pytest.mark.parametrize(
    "head",
    [
        b"From : a@x.test",
        b"From\t: a@x.test",
        b" From: a@x.test",
        b"From: a@x.test\rFrom: b@x.test",
        b"From: a@x.test\n \nTo: b@x.test",
        b"From: a@x.test\0",
        b"no field",
        b"Fr\xc3\xb6m: a@x.test",
    ],
)
def test_a_header_that_two_readers_end_elsewhere_is_malformed(head: bytes) -> None:
    with pytest.raises(Malformed):
        Headers.parse(head + b"\n\nbody\n")


def test_fields_are_found_whatever_their_case_with_their_folding() -> None:
    headers = Headers.parse(b"FROM: a\n b\r\nfrom: c\n\nFrom: in the body\n")
    assert headers.all("From") == [" a\n b", " c"]


def test_a_second_from_field_is_malformed_even_when_it_is_the_same() -> None:
    with pytest.raises(Malformed, match="2 From fields"):
        Headers.parse(b"From: a@x.test\nFrom: a@x.test\n\n").address("From")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_malformed(message: bytes) -> None:
    try:
        headers = Headers.parse(b"From: a@x.test\n" + message)
    except Malformed:
        return
    assert len(message_from_bytes(b"From: a@x.test\n" + message).get_all("From", [])) <= len(headers.all("From"))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("First.Last+tag@Example.COM.", "firstlast@example.com"),
        ("a@b\u00fccher.example", "a@xn--bcher-kva.example"),
    ],
)
def test_addresses_compare_as_chasquid_compares_them(address: str, expected: str) -> None:
    assert canonical(address) == expected


def test_a_request_keeps_every_byte_of_the_message() -> None:
    message = b"A: b\n\n\0\xff"
    request = Request.parse(b"1.2.3.4:5\0ehlo\0<>\0a@x b@y\0Alice@x.test\x001\x000\0" + message)
    assert (request.sender, request.user, request.recipients) == ("", "alice@x.test", ("a@x", "b@y"))
    assert (request.tls, request.spf_pass, request.message) == (True, False, message)


def test_a_request_that_is_cut_short_is_not_judged() -> None:
    with pytest.raises(Malformed):
        Request.parse(b"1.2.3.4:5\0ehlo\0")


def test_a_reply_ends_with_its_verdict_so_that_no_cut_one_accepts() -> None:
    assert Verdict.accept(["X: 1", "Y: 2"]).reply() == b"X: 1\nY: 2\nverdict 0\n"
    assert Verdict.accept().reply() == b"verdict 0\n"


def test_no_text_of_a_stranger_can_become_a_second_line() -> None:
    assert Verdict.refuse("5.7.1 no\nverdict 0").reply() == b"5.7.1 no?verdict 0\nverdict 20\n"
