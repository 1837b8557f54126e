"""Every atom gives one canonical spelling or says what is wrong."""

from __future__ import annotations

import base64

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standards import names
from standards.finding import Invalid
from tests.unit.standards.example_stack import HOST_KEY

LONG = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("SMTP.Example.COM.", "smtp.example.com"),
        (" example.com ", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),  # IDNA 2003 would make strasse of it: another domain
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("a.xn--p1ai", "a.xn--p1ai"),
        (LONG, LONG),
    ],
)
def test_a_name_has_one_spelling(text: str, canonical: str) -> None:
    assert names.fqdn(text) == canonical


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("", "empty"),
        ("smtp", "no dot"),
        ("192.0.2.10", "an address"),
        ("a..example.com", "empty label"),
        (".example.com", "empty label"),
        ("-a.example.com", "'-a'"),
        ("a-.example.com", "'a-'"),
        ("_spf.example.com", "'_spf'"),
        ("https://example.com", "letters, digits"),
        ("a b.example.com", "letters, digits"),
        ("a" * 64 + ".example.com", "64 characters"),
        ("e" + LONG, "254 characters"),
        ("bü cher.example", "bü cher"),
    ],
)
def test_what_is_no_name_says_why(text: str, because: str) -> None:
    with pytest.raises(Invalid) as refused:
        names.fqdn(text)
    assert because in refused.value.found
    assert refused.value.found.startswith(names.shown(text))


def test_an_underscore_label_is_a_dns_name_but_no_host_name() -> None:
    assert names.dns_name("_SPF.example.com") == "_spf.example.com"


@given(st.text(alphabet="abcXYZ019-_. ", max_size=80))
def test_every_accepted_name_is_one_for_dnspython_and_stays_as_it_is(text: str) -> None:
    try:
        name = names.fqdn(text)
    except Invalid:
        return
    assert names.fqdn(name) == name
    assert dns.name.from_text(name).to_text(omit_final_dot=True) == name


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("You@Example.COM", "You@example.com"),
        ("a+b.c@example.com", "a+b.c@example.com"),
        ("x" * 64 + "@example.com", "x" * 64 + "@example.com"),
        ("x" * 64 + "@" + LONG[64:], "x" * 64 + "@" + LONG[64:]),  # 254 characters
        ("you@bücher.example", "you@xn--bcher-kva.example"),
    ],
)
def test_an_address_keeps_its_local_part(text: str, canonical: str) -> None:
    assert names.email_address(text) == canonical


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("you", "no @"),
        ("@example.com", "before the @"),
        ("a b@example.com", "before the @"),
        ("a..b@example.com", "before the @"),
        ('"a"@example.com', "before the @"),
        ("Me <me@example.com>", "before the @"),
        ("a@b@example.com", "before the @"),
        ("x" * 65 + "@example.com", "65 characters before"),
        ("you@localhost", "no dot"),
        ("x" * 64 + "@e." + LONG[64:], "at most 254"),
    ],
)
def test_what_is_no_address_says_why(text: str, because: str) -> None:
    with pytest.raises(Invalid, match="is not a mail address") as refused:
        names.email_address(text)
    assert because in refused.value.found


def test_an_address_is_compared_in_lower_case_without_dots_and_suffix() -> None:
    assert names.canonical_address("First.Last+a.b+c@Example.com") == "firstlast@example.com"
    assert names.canonical_address("*@example.com") == "*@example.com"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Sales@Example.com", "sales@example.com"),
        (" f.l@example.com", "f.l@example.com"),
        ("*@Lists.Bücher.example", "*@lists.xn--bcher-kva.example"),
    ],
)
def test_an_identity_is_an_address_or_a_whole_domain(text: str, canonical: str) -> None:
    assert names.identity(text) == canonical


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sales", "no @"),
        ("*", "no @"),
        ("*@example", "no dot"),
        ("a*@b", "no dot"),
        ("I <i@example.com>", "before the @"),
        ("f.l+x@example.com", "write fl@example.com"),
    ],
)
def test_what_is_no_identity_says_why(text: str, said: str) -> None:
    with pytest.raises(Invalid) as refused:
        names.identity(text)
    assert said in f"{refused.value.found} {refused.value.fix}"


@pytest.mark.parametrize("text", ["i", "First.Last", "a_b-c", "x" * 64])
def test_a_user_is_lower_case(text: str) -> None:
    assert names.user(text) == text.lower()


@pytest.mark.parametrize("text", ["", "a b", "a:b", "a,b", "a+b", "*", "#a", "|a", "a@b", ".a", "a.", "x" * 65, "ü"])
def test_a_user_name_cannot_break_the_files_it_is_written_to(text: str) -> None:
    with pytest.raises(Invalid, match="is not a user name"):
        names.user(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("2001:DB8:0:0::10", "2001:db8::10"), ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"), ("::1", "::1")],
)
def test_an_ipv6_address_is_compressed(text: str, canonical: str) -> None:
    assert names.ipv6(text) == canonical


@pytest.mark.parametrize("text", ["192.0.2.10", "2001:db8::/64", "fe80::1%eth0", "::ffff:192.0.2.1", "", "2001:db8::g"])
def test_what_is_no_ipv6_address_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        names.ipv6(text)


@pytest.mark.parametrize("text", ["192.0.2.300", "192.0.2.10/24", "192.0.2", "2001:db8::1", "", "192.0.02.1"])
def test_what_is_no_ipv4_address_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match=r"192\.0\.2\.10"):
        names.ipv4(text)


def test_an_address_of_either_family_is_told_apart_by_its_colon() -> None:
    assert names.ip_address("192.0.2.53") == "192.0.2.53"
    assert names.ip_address("2001:DB8::53") == "2001:db8::53"


@pytest.mark.parametrize("text", ["m1", "202611", "a-b", "x" * 63])
def test_a_selector_is_one_label(text: str) -> None:
    assert names.selector(text) == text


@pytest.mark.parametrize("text", ["", "a.b", "a_b", "-a", "a-", "x" * 64, "a/b", "a b"])
def test_a_selector_that_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="is not a DKIM selector"):
        names.selector(text)


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "g" * 32, "example.com"])
def test_a_zone_id_has_32_hexadecimal_digits(text: str) -> None:
    with pytest.raises(Invalid, match="is not a zone id"):
        names.zone_id(text)


def test_a_zone_id_is_lower_case() -> None:
    assert names.zone_id("ABCDEF" + "0" * 26) == "abcdef" + "0" * 26


def test_a_record_id_has_the_form_of_a_zone_id_and_its_own_advice() -> None:
    assert names.record_id("ABCDEF" + "0" * 26) == "abcdef" + "0" * 26
    with pytest.raises(Invalid, match="is not the id of a record") as caught:
        names.record_id("0" * 31)
    assert "scripts/adopt.py" in caught.value.fix


@pytest.mark.parametrize("size", [40, 80])
def test_a_token_has_40_to_80_characters(size: int) -> None:
    assert names.api_token("aB0_-" + "x" * (size - 5)) == "aB0_-" + "x" * (size - 5)


@pytest.mark.parametrize("text", ["SECRET" * 6, "SECRET" * 14, "SECRET value" * 4, ""])
def test_a_token_of_another_form_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        names.api_token(text)
    assert "SECRET" not in str(refused.value.at("cloudflare:apiToken"))
    assert f"{len(text)} characters" in refused.value.found


def test_a_host_key_loses_its_comment() -> None:
    assert names.host_key(f"  {HOST_KEY} root@vps\n") == HOST_KEY


@pytest.mark.parametrize("kind", ["ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"])
def test_an_rsa_host_key_is_refused_with_the_reason_it_cannot_work(kind: str) -> None:
    with pytest.raises(Invalid) as refused:
        names.host_key(f"{kind} AAAAB3NzaC1yc2E=")
    assert "SHA-1" in refused.value.why


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        HOST_KEY[:-4],
        HOST_KEY + "AAAA",
        "ssh-ed25519 not!base64",
        HOST_KEY[:40] + "!" + HOST_KEY[40:],
        "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x07ssh-rsa" + b"k" * 40).decode(),
        "ecdsa-sha2-nistp256 AAAA",
        "smtp.example.com " + HOST_KEY,  # a known_hosts line
    ],
)
def test_a_damaged_or_other_host_key_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="not an ed25519 host key"):
        names.host_key(text)


def test_a_private_key_pasted_as_host_key_is_not_shown() -> None:
    with pytest.raises(Invalid) as refused:
        names.host_key("-----BEGIN-OPENSSH-PRIVATE-KEY-----SECRET")
    assert "SECRET" not in str(refused.value.at("x"))


def test_a_long_value_is_cut_and_stays_on_one_line() -> None:
    text = names.shown("a\nb" + "x" * 100)
    assert len(text) <= 64
    assert "\n" not in text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("https://deb.example.net/debian/", "https://deb.example.net/debian"),
        (" http://198.51.100.1:3142/debian ", "http://198.51.100.1:3142/debian"),
        ("https://deb.example.net", "https://deb.example.net"),
    ],
)
def test_a_url_of_a_mirror_has_no_slash_at_its_end(text: str, canonical: str) -> None:
    assert names.http_url(text) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "deb.example.net", "ftp://deb.example.net", "https://", "https://u:p@deb.example.net", "https://deb/a b",
     "https://deb.example.net/?x=1", "https://deb.example.net/#x", "https://deb.example.net/a\nb", "file:///etc"],
)  # fmt: skip
def test_what_is_no_plain_url_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="is not a plain http or https URL"):
        names.http_url(text)


@pytest.mark.parametrize("text", ["Europe/Berlin", "Etc/GMT+5", "UTC", "America/Argentina/Buenos_Aires"])
def test_a_time_zone_is_told_by_its_form(text: str) -> None:
    assert names.timezone(text) == text


@pytest.mark.parametrize(
    "text", ["", "/etc/passwd", "Europe/../x", "Europe//Berlin", "Europe/Berlin/", "europe/berlin"]
)
def test_what_cannot_be_a_time_zone_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="is not the name of a timezone"):
        names.timezone(text)


@pytest.mark.parametrize("text", ["C.UTF-8", "de_DE.UTF-8", "fil_PH.UTF-8"])
def test_a_locale_is_told_by_its_form(text: str) -> None:
    assert names.locale(text) == text


@pytest.mark.parametrize("text", ["", "C", "de_DE", "de_DE.utf8", "de_DE.ISO-8859-1", "de_DE.UTF-8\nLC_ALL=x"])
def test_what_cannot_be_a_locale_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="is not the name of a locale"):
        names.locale(text)


def test_the_router_of_a_network_may_be_link_local_and_never_many() -> None:
    assert names.ipv6_gateway("FE80::1") == "fe80::1"
    for text in ("ff02::2", "::", "::1", "fe80::1%eth0"):
        with pytest.raises(Invalid):
            names.ipv6_gateway(text)
