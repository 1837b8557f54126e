"""DMARC as RFC 9989 has it: which record holds, whose domain is whose, and what no answer means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dns.exception
import dns.message
import dns.name
import dns.resolver
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.chasquid.policy import dmarc
from components.chasquid.policy.dmarc import Outcome, Proof, Unanswered

if TYPE_CHECKING:
    from collections.abc import Sequence

SILENT = "does not answer"


class Zone:
    """DNS from text: `example.com: v=DMARC1; p=none | www.example.com` has a policy record and a name without one."""

    def __init__(self, text: str = "") -> None:
        self.texts: dict[str, list[str]] = {}
        for entry in filter(None, text.split(" | ")):
            name, colon, record = entry.partition(": ")
            self.texts.setdefault(f"_dmarc.{name}" if colon else name, []).extend([record] if colon else [])
        self.asked: list[str] = []

    def __call__(self, name: str) -> Sequence[str] | None:
        self.asked.append(name)
        found = self.texts.get(name)
        if found == [SILENT]:
            raise Unanswered(name)
        return found


def result(author: str, zone: Zone, spf: str | None = None, *dkim: str) -> tuple[str, str]:
    outcome = dmarc.evaluate(author, Proof(spf, frozenset(dkim)), zone)
    return outcome.result, outcome.policy


# Discovery


def test_a_long_name_costs_the_eight_queries_of_the_standards_example() -> None:
    zone = Zone()
    dmarc.walk("a.b.c.d.e.f.g.h.i.j.mail.example.com", zone)
    assert zone.asked == [
        "_dmarc.a.b.c.d.e.f.g.h.i.j.mail.example.com",
        "_dmarc.g.h.i.j.mail.example.com",
        "_dmarc.h.i.j.mail.example.com",
        "_dmarc.i.j.mail.example.com",
        "_dmarc.j.mail.example.com",
        "_dmarc.mail.example.com",
        "_dmarc.example.com",
        "_dmarc.com",
    ]


@given(st.integers(1, 60))
def test_no_name_costs_more_than_eight_queries(labels: int) -> None:
    zone = Zone()
    dmarc.walk(".".join("abcdefgh"[number % 8] for number in range(labels)), zone)
    assert len(zone.asked) == min(labels, 8)
    assert len(set(zone.asked)) == len(zone.asked)


@pytest.mark.parametrize(
    ("author", "zone", "organization"),
    [
        ("a.mail.example.com", "mail.example.com: v=DMARC1 | example.com: v=DMARC1", "example.com"),
        ("a.mail.example.com", "mail.example.com: v=DMARC1; psd=n | example.com: v=DMARC1", "mail.example.com"),
        ("a.mail.example.com", "com: v=DMARC1; psd=y", "example.com"),
        ("mail.example.com", "mail.example.com: v=DMARC1 | example.com: v=DMARC1; psd=y", "mail.example.com"),
        ("gov.test", "gov.test: v=DMARC1; psd=y", "gov.test"),
        ("a.b.gov.test", "gov.test: v=DMARC1; psd=y | test: v=DMARC1", "b.gov.test"),
        ("a.example.com", "example.com: v=DMARC1; psd=u", "example.com"),
        ("a.example.com", "", "a.example.com"),
    ],
)  # fmt: skip
def test_the_organizational_domain_is_the_one_of_the_standard(author: str, zone: str, organization: str) -> None:
    assert dmarc.organizational_domain(author, dmarc.walk(author, Zone(zone))) == organization


@pytest.mark.parametrize(
    ("author", "zone", "expected"),
    [
        ("example.com", "example.com: v=DMARC1; p=reject", "reject"),
        ("example.com", "example.com: v=DMARC1; p=reject; sp=none; np=none", "reject"),
        ("a.example.com", "example.com: v=DMARC1; p=reject | a.example.com", "reject"),
        ("a.example.com", "example.com: v=DMARC1; p=reject; sp=none | a.example.com", "none"),
        ("a.example.com", "example.com: v=DMARC1; p=none; np=reject | a.example.com", "none"),
        ("a.example.com", "example.com: v=DMARC1; p=none; sp=quarantine; np=reject", "reject"),
        ("a.example.com", "example.com: v=DMARC1; p=none; sp=quarantine", "quarantine"),
        ("a.example.com", "a.example.com: v=DMARC1; p=none | example.com: v=DMARC1; p=reject", "none"),
        ("a.b.example.com", "b.example.com: v=DMARC1; p=none | example.com: v=DMARC1; p=reject", "reject"),
        ("a.b.gov.test", "gov.test: v=DMARC1; psd=y; p=none; np=reject", "reject"),
        ("a.b.gov.test", "gov.test: v=DMARC1; psd=y; p=reject | test: v=DMARC1; p=none", "reject"),
        ("x.y.b.gov.test", "y.b.gov.test: v=DMARC1; p=none | gov.test: v=DMARC1; psd=y; p=reject", "reject"),
        ("example.com", "example.com: v=DMARC1; p=reject; t=y", "quarantine"),
        ("example.com", "example.com: v=DMARC1; p=quarantine; t=y", "none"),
        ("example.com", "example.com: v=DMARC1; p=none; t=y", "none"),
        ("example.com", "example.com: v=DMARC1; p=REJECT ; T = n", "reject"),
        ("example.com", "example.com: v = DMARC1;p=reject;p=none;", "reject"),
        ("example.com", "example.com: other | example.com: v=DMARC1; p=reject", "reject"),
        ("example.com", "example.com: v=DMARC1; p=reject; pct=0; unknown=1; nothing", "reject"),
        ("example.com", "example.com: v=DMARC1; p=oops; rua=mailto:a@example.com", "none"),
        ("example.com", "example.com: v=DMARC1; p=reject; sp=oops; rua=mailto:a@example.com", "none"),
        ("a.example.com", "example.com: v=DMARC1; p=oops; sp=reject; rua=mailto:a@example.com", "none"),
    ],
)  # fmt: skip
def test_the_policy_for_mail_that_fails_is_the_one_of_the_standard(author: str, zone: str, expected: str) -> None:
    assert result(author, Zone(zone)) == ("fail", expected)


@pytest.mark.parametrize(
    "record",
    [
        "v=dmarc1; p=reject",
        "v=DMARC2; p=reject",
        "v=DMARC12; p=reject",
        "p=reject; v=DMARC1",
        "v=DMARC1; sp=reject",
        "v=DMARC1; p=oops; rua=nowhere",
        "v=DMARC1; p=reject; np=oops",
        "v=DMARC1; p=reject | example.com: v=DMARC1; p=none",
        "",
    ],
)
def test_what_is_no_policy_record_has_no_effect(record: str) -> None:
    assert result("example.com", Zone(f"example.com: {record}")) == ("none", "none")


# Alignment

ORGANIZATION = "example.com: v=DMARC1; p=reject"


@pytest.mark.parametrize(
    ("tags", "author", "spf", "dkim", "expected"),
    [
        ("", "example.com", "example.com", (), "pass"),
        ("", "example.com", None, ("example.com",), "pass"),
        ("", "example.com", "bounce.example.com", (), "pass"),
        ("", "a.example.com", None, ("b.example.com",), "pass"),
        ("", "a.example.com", None, ("example.com",), "pass"),
        ("", "example.com", "example.org", ("com",), "fail"),
        ("", "example.com", "notexample.com", (), "fail"),
        ("", "example.com", "example.com.evil.test", (), "fail"),
        ("", "example.com", None, (), "fail"),
        ("; aspf=s", "example.com", "bounce.example.com", (), "fail"),
        ("; aspf=s", "example.com", "example.com", (), "pass"),
        ("; aspf=s", "example.com", "x.test", ("b.example.com",), "pass"),
        ("; adkim=s", "example.com", None, ("b.example.com",), "fail"),
        ("; adkim=s", "example.com", None, ("b.example.com", "example.com"), "pass"),
        ("; adkim=s", "example.com", "bounce.example.com", (), "pass"),
    ],
)
def test_alignment_is_relaxed_unless_the_record_says_strict(
    tags: str, author: str, spf: str | None, dkim: tuple[str, ...], expected: str
) -> None:
    zone = Zone(f"{ORGANIZATION}{tags}")
    assert result(author, zone, spf, *dkim) == (expected, "reject")


def test_a_neighbour_below_a_public_suffix_proves_nothing() -> None:
    zone = Zone("gov.test: v=DMARC1; psd=y; p=reject")
    assert result("a.gov.test", zone, "b.gov.test", "gov.test") == ("fail", "reject")


def test_a_subdomain_that_is_an_organization_of_its_own_proves_nothing_for_its_parent() -> None:
    zone = Zone(f"{ORGANIZATION} | tenant.example.com: v=DMARC1; p=none; psd=n")
    assert result("example.com", zone, "tenant.example.com") == ("fail", "reject")


def test_a_domain_without_a_record_is_proven_by_itself_alone() -> None:
    assert dmarc.evaluate("example.com", Proof("example.com"), Zone()) == Outcome("none", "none", aligned=True)
    assert dmarc.evaluate("example.com", Proof("a.example.com"), Zone()) == Outcome("none", "none", aligned=False)


def test_a_domain_is_related_to_itself_whatever_dns_says() -> None:
    assert dmarc.related("example.com", {"example.com"}, Zone(f"example.com: {SILENT}"))


def test_a_longer_name_with_the_same_end_is_not_within() -> None:
    names = ("example.com", "a.example.com", "notexample.com")
    assert [dmarc.is_within(name, "example.com") for name in names] == [True, True, False]


def test_nobody_asks_whether_a_name_exists_unless_the_record_does() -> None:
    zone = Zone("example.com: v=DMARC1; p=none; sp=reject")
    assert result("a.example.com", zone) == ("fail", "reject")
    assert "a.example.com" not in zone.asked


def test_names_elsewhere_are_not_looked_up() -> None:
    zone = Zone(ORGANIZATION)
    result("example.com", zone, "elsewhere.test", "another.test")
    assert {name for name in zone.asked if name.endswith(".test")} == set()


# No answer


def test_without_an_answer_about_the_author_the_worst_is_assumed_of_strangers_alone() -> None:
    zone = Zone(f"example.com: {SILENT}")
    assert result("example.com", zone, "x.test") == ("temperror", "reject")
    assert result("example.com", zone, "example.com") == ("temperror", "none")


def test_without_an_answer_about_the_signer_the_policy_is_known() -> None:
    zone = Zone(f"example.com: v=DMARC1; p=quarantine | a.example.com: {SILENT}")
    assert result("example.com", zone, None, "a.example.com") == ("temperror", "quarantine")
    assert result("example.com", zone, None, "a.example.com", "b.example.com") == ("pass", "quarantine")


def test_an_unknown_existence_is_the_worst_case_too() -> None:
    zone = Zone("example.com: v=DMARC1; p=none; np=reject")
    zone.texts["a.example.com"] = [SILENT]
    assert result("a.example.com", zone) == ("temperror", "reject")


# Look-ups


def test_a_name_is_looked_up_once_a_message_and_never_after_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []
    now = [100.0]

    def resolver(name: str, seconds: float) -> list[str]:
        asked.append((name, seconds))
        now[0] += 4
        return []

    monkeypatch.setattr(dmarc.time, "monotonic", lambda: now[0])
    lookup = dmarc.within(resolver, 10)
    assert (lookup("a"), lookup("a"), lookup("b"), lookup("c")) == ([], [], [], [])
    with pytest.raises(Unanswered, match="10 s"):
        lookup("d")
    assert lookup("a") == []
    assert asked == [("a", 10.0), ("b", 6.0), ("c", 2.0)]


class Answers:
    """A resolver of dnspython that says what it is told."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.cache, self.asked = answer, None, []

    def use_edns(self, *_: int) -> None: ...

    def resolve(self, name: dns.name.Name, kind: str, **options: Any) -> Any:
        self.asked.append((str(name), kind, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Record:
    strings = (b"v=DMARC1; ", b"p=reject\xff")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([Record()], ["v=DMARC1; p=reject\ufffd"]),
        (dns.resolver.NXDOMAIN(), None),
        (dns.resolver.NoAnswer(response=dns.message.Message()), []),
        (dns.resolver.NoNameservers(), Unanswered),
        (dns.exception.Timeout(), Unanswered),
        (dns.resolver.YXDOMAIN(), Unanswered),
        (OSError("no network"), Unanswered),
    ],
)
def test_each_kind_of_answer_is_told_apart(monkeypatch: pytest.MonkeyPatch, answer: Any, expected: Any) -> None:
    resolver = Answers(answer)
    monkeypatch.setattr(dns.resolver, "Resolver", lambda: resolver)
    if expected is Unanswered:
        with pytest.raises(Unanswered, match=r"_dmarc\.example\.com"):
            dmarc.Dns()("_dmarc.example.com", 3)
    else:
        assert dmarc.Dns()("_dmarc.example.com", 3) == expected
    assert resolver.asked == [("_dmarc.example.com.", "TXT", {"lifetime": 3, "search": False})]
    assert resolver.cache is not None


@pytest.mark.parametrize("name", ["a..b", f"{'x' * 64}.test", ".".join(["y" * 60] * 5)])
def test_what_cannot_be_a_name_does_not_exist(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(dns.resolver, "Resolver", lambda: Answers([]))
    assert dmarc.Dns()(name, 3) is None


def test_a_host_without_a_resolver_knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver, "Resolver", missing)
    with pytest.raises(Unanswered):
        dmarc.Dns()("example.com", 3)
