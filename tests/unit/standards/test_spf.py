"""SPF: what may be added, what is written, what is found wrong; pyspf judges our grammar."""

from __future__ import annotations

import pytest
import spf as pyspf
from hypothesis import given
from hypothesis import strategies as st

from standards import spf
from standards.finding import Invalid


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("IP4:192.0.2.7", "ip4:192.0.2.7"),
        ("ip4:192.0.2.7/32", "ip4:192.0.2.7"),
        ("ip4:192.0.2.7/24", "ip4:192.0.2.0/24"),
        ("ip6:2001:DB8:0::1", "ip6:2001:db8::1"),
        ("ip6:2001:db8::1/64", "ip6:2001:db8::/64"),
        ("a", "a"),
        ("+mx", "+mx"),
        ("a/24", "a/24"),
        ("a//64", "a//64"),
        ("a/32//128", "a/32//128"),
        ("mx/24//64", "mx/24//64"),
        ("A:WWW.example.com/28", "a:www.example.com/28"),
        ("?a:_x.example.com", "?a:_x.example.com"),
        ("exists:%{ir}.sbl.example.org", "exists:%{ir}.sbl.example.org"),
    ],
)
def test_a_mechanism_has_one_spelling(text: str, canonical: str) -> None:
    assert spf.mechanism(text) == canonical


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no mechanism's form"),
        ("all", "ends a record"),
        ("-all", "ends a record"),
        ("include:example.com", "own list"),
        ("ptr", "do not use ptr"),
        ("ptr:example.com", "do not use ptr"),
        ("redirect=example.com", "modifier"),
        ("exp=example.com", "modifier"),
        ("ipv4:192.0.2.1", "no mechanism 'ipv4'"),
        ("ip4", "needs ':'"),
        ("ip4:2001:db8::1", "not an address of ip4"),
        ("ip6:192.0.2.1", "not an address of ip6"),
        ("ip4:192.0.2.1/33", "not an address of ip4"),
        ("a:192.0.2.1", "a name is needed"),
        ("mx:2001:db8::1", "a name is needed"),
        ("a/33", "longer than an address"),
        ("a//129", "longer than an address"),
        ("a=example.com", "set off with ':'"),
        ("a:localhost", "not a full domain name"),
        ("exists:%{y}.example.com", "macro"),
        ("exists:100%.example.com", "macro"),
        ("a:ex ample.com", "letters, digits"),
    ],
)
def test_what_is_no_mechanism_says_why(text: str, said: str) -> None:
    with pytest.raises(Invalid) as refused:
        spf.mechanism(text)
    assert said in refused.value.found


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("_SPF.Google.com", "_spf.google.com"),
        ("%{ir}.%{v}.%{d}.spf.has.pphosted.com", "%{ir}.%{v}.%{d}.spf.has.pphosted.com"),
    ],
)
def test_what_is_included_is_a_domain_or_a_macro(text: str, canonical: str) -> None:
    assert spf.included(text) == canonical
    pyspf.query(i="192.0.2.1", s="x@d.test", h="h.test").validate_mechanism(f"include:{canonical}")


@pytest.mark.parametrize("text", ["", "localhost", "%{y}.example.com", "a b.example", "192.0.2.7"])
def test_what_is_neither_is_not_included(text: str) -> None:
    with pytest.raises(Invalid, match="not usable in an SPF record"):
        spf.included(text)


def test_an_address_behind_a_is_answered_with_the_term_that_was_meant() -> None:
    with pytest.raises(Invalid) as refused:
        spf.mechanism("a:2001:db8::1")
    assert refused.value.fix == "write ip6:2001:db8::1"


@pytest.mark.parametrize("text", ["~all", "-ALL", "?all"])
def test_three_endings_are_possible(text: str) -> None:
    assert spf.all_term(text) == text.lower()


@pytest.mark.parametrize("text", ["+all", "all", "", "~", "ip4:192.0.2.1"])
def test_no_other_ending_is(text: str) -> None:
    with pytest.raises(Invalid, match="cannot end our SPF record"):
        spf.all_term(text)


def test_a_record_has_each_term_once_and_its_end_last() -> None:
    record = spf.record(["mx", "include:a.example", "mx"], ["b.example", "a.example"], ending="-all")
    assert record == "v=spf1 mx include:a.example include:b.example -all"


@given(
    st.lists(st.ip_addresses(v=4).map(str), max_size=4),
    st.lists(
        st.ip_addresses(v=6)
        .filter(lambda address: address.ipv4_mapped is None)  # pyspf looks at these as IPv4
        .map(lambda address: address.compressed),
        max_size=4,
    ),
    st.sampled_from(["192.0.2.77", "2001:db8::77"]),
)
def test_pyspf_passes_exactly_the_addresses_of_a_record(v4: list[str], v6: list[str], stranger: str) -> None:
    record = spf.record(spf.addresses(v4, v6), ending="-all")
    for address in {*v4, *v6, stranger}:
        query = pyspf.query(i=address, s="i@example.com", h="smtp.example.com")
        expected = "pass" if address in {*v4, *v6} else "fail"
        assert query.check(spf=record)[0] == expected


@pytest.mark.parametrize("text", ["v=spf1", "v=spf1 -all", "V=SPF1 -all"])
def test_a_record_is_known_by_its_version(text: str) -> None:
    assert spf.is_record(text)


@pytest.mark.parametrize(
    "text", ["v=spf10 -all", "v=spf", " v=spf1 -all", "spf2.0/pra -all", "google-site-verification=x"]
)
def test_other_text_is_no_record(text: str) -> None:
    assert not spf.is_record(text)


@pytest.mark.parametrize(
    ("record", "count"),
    [
        ("v=spf1 -all", 0),
        ("v=spf1 ip4:192.0.2.1 ip6:2001:db8::1 exp=x.example -all", 0),
        ("v=spf1 a mx ?ptr exists:%{i}.x.example include:y.example redirect=z.example", 6),
        ("v=spf1 a/24 MX:x.example//64", 2),
    ],
)
def test_terms_that_cost_a_query_are_counted(record: str, count: int) -> None:
    assert spf.lookups(record) == count


def ids(record: str) -> list[str]:
    return [finding.id for finding in spf.review(record, "example.com")]


def test_ten_lookups_pass_and_eleven_do_not() -> None:
    includes = [f"include:d{number}.example" for number in range(10)]
    assert ids(f"v=spf1 {' '.join(includes)} ~all") == []
    assert ids(f"v=spf1 a {' '.join(includes)} ~all") == ["spf-lookups"]


@pytest.mark.parametrize(
    "term",
    [
        "+all",
        "all",
        "ip4:0.0.0.0/0",
        "+ip4:10.0.0.0/8",
        "ip6:::/0",
        "ip6:2001::/19",
        "a/0",
        "mx//19",
        "a:x.example/8",
        "exists:x.example",
        "exists:%{l}.x.example",
        "exists:%{h}.x.example",
    ],
)
def test_a_term_that_authorises_strangers_is_found(term: str) -> None:
    assert ids(f"v=spf1 {term}") == ["spf-strangers"]


@pytest.mark.parametrize(
    "term",
    [
        "-all",
        "?ip4:0.0.0.0/0",
        "-ip4:0.0.0.0/0",
        "ip4:10.0.0.0/9",
        "ip6:2001::/20",
        "a/9",
        "mx//20",
        "ip4:broken",
        "exists:%{ir}.x.example",
        "EXISTS:%{P}.x.example",
    ],
)
def test_a_term_for_known_senders_or_against_strangers_is_not(term: str) -> None:
    assert "spf-strangers" not in ids(f"v=spf1 {term}")


def test_ptr_is_found() -> None:
    assert ids("v=spf1 ptr:example.com ~all") == ["spf-ptr"]


def test_a_mechanism_after_all_is_found_but_a_modifier_may_stand_there() -> None:
    assert ids("v=spf1 ~all a") == ["spf-after-all"]
    assert ids("v=spf1 ~all exp=x.example") == []


def doubts(term: str, *, mx_elsewhere: bool = True) -> list[str]:
    found = spf.weaknesses(f"v=spf1 {term} ~all", "example.com", "example.com", mx_elsewhere=mx_elsewhere)
    return [finding.id for finding in found if finding.severity == "warning" and term in finding.found]


@pytest.mark.parametrize(
    ("term", "identifier"),
    [
        ("ip4:10.1.0.0/16", "spf-wide"),
        ("+ip4:10.0.0.0/9", "spf-wide"),
        ("ip6:2001:db8::/32", "spf-wide"),
        ("ip6:2001::/20", "spf-wide"),
        ("a:mail.example.net/16", "spf-wide"),
        ("mx:example.net//32", "spf-wide"),
        ("a", "spf-apex"),
        ("A", "spf-apex"),
        ("+a", "spf-apex"),
        ("a/24", "spf-apex"),
        ("a:Example.com", "spf-apex"),
        ("a:example.com//64", "spf-apex"),
        ("mx", "spf-mx-elsewhere"),
        ("mx:example.com/28", "spf-mx-elsewhere"),
        ("exists:%{ir}.x.example", "spf-exists"),
        ("include:spf.protection.outlook.com", "spf-shared"),
        ("include:SPF.protection.outlook.com", "spf-shared"),
    ],
)
def test_a_term_that_may_authorise_strangers_is_a_warning(term: str, identifier: str) -> None:
    assert doubts(term) == [identifier]


@pytest.mark.parametrize(
    "term",
    ["ip4:192.0.2.7", "ip4:10.1.0.0/17", "ip6:2001:db8::/33", "a:mail.example.com", "mx:example.net",
     "include:_spf.example.com", "include:_spf.google.com", "-a", "~mx", "?ip4:10.1.0.0/16",
     "ip4:0.0.0.0/0", "exists:x.example"],
)  # fmt: skip
def test_known_senders_and_what_is_an_error_already_are_none(term: str) -> None:
    assert doubts(term) == []


def test_our_own_mx_hosts_may_send() -> None:
    assert doubts("mx", mx_elsewhere=False) == []


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


def test_the_mx_of_a_domain_is_written_as_the_hosts_that_it_has_now() -> None:
    text = "v=spf1 MX ?mx:D.test/24//64 mx//64 mx:other.test a:mx.test ~all"
    hosts = ["m1.test", "m2.test"]
    assert spf.with_hosts(text, "d.test", hosts) == (
        "v=spf1 a:m1.test a:m2.test ?a:m1.test/24//64 ?a:m2.test/24//64 a:m1.test//64 a:m2.test//64 "
        "mx:other.test a:mx.test ~all"
    )
    assert spf.with_hosts(text, "d.test", []) == text
