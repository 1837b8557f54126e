"""The judge over a host's facts: what stops a run, what is only noted, and that a good host has no finding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from components.host import facts
from components.host.requirements import judge, unreadable
from components.host.systems import SUPPORTED
from components.settings import HostSettings, NetworkSettings

if TYPE_CHECKING:
    from standards.finding import Finding

NOW = 1_800_000_000.0
OURS = "/usr/local/lib/mailroom/chasquid/" + "a" * 64 + "/chasquid"
HOST = HostSettings.model_validate(
    {
        "name": "smtp.example.com",
        "ipv4": "192.0.2.10",
        "ipv6": "2001:db8::10",
        "hostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1haWxyb29tTWFpbHJvb21NYWlscm9vbU1haWxyb29t",
    }
)
GOOD: dict[str, Any] = {
    "os_id": "debian",
    "os_version": "12",
    "os_name": "Debian GNU/Linux 12 (bookworm)",
    "arch": "amd64",
    "kernel": "6.1.0",
    "systemd": True,
    "disk_free_mb": 500,
    "memory_mb": 256,
    "user": "root",
    "root": True,
    "sudo": False,
    "listeners": [],
    "mtas": [],
    "addresses": {"eth0": ["192.0.2.10", "2001:db8::10"]},
    "network_file": "/etc/systemd/network/10-eth0.network",
    "ipv6": True,
    "apt_lock": None,
    "python": "3.11.2",
    "time": NOW,
}


RECORDED = {
    "Debian 12": ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n', "3.11"),
    "Debian 13": ('PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_ID="13"\nID=debian\n', "3.13"),
    "Ubuntu 22.04": ('PRETTY_NAME="Ubuntu 22.04.5 LTS"\nVERSION_ID="22.04"\nID=ubuntu\nID_LIKE=debian\n', "3.10"),
    "Ubuntu 24.04": ('PRETTY_NAME="Ubuntu 24.04.3 LTS"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n', "3.12"),
    "Ubuntu 26.04": ('PRETTY_NAME="Ubuntu 26.04 LTS"\nVERSION_ID="26.04"\nID=ubuntu\nID_LIKE=debian\n', "3.14"),
}


def listener(port: int, process: str | None, exe: str | None) -> dict[str, Any]:
    return {"port": port, "address": "0.0.0.0", "process": process, "exe": exe}


def judged(**facts: Any) -> list[Finding]:
    return judge({**GOOD, **facts}, HOST, NOW)


def test_a_fresh_host_has_no_finding() -> None:
    assert judged() == []


def test_each_supported_release_is_accepted_by_what_it_says_of_itself() -> None:
    """Recorded: /etc/os-release in part, and the version of python3."""
    for known in SUPPORTED:
        text, python = RECORDED[known.name]
        said = facts.os_release(text)
        names = {"os_id": said["ID"], "os_version": said["VERSION_ID"], "os_name": said["PRETTY_NAME"]}
        assert judged(**names, python=python) == [], known.name


@pytest.mark.parametrize(
    ("facts", "check", "words"),
    [
        ({"os_id": "debian", "os_version": "11", "os_name": "Debian 11"}, "host-os", "Debian 11"),
        ({"os_id": "ubuntu", "os_version": "12"}, "host-os", "runs"),
        ({"os_id": "alpine", "os_version": "3.22", "os_name": "Alpine"}, "host-os", "Alpine"),
        ({"os_id": None, "os_version": None, "os_name": None}, "host-os", "without /etc/os-release"),
        ({"arch": "arm64"}, "host-arch", "arm64"),
        ({"systemd": False}, "host-systemd", "not running"),
        ({"python": "3.9.2"}, "host-python", "3.9.2"),
        ({"root": False, "user": "admin"}, "host-rights", "admin"),
        ({"time": NOW + 61}, "host-clock", "61 s ahead"),
        ({"time": NOW - 3600}, "host-clock", "3600 s behind"),
        ({"disk_free_mb": 499}, "host-disk", "499 MB"),
        ({"memory_mb": 255}, "host-memory", "255 MB"),
        ({"mtas": ["exim4-daemon-light"]}, "host-foreign-mta", "exim4-daemon-light"),
        ({"listeners": [listener(25, "exim4", "/usr/sbin/exim4")]}, "host-ports", "exim4 listens on 25"),
        ({"listeners": [listener(465, None, None)]}, "host-ports", "an unknown process"),
        ({"listeners": None}, "host-ports", "`ss` is missing"),
        ({"addresses": {"eth0": ["192.0.2.11", "2001:db8::10"]}}, "host-ipv4", "192.0.2.11"),
        ({"addresses": {"eth0": ["192.0.2.10"]}}, "host-ipv6", "none"),
        ({"addresses": {"eth0": ["192.0.2.10"], "eth1": ["10.0.0.2", "fd00::1"]}}, "host-ipv6", "fd00::1"),
    ],
)
def test_what_does_not_fit_is_one_error_with_what_was_found(facts: dict[str, Any], check: str, words: str) -> None:
    (finding,) = judged(**facts)
    assert (finding.severity, finding.id) == ("error", check)
    assert words in finding.found
    assert finding.subject == "smtp.example.com (192.0.2.10)"


@pytest.mark.parametrize(
    "facts",
    [
        {"time": NOW + 59},
        {"time": NOW - 59},
        {"python": "3.10.4"},
        {"python": "3.14.0"},
        {"root": False, "sudo": True},
        {"mtas": ["msmtp-mta"]},
        {"listeners": [listener(port, "chasquid", OURS) for port in (25, 465, 587)]},
        {"listeners": [listener(25, "chasquid", OURS + " (deleted)")]},
        {"addresses": {"eth0": ["192.0.2.9", "192.0.2.10"], "eth1": ["2001:db8:0::10"]}},
    ],
)
def test_what_fits_has_no_finding(facts: dict[str, Any]) -> None:
    assert judged(**facts) == []


def test_a_chasquid_that_is_not_ours_is_a_foreign_server() -> None:
    (finding,) = judged(listeners=[listener(25, "chasquid", "/usr/bin/chasquid")])
    assert finding.severity == "error"


def test_a_foreign_server_is_named_with_the_command_that_removes_it() -> None:
    (finding,) = judged(mtas=["postfix", "dma"])
    assert finding.fix.endswith("apt-get purge postfix")


def test_one_process_on_several_ports_is_one_finding() -> None:
    (finding,) = judged(
        listeners=[listener(587, "master", "/x"), listener(25, "master", "/x"), listener(25, "master", "/x")]
    )
    assert "25 (SMTP), 587 (submission)" in finding.found


@pytest.mark.parametrize("address", ["10.0.0.4", "172.31.0.4", "192.168.1.4", "100.64.0.4"])
def test_a_private_address_is_a_note_since_the_provider_may_translate_it(address: str) -> None:
    (finding,) = judged(addresses={"eth0": [address, "2001:db8::10"]})
    assert (finding.severity, finding.id) == ("note", "host-ipv4")
    assert address in finding.fix


@pytest.mark.parametrize(
    ("process", "package", "words"),
    [
        ("master", "postfix", "apt-get purge postfix"),
        ("docker-proxy", "docker-ce", "docker ps --filter publish=25"),
        ("mine", None, "ss -ltnp 'sport = :25'"),
        ("python3", "python3.13-minimal", "ss -ltnp 'sport = :25'"),  # whose removal would break the host
    ],
)
def test_who_holds_a_port_is_named_with_the_way_to_free_it(process: str, package: str | None, words: str) -> None:
    found = judged(mtas=["postfix"], listeners=[listener(25, process, "/x") | {"package": package}])
    finding = next(each for each in found if each.id == "host-ports")
    assert process in finding.found
    assert words in finding.fix


def test_a_first_boot_that_is_not_over_is_a_note() -> None:
    (finding,) = judged(cloud_init="running")
    assert (finding.severity, finding.id) == ("note", "host-cloud-init")
    assert judged(cloud_init="done") == judged(cloud_init=None) == []


@pytest.mark.parametrize(("arch", "expected"), [("arm64", []), ("amd64", []), ("riscv64", ["host-arch"])])
def test_where_no_stack_says_which_processor_both_that_we_build_for_will_do(arch: str, expected: list[str]) -> None:
    anyone = SimpleNamespace(
        name="192.0.2.10", address="192.0.2.10", arch=None, ipv4=None, ipv6=None, ipv6_outbound=False, network=None
    )
    found = judge(GOOD | {"arch": arch}, anyone, NOW)
    assert [finding.id for finding in found] == expected
    assert all(finding.subject == "192.0.2.10" for finding in found)


def test_of_an_installer_its_system_alone_need_be_known() -> None:
    (finding,) = judge({"os_id": "tinycore", "os_version": "15.0", "os_name": "TinyCoreLinux 15.0"}, HOST, NOW)
    assert (finding.severity, finding.id) == ("error", "host-os")
    assert "TinyCoreLinux 15.0" in finding.found


def test_a_host_whose_facts_cannot_be_read_is_told_with_its_last_words() -> None:
    finding = unreadable(HOST, "Traceback\nSyntaxError: invalid syntax\n")
    assert (finding.severity, finding.id) == ("error", "host-unreadable")
    assert "SyntaxError" in finding.found


def test_a_package_manager_at_work_is_a_note() -> None:
    (finding,) = judged(apt_lock={"pid": 7, "process": "unattended-upgr"})
    assert finding.severity == "note"
    assert "unattended-upgr (pid 7)" in finding.found


def test_every_reason_is_said_at_once() -> None:
    found = judged(arch="arm64", disk_free_mb=1, mtas=["postfix"], time=0.0)
    assert {finding.id for finding in found} == {"host-arch", "host-disk", "host-foreign-mta", "host-clock"}


def test_an_unsupported_release_is_not_judged_by_what_it_lacks() -> None:
    (finding,) = judged(os_id="alpine", os_version="3", arch=None, systemd=False, mtas=None)
    assert finding.id == "host-os"


@pytest.mark.parametrize("change", [{}, {"ipv6": None}], ids=["listed", "unlisted"])
def test_an_ipv6_address_may_be_there_when_no_mail_may_leave_over_ipv6(change: dict[str, Any]) -> None:
    assert judge(GOOD, HOST.model_copy(update={"ipv6_outbound": False, **change}), NOW) == []


def test_an_ipv6_address_that_mail_would_leave_from_unannounced_stops_the_run() -> None:
    (finding,) = judge(GOOD, HOST.model_copy(update={"ipv6": None}), NOW)
    assert (finding.severity, finding.id) == ("error", "host-ipv6-unlisted")
    assert "2001:db8::10" in finding.found


@pytest.mark.parametrize("address", ["fe80::1", "::1", "fd00::5"])
def test_an_ipv6_address_that_reaches_no_receiver_needs_no_listing(address: str) -> None:
    facts = GOOD | {"addresses": {"eth0": ["192.0.2.10", address]}}
    assert judge(facts, HOST.model_copy(update={"ipv6": None}), NOW) == []


NETWORK = HOST.model_copy(update={"network": NetworkSettings.model_validate({"ipv6": {"gateway": "fe80::1"}})})
NO_IPV6 = {"addresses": {"eth0": ["192.0.2.10"]}}


def test_an_ipv6_address_that_network_will_add_is_a_note() -> None:
    (note,) = judge({**GOOD, **NO_IPV6}, NETWORK, NOW)
    assert (note.severity, note.id) == ("note", "host-ipv6")
    assert "switches it on" in note.fix


def test_an_ipv6_address_that_nobody_adds_names_the_setting_that_does() -> None:
    (error,) = judged(**NO_IPV6)
    assert error.severity == "error"
    assert "network: {ipv6: {gateway: ...}}" in error.fix


def test_further_addresses_alone_do_not_add_the_first() -> None:
    network = NetworkSettings.model_validate({"addresses": ["2001:db8::11"]})
    (error,) = judge({**GOOD, **NO_IPV6}, HOST.model_copy(update={"network": network}), NOW)
    assert (error.severity, error.id) == ("error", "host-ipv6")


@pytest.mark.parametrize(
    ("facts", "check", "words"),
    [
        ({"network_file": None}, "host-network", "ifupdown, NetworkManager"),
        ({"ipv6": False}, "host-ipv6-kernel", "since the kernel started"),
    ],
)
def test_a_host_where_network_cannot_work_is_refused_and_only_with_the_setting(
    facts: dict[str, Any], check: str, words: str
) -> None:
    (error,) = judge({**GOOD, **facts}, NETWORK, NOW)
    assert (error.severity, error.id) == ("error", check)
    assert words in error.found
    assert judged(**facts) == []
