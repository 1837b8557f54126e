"""What a converged server answers to everything people have tried with mail servers: the words are in `smtp_corpus/`.

All conversations share one server; the tests after them look at what arrived anywhere because of them.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

import pytest

from lab.internet.client import edit_zone
from lab.internet.names import COLLEAGUES_MX, zone_id
from lab.internet.outside import Domain
from lab.shell import wait_until
from tests.lab.conversation import Actor, Conversation, Session, Start, octets, parse
from tests.lab.live_run import forget
from tests.lab.program import DOMAIN, INSTALLED, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lab.client import Lab

ELSEWHERE = "second.test"
PASSWORDS = {f"alice@{DOMAIN}": "a-password-of-the-lab", f"bob@{ELSEWHERE}": "bobs-password-of-the-lab"}
FILES = sorted((Path(__file__).parent / "smtp_corpus").glob("*.smtp"))
PLAYS = [(conversation, start) for file in FILES for conversation in parse(file) for start in conversation.starts]


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Iterator[Stack]:
    """A domain we forward for and one whose mailboxes are elsewhere, with a user each."""
    vps = lab.fresh_vps(octet=40, installed=INSTALLED)
    mx = {"type": "MX", "name": ELSEWHERE, "content": COLLEAGUES_MX, "priority": 10, "ttl": 300}
    foreign = edit_zone(lab.plan, "POST", ELSEWHERE, body=mx)
    domains = [
        {
            "name": DOMAIN,
            "zoneId": zone_id(DOMAIN),
            "dmarc": {"policy": "reject"},
            "users": ["alice"],
            "aliases": {"alice": ["alice@receiver.test"], "first.last": ["first@receiver.test"]},
        },
        {
            "name": ELSEWHERE,
            "zoneId": zone_id(ELSEWHERE),
            "mail": "external",
            "mx": [COLLEAGUES_MX],
            "users": ["bob"],
        },
    ]
    made = Stack(lab, vps, domains=domains, passwords=PASSWORDS, drainTimeout=10)
    made.converge()
    yield made
    made.run("destroy", "--yes", "--skip-preview")
    forget(made)
    edit_zone(lab.plan, "DELETE", ELSEWHERE, f"/{foreign['id']}")
    lab.remove_vps(vps)


@pytest.fixture(scope="module")
def actor(stack: Stack) -> Iterator[Actor]:
    """Plays with the server; the outside domains of the corpus are in the DNS meanwhile."""
    here, elsewhere = stack.lab.plan.uplink_machine, stack.lab.plan.address(99)
    outside = (
        Domain(name="outside.test", servers=here),
        Domain(name="secure.test", servers=here),
        Domain(name="strict.test", servers=elsewhere),
        Domain(name="unconfirmed.test"),
        Domain(name="bank.test", servers=elsewhere, policy="reject"),
    )
    for domain in outside:
        domain.publish(stack.lab.dns)
    yield Actor(address=stack.vps.ipv4, sender=envelope_sender, passwords=PASSWORDS)
    for domain in outside:
        domain.withdraw(stack.lab.dns)


def envelope_sender(start: Start) -> str:
    """Who `{me}` is. A domain that once came by TLS may not come without any more, so there are two outside."""
    return start.user or ("friend@secure.test" if start.way == "over TLS" else "friend@outside.test")


@pytest.mark.parametrize(("conversation", "start"), PLAYS, ids=[f"{c.file}: {c.title} ({s})" for c, s in PLAYS])
def test_conversation(actor: Actor, conversation: Conversation, start: Start) -> None:
    actor.play(conversation, start)


def test_what_the_conversations_sent_arrives_and_nothing_else(stack: Stack, actor: Actor) -> None:
    expected = {subject for conversation, start in PLAYS for subject in conversation.subjects(start)}

    def subjects() -> set[str]:
        return {message["subject"] for message in stack.lab.messages()}

    assert wait_until(lambda: stack.vps.ssh("ls /var/lib/chasquid/queue").stdout == "", timeout=30)
    assert subjects() == expected


# Guessing users

KNOWN, UNKNOWN = f"alice@{DOMAIN}", f"nobody@{DOMAIN}"
GUESSES, GUESSERS = 30, 2


def test_a_guesser_learns_nothing_from_the_time_an_answer_takes(stack: Stack) -> None:
    """Both users are asked in turns, so work of others on this machine slows down both alike."""
    with ThreadPoolExecutor(GUESSERS) as guessers:
        samples = list(guessers.map(lambda _: guessed(stack.vps.ipv4), range(GUESSERS)))
    known, unknown = ([seconds for sample in samples for seconds in sample[user]] for user in (KNOWN, UNKNOWN))
    # One of a thousand pairs of equal samples has a greater distance.
    limit = 1.95 * (2 / len(known)) ** 0.5
    distance = kolmogorov_smirnov(known, unknown)
    assert distance < limit, f"{KNOWN} is refused in {shown(known)}, {UNKNOWN} in {shown(unknown)}"


def guessed(server: str) -> dict[str, list[float]]:
    """Seconds until a wrong password is refused, of both users in turns."""
    taken: dict[str, list[float]] = {KNOWN: [], UNKNOWN: []}
    for _ in range(GUESSES):
        for user, seconds in taken.items():
            with Session(server, Start(465), {}) as session:
                session.start_tls()
                session.expect("220 ", "greeting")
                session.ask("EHLO client.test", "250")
                guess = octets(f"AUTH PLAIN {{plain {user} a-wrong-password}}\\r\\n", {})
                begun = time.perf_counter()
                session.send(guess)
                session.expect("535 5.7.8 Incorrect user or password$", user)
                seconds.append(time.perf_counter() - begun)
    return taken


def shown(seconds: Sequence[float]) -> str:
    """A sample in few words."""
    return " / ".join(f"{each * 1000:.0f}" for each in quantiles(seconds, n=4)) + " ms (quartiles)"


def kolmogorov_smirnov(first: Sequence[float], second: Sequence[float]) -> float:
    """The greatest distance between the distributions of two samples: sees a shift, a spread and a tail alike."""
    return max(
        abs(sum(x <= value for x in first) / len(first) - sum(x <= value for x in second) / len(second))
        for value in (*first, *second)
    )
