"""What recorded tries of mail ports and reverse names come to, for each kind of unfit host and a fit one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from components.settings import HostSettings
from operations.preflight import judgement
from operations.preflight.judgement import Stranger
from operations.preflight.outside import LISTENER, NO_ROUTE, OTHER, REFUSED, SILENT, Inbound
from operations.reverse_dns import PROVIDERS
from standards.finding import Finding
from standards.hosters import HOSTERS, UNKNOWN, known_by

if TYPE_CHECKING:
    from collections.abc import Sequence

V4, V6 = "192.0.2.10", "2001:db8::10"
HOST = HostSettings.model_validate(
    {
        "name": "smtp.example.com",
        "ipv4": V4,
        "ipv6": V6,
        "hostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1haWxyb29tTWFpbHJvb21NYWlscm9vbU1haWxyb29t",
    }
)
FACTS: dict[str, Any] = {"addresses": {"eth0": [V4, V6, "fe80::1"]}, "hardware": ["QEMU", ""]}
REACHED = {25: LISTENER, 465: LISTENER, 587: LISTENER}


def tried(
    server: str, family: int, outcome: str = "ok", greets_as: str = "", reply: str | None = None
) -> dict[str, Any]:
    greeting = f"220 {greets_as or server} ESMTP" if outcome == "ok" else None
    address = "198.51.100.1" if family == 4 else "2001:db8:1::1"
    return {
        "server": server, "address": address, "family": family,
        "outcome": outcome, "greeting": greeting, "reply": reply,
    }  # fmt: skip


def every(v4: str = "ok", v6: str = "ok") -> list[dict[str, Any]]:
    return [tried(server, family, outcome) for server in ("a.test", "b.test") for family, outcome in ((4, v4), (6, v6))]


def out(tries: Sequence[dict[str, Any]], host: Any = HOST, facts: Any = FACTS, hoster: Any = UNKNOWN) -> list[Finding]:
    answer = {"user": "root", "unresolved": [], "tries": tries}
    return judgement.judge_outbound(answer, facts, host, hoster)


def test_a_host_that_reaches_two_servers_over_both_families_has_no_finding() -> None:
    assert out(every()) == []


@pytest.mark.parametrize(("blocked", "family"), [({"v4": "silent"}, 4), ({"v6": "refused"}, 6)])
def test_port_25_closed_for_one_family_is_one_error_that_names_it_and_the_providers_form(
    blocked: dict[str, str], family: int
) -> None:
    hetzner = known_by(["static.10.2.0.192.clients.your-server.de"], [])
    (finding,) = out(every(**blocked), hoster=hetzner)
    assert (finding.severity, finding.id) == ("error", "preflight.outbound-25")
    assert finding.subject.endswith(f"over IPv{family}")
    assert "a.test" in finding.found
    assert "b.test" in finding.found
    assert finding.fix.startswith("Hetzner: ")
    assert ("ipv6Outbound: off" in finding.fix) == (family == 6)


def test_one_receiver_that_turns_us_away_is_no_closed_port() -> None:
    (finding,) = out([tried("a.test", 4, "reset"), *every()[2:], tried("a.test", 6)])
    assert (finding.severity, finding.id) == ("note", "preflight.outbound-some")


def test_ipv6_is_not_asked_for_where_no_mail_leaves_over_it() -> None:
    assert out(every(v6="refused"), HOST.model_copy(update={"ipv6_outbound": False})) == []


def test_a_host_without_ipv6_needs_none() -> None:
    facts = {"addresses": {"eth0": [V4, "fe80::1"]}}
    assert out(every(v6="Network is unreachable"), HOST.model_copy(update={"ipv6": None}), facts) == []


def test_an_ipv6_address_without_a_route_is_no_providers_block() -> None:
    (finding,) = out(every(v6="Network is unreachable"))
    assert finding.id == "preflight.no-route"
    assert "gateway" in finding.fix


def test_behind_nat_the_address_that_receivers_see_must_be_the_listed_one() -> None:
    facts = {"addresses": {"eth0": ["10.0.0.4"]}}
    host = HOST.model_copy(update={"ipv6": None})
    right = tried("a.test", 4, reply=f"250-a.test at your service, [{V4}]")
    assert out([right, tried("b.test", 4)], host, facts) == []
    (finding,) = out([tried("a.test", 4, reply="250 a.test Hello [192.0.2.77]"), tried("b.test", 4)], host, facts)
    assert (finding.severity, finding.id) == ("error", "preflight.outgoing-address")
    assert "192.0.2.77" in finding.found


def test_a_seen_ipv6_address_is_the_same_in_every_spelling() -> None:
    seen = tried("a.test", 6, reply="250 a.test Hello [IPv6:2001:DB8:0:0::10]")
    assert out([*every()[:1], seen, *every()[2:]]) == []


def test_two_servers_with_one_name_are_one_machine_in_between() -> None:
    same = [
        tried(server, family, greets_as="relay.provider.test") for server in ("a.test", "b.test") for family in (4, 6)
    ]
    (finding,) = out(same)
    assert finding.id == "preflight.intercepted"
    assert "relay.provider.test" in finding.found


def test_one_server_with_its_own_name_on_both_families_is_itself() -> None:
    assert out([tried("a.test", 4), tried("a.test", 6)]) == []


def test_a_family_that_no_server_has_is_unknown_and_not_closed() -> None:
    (finding,) = out([tried("a.test", 4), tried("b.test", 4)])
    assert (finding.severity, finding.id) == ("note", "preflight.outbound-untried")


def test_a_host_that_resolves_nothing_is_told_so_and_not_that_port_25_is_closed() -> None:
    answer = {"user": "root", "unresolved": ["a.test"], "tries": []}
    (finding,) = judgement.judge_outbound(answer, FACTS, HOST, UNKNOWN)
    assert finding.id == "preflight.no-names"


def came(ports: dict[str, dict[int, str]], **reference: bool) -> list[Finding]:
    known = {int(name[1]): value for name, value in reference.items()}
    return judgement.judge_inbound(Inbound(ports, known), HOST)


def test_reachable_ports_have_no_finding_whoever_answers() -> None:
    assert came({V4: REACHED, V6: REACHED | {25: OTHER}}) == []


def test_closed_ports_are_one_error_an_address_with_each_port_and_what_happened() -> None:
    (finding,) = came({V4: REACHED | {465: REFUSED, 587: SILENT}, V6: REACHED})
    assert (finding.severity, finding.id) == ("error", "preflight.inbound")
    assert V4 in finding.subject
    assert "465 (users' mail programs): refused, 587 (users' mail programs): silent" in finding.found
    assert "25 (" not in finding.found


def test_port_25_is_not_called_closed_from_a_network_that_lets_none_out() -> None:
    (finding,) = came({V4: REACHED | {25: SILENT}}, v4=False)
    assert (finding.severity, finding.id) == ("note", "preflight.inbound-untold")
    (finding,) = came({V4: REACHED | {25: SILENT}}, v4=True)
    assert (finding.severity, finding.id) == ("error", "preflight.inbound")


def test_a_closed_submission_port_is_told_even_from_such_a_network() -> None:
    findings = came({V4: {25: SILENT, 465: REFUSED, 587: LISTENER}}, v4=False)
    assert [finding.severity for finding in findings] == ["note", "error"]
    assert "25 (" not in findings[1].found


def test_without_ipv6_here_nothing_is_said_of_the_hosts() -> None:
    (finding,) = came({V4: REACHED, V6: dict.fromkeys(REACHED, NO_ROUTE)})
    assert (finding.severity, finding.id) == ("note", "preflight.inbound-untold")


PTR = Finding(
    severity="error",
    id="ptr.wrong",
    subject=V4,
    expected="e",
    found="PTR vmi1.contaboserver.net",
    why="w",
    fix="set it",
)


def test_a_wrong_reverse_name_is_a_warning_with_the_place_where_a_person_sets_it() -> None:
    contabo = known_by(["vmi1.contaboserver.net."], [])
    (finding,) = judgement.judge_reverse([PTR], "manual", contabo)
    assert finding.severity == "warning"
    assert "my.contabo.com" in finding.fix


def test_a_reverse_name_that_up_sets_itself_is_a_note() -> None:
    (finding,) = judgement.judge_reverse([PTR], "contabo", UNKNOWN)
    assert finding.severity == "note"
    assert "`up` sets it" in finding.fix


def test_an_api_is_offered_only_where_the_settings_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    contabo = known_by(["vmi1.contaboserver.net"], [])
    for known in ((), ("contabo",)):
        monkeypatch.setattr(judgement, "api_providers", lambda known=known: known)
        (finding,) = judgement.judge_reverse([PTR], "manual", contabo)
        assert ("reverseDns: {provider: contabo}" in finding.fix) == bool(known)


def test_each_provider_whose_api_up_uses_can_be_recognised() -> None:
    keys = {hoster.key for hoster in HOSTERS if hoster.key}
    assert keys == set(judgement.api_providers()) == set(PROVIDERS)


def test_who_sets_reverse_dns_is_told_before_a_stack_lists_the_host() -> None:
    assert "`reverseDns: {provider: contabo}`" in judgement.described(known_by(["vmi1.contaboserver.net"], []))
    assert "a person sets reverse DNS: my.vultr.com" in judgement.described(known_by([], ["Vultr"]))
    assert "not known" in judgement.described(UNKNOWN)


def test_forward_records_are_what_up_publishes_and_no_reason_against_the_host() -> None:
    assert judgement.judge_reverse([replace(PTR, id="ptr.forward")], "manual", UNKNOWN) == []


def test_a_host_that_no_stack_lists_is_judged_with_the_addresses_it_has() -> None:
    facts = {"addresses": {"eth0": ["fd00::1", V4, V6, "2001:db8::11"], "wg0": ["10.0.0.2"]}}
    assert Stranger(V4, ipv4=V4).knowing(facts).ipv6 == V6
    assert Stranger(V6, ipv6=V6).knowing(facts).ipv4 == V4
    assert Stranger(V6, ipv6=V6).knowing({"addresses": {"eth0": ["10.0.0.2"]}}).ipv4 is None


@pytest.mark.parametrize(
    ("names", "hardware", "expected"),
    [
        (["static.1.2.3.4.clients.your-server.de."], [], "Hetzner"),
        ([], ["Hetzner", ""], "Hetzner"),
        (["ec2-192-0-2-1.compute-1.amazonaws.com"], ["Xen"], "Amazon EC2"),
        (["smtp.example.com"], ["DigitalOcean"], "DigitalOcean"),
        ([], ["QEMU", "OracleCloud.com"], "Oracle Cloud"),
        ([], ["Microsoft Corporation", "7783-7084-3265-9085-8269-3286-77"], "Microsoft Azure"),
        ([], ["Microsoft Corporation", ""], UNKNOWN.name),
        (["not-your-server.de"], ["QEMU"], UNKNOWN.name),
        ([], [], UNKNOWN.name),
    ],
)
def test_a_provider_is_known_by_whole_labels_of_its_names_or_by_its_hardware(
    names: list[str], hardware: list[str], expected: str
) -> None:
    assert known_by(names, hardware).name == expected


def test_each_provider_can_be_known_and_tells_both_ways() -> None:
    for hoster in HOSTERS:
        assert hoster.reverse_names or hoster.hardware, hoster.name
        assert hoster.port_25
        assert hoster.ptr
