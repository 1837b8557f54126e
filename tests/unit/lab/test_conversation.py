"""Scripts of SMTP conversations: what they mean, and that a mistyped one is an error and not a test of nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.lab.conversation import Start, octets, parse

CORPUS = Path(__file__).parents[2] / "lab" / "smtp_corpus"
SCRIPT = """\
# what it is about

== somebody is refused
on 25 over TLS
on 465, 587 as alice@example.test
C: MAIL FROM:<{me}>
S: 550 5.1
M: on {port}
"""


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("MAIL FROM:<{me}>", b"MAIL FROM:<a@b.test>"),
        ("on {port}", b"on 25"),
        ("{plain a@b.test secret}", b"AGFAYi50ZXN0AHNlY3JldA=="),
        ("{plain a@b.test}", b"AGFAYi50ZXN0AA=="),
        ("{ab*3}c", b"abababc"),
        (r"{\r\n*2}", b"\r\n\r\n"),
        ("{lines 1}", b"x" * 76 + b"\r\n"),
        (r"\r\n\t\0\\n", b"\r\n\t\0\\n"),
        (r"\xff\x41", b"\xffA"),
        ("é", b"\xc3\xa9"),
    ],
)
def test_a_line_is_these_octets(text: str, data: bytes) -> None:
    assert octets(text, {"me": "a@b.test", "port": "25"}) == data


def test_a_script_is_read_with_all_its_starts(tmp_path: Path) -> None:
    file = tmp_path / "some.smtp"
    file.write_text(SCRIPT)
    (conversation,) = parse(file)
    assert (conversation.file, conversation.title) == ("some", "somebody is refused")
    assert conversation.starts == (
        Start(25, "over TLS"),
        Start(465, "as", "alice@example.test"),
        Start(587, "as", "alice@example.test"),
    )
    assert [(step.kind, step.text, step.line) for step in conversation.steps[:2]] == [
        ("C:", "MAIL FROM:<{me}>", 6),
        ("S:", "550 5.1", 7),
    ]
    assert list(conversation.subjects(Start(465))) == ["on 465"]


@pytest.mark.parametrize(
    ("line", "instead", "reason"),
    [
        ("S: 550 5.1", "s: 550 5.1", "no line of a conversation"),
        ("S: 550 5.1\n", "", "expects nothing"),
        ("on 25 over TLS", "at 25 over TLS", "no line of a conversation"),
        ("on 25 over TLS\non 465, 587 as alice@example.test\n", "", "on no port"),
    ],
)
def test_a_mistyped_script_is_an_error(tmp_path: Path, line: str, instead: str, reason: str) -> None:
    file = tmp_path / "some.smtp"
    file.write_text(SCRIPT.replace(line, instead))
    with pytest.raises(AssertionError, match=reason):
        parse(file)


def test_every_conversation_of_the_corpus_has_a_name_of_its_own() -> None:
    titles = Counter(conversation.title for file in CORPUS.glob("*.smtp") for conversation in parse(file))
    assert [title for title, times in titles.items() if times > 1] == []
    assert len(titles) >= 180
