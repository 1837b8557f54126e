"""The far end's own rules; what it thinks of a message is the judge's."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dns.rdata
import pytest

from lab.internet.names import RECEIVER_MX, REFUSED
from lab.internet.receiver import Mailbox

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SENDING_HOST = "192.0.2.10"


def lookup(name: str, kind: str) -> Sequence[Any]:
    """A DNS in which one host says which address it sends from."""
    if (name, kind) == ("smtp.example.test", "TXT"):
        return [dns.rdata.from_text("IN", "TXT", f'"v=spf1 ip4:{SENDING_HOST} -all"')]
    return []


def mailbox(folder: Path) -> Mailbox:
    return Mailbox(RECEIVER_MX, RECEIVER_MX.partition(".")[2], folder, lookup)


@pytest.mark.parametrize(
    ("address", "code"), [(REFUSED, "550"), (REFUSED.upper(), "550"), ("any@receiver.test", "250")]
)
def test_one_mailbox_takes_no_mail_and_every_other_does(tmp_path: Path, address: str, code: str) -> None:
    envelope = SimpleNamespace(rcpt_tos=[], rcpt_options=[])
    reply = asyncio.run(mailbox(tmp_path).handle_RCPT(None, None, envelope, address, []))
    assert reply.startswith(code)
    assert envelope.rcpt_tos == ([address] if code == "250" else [])


def test_a_domain_whose_mx_it_was_keeps_its_mailboxes_when_the_mx_moves(tmp_path: Path) -> None:
    answers = [dns.rdata.from_text("IN", "MX", f"10 {RECEIVER_MX}.")]
    server = Mailbox(RECEIVER_MX, "receiver.test", tmp_path, lambda name, _: answers if name == "moved.test" else [])

    def reply(address: str) -> str:
        envelope = SimpleNamespace(rcpt_tos=[], rcpt_options=[])
        return asyncio.run(server.handle_RCPT(None, None, envelope, address, []))[:3]  # type: ignore[arg-type]

    assert (reply("a@moved.test"), reply("a@never.test")) == ("250", "550")
    answers.clear()
    assert (reply("b@moved.test"), reply("a@never.test")) == ("250", "550")


def test_a_null_sender_is_judged_by_the_name_of_its_host(tmp_path: Path) -> None:
    """RFC 7208 section 2.4; aiosmtpd writes the null sender as <>."""
    envelope = SimpleNamespace(
        mail_from="<>", rcpt_tos=["any@receiver.test"], original_content=b"From: postmaster@example.test\r\n\r\n"
    )
    session = SimpleNamespace(host_name="smtp.example.test", peer=(SENDING_HOST, 1))
    reply = asyncio.run(mailbox(tmp_path).handle_DATA(SimpleNamespace(transport=None), session, envelope))
    assert reply.startswith("250")
    (kept,) = tmp_path.glob("*.json")
    verdict = json.loads(kept.read_text())
    assert (verdict["mail_from"], verdict["spf"]) == ("", "pass")
