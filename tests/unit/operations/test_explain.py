"""Received messages of the big receivers, explained; authres reads the same fields as a second opinion."""

from __future__ import annotations

import io
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import authres
import pytest
from rich.console import Console

from operations import explain
from operations.dns import CouldNotTell
from scripts import send_test
from standards import trace

if TYPE_CHECKING:
    from operations.explain import Explanation

SAMPLES = Path(__file__).parent / "received"
GMAIL, OUTLOOK, YAHOO = ((SAMPLES / f"{name}.eml").read_text() for name in ("gmail", "outlook", "yahoo"))


def read(text: str, *changes: tuple[str, str]) -> Explanation:
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    return explain.explain(text.encode())


def ids(made: Explanation, severity: str = "") -> list[str]:
    return [one.id.removeprefix("explain.") for one in made.findings if not severity or one.severity == severity]


def test_a_good_message_at_gmail_is_all_well() -> None:
    made = read(GMAIL)
    assert made.findings == []
    told = made.as_json()
    assert (told["padlock"], told["family"], told["reverse"]) == ("closed", "IPv6", "smtp.example.com")
    assert told["spf"] | {"comment": ""} == {
        "result": "pass", "domain": "example.com", "address": "2001:db8::10", "aligned": True, "comment": "",
    }  # fmt: skip
    assert [(one["domain"], one["selector"], one["result"], one["aligned"]) for one in told["dkim"]] == [
        ("example.com", "m1", "pass", True)
    ]
    assert told["dmarc"] == {"result": "pass", "policy": "quarantine", "action": "none", "domain": "example.com"}
    assert [(leg["kind"], leg["delay_seconds"]) for leg in told["legs"]] == [
        ("submission", 1.0), ("delivery", 2.0), ("inside", 1.0),
    ]  # fmt: skip
    assert (told["from"], told["subject"]) == ("Inês <i@example.com>", "Grüße")
    json.dumps(told)


def test_outlooks_results_without_a_name_count_and_its_folder_and_queue_are_told() -> None:
    made = read(OUTLOOK)
    assert ids(made, "error") == ["junk"]
    assert ids(made, "warning") == ["dkim", "slow"]
    assert made.dkim[0].selector == "m1"  # Microsoft does not say it, the only signature of the domain does
    assert made.delivery is not None
    assert (made.delivery.hop.reverse, made.delivery.delay) == ("smtp.example.com", 1208.0)
    assert "SCL 6" in made.junk[0]
    slow = next(one for one in made.findings if one.id == "explain.slow")
    assert slow.found == "took 20 min 8 s"


def test_an_address_without_a_name_is_told_as_microsoft_spells_it() -> None:
    assert "reverse" in ids(read(OUTLOOK, ("PTR:smtp.example.com", "PTR:InfoDomainNonexistent")), "error")


def test_yahoos_form_is_read_and_results_of_others_are_not_believed() -> None:
    made = read(YAHOO)
    assert made.dmarc["result"] == "fail"
    assert [(one.selector, one.result, one.aligned) for one in made.dkim] == [
        ("k1", "pass", False), ("m1", "perm_fail", True),
    ]  # fmt: skip
    assert ids(made, "error") == ["dkim", "dmarc", "tls"]
    assert ids(made, "note") == ["ignored-results"]
    assert (made.padlock, made.unsubscribe["one_click"]) == ("open", False)


def test_yahoos_small_s_is_tls() -> None:
    made = read(YAHOO, ("with SMTP;", "with SMTPs (version=TLS1_3 cipher=TLS_AES_128_GCM_SHA256);"))
    assert (made.padlock, made.legs[0].hop.tls, made.legs[0].hop.cipher) == ("closed", "1.3", "TLS_AES_128_GCM_SHA256")


def test_results_under_the_receivers_own_border_are_not_believed_when_it_wrote_none() -> None:
    own = GMAIL[GMAIL.index("Authentication-Results: mx.google.com;\n       dkim") : GMAIL.index("DKIM-Signature")]
    forged = "Authentication-Results: mx.evil.test; dmarc=pass header.from=example.com\n"
    chain = GMAIL[GMAIL.index("ARC-Authentication-Results") : GMAIL.index("Return-Path")]
    made = read(GMAIL, (own, forged), (chain, ""))
    assert (made.dmarc["result"], ids(made)) == ("", ["no-results", "ignored-results"])


def test_the_forwarders_chain_stands_in_for_results_that_were_cut_out() -> None:
    own = GMAIL[GMAIL.index("\nAuthentication-Results: mx.google.com") : GMAIL.index("\nDKIM-Signature")]
    assert read(GMAIL, (own, "")).dmarc["result"] == "pass"


@pytest.mark.parametrize(
    ("before", "after", "severity", "finding"),
    [
        ("(smtp.example.com. [2001:db8::10])", "([2001:db8::10])", "error", "reverse"),
        ("(smtp.example.com. [2001:db8::10])", "(static.isp.test. [2001:db8::10])", "warning", "reverse-differs"),
        ("from smtp.example.com (smtp", "from localhost (smtp", "warning", "greeting"),
        ("ESMTPS id ffacd0b85a97d-3aa0000002si1.2.2026.11.24.04.00.08", "ESMTP id x", "", ""),
        ("(version=TLS1_3 cipher=TLS_AES_128_GCM_SHA256 bits=128/128)", "", "", ""),
        ("version=TLS1_3", "version=TLS1", "warning", "tls-old"),
        ("p=QUARANTINE", "p=NONE", "note", "dmarc-none"),
        ("dmarc=pass (p=QUARANTINE sp=REJECT dis=NONE)", "dmarc=none", "warning", "dmarc-missing"),
        ("dmarc=pass", "dmarc=fail", "error", "dmarc"),
        ("spf=pass", "spf=softfail", "warning", "spf"),
        ("smtp.mailfrom=i@example.com", "smtp.mailfrom=b@other.test", "note", "spf-alignment"),
        ("header.i=@example.com", "header.i=@other.test", "warning", "dkim-alignment"),
        ("Message-ID: <1@example.com>\n", "", "warning", "form"),
        ("To: reader", "From: x@other.test\nTo: reader", "error", "form"),
        ("cv=none", "cv=fail", "note", "arc"),
        ("To: reader", "Precedence: bulk\nTo: reader", "warning", "unsubscribe"),
        ("To: reader", "List-Unsubscribe: <mailto:a@b.test>\nTo: reader", "note", "unsubscribe-click"),
    ],
)  # fmt: skip
def test_each_fault_has_its_own_finding(before: str, after: str, severity: str, finding: str) -> None:
    assert ids(read(GMAIL, (before, after)), severity) == ([finding] if finding else [])


def test_a_leg_without_tls_is_an_open_padlock() -> None:
    made = read(GMAIL, ("with ESMTPS id", "with ESMTP id"),
                ("(version=TLS1_3 cipher=TLS_AES_128_GCM_SHA256 bits=128/128)", ""))  # fmt: skip
    assert (made.padlock, ids(made, "error")) == ("open", ["tls"])


def test_a_plain_submission_is_found_too() -> None:
    made = read(GMAIL, ("with ESMTPSA\n\ttls TLS_AES_128_GCM_SHA256\n\t(over submission+TLS, TLS-1.3,",
                        "with ESMTPA\n\t(over submission, plain text!,"))  # fmt: skip
    assert [one.subject for one in made.findings] == ["submission to smtp.example.com"]


def test_one_click_counts_only_when_it_is_signed() -> None:
    click = "List-Unsubscribe: <https://a.test/>\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\nTo: reader"
    made = read(GMAIL, ("To: reader", click))
    assert "not covered" in made.findings[0].found
    assert (
        read(GMAIL, ("To: reader", click), ("h=from:", "h=list-unsubscribe:list-unsubscribe-post:from:")).findings == []
    )


@pytest.mark.parametrize("text", ["", "From: a@example.com\n\nHello\n", "no message at all"])
def test_what_nobody_received_cannot_be_told(text: str) -> None:
    with pytest.raises(CouldNotTell, match="Show original"):
        read(text)


@pytest.mark.parametrize("where", range(0, len(GMAIL), 97))
def test_a_message_cut_anywhere_never_breaks_it(where: int) -> None:
    for text in (GMAIL[:where] + "\n\n", GMAIL[where:], GMAIL[:where] + '("\xff;(' + GMAIL[where:]):
        try:
            json.dumps(read(text).as_json())
        except CouldNotTell:
            continue


def test_authres_reads_the_rfcs_form_alike() -> None:
    field = next(part for part in GMAIL.split("\nAuthentication-Results: ")[1:]).split("\nDKIM-Signature")[0]
    theirs = authres.AuthenticationResultsHeader.parse(f"Authentication-Results: {field}")
    ours = trace.results(field)
    assert ours.by == theirs.authserv_id
    assert [(one.method, one.result) for one in ours.results] == [
        (str(one.method), str(one.result)) for one in theirs.results
    ]
    assert [{f"{each.type}.{each.name}": each.value for each in one.properties} for one in theirs.results] == [
        dict(one.properties) for one in ours.results
    ]


WHEN = "; Tue, 24 Nov 2026 12:00:00 +0000"
POSTFIX = "(using TLSv1.2 with cipher ECDHE-RSA-AES128-SHA256 (128/128 bits)) by mx.test (Postfix) with ESMTPS id 1"
EXIM = "by mx.test with esmtps (TLS1.3) tls TLS_AES_256_GCM_SHA384 (Exim 4.98) id 1"
CHASQUID = 'by a.test (chasquid) with ESMTPS tls TLS_AES_128_GCM_SHA256 (over SMTP, TLS-1.3, envelope from "b@a.test") '
EXCHANGE = "by mx.test over TLS secured channel with Microsoft SMTPSVC(7.5)"


@pytest.mark.parametrize(
    ("field", "greeting", "reverse", "address", "tls"),
    [
        (f"from a.test (unknown [192.0.2.1]) {POSTFIX}", "a.test", "", "192.0.2.1", "1.2"),
        (f"from [192.0.2.1] (helo=a.test) {EXIM}", "a.test", None, "192.0.2.1", "1.3"),
        (f"from a.test ([2001:db8::1]) {CHASQUID}", "a.test", None, "2001:db8::1", "1.3"),
        (f"from a.test ([::ffff:192.0.2.1]) {EXCHANGE}", "a.test", None, "192.0.2.1", ""),
        ("by tls1.2.example.com with SMTP id 1", "", None, None, None),
    ],
)
def test_the_ways_servers_write_received(
    field: str, greeting: str, reverse: str | None, address: str | None, tls: str | None
) -> None:
    hop = trace.hop(field + WHEN)
    assert hop.at == datetime(2026, 11, 24, 12, tzinfo=UTC)
    assert (hop.greeting, hop.reverse, hop.address, hop.tls) == (greeting, reverse, address, tls)


def run_script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["send_test.py", *arguments])
    return send_test.main()


@pytest.mark.parametrize(("sample", "code"), [("gmail", 0), ("outlook", 2), ("missing", 3)])
def test_the_script_needs_no_stack_to_explain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sample: str, code: int
) -> None:
    assert run_script(monkeypatch, "--explain", str(SAMPLES / f"{sample}.eml"), "--json") == code
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["result"] == {0: "pass", 2: "fail", 3: "could not tell"}[code]


def test_a_message_comes_by_standard_input_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(GMAIL.encode())))
    assert run_script(monkeypatch, "--explain", "-") == 0
    assert "closed: every leg encrypted" in capsys.readouterr().out


@pytest.mark.parametrize(
    "front",
    [
        b"\xef\xbb\xbf",
        b"From i@example.com Mon Nov 23 10:00:00 2026\n",
        b"\xef\xbb\xbfFrom - Mon Nov 23 10:00:00 2026\r\n",
        b"\r\n\n",
    ],
    ids=["byte order mark", "mbox", "both", "empty lines"],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_what_editors_and_mailboxes_put_in_front_is_taken(front: bytes, end: bytes) -> None:
    assert explain.explain(front + GMAIL.encode().replace(b"\n", end)) == read(GMAIL)


def test_hostile_headers_cannot_write_markup_to_the_terminal() -> None:
    console = Console(file=io.StringIO(), width=200)
    explain.show(console, read(GMAIL, ("header.s=m1", "header.s=[/m1]")))
    assert "DKIM [/m1]" in console.file.getvalue()  # type: ignore[attr-defined]
    explain.show(console, read(GMAIL, ("=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "[bold]x[/nonsense]\x1b[2J")))
    assert "[bold]x[/nonsense]" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "field",
    [
        "Subject: =?utf-8?b?a?=",
        "Date: Mon, 23 Nov 2026 10:00:00 +99999999999999999",
        "X-Forefront-Antispam-Report: SCL:--5;SFV:NSPM",
        f"X-Forefront-Antispam-Report: SCL:{'9' * 5000};SFV:NSPM",
        f"X-Microsoft-Antispam: BCL:{'9' * 5000}",
    ],
)
def test_a_header_that_no_program_writes_breaks_nothing(field: str) -> None:
    name = field.partition(":")[0]
    lines = [line for line in OUTLOOK.splitlines() if not line.startswith(f"{name}:")]
    json.dumps(explain.explain("\n".join([field, *lines]).encode()).as_json())


@pytest.mark.parametrize("field", [f"Authentication-Results: x.example; {'a' * 20_000}",
                                   f"List-Unsubscribe: {'<' * 20_000}"])  # fmt: skip
def test_a_long_header_takes_no_long_time(field: str) -> None:
    begun = time.process_time()
    explain.explain(f"{field}\nReceived: from a.example ([192.0.2.1]) by mx.example; {WHEN}\n\n".encode())
    assert time.process_time() - begun < 1
