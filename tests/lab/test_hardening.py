"""A converged host under attack: who is banned, who never is, how far its services reach, and how it is updated.

The host has IPv6 addresses and `ipv6Outbound: off`: mail comes in over both families and leaves over IPv4.
"""

from __future__ import annotations

import base64
import smtplib
import ssl
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from lab.shell import run, wait_until
from tests.lab.live_run import forget
from tests.lab.program import DOMAIN, INSTALLED, Stack
from tests.lab.walls import Walls, knock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Lab

PASSWORD = "CANARY-password-of-alice"
ALICE = f"alice@{DOMAIN}"
TRIES = 10  # as the jails say
# Runs as another computer of the lab too, so it needs nothing of ours.
GUESS = """
import base64, smtplib, ssl, sys
address, source, user, times = *sys.argv[1:4], int(sys.argv[4])
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
options = {"timeout": 10, "context": context, "source_address": (source, 0)}
for _ in range(times):
    with smtplib.SMTP_SSL(address, 465, "client.test", **options) as client:
        print(client.docmd("AUTH", "PLAIN " + user)[0])
"""


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Iterator[Stack]:
    """The real program's work."""
    vps = lab.fresh_vps(octet=16, installed=INSTALLED)
    made = Stack(lab, vps, passwords={ALICE: PASSWORD})
    made.settings["mailroom:hosts"][0]["ipv6Outbound"] = False
    assert "packet filter loaded" in made.converge(), "the run says what it closed"
    yield made
    forget(made)
    lab.remove_vps(vps)


@pytest.fixture(scope="module")
def walls(stack: Stack) -> Walls:
    return Walls(stack.vps)


@pytest.fixture(scope="module")
def strangers(lab: Lab) -> Iterator[list[str]]:
    """Three addresses of one IPv6 network of 64 bits, all on this machine."""
    network = lab.plan.uplink_machine.ipv6.removesuffix("::1")
    addresses = [f"{network}{suffix}" for suffix in ("::a", ":1::b", "::c")]
    for address in addresses:
        run("ip", "address", "add", f"{address}/64", "dev", lab.plan.uplink_interface, "nodad")
    yield addresses
    for address in addresses:
        run("ip", "address", "delete", f"{address}/64", "dev", lab.plan.uplink_interface)


def guess(address: str, source: str, times: int, *, user: str = ALICE, neighbour: Lab | None = None) -> set[str]:
    """Log in with a wrong password from `source`, of this machine or of a neighbour in the lab; all the answers."""
    secret = base64.b64encode(f"\0{user}\0wrong".encode()).decode()
    inside = ["nsenter", f"--net=/run/netns/{neighbour.plan.netns}"] if neighbour else []
    argv = [*inside, sys.executable, "-c", GUESS, address, source, secret, str(times)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    return set(done.stdout.split() or done.stderr.splitlines()[-1:])


def refused(address: str, port: int, source: str) -> bool:
    return wait_until(lambda: knock(address, port, source) == "refused", timeout=10)


def test_a_message_leaves_over_ipv4_at_once_where_ipv6_is_off(stack: Stack) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    message = f"From: {ALICE}\r\nTo: check@receiver.test\r\nSubject: over IPv4\r\n\r\nHello\r\n"
    with smtplib.SMTP_SSL(stack.vps.ipv4, 465, "client.test", context=context) as client:
        client.login(ALICE, PASSWORD)
        began = time.monotonic()
        client.sendmail(ALICE, ["check@receiver.test"], message)
    arrived = stack.lab.wait_message(lambda found: found["subject"] == "over IPv4")
    assert time.monotonic() - began < 2
    assert arrived["client_ip"] == stack.vps.ipv4
    assert stack.lab.plan.receiver.ipv6 in stack.vps.ssh("getent ahosts mx.receiver.test").stdout


def test_every_service_of_ours_is_confined(walls: Walls) -> None:
    names = walls.must("cd /etc/systemd/system && ls mailroom-*.service chasquid.service").split()
    assert {"chasquid.service", "mailroom-firewall.service", "mailroom-policy.service"} <= set(names)
    judged = walls.must(
        f"for unit in {' '.join(names)} certbot.service; do echo $unit $(systemd-analyze security --no-pager $unit "
        "| tail -1); done"
    )
    exposure = {line.split()[0]: float(line.split(":")[1].split()[0]) for line in judged.splitlines()}
    assert {unit: level for unit, level in exposure.items() if level > 3} == {}


def test_a_second_run_changes_nothing(walls: Walls) -> None:
    assert walls.guard() == "ok: nothing to do\n"


def test_the_operator_is_never_banned_and_nobody_can_accuse_another(stack: Stack, walls: Walls, lab: Lab) -> None:
    """A line feed in a name reaches chasquid's mail log: the line after it says whatever the client likes."""
    other = lab.plan.gateway.ipv4
    lie = f"_ conn.go:319        SMTP.Conn {other}:1: error: AUTH failed: 535  5.7.8 Incorrect user or password"
    assert guess(stack.vps.ipv4, "", TRIES, user=f"x@x\n{lie}") == {"535"}
    assert lie.lower() in walls.must("journalctl -u chasquid -o cat")
    time.sleep(2)
    assert "Currently banned:\t0" in walls.must("fail2ban-client status chasquid")


def test_a_few_wrong_passwords_behind_a_shared_address_ban_nobody(stack: Stack, walls: Walls, lab: Lab) -> None:
    source = lab.plan.gateway.ipv4
    assert guess(stack.vps.ipv4, source, 3, neighbour=lab) == {"535"}
    failed = "fail2ban-client status chasquid | grep 'Currently failed'"
    assert wait_until(lambda: walls.must(failed).endswith("1"), timeout=10), "it was counted"
    assert "Currently banned:\t0" in walls.must("fail2ban-client status chasquid")
    assert guess(stack.vps.ipv4, source, TRIES - 3, neighbour=lab) == {"535"}
    counted = "fail2ban-client get chasquid banip"
    assert wait_until(lambda: source in walls.must(counted), timeout=10)


def test_addresses_of_one_ipv6_network_are_counted_and_banned_as_one(
    stack: Stack, walls: Walls, strangers: list[str]
) -> None:
    address = stack.vps.ipv6
    assert address
    first, second, third = strangers
    assert guess(address, first, TRIES // 2) == guess(address, second, TRIES // 2 - 1) == {"535"}
    time.sleep(2)
    assert knock(address, 465, first) == "open"
    assert guess(address, second, 1) == {"535"}
    assert refused(address, 465, first)
    assert [knock(address, port, third) for port in (25, 465, 587)] == ["refused"] * 3
    assert knock(address, 22, third) == "open", "who guesses passwords of mail may still log in"
    network = walls.must("nft list set inet mailroom-chasquid ipv6")
    assert f"{first.removesuffix('a')}/64" in network


def test_bans_survive_a_restart_and_can_be_lifted(stack: Stack, walls: Walls, strangers: list[str]) -> None:
    address = stack.vps.ipv6
    assert address
    walls.must("systemctl restart fail2ban")
    assert refused(address, 465, strangers[2])
    walls.must(f"fail2ban-client set chasquid unbanip {strangers[0].removesuffix('::a')}")
    assert wait_until(lambda: knock(address, 465, strangers[2]) == "open", timeout=10)


def test_who_tries_keys_is_banned_from_ssh_alone(stack: Stack, lab: Lab) -> None:
    options = ("-F", "none", "-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null")
    login = ["nsenter", f"--net=/run/netns/{lab.plan.netns}", "ssh", *options, f"nobody-here@{stack.vps.ipv6}", "true"]

    def tries() -> str:
        return subprocess.run(login, capture_output=True, text=True, check=False, timeout=30).stderr

    for _ in range(TRIES):
        assert "Permission denied (publickey)" in tries()
    assert wait_until(lambda: "Connection refused" in tries(), timeout=10)
    assert guess(str(stack.vps.ipv6), "::", 1, neighbour=lab) == {"535"}, "mail is another jail"


def test_updates_are_for_security_come_by_themselves_and_never_reboot(walls: Walls) -> None:
    allowed = walls.must("unattended-upgrade --dry-run --debug 2>&1 | grep -m1 'Allowed origins are'")
    origins = allowed.partition(": ")[2].split(", ")
    assert origins
    assert all("security" in origin.lower() for origin in origins)
    settings = walls.must("apt-config dump --no-empty --format '%F %v%n'").splitlines()
    assert "APT::Periodic::Unattended-Upgrade 1" in settings
    assert "Unattended-Upgrade::Automatic-Reboot false" in settings
    assert walls.must("systemctl is-active apt-daily.timer apt-daily-upgrade.timer").split() == ["active"] * 2


def test_undone_the_jail_of_chasquid_goes_and_that_of_ssh_stays(walls: Walls) -> None:
    walls.must("cd /usr/local/lib/mailroom/current && python3 -c 'import guard; print(guard.undo())'")
    assert wait_until(lambda: walls.vps.ssh("fail2ban-client status sshd").returncode == 0, timeout=10)
    assert walls.vps.ssh("fail2ban-client status chasquid").returncode != 0
    assert walls.vps.ssh("nft list table inet mailroom-chasquid").returncode != 0
