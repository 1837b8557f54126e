"""The plan of a lab: prefixes, the numbers of its services, names that other tools limit."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import pairwise

import pytest

from lab.addresses import LAST_INDEX, VPS_OCTETS, Plan

DEFAULT = Plan(name="dev", index=0)
EVERY = [Plan(name=f"lab-{index}", index=index) for index in range(LAST_INDEX + 1)]


def test_the_default_lab_has_the_documented_addresses() -> None:
    assert str(DEFAULT.ipv4) == "198.51.100.0/24"
    assert str(DEFAULT.ipv6) == "2001:db8:99::/64"
    assert DEFAULT.vps == ("198.51.100.10", "2001:db8:99::10")
    assert DEFAULT.resolver == ("198.51.100.53", "2001:db8:99::53")
    assert (DEFAULT.ns1.ipv4, DEFAULT.ns2.ipv4) == ("198.51.100.54", "198.51.100.55")
    assert (DEFAULT.acme.ipv4, DEFAULT.api.ipv4, DEFAULT.receiver.ipv4) == tuple(
        f"198.51.100.{octet}" for octet in (14, 15, 25)
    )


def test_other_labs_take_their_prefixes_from_the_index() -> None:
    plan = Plan(name="lab-x", index=7)

    assert plan.address(10) == ("198.18.7.10", "2001:db8:107::10")


@pytest.mark.parametrize("plan", [DEFAULT, EVERY[1], EVERY[100], EVERY[200]], ids=lambda plan: plan.name)
def test_every_number_gives_addresses_inside_the_networks_in_canonical_form(plan: Plan) -> None:
    for octet in (1, 10, 25, 53, 99):
        pair = plan.address(octet)
        assert IPv4Address(pair.ipv4) in plan.ipv4
        assert IPv6Address(pair.ipv6) in plan.ipv6
        assert pair.ipv6 == str(ip_address(pair.ipv6))


def test_no_two_labs_and_no_uplink_overlap() -> None:
    networks = [ip_network(network) for plan in EVERY for network in plan.clients]

    assert len(networks) == len(set(networks)) == 4 * len(EVERY)
    ipv4 = sorted(network for network in networks if network.version == 4)
    assert all(not a.overlaps(b) for a, b in pairwise(ipv4))
    ipv6 = sorted(network for network in networks if network.version == 6)
    assert all(not a.overlaps(b) for a, b in pairwise(ipv6))


@pytest.mark.parametrize("plan", [DEFAULT, EVERY[13], EVERY[200]], ids=lambda plan: plan.name)
def test_the_reverse_zones_hold_the_names_of_every_guest(plan: Plan) -> None:
    for address, zone in zip(plan.vps, plan.reverse_zones, strict=True):
        assert ip_address(address).reverse_pointer.endswith("." + zone)
    assert ip_address(plan.vps.ipv6).reverse_pointer.removesuffix(plan.reverse_zones[1]).count(".") == 16


def test_the_uplink_ends_share_one_point_to_point_network() -> None:
    for plan in (DEFAULT, EVERY[9]):
        uplink4, uplink6 = plan.clients[2:]
        assert IPv4Address(plan.uplink_machine.ipv4) in uplink4
        assert IPv4Address(plan.uplink_lab.ipv4) in uplink4
        assert IPv6Address(plan.uplink_machine.ipv6) in uplink6
        assert IPv6Address(plan.uplink_lab.ipv6) in uplink6


def test_no_vps_may_take_the_address_of_a_service_or_the_gateway() -> None:
    taken = {pair.ipv4 for pair in (*DEFAULT.services, DEFAULT.gateway)}

    assert not taken & {DEFAULT.address(octet).ipv4 for octet in VPS_OCTETS}
    assert len(set(VPS_OCTETS)) == len(VPS_OCTETS) > 60


def test_interface_names_fit_the_kernels_limit() -> None:
    assert max(len(plan.uplink_interface) for plan in EVERY) <= 15
    assert len({plan.uplink_interface for plan in EVERY}) == len(EVERY)


@pytest.mark.parametrize("index", [-1, LAST_INDEX + 1])
def test_an_index_outside_the_range_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.200"):
        Plan(name="lab-x", index=index)
