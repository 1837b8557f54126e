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
    ("text", "is_record"),
    [("v=STSv1; id=1;", True), ("v=STSv1 ;id=1", True), ("v=STSv1", True), ("v=STSv10; id=1", False),
     ("V=stsv1; id=1", False), ("x v=STSv1; id=1", False), ("", False)],
)  # fmt: skip
def test_a_record_is_known_by_its_version(text: str, is_record: bool) -> None:
    assert mta_sts.is_record(text) is is_record


def test_an_enforced_policy_without_our_host_is_an_error_with_the_way_on() -> None:
    (finding,) = mta_sts.review(DOMAIN, POLICY, ["mx.example.net", "smtp.example.com"])
    assert (finding.severity, finding.id, finding.subject) == ("error", "mta-sts-mx", "MTA-STS policy of example.com")
    assert finding.expected == "`mx: smtp.example.com` in https://mta-sts.example.com/.well-known/mta-sts.txt"
    assert finding.found == "mode: enforce, mx: 'mail.example.com, *.example.net'"
    assert "change the id in the TXT record _mta-sts.example.com, and wait 604800 s" in finding.fix
    assert "`mode: none`" in finding.fix


@pytest.mark.parametrize(("mode", "severities"), [("testing", ["warning"]), ("none", [])])
def test_a_policy_that_nobody_enforces_stops_nothing(mode: mta_sts.Mode, severities: list[str]) -> None:
    found = mta_sts.review(DOMAIN, mta_sts.Policy(mode=mode, max_age=1, mx=()), ["smtp.example.com"])
    assert [finding.severity for finding in found] == severities


def test_a_policy_with_all_our_hosts_is_fine() -> None:
    assert mta_sts.review(DOMAIN, POLICY, ["mail.example.com", "mx.example.net"]) == []
