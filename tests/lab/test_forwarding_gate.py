"""What a converged server forwards for strangers and what it refuses: a thousand forgeries, no bounce to the forged.

The far end refuses what reaches it, so whatever the gate lets through would come back to somebody who never wrote.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.internet.names import REFUSED, zone_id
from lab.internet.outside import Domain, Mail, deliver
from lab.shell import wait_until
from tests.lab.live_run import forget
from tests.lab.program import DOMAIN, HOST, INSTALLED, Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.client import Lab

QUARANTINED = "second.test"
ALICE, TRAP, BOB = f"alice@{DOMAIN}", f"trap@{DOMAIN}", f"bob@{QUARANTINED}"
FORGERIES = 1000


@dataclass(frozen=True)
class World:
    """Other people's domains: those whose mail servers the test plays, and those it only claims to be."""

    friend: Domain
    moved: Domain
    insurer: Domain
    lists: Domain
    calendar: Domain
    unconfirmed: Domain
    soft: Domain
    strict: Domain
    bank: Domain
    spammer: Domain

    @property
    def all(self) -> tuple[Domain, ...]:
        return tuple(vars(self).values())

    @property
    def forged(self) -> set[str]:
        """Domains whose owners wrote nothing in this file."""
        return {domain.name for domain in (self.unconfirmed, self.soft, self.strict, self.bank)}


@pytest.fixture(scope="module")
def world(lab: Lab) -> Iterator[World]:
    """The domains are in the DNS as long as the tests run."""
    here, elsewhere = lab.plan.uplink_machine, lab.plan.address(99)
    made = World(
        friend=Domain(name="friend.test", servers=here),
        moved=Domain(name="moved.test", servers=elsewhere, spf="~all", policy="reject"),
        insurer=Domain(name="insurer.test", servers=here, policy="reject"),
        lists=Domain(name="lists.test", servers=here),
        calendar=Domain(name="calendar.test", servers=here, policy="reject"),
        unconfirmed=Domain(name="unconfirmed.test"),
        soft=Domain(name="soft.test", servers=elsewhere, spf="~all"),
        strict=Domain(name="strict.test", servers=elsewhere),
        bank=Domain(name="bank.test", servers=elsewhere, spf="?all", policy="reject"),
        spammer=Domain(name="spammer.test", servers=here),
    )
    for domain in made.all:
        domain.publish(lab.dns)
    yield made
    for domain in made.all:
        domain.withdraw(lab.dns)


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Iterator[Stack]:
    """One domain whose policy is reject and one whose policy is quarantine; `trap` goes where all mail is refused."""
    vps = lab.fresh_vps(octet=42, installed=INSTALLED)
    domains = [
        {
            "name": DOMAIN,
            "zoneId": zone_id(DOMAIN),
            "dmarc": {"policy": "reject"},
            "users": ["alice"],
            "aliases": {"alice": ["alice@receiver.test"], "trap": [REFUSED]},
        },
        {
            "name": QUARANTINED,
            "zoneId": zone_id(QUARANTINED),
            "dmarc": {"policy": "quarantine"},
            "users": ["bob"],
            "aliases": {"bob": ["bob@receiver.test"]},
        },
    ]
    passwords = dict.fromkeys((ALICE, BOB), "a-password-of-the-lab")
    made = Stack(lab, vps, domains=domains, passwords=passwords, drainTimeout=10, forwardRate=5000)
    made.converge()
    yield made
    made.run("destroy", "--yes", "--skip-preview")
    forget(made)
    lab.remove_vps(vps)


def message(author: str, subject: str, *, to: str = ALICE, **fields: str) -> bytes:
    """A plain message as it goes over the line; `fields` are further header fields, `_` for `-`."""
    header = {
        "From": author,
        "To": to,
        "Subject": subject,
        "Date": format_datetime(datetime.now(UTC)),
        "Message-ID": f"<{abs(hash((author, subject)))}@client.test>",
        "MIME-Version": "1.0",
        "Content-Type": "text/plain; charset=utf-8",
    }
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in (header | fields).items()]
    return "\r\n".join([*lines, "", "Hello,  with two blanks and one at the end ", "\t.", ".", "", ""]).encode()


def bring(stack: Stack, mail_from: str, data: bytes, *, to: str = ALICE) -> str:
    """One message through port 25; the server's last word."""
    (reply,) = deliver(stack.vps.ipv4, [Mail(mail_from=mail_from, rcpt_to=to, data=data)])
    return reply


def arrived(stack: Stack, subject: str) -> dict[str, Any]:
    return stack.lab.wait_message(lambda message: message["subject"] == subject)


def queue_is_empty(stack: Stack) -> bool:
    return stack.vps.ssh("ls /var/lib/chasquid/queue").stdout == ""


def bounces(stack: Stack, domains: set[str]) -> list[dict[str, Any]]:
    """What came back to addresses of these domains."""
    return [
        message
        for message in stack.lab.messages()
        if any(recipient.rpartition("@")[2].lower() in domains for recipient in message["rcpt_to"])
    ]


def is_marked(stack: Stack, subject: str) -> bool:
    """Whether an arrived message tells its reader, above everything the stranger wrote, that its author is unproven."""
    header = Path(arrived(stack, subject)["path"]).read_bytes().decode(errors="replace").replace("\r\n", "\n")
    ours = rf"Authentication-Results: {HOST};\n\tdmarc=fail header\.from={QUARANTINED} .*\nX-Mailroom-Warning: .*\n"
    return re.match(ours, header) is not None


# Genuine mail


def test_mail_the_far_end_refuses_comes_back_to_its_genuine_sender(stack: Stack, world: World) -> None:
    """Without this one, the thousand forgeries below would prove nothing."""
    reply = bring(stack, "me@friend.test", message("me@friend.test", "to the trap"), to=TRAP)
    assert reply.startswith("250"), reply
    bounce = stack.lab.wait_message(lambda message: message["rcpt_to"] == ["me@friend.test"])
    assert bounce["mail_from"] in {"", "<>"}


@pytest.mark.parametrize(
    ("name", "sender"),
    [("friend", "SPF passes"), ("moved", "SPF fails softly"), ("insurer", "SPF passes and the policy is reject")],
)
def test_genuine_mail_is_forwarded_with_its_signature_intact(
    stack: Stack, world: World, name: str, sender: str
) -> None:
    domain: Domain = getattr(world, name)
    subject = f"genuine: {sender}"
    reply = bring(stack, f"me@{domain.name}", domain.sign(message(f"Me <me@{domain.name}>", subject)))
    assert reply.startswith("250"), reply
    verdict = arrived(stack, subject)
    assert [(each["domain"], each["result"]) for each in verdict["dkim"]] == [(domain.name, "pass")]
    assert verdict["mail_from"] == f"alice+fwd_from=me={domain.name}@{DOMAIN}"
    assert (verdict["spf"], verdict["dmarc"]) == ("pass", "pass" if domain.policy else "none")


def test_unsigned_mail_with_an_spf_pass_is_forwarded(stack: Stack, world: World) -> None:
    reply = bring(stack, "me@friend.test", message("me@friend.test", "genuine: no signature"))
    assert reply.startswith("250"), reply
    assert arrived(stack, "genuine: no signature")["spf"] == "pass"


def test_a_genuine_bounce_is_forwarded_and_stays_a_bounce(stack: Stack, world: World) -> None:
    reply = bring(stack, "", message("mailer-daemon@friend.test", "genuine: a bounce"))
    assert reply.startswith("250"), reply
    assert arrived(stack, "genuine: a bounce")["mail_from"] in {"", "<>"}


def test_a_message_of_a_mailing_list_is_forwarded(stack: Stack, world: World) -> None:
    """The list has changed the subject and signs for itself; the author's domain asks for nothing."""
    text = message(
        "Author <author@unconfirmed.test>",
        "[list] genuine: of a list",
        to="discussion@lists.test",
        List_Id="<discussion.lists.test>",
        List_Unsubscribe="<mailto:leave@lists.test>",
        Precedence="list",
    )
    reply = bring(stack, "discussion-bounces+alice=example.test@lists.test", world.lists.sign(text))
    assert reply.startswith("250"), reply
    verdict = arrived(stack, "[list] genuine: of a list")
    assert [(each["domain"], each["result"]) for each in verdict["dkim"]] == [("lists.test", "pass")]


def test_a_member_under_quarantine_reaches_us_through_a_list_and_is_marked(stack: Stack, world: World) -> None:
    """A list breaks the author's signature; DMARC cannot tell it from a forgery, so the reader is told."""
    text = message(BOB, "[list] marked: of a list", to="discussion@lists.test", List_Id="<discussion.lists.test>")
    reply = bring(stack, "discussion-bounces@lists.test", world.lists.sign(text), to=BOB)
    assert reply.startswith("250"), reply
    assert is_marked(stack, "[list] marked: of a list")


def test_a_member_under_reject_is_refused_through_a_list(stack: Stack, world: World) -> None:
    text = message(ALICE, "[list] refused: of a list", to="discussion@lists.test", List_Id="<discussion.lists.test>")
    reply = bring(stack, "discussion-bounces@lists.test", world.lists.sign(text))
    assert reply.startswith("554 5.7"), reply


def invitation(organizer: str, subject: str) -> bytes:
    """An invitation as calendars send it (RFC 6047): text, the same as a calendar part, and an attachment."""
    event = (
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//lab//EN\r\nMETHOD:REQUEST\r\nBEGIN:VEVENT\r\nUID:1@calendar.test\r\n"
        f"ORGANIZER:mailto:{organizer}\r\nATTENDEE;RSVP=TRUE:mailto:{ALICE}\r\nDTSTAMP:20261119T120000Z\r\n"
        f"DTSTART:20261120T120000Z\r\nSUMMARY:{subject}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    )
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = organizer, ALICE, subject
    made["Sender"], made["Reply-To"] = "notification@calendar.test", organizer
    made["Date"], made["Message-ID"] = (
        format_datetime(datetime.now(UTC)),
        f"<{subject.replace(' ', '.')}@calendar.test>",
    )
    made.set_content("You are invited.")
    made.add_alternative(event, subtype="calendar", params={"method": "REQUEST"})
    made.add_attachment(event.encode(), maintype="application", subtype="ics", filename="invite.ics")
    return made.as_bytes(policy=made.policy.clone(linesep="\r\n"))


def test_an_invitation_is_forwarded_unchanged(stack: Stack, world: World) -> None:
    sent = world.calendar.sign(invitation("boss@calendar.test", "genuine invitation"))
    reply = bring(stack, "notification@calendar.test", sent)
    assert reply.startswith("250"), reply
    verdict = arrived(stack, "genuine invitation")
    assert [(each["domain"], each["result"]) for each in verdict["dkim"]] == [("calendar.test", "pass")]
    assert Path(verdict["path"]).read_bytes().endswith(sent)


def test_an_invitation_in_the_name_of_our_own_user_is_marked_under_quarantine(stack: Stack, world: World) -> None:
    """Calendars invite as the user who made the appointment; only their own signature is theirs to give."""
    reply = bring(
        stack, "notification@calendar.test", world.calendar.sign(invitation(BOB, "marked invitation")), to=BOB
    )
    assert reply.startswith("250"), reply
    assert is_marked(stack, "marked invitation")


def test_a_sender_too_long_to_be_rewritten_is_refused_in_clear_words(stack: Stack, world: World) -> None:
    """RFC 5321 section 4.5.3.1.1: alice+fwd_from=...=friend.test would be a local part of more than 64 octets."""
    sender = f"{'a' * 48}@friend.test"
    reply = bring(stack, sender, world.friend.sign(message(sender, "refused: too long")))
    assert re.match(r"554 5\.\d+\.\d+ .*64", reply), reply
    shorter = f"{'a' * 30}@friend.test"
    reply = bring(stack, shorter, world.friend.sign(message(shorter, "genuine: long enough")))
    assert reply.startswith("250"), reply


# Forged mail


Forgery = tuple[str, bytes]


def kinds(world: World) -> dict[str, Callable[[int], Forgery]]:
    """Ways to forge a message to TRAP: number -> envelope sender and message."""
    claimed = (
        f"Authentication-Results: {HOST}\r\n\t;spf=pass\r\n\t;dkim=pass header.d=bank.test\r\n"
        f"\t;dmarc=pass header.from=bank.test\r\nReceived-SPF: pass\r\n"
    ).encode()
    plain = message("victim@unconfirmed.test", "forged", to=TRAP)
    bank = message("Your Bank <ceo@bank.test>", "forged bank", to=TRAP)
    ours = message(f"Alice <{ALICE}>", "forged colleague", to=TRAP)
    foreign_signature = world.spammer.sign(plain)
    foreign_signature_of_ours = world.spammer.sign(ours)
    broken_signature = world.unconfirmed.sign(plain).replace(b"Hello,", b"Hullo,")
    twice = bank.replace(b"Subject:", b"From: victim@spammer.test\r\nSubject:", 1)
    return {
        "no SPF record": lambda n: (f"victim{n}@unconfirmed.test", plain),
        "SPF fails softly": lambda n: (f"victim{n}@soft.test", message(f"victim{n}@soft.test", "forged", to=TRAP)),
        "SPF fails": lambda n: (f"victim{n}@strict.test", plain),
        "a valid signature of somebody else": lambda n: (f"victim{n}@unconfirmed.test", foreign_signature),
        "a broken signature of its own": lambda n: (f"victim{n}@unconfirmed.test", broken_signature),
        "a policy of reject": lambda n: (f"ceo{n}@bank.test", bank),
        "a policy of reject behind an own envelope": lambda n: (f"me{n}@spammer.test", world.spammer.sign(bank)),
        "a policy of reject from nobody": lambda n: ("", bank),
        "results in our name": lambda n: (f"ceo{n}@bank.test", claimed + bank),
        "two authors": lambda n: (f"ceo{n}@bank.test", twice),
        "one of us": lambda n: (f"victim{n}@unconfirmed.test", ours),
        "one of us with a signature of somebody else": lambda n: (f"me{n}@spammer.test", foreign_signature_of_ours),
        "one of us from nobody": lambda n: ("", ours),
        "a long local part": lambda n: (f"{'v' * 60}{n}@unconfirmed.test", plain),
        "a suffix that looks rewritten": lambda n: (f"alice+fwd_from=victim{n}=bank.test@{DOMAIN}", plain),
        PASSES: lambda n: ("", plain),
    }


PASSES = "nobody's bounce, and no policy forbids it"
"""RFC 5321 section 4.5.5: bounces must be taken, and a refused bounce of a bounce goes nowhere."""


@pytest.fixture(scope="module")
def forgeries(stack: Stack, world: World) -> list[tuple[str, str]]:
    """All forgeries of the thousand, sent: the kind and the server's last word."""
    forged = kinds(world)
    names = list(islice(cycle(forged), FORGERIES))
    mails = []
    for number, name in enumerate(names):
        sender, data = forged[name](number)
        mails.append(Mail(mail_from=sender, rcpt_to=TRAP, data=data))
    return list(zip(names, deliver(stack.vps.ipv4, mails), strict=True))


def test_every_kind_of_forgery_is_refused_for_good(forgeries: list[tuple[str, str]]) -> None:
    answers = Counter((kind, reply[:5]) for kind, reply in forgeries if not re.match("55[04] 5", reply))
    assert {kind for kind, _ in answers} <= {PASSES}, answers


def test_a_bounce_that_no_policy_forbids_is_taken(forgeries: list[tuple[str, str]]) -> None:
    assert {reply[:3] for kind, reply in forgeries if kind == PASSES} == {"250"}


def test_a_thousand_forgeries_bring_no_bounce_to_the_forged(
    stack: Stack, world: World, forgeries: list[tuple[str, str]]
) -> None:
    assert len(forgeries) == FORGERIES
    assert wait_until(lambda: queue_is_empty(stack), timeout=30)
    assert bounces(stack, world.forged) == []


def test_no_forgery_reached_a_mailbox(stack: Stack, forgeries: list[tuple[str, str]]) -> None:
    assert [message for message in stack.lab.messages() if message["subject"].startswith("forged")] == []
