"""The wanted DNS of whole stacks; dnspython, pyspf and checkdmarc read it as the world does."""

from __future__ import annotations

import base64
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

import checkdmarc.dmarc
import dkim as dkimpy
import dns.message
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.zone
import pytest
import spf as pyspf
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from standards import records
from standards.records import Record, quoted, unquoted, wanted_records
from tests.unit.standards.example_stack import OTHER_ZONE, ZONE, domain, host, load, second_domain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GOLDEN = Path(__file__).with_name("zone.golden")
# A fixed RSA-2048 key (RFC 6376 wants e=65537), so that the golden zone does not change.
NUMBERS = rsa.RSAPublicNumbers(65537, int("c5" * 255 + "c7", 16))
PUBLIC = base64.b64encode(
    NUMBERS.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
).decode()


def every_kind(values: dict[str, Any]) -> None:
    """Two hosts; a forwarding, an external and a silent domain; a key in each stage."""
    values["mailroom:hosts"].append(
        {**values["mailroom:hosts"][0], "name": "smtp2.example.com", "ipv4": "192.0.2.11", "ipv6": "2001:db8::11",
         "ipv6Outbound": "off"}
    )  # fmt: skip
    domain(
        spf={"mechanisms": ["ip4:192.0.2.200"], "includes": ["_spf.google.com"], "all": "-all"},
        dmarc={"policy": "quarantine", "sp": "reject", "rua": ["dmarc@example.com"], "fo": 1},
        dkim=[{"selector": "m1"}, {"selector": "m2", "stage": "published"}, {"selector": "m0", "stage": "retiring"},
              {"selector": "old", "stage": "revoked"}],
    )(values)  # fmt: skip
    second_domain(name="external.example", mail="external", mx=["mx.example.net"])(values)
    second_domain(name="silent.example", mail="none")(values)


class AllKeys(dict[tuple[str, str], str]):
    """One public key for every selector."""

    def __missing__(self, key: tuple[str, str]) -> str:
        return PUBLIC

    def __contains__(self, key: object) -> bool:
        return True


def rdata_text(record: Record) -> str:
    return f"{record.priority} {record.shown.removesuffix('.')}." if record.type == "MX" else record.shown


def zone_text(wanted: Sequence[Record]) -> str:
    lines = [f"{r.name}. {r.ttl} IN {r.type} {rdata_text(r)} ; {r.wave}, {r.key}: {r.reason}" for r in wanted]
    return "\n".join(lines) + "\n"


def test_the_whole_zone_is_as_reviewed() -> None:
    assert zone_text(wanted_records(load(every_kind), AllKeys())) == GOLDEN.read_text(encoding="utf-8")


def test_dnspython_loads_the_zone() -> None:
    text = zone_text(wanted_records(load(every_kind), AllKeys()))
    zone = dns.zone.from_text(f"$ORIGIN .\n{text}", origin=".", relativize=False, check_origin=False)
    assert len(list(zone.iterate_rdatas())) == len(text.splitlines())


def test_every_key_and_every_name_with_its_type_is_unique_but_for_several_mx() -> None:
    wanted = wanted_records(load(every_kind))
    assert len({record.key for record in wanted}) == len(wanted)
    once = [(record.name, record.type) for record in wanted if record.type != "MX"]
    assert len(set(once)) == len(once)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=700))
def test_any_text_comes_back_out_of_its_quoted_strings_and_none_is_too_long(text: str) -> None:
    content = quoted(text)
    rdata = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.TXT, content)
    assert b"".join(rdata.strings) == text.encode()  # type: ignore[attr-defined]
    assert rdata.to_text() == content
    assert all(len(part) <= 255 for part in rdata.strings)  # type: ignore[attr-defined]
    assert unquoted(content) == text


@given(st.lists(st.text(alphabet=string.printable, max_size=300), min_size=1, max_size=3))
def test_strings_without_an_escape_are_read_as_dnspython_reads_them(texts: list[str]) -> None:
    content = " ".join(f'"{text}"' for text in texts)
    try:
        rdata = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.TXT, content)
    except dns.exception.DNSException:
        return
    assert unquoted(content) == b"".join(rdata.strings).decode("utf-8", "replace")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("size", "strings"), [(0, 1), (255, 1), (256, 2), (510, 2), (511, 3)])
def test_strings_are_as_few_as_possible(size: int, strings: int) -> None:
    assert quoted("x" * size).count('"') == 2 * strings


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("v=spf1 -all", "v=spf1 -all"),
        ('"v=spf1 " "-all"', "v=spf1 -all"),
        (f'"{"x" * 300}"', "x" * 300),
        ('"not closed', "not closed"),
    ],
)
def test_content_of_others_is_read_however_they_stored_it(content: str, text: str) -> None:
    assert unquoted(content) == text


def by_key(change: Callable[[dict[str, Any]], object] = lambda _: None) -> dict[str, Record]:
    return {record.key: record for record in wanted_records(load(change))}


def test_a_new_key_is_shown_as_what_it_will_be() -> None:
    record = by_key()["example.com/dkim/m1"]
    assert (record.content, record.shown) == (None, "<new RSA-2048 key>")
    assert record.dkim == ("example.com", "m1")


def test_only_the_key_that_is_known_is_filled_in() -> None:
    settings = load(domain(dkim=[{"selector": "m1"}, {"selector": "m2", "stage": "published"}]))
    wanted = {r.key: r for r in wanted_records(settings, {("example.com", "m2"): PUBLIC})}
    assert wanted["example.com/dkim/m1"].content is None
    assert PUBLIC in unquoted(wanted["example.com/dkim/m2"].shown)


@pytest.mark.parametrize("stage", ["published", "active", "retiring"])
def test_a_key_is_public_in_every_stage_but_the_last(stage: str) -> None:
    keys = [{"selector": "m1"}, {"selector": "k", "stage": stage}]
    assert by_key(domain(dkim=keys))["example.com/dkim/k"].content is None


def test_a_revoked_key_is_published_empty_even_if_it_is_known() -> None:
    settings = load(domain(dkim=[{"selector": "m1"}, {"selector": "k", "stage": "revoked"}]))
    wanted = {r.key: r for r in wanted_records(settings, AllKeys())}
    assert wanted["example.com/dkim/k"].content == '"v=DKIM1; k=rsa; p="'


def test_dkimpy_finds_the_key_in_the_strings_of_the_record() -> None:
    record = wanted_records(load(), AllKeys())[5]
    rdata = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.TXT, record.shown)
    assert len(rdata.strings) == 2  # type: ignore[attr-defined]
    key = dkimpy.evaluate_pk(b"x", b"".join(rdata.strings))  # type: ignore[attr-defined]
    assert key[0]["modulus"] == NUMBERS.n


def test_without_outgoing_ipv6_neither_aaaa_nor_spf_names_the_address() -> None:
    wanted = by_key(host(ipv6Outbound="off"))
    assert "smtp.example.com/aaaa" not in wanted
    assert wanted["example.com/spf-hosts"].content == '"v=spf1 ip4:192.0.2.10 -all"'


def test_a_host_with_ipv6_alone_has_no_a() -> None:
    wanted = by_key(host(ipv4=None))
    assert "smtp.example.com/a" not in wanted
    assert wanted["example.com/spf-hosts"].content == '"v=spf1 ip6:2001:db8::10 -all"'


def test_a_host_named_like_its_domain_has_one_spf_record() -> None:
    wanted = by_key(host(name="example.com"))
    spf = [r.content for r in wanted.values() if r.name == "example.com" and r.type == "TXT"]
    assert spf == ['"v=spf1 include:_spf.example.com ~all"']


def test_a_host_is_written_to_the_zone_of_the_longest_domain_around_it() -> None:
    def change(values: dict[str, Any]) -> None:
        second_domain(name="eu.example.com")(values)
        host(name="smtp.eu.example.com")(values)

    assert by_key(change)["smtp.eu.example.com/a"].zone_id == OTHER_ZONE


def test_a_name_that_only_ends_alike_is_not_inside_a_domain() -> None:
    def change(values: dict[str, Any]) -> None:
        second_domain(name="ample.com")(values)

    assert by_key(change)["smtp.example.com/a"].zone_id == ZONE


def test_a_hosts_own_zone_wins() -> None:
    assert by_key(host(zoneId=OTHER_ZONE))["smtp.example.com/a"].zone_id == OTHER_ZONE


def test_an_external_domain_gets_no_mx() -> None:
    wanted = by_key(domain(mail="external", mx=["mx.example.net"], aliases={}))
    assert not [record for record in wanted.values() if record.type == "MX"]


def test_mx_and_dmarc_come_in_the_last_wave_and_the_hosts_own_records_in_the_first() -> None:
    waves = {record.key: record.wave for record in wanted_records(load())}
    assert {key for key, wave in waves.items() if wave == "mail"} == {
        "example.com/mx/smtp.example.com",
        "example.com/dmarc",
    }
    assert {key for key, wave in waves.items() if wave == "host"} == {
        "smtp.example.com/a",
        "smtp.example.com/aaaa",
        "smtp.example.com/spf",
    }


@pytest.mark.parametrize("stack", ["dev", "s" * 60])
def test_a_comment_fits_and_ends_with_the_mark(stack: str) -> None:
    for record in wanted_records(load(every_kind)):
        comment = record.comment(stack)
        assert len(comment) <= 100
        assert comment.endswith(f" mailroom:{stack}")
        assert comment.isascii()


def test_a_short_reason_is_not_cut() -> None:
    record = by_key()["smtp.example.com/spf"]
    assert record.comment("dev") == f"{record.reason} mailroom:dev"


def pretended_dns(wanted: Sequence[Record]) -> Callable[..., list[Any]]:
    """A resolver for pyspf that knows these records and nothing else."""

    def lookup(name: str, qtype: str, *_: Any, **__: Any) -> list[Any]:
        answers = [r for r in wanted if r.name == name.rstrip(".").lower() and r.type == qtype]
        if qtype == "TXT":
            return [((r.name, "TXT"), [unquoted(r.shown).encode()]) for r in answers]
        return [((r.name, qtype), r.shown) for r in answers]

    return lookup


@pytest.mark.parametrize(
    ("address", "sender", "helo", "result"),
    [
        ("192.0.2.10", "i@example.com", "smtp.example.com", "pass"),
        ("192.0.2.11", "i@example.com", "smtp2.example.com", "pass"),
        ("2001:db8::10", "i@example.com", "smtp.example.com", "pass"),
        ("2001:db8::11", "i@example.com", "smtp2.example.com", "fail"),  # IPv6 is off there
        ("192.0.2.200", "i@example.com", "else.example", "pass"),
        ("192.0.2.99", "i@example.com", "smtp.example.com", "fail"),
        ("192.0.2.10", "q@external.example", "smtp.example.com", "pass"),
        ("192.0.2.99", "q@external.example", "smtp.example.com", "softfail"),
        ("192.0.2.10", "q@silent.example", "smtp.example.com", "fail"),
        ("192.0.2.10", "", "smtp.example.com", "pass"),  # a bounce
        ("2001:db8::10", "", "smtp.example.com", "pass"),
        ("192.0.2.99", "", "smtp.example.com", "fail"),
    ],
)
def test_pyspf_judges_senders_by_the_records(
    monkeypatch: pytest.MonkeyPatch, address: str, sender: str, helo: str, result: str
) -> None:
    def change(values: dict[str, Any]) -> None:
        every_kind(values)
        values["mailroom:domains"][0]["spf"]["includes"] = []

    monkeypatch.setattr(pyspf, "DNSLookup", pretended_dns(wanted_records(load(change))))
    assert pyspf.query(i=address, s=sender, h=helo).check()[0] == result


@pytest.mark.parametrize(
    ("name", "policy"), [("example.com", "quarantine"), ("external.example", "none"), ("silent.example", "reject")]
)
def test_checkdmarc_reads_the_policy(name: str, policy: str) -> None:
    wanted = {record.name: record for record in wanted_records(load(every_kind))}
    text = unquoted(wanted[f"_dmarc.{name}"].shown)
    assert checkdmarc.dmarc.parse_dmarc_record(text, name)["tags"]["p"]["value"] == policy


def test_our_hosts_addresses_come_without_those_switched_off() -> None:
    hosts = load(every_kind).hosts
    assert records.sending_addresses(hosts) == (["192.0.2.10", "192.0.2.11"], ["2001:db8::10"])


def reporting(*addresses: str) -> Callable[[dict[str, Any]], object]:
    def change(values: dict[str, Any]) -> None:
        domain(dmarc={"rua": list(addresses)})(values)
        second_domain(name="second.example", aliases={"dmarc": ["x@elsewhere.example"]})(values)

    return change


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("dmarc@second.example", "example.com._report._dmarc.second.example"),
        ("dmarc@in.second.example", "example.com._report._dmarc.in.second.example"),
        ("dmarc@example.com", None),
        ("dmarc@in.example.com", None),  # the same organisation
        ("dmarc@reports.example", None),  # not ours to write
    ],
)
def test_checkdmarc_finds_our_leave_for_reports_to_another_domain_of_ours(
    monkeypatch: pytest.MonkeyPatch, address: str, name: str | None
) -> None:
    wanted = wanted_records(load(reporting(address)))
    leave = [record for record in wanted if "._report." in record.name]
    assert [(record.name, record.wave) for record in leave] == ([(name, "mail")] if name else [])
    if name is None:
        return
    assert (leave[0].zone_id, leave[0].owner) == (OTHER_ZONE, "second.example")
    texts = {record.name: [unquoted(record.shown)] for record in wanted if record.type == "TXT"}
    monkeypatch.setattr(checkdmarc.dmarc, "query_dns", lambda asked, *_, **__: texts.get(asked, []))
    receiver = address.partition("@")[2]
    checkdmarc.dmarc.verify_dmarc_report_destination("example.com", receiver)
    with pytest.raises(checkdmarc.dmarc.UnverifiedDMARCURIDestination):
        checkdmarc.dmarc.verify_dmarc_report_destination("other.example.net", receiver)


def test_two_addresses_at_one_domain_need_one_leave() -> None:
    wanted = wanted_records(load(reporting("dmarc@second.example", "x@second.example")))
    assert len([record for record in wanted if "._report." in record.name]) == 1


def challenges(change: Callable[[dict[str, Any]], object]) -> dict[str, tuple[str, str, str]]:
    def zone(values: dict[str, Any]) -> None:
        values["mailroom:acme"]["challengeZone"] = "acme.example.net"
        change(values)

    records = [record for record in wanted_records(load(zone)) if record.type == "CNAME"]
    return {record.name: (record.shown, record.owner, record.wave) for record in records}


def test_each_certificate_has_a_cname_to_the_zone_for_challenges_before_it_is_asked_for() -> None:
    assert challenges(domain(certificate="wildcard")) == {
        "_acme-challenge.smtp.example.com": (
            "_acme-challenge.smtp.example.com.acme.example.net", "smtp.example.com", "host",
        ),
        "_acme-challenge.example.com": ("_acme-challenge.example.com.acme.example.net", "example.com", "identity"),
    }  # fmt: skip
    assert list(challenges(lambda _: None)) == ["_acme-challenge.smtp.example.com"]
    assert [record for record in wanted_records(load(domain(certificate="wildcard"))) if record.type == "CNAME"] == []


def test_a_host_named_like_its_domain_has_one_challenge() -> None:
    def same(values: dict[str, Any]) -> None:
        values["mailroom:hosts"][0]["name"] = "example.com"
        values["mailroom:domains"][0]["certificate"] = "wildcard"

    assert list(challenges(same)) == ["_acme-challenge.example.com"]


def test_a_domain_that_never_mails_may_have_a_certificate_and_its_challenge() -> None:
    assert "_acme-challenge.second.test" in challenges(second_domain(mail="none", certificate="wildcard"))


def test_the_first_domain_can_go_and_no_record_of_the_host_or_of_another_changes() -> None:
    def both(values: dict[str, Any]) -> None:
        host(zoneId=ZONE)(values)
        second_domain(users=["bob"], aliases={"bob": ["b@receiver.test"]})(values)
        values["mailroom:passwords"]["bob@second.test"] = "correct horse battery"

    def alone(values: dict[str, Any]) -> None:
        both(values)
        del values["mailroom:domains"][0], values["mailroom:passwords"]["i@example.com"]

    left = wanted_records(load(alone))
    assert left == [record for record in wanted_records(load(both)) if record.owner != "example.com"]
    assert {record.owner for record in left} == {"smtp.example.com", "second.test"}
