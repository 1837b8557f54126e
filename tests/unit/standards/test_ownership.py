"""What stands in the way of our records, and what each finding tells a person to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from standards import ownership
from standards.records import wanted_records
from tests.unit.standards.example_stack import OTHER_ZONE, ZONE, domain, load, second_domain

if TYPE_CHECKING:
    from collections.abc import Callable

    from standards.finding import Finding


def claimed(change: Callable[[dict[str, Any]], object] = lambda _: None, zone: str = ZONE) -> list[ownership.Claim]:
    settings = load(change)
    return ownership.claims(settings, wanted_records(settings), zone)


def found(
    record: dict[str, Any], change: Callable[[dict[str, Any]], object] = lambda _: None, zone: str = "example.com"
) -> list[Finding]:
    return ownership.conflicts([{"id": "a1b2", "comment": None, **record}], claimed(change), "prod", zone)


FOREIGN = [
    {"type": "A", "name": "smtp.example.com", "content": "203.0.113.1"},
    {"type": "AAAA", "name": "smtp.example.com", "content": "2001:db8::99"},
    {"type": "CNAME", "name": "smtp.example.com", "content": "elsewhere.example"},
    {"type": "TXT", "name": "smtp.example.com", "content": '"v=spf1 mx -all"'},
    {"type": "MX", "name": "example.com", "content": "mx.example.net", "priority": 10},
    {"type": "TXT", "name": "example.com", "content": "v=spf1 include:_spf.google.com ~all"},
    {"type": "TXT", "name": "example.com", "content": '"V=SPF1 " "-all"'},
    {"type": "TXT", "name": "_spf.example.com", "content": '"v=spf1 -all"'},
    {"type": "TXT", "name": "m1._domainkey.example.com", "content": '"anything"'},
    {"type": "CNAME", "name": "m1._domainkey.example.com", "content": "m1.esp.example"},
    {"type": "TXT", "name": "_dmarc.example.com", "content": '"v=DMARC1; p=reject"'},
    {"type": "TXT", "name": "_dmarc.example.com", "content": "v=dmarc1;p=none"},
    {"type": "MX", "name": "Example.COM.", "content": "mx.example.net", "priority": 10},
]


def test_no_stack_takes_a_name_of_another_whatever_the_record() -> None:
    """Environments use different domains: every record of one stack stands in another's way at the same name."""
    published = [
        {"id": "a1b2", "type": record.type, "name": record.name, "content": record.content or '"v=DKIM1; p=AAAA"',
         "comment": record.comment("staging")}
        for record in wanted_records(load(stack="staging"))
    ]  # fmt: skip
    conflicts = ownership.conflicts(published, claimed(), "prod", "example.com")
    assert len(conflicts) == len(published) > 7
    for finding in conflicts:
        assert finding.severity == "error"
        assert "it belongs to the stack 'staging'" in finding.found
        assert "environments use different domains" in finding.fix
    assert ownership.conflicts(published, claimed(), "staging", "example.com") == []
    elsewhere = [{**record, "name": f"{record['name']}.staging.test"} for record in published]
    assert ownership.conflicts(elsewhere, claimed(), "prod", "example.com") == []


@pytest.mark.parametrize("record", FOREIGN, ids=lambda r: f"{r['type']} {r['name']}")
def test_a_record_of_our_kind_that_is_not_ours_is_named_with_the_ways_on(record: dict[str, Any]) -> None:
    (finding,) = found(record)
    assert finding.severity == "error"
    assert finding.subject == record["name"].lower().rstrip(".")
    assert str(record["type"]) in finding.found
    assert "a1b2" in finding.found
    included = record["name"] == "_spf.example.com"
    assert ("delete it" in finding.fix) == (not included)
    assert ("; then take it over" in finding.fix) == included
    merged = record["name"] == "example.com" and "spf1" in record["content"].lower()
    assert ("take it over: `scripts/adopt.py --stack prod`" in finding.fix) == (record["type"] != "CNAME")
    assert ("adopt: true" in finding.fix) == merged


@pytest.mark.parametrize("record", FOREIGN, ids=lambda r: f"{r['type']} {r['name']}")
def test_the_same_record_with_our_mark_is_ours(record: dict[str, Any]) -> None:
    assert found({**record, "comment": "Some reason mailroom:prod"}) == []


@pytest.mark.parametrize(
    "record",
    [
        {"type": "TXT", "name": "example.com", "content": '"google-site-verification=abc"'},
        {"type": "TXT", "name": "example.com", "content": '"v=spf10 is another thing"'},
        {"type": "A", "name": "example.com", "content": "203.0.113.1"},
        {"type": "CAA", "name": "example.com", "content": '0 issue "letsencrypt.org"'},
        {"type": "TXT", "name": "_dmarc.example.com", "content": '"verification=abc"'},
        {"type": "TXT", "name": "m2._domainkey.example.com", "content": '"v=DKIM1; p=abc"'},
        {"type": "A", "name": "www.example.com", "content": "203.0.113.1"},
        {"type": "CNAME", "name": "example.com", "content": "pages.example.net"},
        {"type": "MX", "name": "sub.example.com", "content": "mx.example.net"},
        {"type": "TXT", "name": "example.com", "content": '"not closed'},
    ],
    ids=lambda r: f"{r['type']} {r['name']} {r['content']}",
)
def test_other_records_of_the_zone_are_left_in_peace(record: dict[str, Any]) -> None:
    assert found(record) == []


@pytest.mark.parametrize(
    ("name", "kinds", "beside", "stops"),
    [
        ("example.com", ["MX", "SPF"], "CNAME", False),
        ("example.com", ["A", "AAAA", "SPF"], "CNAME", True),
        ("example.com", ["CNAME"], "CNAME", True),
        ("example.com", ["CNAME"], "AAAA", True),
        ("example.com", ["CNAME"], "MX", False),
        ("smtp.example.com", ["MX", "SPF"], "CNAME", True),
        ("smtp.example.com", ["CNAME"], "MX", True),
    ],
)
def test_an_alias_at_the_zones_own_name_excludes_addresses_alone(
    name: str, kinds: list[str], beside: str, *, stops: bool
) -> None:
    claim = claimed()[0] | {"name": name, "kinds": kinds}
    record = {"type": beside, "name": name, "content": "x.example", "comment": None}
    assert bool(ownership.conflicts([record], [claim], "prod", "example.com")) == stops


def test_nothing_may_stand_beside_a_cname_of_ours() -> None:
    left = {"type": "TXT", "name": "_acme-challenge.smtp.example.com", "content": '"left by certbot"'}
    assert found(left) == []
    (finding,) = found(left, lambda values: values["mailroom:acme"].update(challengeZone="acme.example.net"))
    assert "left by certbot" in finding.found


@pytest.mark.parametrize(
    ("comment", "owner"),
    [
        ("reason mailroom:prod", "prod"),
        ("mailroom:lab-dev", "lab-dev"),
        ("reason mailroom:prod ", "prod"),
        ("reason mailroom:prod and more", None),
        ("notmailroom:prod", None),
        ("", None),
        (None, None),
    ],
)
def test_the_mark_at_the_end_of_the_comment_tells_the_stack(comment: str | None, owner: str | None) -> None:
    assert ownership.owner({"comment": comment}) == owner


@pytest.mark.parametrize("stack", ["dev", "prod2", "xprod"])
def test_a_record_of_another_stack_is_said_to_be_that_stacks(stack: str) -> None:
    (finding,) = found({"type": "MX", "name": "example.com", "content": "x.example", "comment": f"mailroom:{stack}"})
    assert f"stack '{stack}'" in finding.found
    assert "other names" in finding.fix
    assert "delete" not in finding.fix


@pytest.mark.parametrize(
    "record",
    [
        {"type": "MX", "name": "example.com", "content": "route1.mx.cloudflare.net", "priority": 5},
        {"type": "MX", "name": "example.com", "content": "x.example", "meta": {"email_routing": True}},
        {"type": "TXT", "name": "example.com", "content": '"v=spf1 include:_spf.mx.cloudflare.net ~all"'},
    ],
)
def test_email_routing_is_named_with_how_to_switch_it_off(record: dict[str, Any]) -> None:
    (finding,) = found(record)
    assert "Cloudflare Email Routing" in finding.found
    assert "disable it" in finding.fix


def test_a_name_that_only_looks_like_email_routing_is_not() -> None:
    (finding,) = found({"type": "MX", "name": "example.com", "content": "xmx.cloudflare.net"})
    assert "Email Routing" not in finding.found


@pytest.mark.parametrize(
    ("record", "way"),
    [
        ({"type": "TXT", "name": "example.com", "content": "v=spf1 -all"}, "one record"),
        ({"type": "TXT", "name": "smtp.example.com", "content": "v=spf1 -all"}, "spf.includes"),
        ({"type": "TXT", "name": "m1._domainkey.example.com", "content": "p=x"}, "another selector"),
        ({"type": "TXT", "name": "_dmarc.example.com", "content": "v=DMARC1; p=reject"}, "does not get weaker"),
        ({"type": "MX", "name": "example.com", "content": "mx.example.net"}, "mail: external"),
        ({"type": "CNAME", "name": "m1._domainkey.example.com", "content": "x.example"}, "another selector"),
        ({"type": "A", "name": "smtp.example.com", "content": "203.0.113.1"}, "another host name"),
    ],
)
def test_each_kind_has_its_own_way_on(record: dict[str, Any], way: str) -> None:
    assert way in found(record)[0].fix


def test_an_alias_cannot_be_taken_over_and_is_not_said_to_be_a_hosts_name() -> None:
    (finding,) = found({"type": "CNAME", "name": "_dmarc.example.com", "content": "dmarc.example.net"})
    assert "set `dmarc` to what it says" in finding.fix
    assert "take it over" not in finding.fix
    assert "host name" not in finding.fix


OTHERS_SPF = {
    "type": "TXT",
    "name": "example.com",
    "content": '"v=spf1 ip4:192.0.2.7 include:_spf.google.com exists:%{i}.x.example -all"',
}


def test_the_line_that_merges_an_spf_record_does_so_when_it_is_pasted() -> None:
    (finding,) = found(OTHERS_SPF)
    line = yaml.safe_load(finding.fix.split("`")[1])
    assert line["spf"] == {
        "mechanisms": ["ip4:192.0.2.7", "exists:%{i}.x.example"],
        "includes": ["_spf.google.com"],
        "all": "-all",
        "adopt": True,
    }
    assert found(OTHERS_SPF, domain(**line)) == []
    (claim,) = (one for one in claimed(domain(**line)) if one["name"] == "example.com")
    assert ownership.replaceable([{"comment": None, **OTHERS_SPF}], claim) == [{"comment": None, **OTHERS_SPF}]


def test_the_line_quotes_a_qualifier() -> None:
    (finding,) = found(OTHERS_SPF | {"content": "v=spf1 a ?mx ~all"})
    assert yaml.safe_load(finding.fix.split("`")[1])["spf"]["mechanisms"] == ["a", "?mx"]


def test_a_record_that_allows_more_than_ours_is_not_replaced_and_what_is_lacking_is_named() -> None:
    change = domain(spf={"includes": ["_spf.google.com"], "adopt": True})
    (finding,) = found(OTHERS_SPF, change)
    assert finding.fix.startswith("ours lacks ip4:192.0.2.7, exists:%{i}.x.example; ")


@pytest.mark.parametrize(
    "record",
    [
        OTHERS_SPF | {"comment": "x mailroom:other"},
        OTHERS_SPF | {"content": "v=spf1 include:_spf.mx.cloudflare.net ~all"},
        OTHERS_SPF | {"name": "smtp.example.com", "content": "v=spf1 -all"},
    ],
    ids=["another stack's", "Email Routing's", "a host's"],
)
def test_only_a_strangers_record_at_the_domain_itself_is_ever_replaced(record: dict[str, Any]) -> None:
    change = domain(spf={"includes": ["_spf.google.com", "_spf.mx.cloudflare.net"], "adopt": True})
    assert [one.id for one in found(record, change)] == ["record-not-ours"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v=spf1 include:a.example -ip4:192.0.2.1 ip4:192.0.2.0/24 ~all", "-ip4:192.0.2.1 refuses whom a later term"),
        ("v=spf1 ptr include:a.example ~all", "one record that allows both (left out: ptr); or delete it"),
    ],
)
def test_what_a_merge_would_lose_is_told_and_never_replaced(text: str, said: str) -> None:
    record = OTHERS_SPF | {"content": text}
    assert said in found(record)[0].fix
    change = domain(
        spf={"mechanisms": ["ip4:192.0.2.0/24", "-ip4:192.0.2.1"], "includes": ["a.example"], "adopt": True}
    )
    assert bool(found(record, change)) == ("-ip4" in text)


def external(**mx: Any) -> Callable[[dict[str, Any]], object]:
    return domain(mail="external", mx=["mx1.example.net", "mx2.example.net"], aliases={}, **mx)


def mx(*hosts: str) -> list[dict[str, Any]]:
    return [{"type": "MX", "name": "example.com", "content": host, "priority": 10, "id": host} for host in hosts]


def test_the_mx_of_an_external_domain_may_be_anybodys_if_it_is_as_the_settings_say() -> None:
    existing = mx("MX2.example.net.", "mx1.example.net")
    assert ownership.conflicts(existing, claimed(external()), "prod", "example.com") == []


@pytest.mark.parametrize("hosts", [(), ("mx1.example.net",), ("mx1.example.net", "mx2.example.net", "mx3.example.net")])
def test_another_mx_of_an_external_domain_is_found(hosts: tuple[str, ...]) -> None:
    (finding,) = ownership.conflicts(mx(*hosts), claimed(external()), "prod", "example.com")
    assert finding.id == "external-mx-differs"
    assert "mx1.example.net, mx2.example.net" in finding.expected
    assert all(host in finding.found for host in hosts)


def test_our_own_mx_does_not_keep_a_domain_from_moving_out() -> None:
    ours = [record | {"comment": "why mailroom:prod"} for record in mx("smtp.example.com")]
    theirs = mx("mx1.example.net", "mx2.example.net")
    assert ownership.conflicts([*ours, *theirs], claimed(external()), "prod", "example.com") == []
    (finding,) = ownership.conflicts(ours, claimed(external()), "prod", "example.com")
    assert "no MX record but our own" in finding.found
    others = [record | {"comment": "why mailroom:staging"} for record in mx("smtp.example.net")]
    assert len(ownership.conflicts([*others, *theirs], claimed(external()), "prod", "example.com")) == 1


def test_mx_in_the_spf_of_a_domain_that_comes_here_at_once_is_the_hosts_of_today() -> None:
    theirs = OTHERS_SPF | {"content": '"v=spf1 mx ~all"', "comment": None}

    def stopped(*more: dict[str, Any], **said: Any) -> list[str]:
        conflicts = ownership.conflicts([theirs, *more], claimed(domain(**said)), "prod", "example.com")
        return [finding.fix for finding in conflicts if "spf1" in finding.found]

    (fix,) = stopped(*mx("Mail.old.net."))
    line = yaml.safe_load(fix.split("`")[1])
    assert line["spf"]["mechanisms"] == ["a:mail.old.net"]
    assert stopped(*mx("Mail.old.net."), **line) == []
    assert len(stopped(*mx("Mail.old.net."), spf={"mechanisms": ["mx"], "adopt": True})) == 1
    ours = [record | {"comment": "why mailroom:prod"} for record in mx("smtp.example.com")]
    assert stopped(*ours, spf={"mechanisms": ["mx"], "adopt": True}) == []
    assert stopped(*mx("."), spf={"mechanisms": ["mx"], "adopt": True}) == []
    (claim,) = (one for one in claimed(domain(**line)) if one["name"] == "example.com")
    assert ownership.replaceable([theirs, *mx("mail.old.net")], claim) == [theirs]
    assert ownership.replaceable([theirs, *mx("mail2.old.net")], claim) == []


def test_why_mx_of_ours_does_not_stand_for_theirs_is_told() -> None:
    theirs = OTHERS_SPF | {"content": '"v=spf1 mx a:x.example ~all"'}
    why = "(`mx` of ours will name our own hosts once the mail moves here)"
    lacks = "ours lacks a:mx1.example.net, a:mx2.example.net"
    fixes = [
        next(
            one.fix for one in found(theirs, external(spf={"mechanisms": terms, "adopt": True})) if "spf1" in one.found
        )
        for terms in (["mx", "a:x.example"], ["a:x.example"])
    ]
    assert fixes[0].startswith(f"{lacks} {why}; to merge it into ours, write")
    assert fixes[1].startswith(f"{lacks}; to merge")


def test_all_conflicts_are_told_at_once() -> None:
    existing = [{"id": str(n), **record} for n, record in enumerate(FOREIGN)]
    assert len(ownership.conflicts(existing, claimed(), "prod", "example.com")) == len(FOREIGN)


def adopted(values: dict[str, Any]) -> None:
    values["mailroom:adopted"] = ["a" * 32]


def test_an_id_in_the_settings_excuses_a_record_of_others_and_none_that_a_stack_has_marked() -> None:
    record = {"type": "MX", "name": "example.com", "content": "mx.example.net", "id": "a" * 32}
    assert found(record, adopted) == []
    (finding,) = found({**record, "comment": "why mailroom:staging"}, adopted)
    assert "it belongs to the stack 'staging'" in finding.found


def test_claims_are_told_by_zone_and_are_plain_data() -> None:
    change = second_domain(mail="none")
    assert [claim["name"] for claim in claimed(change, OTHER_ZONE)] == ["_dmarc.second.test", "second.test"]
    assert {claim["name"]: claim["kinds"] for claim in claimed(change)} == {
        "_dmarc.example.com": ["DMARC"],
        "_spf.example.com": ["SPF"],
        "example.com": ["MX", "SPF"],
        "m1._domainkey.example.com": ["DKIM"],
        "smtp.example.com": ["A", "AAAA", "SPF"],
    }
    assert json.loads(json.dumps(claimed(change))) == claimed(change)
