"""DMARC records; checkdmarc reads what we write."""

from __future__ import annotations

import checkdmarc.dmarc
import pytest

from standards import dmarc
from standards.finding import Invalid


def test_only_what_is_given_is_written_and_the_policy_comes_second() -> None:
    assert dmarc.record("none") == "v=DMARC1; p=none"
    full = dmarc.record(
        "quarantine",
        subdomains="reject",
        nonexistent="reject",
        adkim="s",
        aspf="r",
        rua=["a@example.com", "b@example.com"],
        ruf=["c@example.com"],
        fo="1:d",
    )
    assert full == (
        "v=DMARC1; p=quarantine; sp=reject; np=reject; adkim=s; aspf=r; rua=mailto:a@example.com,mailto:b@example.com; "
        "ruf=mailto:c@example.com; fo=1:d"
    )


def test_checkdmarc_reads_the_record_as_meant() -> None:
    text = dmarc.record("reject", subdomains="quarantine", rua=["a@example.com"], ruf=["b@example.com"], fo="1")
    parsed = checkdmarc.dmarc.parse_dmarc_record(text, "example.com", parked=True)["tags"]
    assert (parsed["p"]["value"], parsed["sp"]["value"], parsed["fo"]["value"]) == ("reject", "quarantine", "1")


def test_separators_in_a_report_address_are_escaped() -> None:
    assert dmarc.record("none", rua=["a!b%c@example.com"]).endswith("rua=mailto:a%21b%25c@example.com")


@pytest.mark.parametrize("text", ["0", "1", "d", "s", "1:d:s", "D"])
def test_failure_options_are_words_of_the_standard(text: str) -> None:
    assert dmarc.failure_options(text) == text.lower()


@pytest.mark.parametrize("text", ["", "2", "1,d", "1:", "10"])
def test_other_failure_options_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="failure options"):
        dmarc.failure_options(text)


@pytest.mark.parametrize("text", ["v=DMARC1", "v=DMARC1; p=none", "v = DMARC1 ;p=none"])
def test_a_policy_is_known_by_its_version(text: str) -> None:
    assert dmarc.is_record(text)


@pytest.mark.parametrize("text", ["v=DMARC12; p=none", "p=none; v=DMARC1", "v=dmarc1; p=none", ""])
def test_other_text_is_no_policy(text: str) -> None:
    assert not dmarc.is_record(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("v=DMARC1; p=reject; rua=mailto:a@example.com", []),
        ("v=DMARC1; p=None", []),
        ("v=DMARC1; p=none; pct=50; rf=afrf; ri=86400", ["dmarc-removed-tag"] * 3),
        ("v=DMARC1; p=monitor", ["dmarc-policy-word"]),
        ("v=DMARC1; p=none; sp=block; np=", ["dmarc-policy-word"] * 2),
        ("v=DMARC1; rua=mailto:a@example.com", ["dmarc-no-policy"]),
    ],
)
def test_a_review_names_what_receivers_stumble_over(text: str, found: list[str]) -> None:
    assert [finding.id for finding in dmarc.review(text, "_dmarc.example.com")] == found


@pytest.mark.parametrize(
    ("ours", "theirs", "weaker"),
    [
        ("p=none", "p=none", ""),
        ("p=reject", "p=none", ""),
        ("p=none", "p=reject", "p=none, not reject, sp=none, not reject, np=none, not reject"),
        ("p=quarantine", "P=Reject; sp=none", "p=quarantine, not reject"),
        ("p=reject", "p=reject; sp=reject", ""),
        ("p=quarantine; sp=none", "p=quarantine", "sp=none, not quarantine, np=none, not quarantine"),
        ("p=none; np=reject", "p=none; sp=quarantine", "sp=none, not quarantine"),
        ("p=none", "p=strict", ""),
        ("p=reject", "p=none; adkim=s; aspf=S", "adkim=r, not s, aspf=r, not s"),
        ("p=none; aspf=s", "p=quarantine; sp=none; adkim=r; aspf=s", "p=none, not quarantine"),
        ("p=none; adkim=s", "p=none; aspf=s", "aspf=r, not s"),
        ("p=none", "rua=mailto:a@example.com", ""),
        ("p=reject; t=Y", "p=reject", "t=y, not n"),
        ("p=reject", "p=reject; t=y; pct=5", ""),
        ("p=reject; pct=5", "p=reject; pct=50%", "pct=5, not 100"),
    ],
)
def test_a_policy_is_weaker_where_receivers_are_asked_for_less(ours: str, theirs: str, weaker: str) -> None:
    assert dmarc.weaker(f"v=DMARC1; {ours}", f"v=DMARC1; {theirs}") == weaker


def test_addresses_that_would_get_no_reports_any_more_are_named() -> None:
    uris = "MAILTO:A@Example.com!10m, mailto:b%21c@x.test?subject=s,https://y.test/z,mailto:d"
    theirs = f"v=DMARC1; p=none; rua={uris}; ruf="
    assert dmarc.report_addresses(theirs, "rua") == ["A@Example.com", "b!c@x.test"]
    ours = dmarc.record("none", rua=["a@example.com", "d@x.test"])
    assert dmarc.lost_reports(ours, theirs, "rua") == ["b!c@x.test"]
    assert dmarc.lost_reports(dmarc.record("none", rua=["b!c@x.test", "a@example.com"]), theirs, "rua") == []
    assert dmarc.lost_reports(ours, theirs, "ruf") == []


def test_what_receivers_take_for_no_policy_cannot_be_weakened() -> None:
    assert dmarc.weaker("v=DMARC1; p=none", "v=dmarc1; p=reject") == ""
