"""The lab's internet as it runs in its guest: two signed name servers, a resolver, APIs, an ACME server, a judge."""

from __future__ import annotations

import json
import smtplib
import ssl
import time
import urllib.request
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest

from lab.internet import client
from lab.internet.certificates import CA_CERTIFICATE
from lab.internet.names import CLOUDFLARE_TOKEN, RECEIVER_MX, zone_id
from tests.lab.program import deliver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Lab

NAME = "probe.example.test"


def ask(server: str, name: str, kind: str) -> dns.message.Message:
    """The server's answer; asked again like a stub resolver does, since a datagram may be lost on a busy machine."""
    query = dns.message.make_query(name, kind, want_dnssec=True)
    for _attempt in range(2):
        with suppress(dns.exception.Timeout):
            return dns.query.udp_with_fallback(query, server, timeout=5)[0]
    return dns.query.udp_with_fallback(query, server, timeout=5)[0]


def values(server: str, name: str, kind: str) -> list[str]:
    wanted = dns.rdatatype.from_text(kind)
    return sorted(
        data.to_text() for rrset in ask(server, name, kind).answer if rrset.rdtype == wanted for data in rrset
    )


def cloudflare(lab: Lab, method: str, path: str, body: object = None) -> Any:
    url = f"{lab.plan.cloudflare_api}/zones/{zone_id('example.test')}/dns_records{path}"
    headers = {"Authorization": f"Bearer {CLOUDFLARE_TOKEN}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=10) as answer:
        return json.loads(answer.read())["result"]


def zone_content(server: str, names: tuple[str, ...]) -> dict[tuple[str, str], list[str]]:
    kinds = ("A", "AAAA", "MX", "TXT", "NS")
    return {(name, kind): values(server, name, kind) for name in names for kind in kinds}


@contextmanager
def published(lab: Lab, **records: tuple[str, str, list[str]]) -> Iterator[None]:
    """Record sets for the length of a test."""
    for name, kind, contents in records.values():
        lab.dns.set(name, kind, contents)
    try:
        yield
    finally:
        for name, kind, _contents in records.values():
            lab.dns.delete(name, kind)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("example.test", "SOA"), ("mx.receiver.test", "AAAA"), ("receiver.test", "MX"), ("nothing.example.test", "A")],
)
def test_the_resolver_vouches_for_every_answer_of_the_lab(lab: Lab, name: str, kind: str) -> None:
    answer = ask(lab.plan.resolver.ipv4, name, kind)
    assert answer.flags & dns.flags.AD
    assert answer.rcode() == (dns.rcode.NXDOMAIN if name.startswith("nothing") else dns.rcode.NOERROR)


def test_reverse_dns_of_the_labs_services_is_signed_too(lab: Lab) -> None:
    for address in lab.plan.receiver:
        answer = ask(lab.plan.resolver.ipv6, str(dns.reversename.from_address(address)), "PTR")
        assert answer.flags & dns.flags.AD
        assert RECEIVER_MX in answer.to_text()


def test_the_resolver_refuses_what_is_outside_the_lab(lab: Lab) -> None:
    assert ask(lab.plan.resolver.ipv4, "example.com", "A").rcode() == dns.rcode.REFUSED


def test_a_record_made_by_the_api_is_at_once_at_every_server_and_its_deletion_too(lab: Lab) -> None:
    servers = [*lab.plan.ns1, *lab.plan.ns2, lab.plan.resolver.ipv4]
    before = [zone_content(server, (NAME, "example.test")) for server in servers]
    made = cloudflare(lab, "POST", "", {"type": "A", "name": NAME, "content": "198.51.100.99", "ttl": 300})
    assert [values(server, NAME, "A") for server in servers] == [["198.51.100.99"]] * len(servers)
    cloudflare(lab, "DELETE", f"/{made['id']}")
    assert [zone_content(server, (NAME, "example.test")) for server in servers] == before
    assert ask(lab.plan.ns2.ipv4, NAME, "A").rcode() == dns.rcode.NXDOMAIN


def test_the_second_name_server_lags_as_long_as_asked(lab: Lab) -> None:
    lab.lag(1.5)
    try:
        lab.dns.set(NAME, "TXT", ["late"])
        started = time.monotonic()
        assert values(lab.plan.ns1.ipv4, NAME, "TXT") == ['"late"']
        assert values(lab.plan.ns2.ipv4, NAME, "TXT") == []
        while not values(lab.plan.ns2.ipv4, NAME, "TXT") and time.monotonic() - started < 10:
            time.sleep(0.05)
        assert 1.3 < time.monotonic() - started < 5
    finally:
        lab.lag(0)
        lab.dns.delete(NAME, "TXT")


def test_reverse_dns_set_at_the_provider_is_answered(lab: Lab) -> None:
    address = lab.plan.address(99).ipv6
    reverse = str(dns.reversename.from_address(address))
    lab.set_ptr(address, "smtp.example.test")
    assert values(lab.plan.resolver.ipv4, reverse, "PTR") == ["smtp.example.test."]
    lab.dns.delete(reverse, "PTR")


def test_the_acme_directory_is_served_with_a_certificate_of_the_labs_ca(lab: Lab) -> None:
    context = ssl.create_default_context(cafile=str(CA_CERTIFICATE))
    with urllib.request.urlopen(f"https://{lab.plan.acme.ipv4}:14000/dir", context=context, timeout=10) as answer:
        assert "newOrder" in json.loads(answer.read())
    assert "BEGIN CERTIFICATE" in client.acme_roots(lab.plan)


def test_a_forged_message_is_kept_with_its_verdict(lab: Lab) -> None:
    spf = ("second.test", "TXT", ["v=spf1 -all"])
    policy = ("_dmarc.second.test", "TXT", ["v=DMARC1; p=quarantine"])
    with published(lab, spf=spf, policy=policy):
        deliver(lab, lab.plan.receiver.ipv6, "boss@second.test", "forged and kept")
    verdict = lab.wait_message(lambda message: message["subject"] == "forged and kept")
    assert (verdict["spf"], verdict["dkim"], verdict["dmarc"]) == ("fail", [], "fail")
    assert (verdict["dmarc_policy"], verdict["fcrdns"]) == ("quarantine", False)
    assert verdict["tls"]["version"] == "TLSv1.3"
    assert verdict["client_ip"] == lab.plan.uplink_machine.ipv6


def test_a_forged_message_is_refused_where_the_domain_asks_for_it(lab: Lab) -> None:
    policy = ("_dmarc.second.test", "TXT", ["v=DMARC1; p=reject"])
    with published(lab, policy=policy), pytest.raises(smtplib.SMTPDataError, match="DMARC"):
        deliver(lab, lab.plan.receiver.ipv4, "boss@second.test", "forged and refused")
    assert not [message for message in lab.messages() if message["subject"] == "forged and refused"]
