"""The gates of a host in an `up`: before anything is changed there, and before anything attracts mail to it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from components.host import provider
from components.host.provider import HostGateProvider, ReachableProvider
from operations import preflight, ssh
from operations.preflight import outside
from operations.preflight.outside import OTHER, PORTS, REFUSED, SILENT, Inbound
from standards.finding import Problems
from tests.unit.host.test_requirements import GOOD, HOST, listener

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

V4, V6 = str(HOST.ipv4), str(HOST.ipv6)
SERVERS = ["a.test", "b.test"]


class Gate:
    """A host that says this of itself, and what the gate asked and told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.facts: dict[str, Any] = {**GOOD, "hardware": [], "time": time.time()}
        self.outcomes = {4: "ok", 6: "ok"}
        self.tried: list[Sequence[str]] = []
        self.told: list[str] = []
        monkeypatch.setattr(ssh, "run", lambda *_, **__: ssh.Completed(0, json.dumps(self.facts), ""))
        monkeypatch.setattr(outside, "outbound", self._outbound)
        monkeypatch.setattr(provider, "progress", self.told.append)

    def _outbound(self, _: ssh.Target, servers: Sequence[str]) -> dict[str, Any]:
        self.tried.append(servers)
        tries = [
            {"server": name, "address": f"{number}", "family": number, "outcome": outcome,
             "greeting": f"220 {name} ESMTP", "reply": None}
            for name in servers for number, outcome in self.outcomes.items()
        ]  # fmt: skip
        return {"user": "root", "unresolved": [], "tries": tries}

    def pass_with(self, **settings: Any) -> str:
        """The system that a host with these settings is let pass with."""
        host = HOST.model_validate({**HOST.model_dump(by_alias=True), **settings})
        inputs = {"name": host.name, "settings": host.model_dump_json(), "private_key": None, "outbound_check": SERVERS}
        return str(HostGateProvider().create(inputs).outs["os"])

    def stops(self) -> list[str]:
        """What stops a run."""
        with pytest.raises(Problems, match="nothing was changed") as caught:
            self.pass_with()
        return [finding.id for finding in caught.value.findings]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def test_a_host_that_fits_is_asked_to_reach_the_mail_servers_of_the_settings(gate: Gate) -> None:
    assert gate.pass_with() == "debian 12"
    assert gate.tried == [SERVERS]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("outcome", ["silent", "refused"])
def test_outgoing_port_25_that_is_closed_for_one_family_stops_the_run(gate: Gate, family: int, outcome: str) -> None:
    gate.outcomes[family] = outcome
    assert gate.stops() == ["preflight.outbound-25"]


def test_a_full_disk_a_wrong_clock_and_a_postfix_stop_the_run_before_anything_is_tried(gate: Gate) -> None:
    postfix = listener(25, "master", "/usr/lib/postfix/sbin/master")
    gate.facts |= {"disk_free_mb": 10, "time": time.time() - 3600, "mtas": ["postfix"], "listeners": [postfix]}
    assert gate.stops() == ["host-clock", "host-disk", "host-foreign-mta", "host-ports"]
    assert gate.tried == []


def test_ipv6_that_this_very_run_switches_on_is_a_note_and_not_tried_yet(gate: Gate) -> None:
    gate.facts["addresses"] = {"eth0": [V4]}
    gate.outcomes[6] = "Network is unreachable"
    assert gate.stops() == ["host-ipv6"]
    assert gate.pass_with(network={"ipv6": {"gateway": "fe80::1"}}) == "debian 12"
    assert [text for text in gate.told if text.startswith("note: ") and "switches it on" in text]


def reach(monkeypatch: pytest.MonkeyPatch, ports: Mapping[int, str], *, elsewhere: bool, **changes: Any) -> list[str]:
    """Let a host that serves be seen from outside like this; the addresses that were tried."""
    tried: list[str] = []

    def served(addresses: Sequence[str], ssh_port: int, receivers: Callable[[], Mapping[int, str]]) -> Inbound:
        assert ssh_port == HOST.ssh.port
        tried.extend(addresses)
        assert receivers() == {4: "198.51.100.1"}
        return Inbound({each: {**dict.fromkeys(PORTS, OTHER), **ports} for each in addresses}, {4: elsewhere})

    monkeypatch.setattr(outside, "served", served)
    monkeypatch.setattr(preflight, "references", lambda *_: {4: "198.51.100.1"})
    host = HOST.model_validate({**HOST.model_dump(by_alias=True), **changes})
    inputs = {"name": host.name, "settings": host.model_dump_json(), "outbound_check": SERVERS, "resolver": None}
    ReachableProvider().create(inputs)
    return tried


def test_each_address_that_dns_names_is_tried_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reach(monkeypatch, {}, elsewhere=True) == [V4, V6]
    assert reach(monkeypatch, {}, elsewhere=True, ipv6Outbound=False) == [V4]


@pytest.mark.parametrize("port", PORTS)
def test_a_port_closed_outside_stops_the_run_and_is_named(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    with pytest.raises(Problems, match="nothing was published that attracts mail") as caught:
        reach(monkeypatch, {port: REFUSED}, elsewhere=True)
    assert [finding.id for finding in caught.value.findings] == ["preflight.inbound"] * 2
    assert f"{port} (" in caught.value.findings[0].found


def test_where_our_own_network_lets_port_25_out_nowhere_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(provider, "progress", told.append)
    reach(monkeypatch, {25: SILENT}, elsewhere=False, ipv6Outbound=False)
    assert "could not be told" in told[-1]
