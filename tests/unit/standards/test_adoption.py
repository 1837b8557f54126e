"""What becomes of each record at our names: kept, merged, imported under the right name, or in conflict."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standards import adoption, dkim, ownership
from standards.records import quoted, wanted_records
from tests.unit.standards.example_stack import ZONE, domain, load

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from standards.adoption import Judgement
    from standards.records import Record

STACK = "prod"
APEX, HOST, DMARC, KEY = "example.com", "smtp.example.com", "_dmarc.example.com", "m1._domainkey.example.com"
PUBLIC = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A" + "B" * 360


def nothing(_: dict[str, Any]) -> None:
    """The example stack as it is."""


def record(kind: str, name: str, content: str, **more: Any) -> dict[str, Any]:
    defaults = {"id": "a1", "ttl": 300, "proxied": False, "comment": None, "priority": 10 if kind == "MX" else None}
    return {**defaults, "type": kind, "name": name, "content": content, **more}


def judge(
    *existing: dict[str, Any],
    change: Callable[[dict[str, Any]], object] = nothing,
    known: Mapping[str, str] | None = None,
    take: Collection[str] = (),
    public: Mapping[tuple[str, str], str] | None = None,
    zone: str = APEX,
) -> list[Judgement]:
    loaded = load(change)
    wanted = wanted_records(loaded)
    if public:
        wanted = [one if one.dkim not in public else with_key(one, public[one.dkim]) for one in wanted]
    claims = ownership.claims(loaded, wanted, ZONE)
    return adoption.judge(existing, wanted, claims, STACK, known or {}, take, zone=zone)


def with_key(one: Record, public: str) -> Record:
    from dataclasses import replace

    return replace(one, content=quoted(f"v=DKIM1; k=rsa; p={public}"))


def verdicts(judged: list[Judgement]) -> list[tuple[str, str | None]]:
    return [(one.verdict, one.key) for one in judged]


def up(change: Callable[[dict[str, Any]], object] = nothing) -> list[tuple[str, dict[str, Any]]]:
    """The zone as our own run leaves it, each record with its logical name."""
    return [
        (
            one.key,
            record(one.type, one.name, one.content or quoted(f"v=DKIM1; k=rsa; p={PUBLIC}"), id=str(number),
                   priority=one.priority, comment=one.comment(STACK)),
        )
        for number, one in enumerate(wanted_records(load(change)))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        (record("A", HOST, "192.0.2.10"), ("import", f"{HOST}/a")),
        (record("AAAA", HOST, "2001:DB8::10"), ("import", f"{HOST}/aaaa")),
        (record("MX", APEX, "SMTP.example.com."), ("import", f"{APEX}/mx/{HOST}")),
        (record("MX", "Example.COM.", HOST), ("import", f"{APEX}/mx/{HOST}")),
        (record("TXT", DMARC, '"v=DMARC1; p=none; rua=mailto:postmaster@example.com"'), ("import", f"{APEX}/dmarc")),
        (record("TXT", DMARC, '"v=DMARC1; p=none; rua=mailto:x@example.com"'), ("conflict", None)),
        (record("TXT", APEX, "v=spf1 include:_spf.example.com ~all"), ("import", f"{APEX}/spf")),
        (record("TXT", APEX, '"v=spf1 include:_spf." "example.com ~all"'), ("import", f"{APEX}/spf")),
        (record("TXT", APEX, '"v=spf1 include:_spf.google.com ~all"'), ("merge", f"{APEX}/spf")),
        (record("TXT", f"_spf.{APEX}", '"v=spf1 ip4:192.0.2.10 -all"'), ("import", f"{APEX}/spf-hosts")),
        (record("TXT", HOST, '"v=spf1 a -all"'), ("import", f"{HOST}/spf")),
        (record("TXT", HOST, '"v=spf1 mx -all"'), ("conflict", None)),
        (record("TXT", f"_spf.{APEX}", '"v=spf1 ip4:203.0.113.7 -all"'), ("conflict", None)),
        (record("A", HOST, "203.0.113.1"), ("conflict", None)),
        (record("AAAA", HOST, "2001:db8::11"), ("conflict", None)),
        (record("MX", APEX, "mx.example.net"), ("conflict", None)),
        (record("CNAME", APEX, "pages.example.net"), ("keep", None)),
        (record("CNAME", HOST, "pages.example.net"), ("conflict", None)),
        (record("CNAME", KEY, "m1.esp.example"), ("conflict", None)),
        (record("TXT", KEY, '"v=DKIM1; p=abc"'), ("conflict", None)),
        (record("TXT", DMARC, '"v=DMARC1; p=reject"'), ("conflict", None)),
        (record("TXT", DMARC, '"v=DMARC1; p=none; sp=reject"'), ("conflict", None)),
        (record("MX", APEX, "route1.mx.cloudflare.net"), ("conflict", None)),
        (record("TXT", APEX, '"v=spf1 include:_spf.mx.cloudflare.net ~all"'), ("conflict", None)),
        (record("MX", APEX, HOST, comment="why mailroom:other"), ("conflict", None)),
        (record("TXT", APEX, '"v=spf1 -all"', comment="why mailroom:other"), ("conflict", None)),
        (record("TXT", APEX, '"google-site-verification=abc"'), ("keep", None)),
        (record("A", APEX, "203.0.113.1"), ("keep", None)),
        (record("CAA", APEX, '0 issue "letsencrypt.org"'), ("keep", None)),
    ],
    ids=lambda value: f"{value['type']} {value['name']} {value['content']}" if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_record_that_stands_at_our_name_is_judged(existing: dict[str, Any], expected: tuple[str, str | None]) -> None:
    assert verdicts(judge(existing)) == [expected]


def test_an_alias_is_flattened_at_the_zones_own_name_alone() -> None:
    assert verdicts(judge(record("CNAME", APEX, "pages.example.net"), zone="com")) == [("conflict", None)]


@pytest.mark.parametrize("name", ["www.example.com", "old._domainkey.example.com", "example.com.evil.test"])
def test_a_record_at_another_name_is_not_shown(name: str) -> None:
    assert judge(record("TXT", name, '"v=spf1 -all"')) == []


def test_an_idn_is_found_in_either_spelling() -> None:
    def change(values: dict[str, Any]) -> None:
        domain(name="xn--mller-kva.example", users=[], aliases={})(values)
        values["mailroom:hosts"][0]["zoneId"] = ZONE
        values.pop("mailroom:passwords")

    found = judge(*(record("MX", name, HOST, id=name) for name in ("Müller.example", "XN--MLLER-KVA.example.")),
                  change=change)  # fmt: skip
    assert verdicts(found) == [("import", f"xn--mller-kva.example/mx/{HOST}"), ("conflict", None)]


def test_what_the_next_run_changes_is_told_and_what_it_leaves_is_not() -> None:
    (one,) = judge(record("A", HOST, "192.0.2.10", ttl=1, proxied=True, comment="the old server"))
    assert [change.split()[0] for change in one.changes] == ["ttl", "proxied", "comment"]
    assert one.changes[:2] == ("ttl automatic -> 300", "proxied true -> false")
    (mx,) = judge(record("MX", APEX, HOST, priority=20, ttl=300))
    assert [change for change in mx.changes if "comment" not in change] == ["priority 20 -> 10"]


def test_a_record_that_is_like_ours_in_all_but_its_mark_only_gets_the_mark() -> None:
    for key, made in up():
        if "/dkim/" not in key:
            (one,) = judge({**made, "comment": None})
            assert (one.verdict, one.key, [change.split()[0] for change in one.changes]) == ("import", key, ["comment"])


def test_a_key_that_we_have_is_ours_however_its_record_is_spelled() -> None:
    text = quoted(f"k=rsa; t=s; v=DKIM1; p={PUBLIC[:200]} {PUBLIC[200:]}")
    assert text.count('" "') == 1  # more than one string
    public = {(APEX, "m1"): PUBLIC}
    assert verdicts(judge(record("TXT", KEY, text), public=public)) == [("import", f"{APEX}/dkim/m1")]
    assert verdicts(judge(record("TXT", KEY, text.replace("B", "C")), public=public)) == [("conflict", None)]
    assert dkim.published("v=DKIM1; p=") == ""
    assert dkim.published("v=DKIM1") is None


def test_two_spf_records_become_one_and_nothing_that_they_allow_is_lost() -> None:
    loaded = load()
    judged = judge(
        record("TXT", APEX, '"v=spf1 ip4:192.0.2.77 -all"', id="1"),
        record("TXT", APEX, '"v=spf1 include:_spf.google.com ~all"', id="2"),
    )
    assert verdicts(judged) == [("merge", f"{APEX}/spf"), ("merge", None)]
    assert [one.id for one in judged if one.is_imported] == ["1"]
    claims = ownership.claims(loaded, wanted_records(loaded), ZONE)
    said = adoption.spf_settings(judged, claims)
    assert said == {
        APEX: {"mechanisms": ["ip4:192.0.2.77"], "includes": ["_spf.google.com"], "all": "-all", "adopt": True}
    }
    after = load(domain(spf=said[APEX]))
    assert adoption.spf_settings(judged, ownership.claims(after, wanted_records(after), ZONE)) == {}
    (claim,) = (one for one in ownership.claims(after, wanted_records(after), ZONE) if one["name"] == APEX)
    assert [one["id"] for one in ownership.replaceable([one.record for one in judged], claim | {"adopted": ["1"]})] == [
        "2"
    ]


def test_our_own_spf_record_beside_a_strangers_keeps_its_name() -> None:
    ours = record("TXT", APEX, '"v=spf1 include:_spf.example.com ~all"', id="2", comment="x mailroom:prod")
    judged = judge(record("TXT", APEX, '"v=spf1 mx ~all"', id="1"), ours)
    assert verdicts(judged) == [("merge", None), ("import", f"{APEX}/spf")]


def test_the_strictest_end_of_a_strangers_spf_record_is_kept() -> None:
    (one,) = judge(record("TXT", APEX, '"v=spf1 include:_spf.google.com -all"'))
    merged = "v=spf1 include:_spf.example.com include:_spf.google.com -all"
    assert one.changes[0] == f"""content '"v=spf1 include:_spf.google.com -all"' -> '"{merged}"'"""
    claims = ownership.claims(load(), wanted_records(load()), ZONE)
    assert adoption.spf_settings([one], claims)[APEX]["all"] == "-all"


EXTERNAL = domain(mail="external", mx=["mx1.example.net", "mx2.example.net"], aliases={})


def settings_of(
    judged: list[Judgement], change: Callable[[dict[str, Any]], object] = nothing
) -> dict[str, dict[str, Any]]:
    loaded = load(change)
    return adoption.spf_settings(judged, ownership.claims(loaded, wanted_records(loaded), ZONE))


@pytest.mark.parametrize("text", ["v=spf1 -all", "v=spf1 include:_spf.example.com -all"])
def test_a_stricter_end_is_merged_even_where_ours_allows_all_that_it_allows(text: str) -> None:
    judged = judge(record("TXT", APEX, quoted(text)))
    assert (judged[0].verdict, judged[0].reason) == (
        "merge", "ours lacks -all, which goes into `spf` of the settings",
    )  # fmt: skip
    becomes = """-> '"v=spf1 include:_spf.example.com -all"'"""
    assert any(becomes in change for change in judged[0].changes) == (text == "v=spf1 -all")
    said = settings_of(judged)
    assert said == {APEX: {"all": "-all"}}
    assert verdicts(judge(record("TXT", APEX, quoted(text)), change=domain(spf=said[APEX]))) == [
        ("import", f"{APEX}/spf")
    ]


@pytest.mark.parametrize("theirs", ["~all", "?all", "+all"])
def test_our_stricter_end_stays(theirs: str) -> None:
    change = domain(spf={"all": "-all"})
    judged = judge(record("TXT", APEX, quoted(f"v=spf1 include:_spf.google.com {theirs}")), change=change)
    assert settings_of(judged, change) == {APEX: {"includes": ["_spf.google.com"], "all": "-all"}}
    assert judged[0].changes[0].endswith(""" include:_spf.google.com -all"'""")


@pytest.mark.parametrize(
    ("text", "verdict", "reason"),
    [
        ("v=spf1 ~all", "import", "ours allows all that it allows, and takes its place"),
        ("v=spf1 ~all include:b.example redirect=c.example", "import",
         "ours allows all that it allows, and takes its place"),
        ("v=spf1 ptr exp=x.example ~all", "import", "ours takes its place (left out: ptr, exp=x.example)"),
        ("v=spf1 +all", "import", "ours takes its place (left out: +all)"),
        ("v=spf1 mx ptr ~all", "merge",
         "ours lacks mx, which goes into `spf` of the settings (left out: ptr)"),
        ("v=spf1 include:x.example ?mx ?include:y.example ~all", "merge",
         "ours lacks include:x.example, which goes into `spf` of the settings (left out: ?mx, ?include:y.example)"),
        ("v=spf1 mx ?a ~all", "merge", "ours lacks mx, ?a, which goes into `spf` of the settings"),
    ],
)  # fmt: skip
def test_what_a_merge_leaves_out_is_told(text: str, verdict: str, reason: str) -> None:
    (one,) = judge(record("TXT", APEX, quoted(text)))
    assert (one.verdict, one.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("v=spf1 -ip4:203.0.113.0/24 ip4:203.0.113.9 -all", "write `spf` by hand so that our record ends with"),
        ("v=spf1 include:a.example -ip4:203.0.113.0/24 ip4:203.0.113.9 -all", "`spf` cannot hold that order"),
        ("v=spf1 -include:bad.example mx -all", "`spf` cannot hold that order"),
    ],
)
def test_a_record_whose_order_matters_is_merged_by_hand_or_taken(text: str, way: str) -> None:
    existing = record("TXT", APEX, quoted(text), id="b" * 32)
    change = domain(spf={"mechanisms": ["ip4:203.0.113.9"]})
    for known in ({}, {f"{APEX}/spf": "b" * 32}):
        judged = judge(existing, known=known, change=change)
        assert judged[0].verdict == "conflict"
        assert "order matters" in judged[0].reason
        assert way in judged[0].fix
        assert f"--take {'b' * 32}" in judged[0].fix
        assert (settings_of(judged, change), adoption.adopted(judged)) == ({}, [])
        taken = judge(existing, known=known, take=["b" * 32], change=change)
        assert (taken[0].verdict, adoption.adopted(taken)) == ("import", ["b" * 32])


def test_a_record_whose_order_ours_keeps_is_imported() -> None:
    change = domain(spf={"mechanisms": ["-ip4:203.0.113.0/24", "mx"]})
    existing = record("TXT", APEX, '"v=spf1 -ip4:203.0.113.0/24 mx ~all"')
    assert verdicts(judge(existing, change=change)) == [("import", f"{APEX}/spf")]


def test_a_second_record_may_not_come_to_stand_behind_what_the_first_refuses() -> None:
    judged = judge(
        record("TXT", APEX, '"v=spf1 ?mx ip4:192.0.2.77 ~all"', id="1"),
        record("TXT", APEX, '"v=spf1 ip4:192.0.2.78 ~all"', id="2"),
    )
    assert verdicts(judged) == [("conflict", None), ("merge", f"{APEX}/spf")]


def test_what_a_record_refuses_at_its_end_comes_behind_all_that_passes() -> None:
    judged = judge(
        record("TXT", APEX, '"v=spf1 ip4:192.0.2.77 ?mx ~all"', id="1"),
        record("TXT", APEX, '"v=spf1 ip4:192.0.2.78 ~all"', id="2"),
    )
    assert verdicts(judged) == [("merge", f"{APEX}/spf"), ("merge", None)]
    assert settings_of(judged)[APEX]["mechanisms"] == ["ip4:192.0.2.77", "ip4:192.0.2.78", "?mx"]


def test_what_was_taken_stays_taken() -> None:
    existing, known = record("TXT", APEX, '"v=spf1 -mx a -all"', id="b" * 32), {f"{APEX}/spf": "b" * 32}
    (one,) = judge(existing, known=known, change=lambda values: values.update({"mailroom:adopted": ["b" * 32]}))
    assert one.verdict == "keep"


def test_mx_of_a_domain_that_moves_becomes_the_hosts_that_it_names_today() -> None:
    existing = record("TXT", APEX, '"v=spf1 mx/24 -all"')
    (one,) = judge(existing, change=EXTERNAL)
    assert one.reason.startswith("ours lacks a:mx1.example.net/24, a:mx2.example.net/24, -all")
    said = settings_of([one], EXTERNAL)
    assert said[APEX]["mechanisms"] == ["a:mx1.example.net/24", "a:mx2.example.net/24"]

    def with_mx_alone(values: dict[str, Any]) -> None:
        EXTERNAL(values)
        domain(spf={"mechanisms": ["mx/24"], "all": "-all"})(values)

    (one,) = judge(existing, change=with_mx_alone)
    assert one.verdict == "merge"
    assert "(`mx` of ours will name our own hosts once the mail moves here)" in one.reason


def test_mx_of_a_domain_that_comes_here_at_once_becomes_the_hosts_of_its_mx_records() -> None:
    judged = judge(record("TXT", APEX, '"v=spf1 mx ~all"'), record("MX", APEX, "mail.old.net", id="b1"))
    (one,) = (one for one in judged if one.verdict == "merge")
    assert one.reason.startswith("ours lacks a:mail.old.net,")
    assert settings_of(judged) == {APEX: {"mechanisms": ["a:mail.old.net"], "all": "~all"}}


@pytest.mark.parametrize(
    ("existing", "key"),
    [
        (record("MX", APEX, "mx.example.net"), f"{APEX}/mx/{HOST}"),
        (record("A", HOST, "203.0.113.1"), f"{HOST}/a"),
        (record("TXT", DMARC, '"v=DMARC1; p=reject"'), f"{APEX}/dmarc"),
        (record("TXT", KEY, '"v=DKIM1; p=abc"'), f"{APEX}/dkim/m1"),
        (record("TXT", HOST, '"v=spf1 mx -all"'), f"{HOST}/spf"),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else None,
)
def test_a_conflict_can_be_taken_in_place_of_ours_and_says_so(existing: dict[str, Any], key: str) -> None:
    (conflict,) = judge(existing)
    assert "scripts/adopt.py --stack prod --take a1" in conflict.fix
    assert verdicts(judge(existing, take=["a1"])) == [("import", key)]


@pytest.mark.parametrize(
    "existing",
    [
        record("CNAME", KEY, "m1.esp.example"),
        record("MX", APEX, HOST, comment="why mailroom:other"),
        record("MX", APEX, "route1.mx.cloudflare.net"),
    ],
    ids=["of a kind that we do not write", "another stack's", "Email Routing's"],
)
def test_what_cannot_become_ours_is_never_taken(existing: dict[str, Any]) -> None:
    assert "--take" not in judge(existing)[0].fix
    assert verdicts(judge(existing, take=["a1"])) == [("conflict", None)]


def test_what_has_no_place_beside_a_record_of_the_state_is_not_taken_and_it_is_said_why() -> None:
    second = record("MX", "example.com", "mx.example.net", id="b2", priority=10)
    known = {"example.com/mx/smtp.example.com": "a1"}
    (conflict,) = judge(second, known=known, take=["b2"])
    assert conflict.verdict == "conflict"
    assert conflict.reason == "it cannot be taken: the state has example.com/mx/smtp.example.com already"
    assert conflict.fix.startswith("if that one is gone from DNS, `pulumi refresh -s prod` and then this again; ")
    assert "cannot be taken" not in judge(second, known=known)[0].reason


def test_a_record_that_a_domain_may_include_is_copied_before_it_is_taken_and_never_deleted() -> None:
    for content in ("include:_spf.example.com -all", "redirect=_spf.example.com"):
        helper, apex = judge(
            record("TXT", APEX, quoted(f"v=spf1 {content}"), id="1"),
            record("TXT", f"_spf.{APEX}", '"v=spf1 ip4:203.0.113.7 -all"', id="2"),
        )
        assert helper.verdict == "conflict"
        assert helper.fix == (
            "copy its include: terms to `spf.includes` of the domain and its others to `spf.mechanisms`; then let the "
            "next run change it to ours: `scripts/adopt.py --stack prod --take 2`"
        )
        assert apex.key == f"{APEX}/spf"


ALL_LOST = (
    "ours is weaker: adkim=r, not s",
    "a@agari.example would get no reports any more: write them into `dmarc.rua`",
    "f@example.net would get no reports any more: write them into `dmarc.ruf`",
)


@pytest.mark.parametrize(
    ("ours", "reason"),
    [
        ({}, "; ".join(ALL_LOST)),
        ({"adkim": "s", "rua": ["A@agari.example"]}, ALL_LOST[2]),
        ({"adkim": "s", "rua": ["A@agari.example"], "ruf": ["f@example.net"]}, "it becomes ours: "),
    ],
)
def test_a_dmarc_record_is_taken_in_once_ours_asks_for_all_that_it_asks_for(ours: dict[str, Any], reason: str) -> None:
    text = '"v=DMARC1; p=none; adkim=s; rua=mailto:a@agari.example; ruf=mailto:f@example.net"'
    (one,) = judge(record("TXT", DMARC, text), change=domain(dmarc=ours))
    assert one.reason.startswith(reason)
    assert one.verdict == ("import" if "ruf" in ours else "conflict")


def test_one_of_ours_takes_the_place_of_one_record_alone() -> None:
    judged = judge(record("MX", APEX, "mx1.example.net", id="1"), record("MX", APEX, "mx2.example.net", id="2"),
                   take=["1", "2"])  # fmt: skip
    assert verdicts(judged) == [("import", f"{APEX}/mx/{HOST}"), ("conflict", None)]
    same = judge(record("MX", APEX, "mx1.example.net", id="1"), record("MX", APEX, HOST, id="2"), take=["1"])
    assert verdicts(same) == [("conflict", None), ("import", f"{APEX}/mx/{HOST}")]


def test_the_mx_of_an_external_domain_is_left_alone() -> None:
    change = domain(mail="external", mx=["mx.example.net"], aliases={})
    assert verdicts(judge(record("MX", APEX, "mx.example.net"), change=change)) == [("keep", None)]


def test_what_was_imported_is_told_until_the_settings_name_it_and_then_kept() -> None:
    existing, known = record("A", HOST, "192.0.2.10", id="b" * 32), {f"{HOST}/a": "b" * 32}
    (one,) = judge(existing, known=known)
    assert (one.verdict, one.is_imported) == ("import", False)
    assert adoption.adopted([one]) == ["b" * 32]
    (one,) = judge(existing, known=known, change=lambda values: values.update({"mailroom:adopted": ["b" * 32]}))
    assert (one.verdict, one.key) == ("keep", f"{HOST}/a")
    assert adoption.adopted([one]) == ["b" * 32]
    (one,) = judge({**existing, "comment": "why mailroom:prod"}, known=known)
    assert one.verdict == "keep"
    assert adoption.adopted([one]) == []  # a run has made it ours since


def test_a_record_in_the_state_that_another_stack_has_marked_since_is_that_stacks() -> None:
    existing = record("A", HOST, "192.0.2.10", id="b" * 32, comment="why mailroom:other")
    (one,) = judge(existing, known={f"{HOST}/a": "b" * 32},
                   change=lambda values: values.update({"mailroom:adopted": ["b" * 32]}))  # fmt: skip
    assert (one.verdict, one.reason) == ("conflict", "it belongs to the stack 'other'")
    assert adoption.adopted([one]) == []


def test_an_imported_spf_record_is_merged_again_as_long_as_ours_lacks_a_term() -> None:
    existing = record("TXT", APEX, '"v=spf1 mx ~all"', id="b" * 32)
    (one,) = judge(existing, known={f"{APEX}/spf": "b" * 32})
    assert (one.verdict, one.is_imported) == ("merge", False)


def test_a_record_of_ours_that_the_program_does_not_want_any_more_is_for_recovery() -> None:
    (one,) = judge(record("TXT", f"_spf.{APEX}", '"v=spf1 -all"', comment="x mailroom:prod", type="CAA"))
    assert (one.verdict, one.key) == ("conflict", None)
    assert "scripts/recover.py --stack prod" in one.fix


@st.composite
def _stacks(draw: st.DrawFn) -> Callable[[dict[str, Any]], object]:
    """Stacks of several shapes."""
    stages = draw(st.lists(st.sampled_from(["published", "retiring", "revoked"]), max_size=2))
    keys: dict[str, Any] = {
        "dkim": [{"selector": f"m{number}", "stage": stage} for number, stage in enumerate(["active", *stages], 1)],
        "spf": {
            "includes": draw(st.lists(st.sampled_from(["a.example", "b.example"]), unique=True)),
            "adopt": draw(st.booleans()),
        },
        "dmarc": {"policy": draw(st.sampled_from(["none", "reject"]))},
    }
    if draw(st.booleans()):
        keys |= {"mail": "external", "mx": ["mx.example.net"], "aliases": {}}
    return domain(**keys)


@settings(max_examples=60, deadline=None)
@given(_stacks(), st.data())
def test_a_zone_that_our_own_run_made_is_kept_and_what_its_state_forgot_comes_back_under_its_name(
    change: Callable[[dict[str, Any]], object], data: st.DataObject
) -> None:
    made = up(change)
    lost = set(data.draw(st.lists(st.sampled_from([key for key, _ in made]), unique=True)))
    strangers = [record("TXT", APEX, '"abc=1"', id="x"), record("A", "www.example.com", "203.0.113.1", id="y")]
    zone = data.draw(st.permutations([*(one for _, one in made), *strangers]))
    known = {key: one["id"] for key, one in made if key not in lost}
    found = {one.id: (one.verdict, one.key) for one in judge(*zone, change=change, known=known)}
    assert found == {
        **{one["id"]: ("import" if key in lost else "keep", key) for key, one in made},
        "x": ("keep", None),
    }


FOREIGN = [
    record("MX", APEX, HOST),
    record("MX", APEX, "mx.example.net"),
    record("A", HOST, "192.0.2.10"),
    record("A", HOST, "203.0.113.1"),
    record("TXT", APEX, '"v=spf1 mx -all"'),
    record("TXT", APEX, '"v=spf1 -all"'),
    record("TXT", DMARC, '"v=DMARC1; p=none"'),
    record("TXT", KEY, '"p=x"'),
    record("CNAME", HOST, "x.example"),
]


@settings(max_examples=60, deadline=None)
@given(zone=st.lists(st.sampled_from(FOREIGN)), taken=st.booleans())
def test_what_is_adopted_passes_the_gate_and_no_name_is_given_twice(zone: list[dict[str, Any]], *, taken: bool) -> None:
    numbers = count(1)
    zone = [{**one, "id": f"{next(numbers):032x}"} for one in zone]
    judged = judge(*zone, take=[one["id"] for one in zone] if taken else ())
    keys = [one.key for one in judged if one.key]
    assert len(keys) == len(set(keys))
    claims = ownership.claims(load(), wanted_records(load()), ZONE)
    said = adoption.spf_settings(judged, claims)

    def change(values: dict[str, Any]) -> None:
        domain(**({"spf": said[APEX]} if said else {}))(values)
        values["mailroom:adopted"] = adoption.adopted(judged)

    after = load(change)
    stopped = ownership.conflicts(zone, ownership.claims(after, wanted_records(after), ZONE), STACK, APEX)
    assert len(stopped) == sum(one.verdict == "conflict" for one in judged)
