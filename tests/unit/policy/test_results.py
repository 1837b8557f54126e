"""The results on top of a message: whatever a stranger can put into them, only real ones count."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.chasquid.policy.results import Results, trusted

RECORDED = Path(__file__).with_name("recorded_results")


@dataclass
class Checked:
    """What chasquid found out about one message, and how it writes that down (internal/smtpsrv/conn.go)."""

    name: str = "smtp.example.com"
    ehlo: str = "mx.client.test"
    spf: tuple[str, str] | None = ("pass", "matched ip")
    signatures: list[tuple[str, str, str, str]] = field(default_factory=list)  # state, d, b, reason
    rest: str = "From: a@client.test\n\nHello\n"

    def dkim(self) -> str:
        """VerifyResult.AuthenticationResults."""
        if not self.signatures:
            return ";dkim=none\r\n"
        text = ""
        for state, domain, signature, reason in self.signatures:
            text += f";dkim={state}" if state == "pass" else f';dkim={state}  reason="{quoted(reason)}"\r\n'
            text += f"  header.b={signature[:12]}" if signature else ""
            text += f"  header.d={domain}\r\n"
        return text

    def message(self) -> bytes:
        """Conn.addReceivedHeader."""
        received = (
            f"from {self.ehlo} ([192.0.2.1])\nby {self.name} (chasquid) with ESMTPS\ntls TLS_AES_128_GCM_SHA256\n"
        )
        text = add("Received", f'{received}(over SMTP, TLS-1.3, envelope from "a@client.test")\n; a date\n', self.rest)
        results = f"{self.name}\r\n"
        if self.spf:
            reason = f"{self.spf[0]} ({self.spf[1]})"
            text = add("Received-SPF", reason, text)
            results += f";spf={reason}\r\n"
        return add("Authentication-Results", (results + self.dkim() + "\r\n").strip(), text).encode()


def add(name: str, value: str, text: str) -> str:
    """internal/envelope AddHeader."""
    value = value.removesuffix("\n").replace("\n", "\n\t")
    return f"{name}: {value}\n{text}"


def quoted(text: str) -> str:
    """Go's %q, near enough: what could end the word or the line is escaped."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n")


def of(checked: Checked) -> set[str]:
    return set(trusted(checked.message()).dkim)


LONG_REASON = 'x)\n;dkim=pass  header.d=gmail.test\n;dkim=fail  reason=""\n  header.d=x'
# A stranger's material: pieces of what chasquid writes, put together in every way.
PIECES = [
    *("\n", "\r\n", "\t", "  ", " ", ";", "(", ")", '"', "x", "client.test", "gmail.test"),
    *(
        ";dkim=pass",
        ";dkim=none",
        ';dkim=fail  reason="x"',
        "  header.d=gmail.test",
        "  header.b=AAAA",
        ";spf=pass (x)",
    ),
    *("Received: from x ([192.0.2.9])", "Received-SPF: pass (x)", "Authentication-Results: smtp.example.com"),
    *(
        "by smtp.example.com (chasquid) with ESMTPS",
        " (chasquid) with ESMTP",
        "\n\t;dkim=pass  header.d=gmail.test\r\n",
    ),
]
hostile = st.lists(st.sampled_from(PIECES), max_size=9).map("".join) | st.text(max_size=20)
word = hostile.map(lambda text: "".join(text.split()) or "x")  # strings.Fields
# internal/dkim parseTags ends a value at `;`; a line of the message's header begins with space or is another field.
tag = hostile.map(lambda text: text.replace(";", "").replace("\r", "").replace("\n", "\r\n ").strip())
# A key was found in DNS, so the name is one that Go looks up.
valid = st.tuples(
    st.just("pass"), st.sampled_from(["client.test", "Mail.Client.test"]), st.just("0Di+luOHUE/N"), hostile
)
invalid = st.tuples(st.sampled_from(["fail", "permerror"]), tag, st.sampled_from(["", "YWJj", "0Di+luOHUE/N"]), hostile)
checks = st.builds(
    Checked,
    name=st.just("smtp.example.com") | hostile.map(lambda text: text or "x"),
    ehlo=word,
    spf=st.none() | st.tuples(st.sampled_from(["pass", "none", "softfail", "temperror"]), hostile),
    signatures=st.lists(valid | invalid, max_size=5),
    rest=hostile.map(lambda text: f"Subject: {text.lstrip()}\n\nHello\n"),
)


@given(checks)
def test_no_stranger_makes_a_signature_count_that_is_not_valid(checked: Checked) -> None:
    assert of(checked) <= {domain.lower() for state, domain, *_ in checked.signatures if state == "pass"}


@given(st.lists(valid | invalid, max_size=5), st.sampled_from(["pass", "none"]), st.booleans())
def test_every_valid_signature_counts_where_nobody_plays_tricks(
    signatures: list[tuple[str, str, str, str]], result: str, null_sender: bool
) -> None:
    honest = [(state, "client.test", b, reason) for state, _, b, reason in signatures]
    checked = Checked(spf=None if null_sender else (result, "<nil>"), signatures=honest)
    assert of(checked) == ({"client.test"} if any(state == "pass" for state, *_ in honest) else set())


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("none", Results()),
        ("pass", Results(frozenset({"client.test"}))),
        ("pass_of_null_sender_over_ipv6", Results(frozenset({"client.test"}))),
        ("fail", Results()),
        ("permerror_and_pass", Results(frozenset({"client.test"}))),
        ("temperror_and_pass", Results(frozenset({"client.test"}), frozenset({"slow.test"}))),
    ],
)
def test_what_chasquid_really_wrote_is_read(file: str, expected: Results) -> None:
    assert trusted((RECORDED / file).read_bytes()) == expected


@pytest.mark.parametrize(
    ("why", "checked"),
    [
        (
            "the client's SNI breaks the line",
            Checked(name="h\n;dkim=pass  header.d=gmail.test", spf=None, signatures=[("fail", "x.test", "", "")]),
        ),
        (
            "the reason of SPF breaks the line",
            Checked(spf=("none", LONG_REASON), signatures=[("fail", "x.test", "", "")]),
        ),
        (
            "the domain of a signature holds another result",
            Checked(signatures=[("permerror", "x.test\r\n  dkim=pass  header.d=gmail.test", "YWJj", "no such host")]),
        ),
    ],
)
def test_a_trick_makes_nothing_count(why: str, checked: Checked) -> None:
    assert trusted(checked.message()) == Results(), why


@pytest.mark.parametrize("above", ["", "Subject: x\n", "Received: from a ([192.0.2.1])\n\tby smtp.example.com\n"])
def test_a_field_of_the_message_itself_counts_nothing(above: str) -> None:
    forged = Checked(signatures=[("pass", "gmail.test", "AAAA", "")]).message().decode()
    mine = add("Received", "from x ([192.0.2.1])\nby smtp.example.com (chasquid) with SMTP\n", above + forged)
    assert trusted(mine.encode()) == Results()


def test_an_spf_check_that_dns_did_not_answer_is_known_as_such() -> None:
    assert trusted(Checked(spf=("temperror", "lookup x.test: timeout")).message()).spf_undecided
