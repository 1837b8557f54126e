"""Reading a message in one way only: what another reader may see differently is malformed."""

from __future__ import annotations

import re
import time
from email import message_from_bytes, message_from_string
from email.header import decode_header, make_header
from email.policy import default
from email.utils import getaddresses
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.chasquid.policy.message import Headers, Malformed, Request, Verdict, addresses, canonical

if TYPE_CHECKING:
    from collections.abc import Callable


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
        ('"alice@example.com" <alice@example.com>', "alice@example.com"),
        ("alice@example.com (Al\\) of Sales)", "alice@example.com"),
        ("=?utf-8?B?QWw?= <alice@example.com>", "alice@example.com"),
        ("=?utf-8?q?Alice=40example.com?= <alice@example.com>", "alice@example.com"),
        ("=?iso-2022-jp?B?GyRCJCIbKEI=?= <alice@example.com>", "alice@example.com"),
        ("=?utf-8?q?M=C3=BCller=2C_J=C3=B6rg_=28Sales=29?= <alice@example.com>", "alice@example.com"),
        ("\U0001f469\u200d\U0001f4bb <\talice@example.com >", "alice@example.com"),
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
        "<alice@example.com> Alice",
        "Alice <alice@example.com> <>",
        '"Alice" alice@example.com',
        "alice@example.com (<bank>)",
        "=?utf-8?q?=3C?= <alice@example.com>",
        "<=?utf-8?q?Alice?=@example.com>",
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
        "alice@example.com(x).bank.test",
        "=?utf-8?q?ceo=40bank.test?= <alice@example.com>",
        "=?utf-8?B?Y2VvQGJhbmsudGVzdA?= <alice@example.com>",
        "=?utf-7*en?q?ceo+AEA-bank.test?= <alice@example.com>",
        "=?unicode_escape?B?XHg0MUBiYW5rLnRlc3Q=?= <A@bank.test>",
        "=?x-nobodys?q?ceo@bank.test?= <alice@example.com>",
        '"=?utf-8?q?=3Cceo=40bank.test=3E?=" <alice@example.com>',
        "alice@example.com (=?utf-8?q?=3Cceo=40bank.test=3E?=)",
        "=?utf-8?b?A?= <alice@example.com>",
        "=?utf-8?q?ceo=40bank.test=3E?=@example.com",
        "alice\u200b@example.com",
        "\u00a0alice@example.com",
        "alice@\uff45xample.com",
        "alice@example.com.",
        "A\x0blice <alice@example.com>",
        "A\u2028lice <alice@example.com>",
        "A\x85lice <alice@example.com>",
        b"J\xfcrgen <alice@example.com>".decode(errors="surrogateescape"),
    ],
)
def test_what_readers_differ_about_is_malformed(value: str) -> None:
    with pytest.raises(Malformed):
        addresses(value)


@pytest.mark.parametrize(
    "value",
    [
        "a@" + "".join(chr(0x4E00 + number) for number in range(2000)),
        "a" + "\u0301\u0316" * 3000 + "@x.test",
        "=?u?q?a=40x.test?= <a@x.test>," * 5000,
    ],
)
def test_a_field_that_takes_long_to_read_is_malformed_at_once(value: str) -> None:
    begun = time.process_time()
    with pytest.raises(Malformed, match="are allowed"):
        addresses(value)
    assert time.process_time() - begun < 0.1


def test_several_addresses_are_all_found() -> None:
    assert addresses("A <a@x.test>, b@y.test") == ("a@x.test", "b@y.test")


PIECES = ["alice@example.com", "ceo@bank.test", *'<>"(),;: \\@', "Al", "\n ", "=?utf-8?q?x?=", "=?utf-8?q?=40?="]
PIECES += ["=?utf-8?q?ceo=40bank.test?=", "=?utf-8?b?PGNlb0BiYW5rLnRlc3Q+?=", "=?utf-8?q?=3C?="]


def decoding_first(value: str) -> str:
    return str(make_header(decode_header(value)))


READERS: dict[str, Callable[[str], list[str]]] = {
    "an old library": lambda value: [address for _, address in getaddresses([value])],
    "a new library": lambda value: [
        one.addr_spec for one in message_from_string(f"From: {value}\n\n", policy=default)["From"].addresses
    ],
    "one that decodes first": lambda value: [address for _, address in getaddresses([decoding_first(value)])],
    "one that looks for < >": lambda value: re.findall(r"<\s*([^<>]*@[^<>]*?)\s*>", value),
    "one that decodes and looks for < >": lambda value: re.findall(r"<\s*([^<>]*@[^<>]*?)\s*>", decoding_first(value)),
}


@pytest.mark.parametrize("reader", READERS)
@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join))
def test_whatever_is_accepted_no_simple_reader_reads_otherwise(reader: str, value: str) -> None:
    try:
        found = addresses(value)
    except Malformed:
        return
    seen = READERS[reader](value.replace("\n", ""))
    assert set(seen) <= set(found)
    assert "<" in reader or len(seen) == len(found)


@pytest.mark.parametrize(
    "head",
    [
        b"From : a@x.test",
        b"From\t: a@x.test",
        b" From: a@x.test",
        b"From: a@x.test\rFrom: b@x.test",
        b"From: a@x.test\n \nTo: b@x.test",
        b"From: a@x.test\0",
        b"From: a@x.test\x0bFrom: b@x.test",
        b"From: a@x.test\nFrom b@x.test",
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


def test_a_header_without_a_body_is_a_header() -> None:
    assert Headers.parse(b"From: a\r\n").all("From") == [" a"]


@pytest.mark.parametrize("line", [b"X: y\n", b" y\n", b"X" * 30])
def test_a_header_without_end_costs_little_and_is_malformed(line: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(Malformed):
        Headers.parse(b"X: y\n" + line * (2**24 // len(line)))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("text", ["=?", "=?a?q?", '"', "<", "(", "a@b,", "\t"])
def test_a_hostile_field_costs_little(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(Malformed):
        addresses(text * (2**18 // len(text)))
    assert time.monotonic() - started < 2


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
        ("First.Last+tag@Example.COM", "firstlast@example.com"),
        ("a@b\u00fccher.example", "a@xn--bcher-kva.example"),
        ("a@B\u00dcCHER.example", "a@xn--bcher-kva.example"),
        ("a@bu\u0308cher.example", "a@xn--bcher-kva.example"),
        ("a@stra\u00dfe.example", "a@xn--strae-oqa.example"),
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


@pytest.mark.parametrize("header", ["", "X", "X: y\n", "X: y\n\nbody", "X: y\nZ", "X: y\n \n z", " X: y", "X : y"])
def test_what_chasquid_would_leave_out_of_the_message_is_not_accepted_with(header: str) -> None:
    with pytest.raises(ValueError, match="header field"):
        Verdict.accept(["A: b", header])


def test_a_reply_is_ascii_and_fits_a_line_of_smtp() -> None:
    text = Verdict.defer("4.7.1 j\u00fcrgen " + "x" * 1000).text
    assert text.startswith("4.7.1 j?rgen x")
    assert len(f"451 {text}\r\n") <= 512


def test_a_users_domain_is_named_as_in_the_settings() -> None:
    request = Request.parse("1.2.3.4:5\0e\0<>\0a@x\0J\u00fcrgen@b\u00fccher.example\x001\x000\0".encode())
    assert request.user == "j\u00fcrgen@xn--bcher-kva.example"
