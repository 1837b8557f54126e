"""Other people's domains: what they publish and sign is what a receiver finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import dns.rdata
import pytest

from lab.addresses import Pair
from lab.internet.judge import Envelope, judge
from lab.internet.outside import Domain
from lab.internet.records import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.internet.client import Dns

SERVERS = Pair("192.0.2.10", "2001:db8::10")
MESSAGE = b"From: me@friend.test\r\nTo: you@example.test\r\nSubject: Hello\r\n\r\nTwo  blanks and one at the end \r\n"


class Zone(dict[tuple[str, str], list[str]]):
    """Stands for the lab's name servers, and answers the judge."""

    def set(self, name: str, kind: str, values: Sequence[str]) -> None:
        self[name, kind] = [quoted(value) if kind == "TXT" else value for value in values]

    def delete(self, name: str, kind: str) -> None:
        del self[name, kind]

    def lookup(self, name: str, kind: str) -> Sequence[Any]:
        return [dns.rdata.from_text("IN", kind, value) for value in self.get((name, kind), [])]


def published(domain: Domain) -> Zone:
    zone = Zone()
    domain.publish(cast("Dns", zone))
    return zone


@pytest.mark.parametrize(
    ("client", "spf"), [(SERVERS.ipv4, "pass"), (SERVERS.ipv6, "pass"), ("192.0.2.99", "softfail")]
)
def test_its_spf_record_confirms_its_own_servers_alone(client: str, spf: str) -> None:
    zone = published(Domain(name="friend.test", servers=SERVERS, spf="~all"))
    envelope = Envelope(mail_from="me@friend.test", ehlo="mail.friend.test", client_ip=client)
    assert judge(MESSAGE, envelope, zone.lookup).spf == spf


def test_its_policy_is_met_by_its_signature_and_one_blank_less_breaks_it() -> None:
    domain = Domain(name="friend.test", policy="reject", selector="old")
    zone = published(domain)
    envelope = Envelope(mail_from="me@friend.test", ehlo="mail.friend.test", client_ip="192.0.2.99")
    signed = domain.sign(MESSAGE)
    verdict = judge(signed, envelope, zone.lookup)
    assert [(each.domain, each.selector, each.result) for each in verdict.dkim] == [("friend.test", "old", "pass")]
    assert (verdict.spf, verdict.dmarc, verdict.dmarc_policy) == ("none", "pass", "reject")
    assert judge(signed.replace(b"Two  blanks", b"Two blanks"), envelope, zone.lookup).dmarc == "fail"


def test_it_takes_back_all_it_published() -> None:
    domain = Domain(name="friend.test", servers=SERVERS, policy="reject")
    zone = published(domain)
    assert len(zone) == 4
    domain.withdraw(cast("Dns", zone))
    assert zone == {}
