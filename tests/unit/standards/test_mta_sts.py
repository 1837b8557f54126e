"""How an MTA-STS policy is read, which hosts it allows, and what is said where ours are not among them."""

from __future__ import annotations

import pytest

from standards import mta_sts
from standards.finding import Invalid

DOMAIN = "example.com"
LINES = ("version: STSv1", "mode: enforce", "mx: mail.example.com", "mx: *.example.net", "max_age: 604800")
POLICY = mta_sts.Policy(mode="enforce", max_age=604800, mx=("mail.example.com", "*.example.net"))


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(LINES),
        "\r\n".join([*LINES, ""]),
        "\n".join(reversed(LINES[:2] + LINES[4:] + LINES[3:1:-1])),
        "\n".join([*LINES, "new_key: x", "no key at all", "mode: none", "version: STSv2", "max_age: 1"]),
        "\n".join(LINES).replace(": ", ":").replace("mail", "MAIL"),
    ],
)
def test_a_policy_is_read_whatever_its_line_ends_order_and_unknown_keys(text: str) -> None:
    assert mta_sts.parse(text) == POLICY


@pytest.mark.parametrize(
    ("line", "instead", "found"),
    [
        ("version: STSv1", "version: STSv2", "version 'STSv2'"),
        ("version: STSv1", "<html>", "version ''"),
        ("mode: enforce", "mode: strict", "mode 'strict'"),
        ("mode: enforce", "", "mode ''"),
        ("max_age: 604800", "max_age: week", "max_age 'week'"),
        ("max_age: 604800", "max_age: -1", "max_age '-1'"),
        ("mx: mail.example.com", "x: y", "no mx"),
    ],
)
def test_what_senders_ignore_is_no_policy(line: str, instead: str, found: str) -> None:
    lines = [instead if each == line else each for each in LINES if found != "no mx" or "example.net" not in each]
    with pytest.raises(Invalid, match=found):
        mta_sts.parse("\n".join(lines))


def test_a_policy_of_no_mode_needs_no_mx() -> None:
    assert mta_sts.parse("version: STSv1\nmode: none\nmax_age: 86400").mx == ()


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("mail.example.com", True),
        ("MAIL.Example.com.", True),
        ("smtp.example.com", False),
        ("a.mail.example.com", False),
        ("mx.example.net", True),
        ("example.net", False),
        ("a.mx.example.net", False),
        ("mxexample.net", False),
    ],
)
def test_a_wildcard_is_one_leftmost_label(host: str, allowed: bool) -> None:
    assert POLICY.allows(host) is allowed


@pytest.mark.parametrize(
    ("texts", "is_announced"),
    [
        (["v=STSv1; id=1;"], True),
        (["v=STSv1 ;id=20160831085700Z"], True),
        (["v=STSv1; x=y; id=1; z=1"], True),
        (["hello", "v=STSv1; id=1", "v=STSv2; id=1"], True),
        (["v=STSv1; id=1", "v=STSv1; id=2"], False),
        (["v=STSv1; id=1", "v=STSv1"], False),
        (["v=STSv1"], False),
        (["v=STSv1;"], False),
        (["v=STSv1; id="], False),
        (["v=STSv1; id=a-b"], False),
        (["v=STSv1; grid=1"], False),
        (["v=STSv10; id=1"], False),
        (["V=stsv1; id=1"], False),
        (["x v=STSv1; id=1"], False),
        ([], False),
    ],
)
def test_one_record_of_the_version_with_an_id_announces_a_policy(texts: list[str], *, is_announced: bool) -> None:
    assert mta_sts.is_announced(texts) is is_announced


def test_an_enforced_policy_without_any_host_of_ours_is_an_error_with_the_way_on() -> None:
    (finding,) = mta_sts.review(DOMAIN, POLICY, ["smtp.example.com", "smtp2.example.com"])
    assert (finding.severity, finding.id, finding.subject) == ("error", "mta-sts-mx", "MTA-STS policy of example.com")
    assert finding.expected == (
        "`mx: smtp.example.com` and `mx: smtp2.example.com` in https://mta-sts.example.com/.well-known/mta-sts.txt"
    )
    assert finding.found == "mode: enforce, mx: 'mail.example.com, *.example.net'"
    assert finding.why.endswith("must not deliver to a host that it does not list")
    assert "change the id in the TXT record _mta-sts.example.com, and wait 604800 s" in finding.fix
    assert "`mode: none`" in finding.fix


def test_an_enforced_policy_with_one_host_of_ours_stops_nothing() -> None:
    (finding,) = mta_sts.review(DOMAIN, POLICY, ["mx.example.net", "smtp.example.com"])
    assert (finding.severity, finding.id) == ("warning", "mta-sts-mx")
    assert finding.expected.startswith("`mx: smtp.example.com` in")
    assert finding.why.endswith("a host that it does not list, and use mx.example.net alone")


@pytest.mark.parametrize(("mode", "severities"), [("testing", ["warning"]), ("none", [])])
def test_a_policy_that_nobody_enforces_stops_nothing(mode: mta_sts.Mode, severities: list[str]) -> None:
    found = mta_sts.review(DOMAIN, mta_sts.Policy(mode=mode, max_age=1, mx=()), ["smtp.example.com"])
    assert [finding.severity for finding in found] == severities


def test_a_policy_with_all_our_hosts_is_fine() -> None:
    assert mta_sts.review(DOMAIN, POLICY, ["mail.example.com", "mx.example.net"]) == []
