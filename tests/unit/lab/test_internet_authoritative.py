"""The one writer of the lab's zones: two servers in step, or one that lags."""

from __future__ import annotations

import time

import dns.dnssec
import dns.name
import dns.rdata
import dns.reversename

from lab.addresses import Plan
from lab.internet import dnssec, world
from lab.internet.authoritative import MemoryServer, Publisher, RecordSet

ADDRESS = RecordSet("a.example.test", "A", ("198.51.100.10",))


def opened() -> tuple[Publisher, MemoryServer, MemoryServer]:
    ns1, ns2 = MemoryServer(), MemoryServer()
    publisher = Publisher(ns1, ns2)
    publisher.open({"example.test": [RecordSet("example.test", "NS", ("ns1.lab.test.",))]})
    return publisher, ns1, ns2


def serial(server: MemoryServer) -> int:
    return int(server.content["example.test"]["example.test", "SOA"].contents[0].split()[2])


def eventually(server: MemoryServer, within: float) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if ("a.example.test", "A") in server.content["example.test"]:
            return True
        time.sleep(0.005)
    return False


def test_servers_that_are_in_step_have_the_same_serial() -> None:
    publisher, ns1, ns2 = opened()
    before = serial(ns1)
    publisher.publish("example.test", [ADDRESS])
    assert serial(ns1) == serial(ns2) > before


def test_the_second_server_sees_a_change_only_after_the_lag() -> None:
    publisher, ns1, ns2 = opened()
    publisher.lag(0.15)
    publisher.publish("example.test", [ADDRESS])
    assert ns1.content["example.test"]["a.example.test", "A"] == ADDRESS
    assert not eventually(ns2, within=0.1)
    assert serial(ns2) < serial(ns1)
    assert eventually(ns2, within=1)


def test_ending_the_lag_delivers_what_waits() -> None:
    publisher, _ns1, ns2 = opened()
    publisher.lag(60)
    publisher.publish("example.test", [ADDRESS])
    publisher.lag(0)
    assert eventually(ns2, within=1)


def test_a_restart_in_a_lag_loses_nothing_at_the_second_server() -> None:
    publisher, ns1, ns2 = opened()
    publisher.publish("example.test", [RecordSet("old.example.test", "A", ("198.51.100.1",))])
    publisher.lag(60)
    publisher.publish("example.test", [ADDRESS, RecordSet("old.example.test", "A", ())])
    Publisher(ns1, ns2).open({"example.test": []})
    assert ns2.content == ns1.content


def test_a_server_that_is_down_gets_the_change_when_it_is_back() -> None:
    class Flaky(MemoryServer):
        refusals = 1

        def replace(self, zone: str, changes: object) -> None:
            if self.refusals and any(change.name == "a.example.test" for change in changes):  # type: ignore[attr-defined]
                self.refusals -= 1
                raise ConnectionRefusedError
            super().replace(zone, changes)  # type: ignore[arg-type]

    ns1, ns2 = MemoryServer(), Flaky()
    publisher = Publisher(ns1, ns2)
    publisher.open({"example.test": []})
    publisher.publish("example.test", [ADDRESS])
    assert eventually(ns2, within=1)


def test_every_zone_is_delegated_with_a_ds_of_the_key_it_is_signed_with() -> None:
    zones = world.zones(Plan(name="dev", index=0))
    delegations = {each.name: each.contents[0] for each in zones["test"] if each.type == "DS"}
    assert set(delegations) == {"example.test", "second.test", "lab.test", "receiver.test", "colleagues.test"}
    for zone, content in delegations.items():
        ds = dns.rdata.from_text("IN", "DS", content)
        assert ds == dns.dnssec.make_ds(dns.name.from_text(zone), dnssec.dnskey(), "SHA256")


def test_the_domains_under_test_start_empty() -> None:
    plan = Plan(name="dev", index=0)
    assert [each.type for each in world.zones(plan)["example.test"]] == ["NS"]
    assert not [
        record for record in world.account_records(plan) if record["name"].endswith(("example.test", "second.test"))
    ]


def test_names_and_reverse_names_of_the_labs_services_agree() -> None:
    plan = Plan(name="lab-x", index=7)
    pointers = {each.name: each.contents[0] for zone in plan.reverse_zones for each in world.zones(plan)[zone]}
    for name, pair in world.own_names(plan).items():
        for address in pair:
            assert pointers[dns.reversename.from_address(address).to_text().rstrip(".")] == f"{name}."
