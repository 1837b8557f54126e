"""What authoritative servers answer, and what is made of it; the servers listen on loopback addresses."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from operations import dns as operations_dns
from operations.dns import (
    CouldNotTell,
    Expected,
    NameServer,
    Resolver,
    ask,
    authoritative_servers,
    canonical,
    check_ptr,
    reverse_name,
    wait_for_ptr,
    wait_until_visible,
)
from standards.finding import Problems

if TYPE_CHECKING:
    from collections.abc import Iterator

RECURSIVE, NS1, NS2 = "127.0.0.1", "127.0.0.2", "127.0.0.3"
ZONES = ("test.", "example.test.", "lab.test.", "100.51.198.in-addr.arpa.", "8.b.d.0.1.0.0.2.ip6.arpa.")


@dataclass
class Server:
    """One DNS server; `records` maps (name, type) to values, `recursive` drops the AA flag."""

    address: str
    port: int
    records: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    zones: tuple[str, ...] = ZONES
    recursive: bool = False
    silent: bool = False
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    truncate: bool = False
    referrals: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, bool]] = field(default_factory=list)

    def answer(self, query: dns.message.Message, *, tcp: bool) -> dns.message.Message:
        question = query.question[0]
        name, rdtype = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, rdtype, bool(query.flags & dns.flags.RD)))
        response = dns.message.make_response(query)
        response.set_rcode(self.rcode)
        if self.truncate and not tcp:
            response.flags |= dns.flags.TC
            return response
        for cut, server in self.referrals.items():
            if question.name.is_subdomain(dns.name.from_text(cut)):
                response.authority.append(dns.rrset.from_text(cut, 5, "IN", "NS", server))
                return response
        if not self.recursive:
            response.flags |= dns.flags.AA
        self._fill(response, name, rdtype)
        return response

    def _fill(self, response: dns.message.Message, name: str, rdtype: str) -> None:
        for kind in dict.fromkeys((rdtype, "CNAME")):
            if values := self.records.get((name, kind)):
                response.answer.append(dns.rrset.from_text(name, 5, "IN", kind, *values))
                if kind != "CNAME":
                    return
                name = values[0]
        holding = [zone for zone in self.zones if f".{name}".endswith(f".{zone}")]
        if holding:
            zone = max(holding, key=len)
            soa = dns.rrset.from_text(zone, 5, "IN", "SOA", "ns1.lab.test. hostmaster.lab.test. 1 60 30 600 5")
            (response.answer if rdtype == "SOA" and zone == name else response.authority).append(soa)
        known = {owner for owner, _ in self.records} | set(self.zones)
        if name not in known and self.rcode == dns.rcode.NOERROR:
            response.set_rcode(dns.rcode.NXDOMAIN)

    def bind(self) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.tcp = socket.socket()
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.udp.bind((self.address, self.port))
            self.tcp.bind((self.address, self.port))
        except OSError:
            self.close()
            raise
        self.tcp.listen()

    def start(self) -> None:
        self.threads = [threading.Thread(target=self._serve_udp), threading.Thread(target=self._serve_tcp)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.udp.sendto(b"", (self.address, self.port))
        self.tcp.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        self.close()

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()

    def _serve_udp(self) -> None:
        while True:
            wire, peer = self.udp.recvfrom(4096)
            if not wire:
                return
            if not self.silent:
                self.udp.sendto(self.answer(dns.message.from_wire(wire), tcp=False).to_wire(), peer)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            with connection:
                wire = connection.recv(4096)[2:]
                answer = self.answer(dns.message.from_wire(wire), tcp=True).to_wire()
                connection.sendall(len(answer).to_bytes(2, "big") + answer)


@dataclass
class World:
    """A resolver and two authoritative servers of the same zones, all on one port."""

    recursive: Server
    ns1: Server
    ns2: Server

    @property
    def resolver(self) -> Resolver:
        return Resolver(RECURSIVE, self.recursive.port)

    def publish(self, name: str, rdtype: str, *values: str) -> None:
        for server in (self.recursive, self.ns1, self.ns2):
            server.records[name, rdtype] = list(values)

    def expect(self, *expected: Expected, timeout: float = 0.1) -> list[str]:
        said: list[str] = []
        wait_until_visible(expected, self.resolver, timeout, said.append)
        return said


def bind_all() -> list[Server]:
    """Three servers on one port below those that the system hands out, and so free at all three addresses."""
    for _ in range(50):
        port = random.randrange(20000, 32000)
        servers = [Server(RECURSIVE, port, recursive=True), Server(NS1, port), Server(NS2, port)]
        with ExitStack() as bound:
            try:
                for server in servers:
                    server.bind()
                    bound.callback(server.close)
            except OSError:
                continue
            bound.pop_all()
            return servers
    raise AssertionError("no port is free at all three addresses")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(operations_dns, "FIRST_PAUSE", 0.01)
    servers = bind_all()
    for server in servers:
        server.start()
    recursive = servers[0]
    world = World(*servers)
    for zone in ZONES:
        recursive.records[zone, "NS"] = ["ns1.lab.test.", "ns2.lab.test."]
    world.publish("ns1.lab.test.", "A", NS1)
    world.publish("ns2.lab.test.", "A", NS2)
    yield world
    for server in servers:
        server.stop()


def names(servers: list[NameServer]) -> list[tuple[str, str]]:
    return [(server.name, server.address) for server in servers]


BOTH = [("ns1.lab.test", NS1), ("ns2.lab.test", NS2)]
KEY = Expected("m1._domainkey.example.test", "TXT", "v=DKIM1; p=abc")
KEY_OWNER = "m1._domainkey.example.test."


# Finding the servers


@pytest.mark.parametrize("name", ["example.test", "smtp.example.test", "a.b.c.example.test", KEY.name])
def test_every_address_of_every_server_of_the_zone_is_found(world: World, name: str) -> None:
    assert names(authoritative_servers(name, world.resolver)) == BOTH


def test_the_resolver_is_never_asked_for_the_name_itself_lest_it_remembers_that_it_is_missing(
    world: World,
) -> None:
    authoritative_servers("smtp.example.test", world.resolver)
    authoritative_servers(KEY.name, world.resolver)
    asked = {name for name, _, _ in world.recursive.asked}
    assert not {name for name in asked if "smtp" in name or "_domainkey" in name}


@pytest.mark.usefixtures("impatient")
def test_a_delegation_below_the_known_zone_is_followed(world: World) -> None:
    for server in (world.ns1, world.ns2):
        server.referrals["deep.example.test."] = "ns1.deep.test."
    world.recursive.records["deep.example.test.", "NS"] = ["ns1.deep.test."]
    world.recursive.records["ns1.deep.test.", "A"] = ["127.0.0.4"]
    assert names(authoritative_servers("deep.example.test", world.resolver)) == [("ns1.deep.test", "127.0.0.4")]


def test_the_zone_itself_is_found_through_a_server_that_serves_parent_and_child(world: World) -> None:
    world.recursive.records["test.", "NS"] = ["ns1.lab.test."]
    assert names(authoritative_servers("example.test", world.resolver)) == BOTH


def test_the_zone_of_an_aliass_target_is_not_taken_for_the_names_own(world: World) -> None:
    for server in (world.ns1, world.ns2):
        server.records[KEY_OWNER, "CNAME"] = ["m1.deep.other.test."]
        server.zones = (*ZONES, "deep.other.test.")
    assert names(authoritative_servers(KEY.name, world.resolver)) == BOTH


def test_a_server_without_an_address_is_kept_as_one_that_cannot_be_asked(world: World) -> None:
    del world.recursive.records["ns2.lab.test.", "A"]
    assert names(authoritative_servers("smtp.example.test", world.resolver)) == [
        BOTH[0],
        ("ns2.lab.test", ""),
    ]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For who asks a server that is silent; all others have the time that a busy machine may take."""
    monkeypatch.setattr(operations_dns, "QUERY_SECONDS", 0.2)
    monkeypatch.setattr(operations_dns, "RESOLVE_SECONDS", 0.4)


@pytest.mark.usefixtures("impatient")
def test_a_resolver_that_does_not_answer_is_named(world: World) -> None:
    world.recursive.silent = True
    with pytest.raises(CouldNotTell, match=r"resolver 127\.0\.0\.1 does not answer for example\.test SOA"):
        authoritative_servers("smtp.example.test", world.resolver)


def test_the_ipv6_search_starts_at_the_64_since_providers_delegate_no_less(world: World) -> None:
    name = reverse_name("2001:db8::10")
    assert names(authoritative_servers(name, world.resolver)) == BOTH
    assert max(len(asked.split(".")) for asked, _, _ in world.recursive.asked if "ip6" in asked) == 19


# Asking one server


def server_of(world: World) -> NameServer:
    return NameServer("ns1.lab.test", NS1, world.ns1.port)


def test_a_server_is_asked_without_recursion(world: World) -> None:
    world.publish(KEY_OWNER, "TXT", '"v=DKIM1; p=abc"')
    ask(server_of(world), KEY.name, "TXT")
    assert world.ns1.asked[-1] == (KEY_OWNER, "TXT", False)


@pytest.mark.parametrize(
    ("rdtype", "published", "canonical_values"),
    [
        ("TXT", ['"v=DKIM1; k=rsa; " "p=AbC"'], ["v=DKIM1; k=rsa; p=AbC"]),
        ("AAAA", ["2001:0DB8:0::0010"], ["2001:db8::10"]),
        ("MX", ["10 MX.Example.test."], ["10 mx.example.test"]),
        ("MX", ["0 ."], ["0 ."]),
        ("CNAME", ["Other.test."], ["other.test"]),
        (
            "CAA",
            ['0 issue "Ca.example; accounturi=https://x/A"'],
            ['0 issue "Ca.example; accounturi=https://x/A"'],
        ),
        ("A", ["192.0.2.2", "192.0.2.1"], ["192.0.2.1", "192.0.2.2"]),
        ("DNSKEY", ["257 3 13 AbCd"], ["257 3 13 AbCd"]),
    ],
)
def test_values_come_back_in_one_spelling(
    world: World, rdtype: str, published: list[str], canonical_values: list[str]
) -> None:
    world.publish("x.example.test.", rdtype, *published)
    assert ask(server_of(world), "X.example.test", rdtype) == canonical_values


@pytest.mark.parametrize(
    ("rdtype", "value", "expected"),
    [
        ("PTR", "Smtp.Example.test", "smtp.example.test"),
        ("MX", "10 MX.example.test.", "10 mx.example.test"),
        ("AAAA", "2001:DB8:0:0::10", "2001:db8::10"),
        ("TXT", "v=spf1 A -all", "v=spf1 A -all"),
        ("TLSA", "3 1 1 " + "AB" * 32, "3 1 1 " + "ab" * 32),
    ],
)
def test_expected_values_are_brought_to_the_same_spelling(rdtype: str, value: str, expected: str) -> None:
    assert canonical(rdtype, value) == expected


def test_an_answer_too_long_for_udp_is_fetched_over_tcp(world: World) -> None:
    world.publish("x.example.test.", "TXT", '"long"')
    world.ns1.truncate = True
    assert ask(server_of(world), "x.example.test", "TXT") == ["long"]


def test_a_name_that_does_not_exist_has_no_values(world: World) -> None:
    assert ask(server_of(world), "nothing.example.test", "TXT") == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"silent": True}, "no answer at 127.0.0.2"),
        ({"rcode": dns.rcode.REFUSED}, "answers REFUSED"),
        ({"recursive": True}, "answers without authority"),
    ],
)
def test_a_server_that_gives_no_authoritative_answer_is_not_mistaken_for_an_empty_one(
    world: World, fault: dict[str, object], said: str
) -> None:
    for key, value in fault.items():
        setattr(world.ns1, key, value)
    with pytest.raises(CouldNotTell, match=said):
        ask(server_of(world), "x.example.test", "TXT")


# Waiting until all show it


def test_waiting_ends_at_once_when_every_server_has_it(world: World) -> None:
    world.publish(KEY_OWNER, "TXT", '"v=DKIM1; " "p=abc"')
    assert world.expect(KEY) == []


def test_waiting_lasts_until_the_server_that_lags_has_it(world: World) -> None:
    world.ns1.records[KEY_OWNER, "TXT"] = ['"v=DKIM1; p=abc"']
    late = threading.Timer(0.3, world.ns2.records.__setitem__, ((KEY_OWNER, "TXT"), ['"v=DKIM1; p=abc"']))
    late.start()
    started = time.monotonic()
    world.expect(KEY, timeout=5)
    assert 0.25 < time.monotonic() - started < 4


def test_when_time_is_out_each_lagging_server_is_named_with_what_it_has_instead(world: World) -> None:
    world.ns1.records[KEY_OWNER, "TXT"] = ['"v=DKIM1; p=abc"']
    world.ns2.records[KEY_OWNER, "TXT"] = ['"v=DKIM1; p=old"']
    with pytest.raises(Problems) as caught:
        world.expect(KEY)
    (finding,) = caught.value.findings
    assert finding.subject == "m1._domainkey.example.test TXT at ns2.lab.test"
    assert (finding.expected, finding.found) == ("v=DKIM1; p=abc", "v=DKIM1; p=old")


@pytest.mark.usefixtures("impatient")
def test_a_server_that_does_not_answer_counts_as_one_that_does_not_have_it(world: World) -> None:
    world.publish(KEY_OWNER, "TXT", '"v=DKIM1; p=abc"')
    world.ns2.silent = True
    with pytest.raises(Problems, match=r"ns2\.lab\.test: no answer at 127\.0\.0\.3"):
        world.expect(KEY)


@pytest.mark.usefixtures("impatient")
def test_one_address_that_answers_is_enough_for_a_server_with_several(world: World) -> None:
    world.publish(KEY_OWNER, "TXT", '"v=DKIM1; p=abc"')
    world.recursive.records["ns2.lab.test.", "AAAA"] = ["::1"]
    world.recursive.records["ns2.lab.test.", "A"] = ["127.0.0.10", NS2]
    assert world.expect(KEY) == []


def test_other_txt_records_beside_ours_are_no_hindrance(world: World) -> None:
    world.publish(KEY_OWNER, "TXT", '"v=DKIM1; p=abc"', '"something else"')
    assert world.expect(KEY) == []


def test_another_address_beside_ours_is_a_hindrance(world: World) -> None:
    world.publish("smtp.example.test.", "A", "192.0.2.10", "192.0.2.66")
    with pytest.raises(Problems, match=r"192\.0\.2\.10, 192\.0\.2\.66"):
        world.expect(Expected("smtp.example.test", "A", "192.0.2.10"))


def test_all_expected_addresses_of_a_name_are_judged_together(world: World) -> None:
    world.publish("smtp.example.test.", "A", "192.0.2.10", "192.0.2.11")
    ours = [Expected("smtp.example.test", "A", f"192.0.2.{last}") for last in (10, 11)]
    assert world.expect(*ours) == []


def test_an_alias_in_the_place_of_the_record_is_said(world: World) -> None:
    world.publish(KEY_OWNER, "CNAME", "elsewhere.test.")
    with pytest.raises(Problems, match=r"an alias \(CNAME\) to elsewhere\.test"):
        world.expect(KEY)


def test_a_zone_nobody_knows_ends_in_a_finding_too(world: World) -> None:
    with pytest.raises(Problems, match=r"knows no zone that contains m1\._domainkey\.nowhere\.invalid"):
        world.expect(Expected("m1._domainkey.nowhere.invalid", "TXT", "x"))


def test_progress_says_where_it_is_missing_and_how_many_have_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations_dns, "PROGRESS_SECONDS", 0.1)
    world.ns1.records[KEY_OWNER, "TXT"] = ['"v=DKIM1; p=abc"']
    said: list[str] = []
    with pytest.raises(Problems):
        wait_until_visible([KEY], world.resolver, 0.3, said.append)
    assert said[0] == ("waiting for m1._domainkey.example.test TXT at ns2.lab.test (1 of 2 servers has it, 0 s)")
    assert len(said) <= 3


# Reverse DNS

REVERSE4 = "10.100.51.198.in-addr.arpa."


@pytest.fixture
def pointing(world: World) -> World:
    world.publish("smtp.example.test.", "A", "198.51.100.10")
    world.publish("smtp.example.test.", "AAAA", "2001:db8::10")
    world.publish(REVERSE4, "PTR", "smtp.example.test.")
    world.publish(reverse_name("2001:db8::10"), "PTR", "smtp.example.test.")
    return world


@pytest.mark.parametrize("ip", ["198.51.100.10", "2001:db8::10"])
def test_an_address_that_points_at_the_name_and_back_has_no_findings(pointing: World, ip: str) -> None:
    assert check_ptr(ip, "Smtp.Example.test", pointing.resolver) == []


@pytest.mark.parametrize(
    ("values", "finding_id", "found"),
    [
        ([], "ptr.missing", "no PTR record"),
        (["vps123.provider.test."], "ptr.wrong", "PTR vps123.provider.test"),
        (
            ["smtp.example.test.", "vps123.provider.test."],
            "ptr.double",
            "2 PTR records: smtp.example.test, vps123.provider.test",
        ),
    ],
)
def test_a_wrong_reverse_name_comes_with_the_exact_record_to_set(
    pointing: World, values: list[str], finding_id: str, found: str
) -> None:
    pointing.publish(REVERSE4, "PTR", *values)
    (finding,) = check_ptr("198.51.100.10", "smtp.example.test", pointing.resolver)
    assert (finding.severity, finding.id, finding.found) == ("error", finding_id, found)
    assert finding.expected == "10.100.51.198.in-addr.arpa. PTR smtp.example.test."
    assert "hosting provider" in finding.fix


def test_reverse_servers_that_differ_are_a_finding_of_its_own(pointing: World) -> None:
    pointing.ns2.records[REVERSE4, "PTR"] = ["old.example.test."]
    (finding,) = check_ptr("198.51.100.10", "smtp.example.test", pointing.resolver)
    assert finding.id == "ptr.differs"
    assert "ns2.lab.test says old.example.test" in finding.found


@pytest.mark.usefixtures("impatient")
def test_a_silent_reverse_server_is_a_finding_of_its_own(pointing: World) -> None:
    pointing.resolver.authoritative(REVERSE4)
    pointing.ns2.rcode = dns.rcode.SERVFAIL
    ids = [finding.id for finding in check_ptr("198.51.100.10", "smtp.example.test", pointing.resolver)]
    assert ids[0] == "ptr.unanswered"


def test_a_reverse_zone_that_nobody_knows_is_a_finding(pointing: World) -> None:
    (finding,) = check_ptr("203.0.113.5", "smtp.example.test", pointing.resolver)
    assert finding.id == "ptr.no-zone"
    assert "delegate" in finding.fix


def test_a_reverse_name_handed_out_by_alias_is_followed(pointing: World) -> None:
    del pointing.ns1.records[REVERSE4, "PTR"], pointing.ns2.records[REVERSE4, "PTR"]
    pointing.publish(REVERSE4, "CNAME", "10.customer.example.test.")
    pointing.publish("10.customer.example.test.", "PTR", "smtp.example.test.")
    assert check_ptr("198.51.100.10", "smtp.example.test", pointing.resolver) == []


def test_a_name_that_does_not_lead_back_to_the_address_is_a_finding(pointing: World) -> None:
    pointing.ns2.records["smtp.example.test.", "A"] = ["198.51.100.99"]
    (finding,) = check_ptr("198.51.100.10", "smtp.example.test", pointing.resolver)
    assert finding.id == "ptr.forward"
    assert finding.subject == "smtp.example.test A at ns2.lab.test"
    assert finding.found == "198.51.100.99"


def test_a_pointer_that_is_set_is_waited_for_until_every_server_shows_it(pointing: World) -> None:
    pointing.ns2.records[REVERSE4, "PTR"] = ["old.example.test."]
    timer = threading.Timer(0.2, pointing.publish, (REVERSE4, "PTR", "smtp.example.test."))
    timer.start()
    wait_for_ptr(["198.51.100.10", "2001:db8::10"], "smtp.example.test", pointing.resolver, 10, lambda _: None)
    timer.join()
    assert pointing.ns2.records[REVERSE4, "PTR"] == ["smtp.example.test."]


def test_a_pointer_that_never_shows_is_told_with_progress_and_with_what_the_provider_should_do(
    pointing: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations_dns, "PROGRESS_SECONDS", 0.1)
    pointing.publish(REVERSE4, "PTR", "vps123.provider.test.")
    said: list[str] = []
    with pytest.raises(Problems) as stopped:
        wait_for_ptr(["2001:db8::10", "198.51.100.10"], "smtp.example.test", pointing.resolver, 0.3, said.append)
    (finding,) = stopped.value.findings
    assert (finding.id, finding.subject, finding.found) == ("ptr.wrong", "198.51.100.10", "PTR vps123.provider.test")
    assert "mailroom:propagationTimeout" in finding.fix
    assert said[0] == "waiting for the reverse DNS of 198.51.100.10: PTR vps123.provider.test (0 s)"
