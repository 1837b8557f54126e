"""Packet filter and key-only SSH on a real machine: what is open, what leaves, and every way back."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING

import pytest

from tests.lab.walls import Walls, knock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Lab

SERVICE = "python3 -m http.server --bind :: {port}"
SHORT = 2  # seconds instead of a minute
CONFIG, DROP_INS = "/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d"


@pytest.fixture(scope="module")
def fresh(lab: Lab) -> Iterator[Walls]:
    """A machine with the users that prepare.py makes, another service, and another table."""
    vps = lab.fresh_vps()
    walls = Walls(vps)
    walls.must("useradd --system --user-group chasquid")
    for port in (25, 8080):
        walls.must(f"systemd-run --unit=service-{port} {SERVICE.format(port=port)}")
    walls.must("nft add table inet others")
    yield walls
    lab.remove_vps(vps)


@pytest.fixture
def closed(fresh: Walls) -> Walls:
    """The machine as a first run leaves it."""
    fresh.payload |= {"allow_tcp": [], "ipv6_mail": True}
    fresh.access()
    return fresh


LEAVES = """
import json, os, socket, sys, time
found = {}
for user, uid, address in json.load(sys.stdin):
    os.seteuid(uid)
    began = time.monotonic()
    try:
        with socket.create_connection((address, 25), 10) as connection:
            how = connection.recv(3).decode()
    except OSError as error:
        how = type(error).__name__
    os.seteuid(0)
    found[f"{user} {address}"] = how if time.monotonic() - began < 1 else f"{how}, late"
print(json.dumps(found))
"""
REFUSED = "ConnectionRefusedError"


def leaves(walls: Walls, users: list[str], addresses: list[str]) -> dict[str, str]:
    """How connections to port 25 end: `220` of a mail server, or the error; `late` when it took a second."""
    uids = {user: int(walls.must(f"id -u {user}")) for user in users}
    cases = [(user, uids[user], address) for user in users for address in addresses]
    return dict(json.loads(walls.must(f"python3 -c {shlex.quote(LEAVES)}", json.dumps(cases))))


def test_a_service_that_is_shut_out_is_named_with_the_setting_that_opens_it(fresh: Walls) -> None:
    assert [knock(address, 8080) for address in fresh.addresses] == ["open", "open"]
    said = fresh.access()
    assert "closed to others: python3 on tcp 8080 (open it: firewall: {allowTcp: [8080]})" in said
    assert "tcp 25 " not in said
    assert "waits for its confirmation" in said


def test_a_second_run_changes_nothing(closed: Walls) -> None:
    before = closed.must("find /etc -newermt @0 -printf '%p %T@\\n' | sort | sha256sum")
    assert closed.access() == "ok: nothing to do\n"
    assert closed.must("find /etc -newermt @0 -printf '%p %T@\\n' | sort | sha256sum") == before


def test_strangers_find_mail_ssh_and_ping_and_nothing_else_in_both_families(closed: Walls, lab: Lab) -> None:
    for address in closed.addresses:
        assert {port: knock(address, port) for port in (22, 25, 8080, 113, 465)} == {
            22: "open", 25: "open", 8080: "silent", 113: "refused", 465: "refused",
        }, address  # fmt: skip
        closed.must(f"ping -c 1 -W 2 {lab.plan.address(1).ipv6 if ':' in address else lab.plan.address(1).ipv4}")
    assert "table inet others" in closed.must("nft list tables")


def test_a_port_of_the_settings_opens_and_closes_again(closed: Walls) -> None:
    closed.payload["allow_tcp"] = [8080]
    closed.access()
    assert [knock(address, 8080) for address in closed.addresses] == ["open", "open"]
    closed.payload["allow_tcp"] = []
    assert "tcp 8080" in closed.access()
    assert [knock(address, 8080) for address in closed.addresses] == ["silent", "silent"]


def test_mail_leaves_as_chasquid_alone_and_others_are_refused_at_once(closed: Walls, lab: Lab) -> None:
    ipv4, ipv6 = lab.plan.receiver
    assert leaves(closed, ["chasquid", "root", "nobody"], [ipv4, ipv6]) == {
        f"chasquid {ipv4}": "220", f"chasquid {ipv6}": "220", f"root {ipv4}": REFUSED, f"root {ipv6}": REFUSED,
        f"nobody {ipv4}": REFUSED, f"nobody {ipv6}": REFUSED,
    }  # fmt: skip


def test_with_ipv6_outbound_off_ipv6_is_refused_at_once_and_ipv4_leaves(closed: Walls, lab: Lab) -> None:
    closed.payload["ipv6_mail"] = False
    closed.access()
    ipv4, ipv6 = lab.plan.receiver
    assert leaves(closed, ["chasquid"], [ipv4, ipv6]) == {f"chasquid {ipv4}": "220", f"chasquid {ipv6}": REFUSED}
    assert knock(closed.addresses[1], 25) == "open", "mail still comes in over IPv6"


def test_a_change_that_locks_the_operator_out_takes_itself_back(closed: Walls) -> None:
    before = closed.table()
    timer = closed.payload["units"]["mailroom-rollback.timer"]
    closed.payload["units"]["mailroom-rollback.timer"] = timer.replace("=60", f"={SHORT}")
    closed.access()
    script = closed.must("readlink -e /usr/local/lib/mailroom/current/access.py")
    closed.must(f"cp -p {script} /root/access.py; sed -i 's/\\[wanted\\[\"ssh_port\"\\], .sshd.ports(), /[/' {script}")
    closed.payload["allow_tcp"] = [8080]
    changed = closed.run("access.py apply", closed.payload)
    assert changed.returncode == 0, changed.stderr
    assert "sshd on tcp 22" in changed.stdout
    assert [knock(address, 22) for address in closed.addresses] == ["silent", "silent"]
    time.sleep(SHORT)
    closed.must(f"cp -p /root/access.py {script}")
    assert closed.table() == before
    late = closed.run("access.py confirm")
    assert late.returncode == 1
    assert "taken back before it was confirmed" in late.stderr
    assert closed.table() == before
    closed.payload["units"]["mailroom-rollback.timer"] = timer


def test_a_boot_brings_back_what_was_confirmed_and_takes_back_what_was_not(closed: Walls) -> None:
    before = closed.table()
    closed.must(f"rm {DROP_INS}/00-mailroom.conf")
    closed.payload["allow_tcp"] = [8080]
    closed.run("access.py apply", closed.payload)
    assert "8080" in closed.table()
    assert closed.vps.ssh(f"test -e {DROP_INS}/00-mailroom.conf").returncode == 0
    closed.vps.reboot()
    closed.must("systemctl is-system-running --wait || systemctl --failed")
    assert closed.table() == before
    assert closed.vps.ssh(f"test -e {DROP_INS}/00-mailroom.conf").returncode == 1
    assert knock(closed.vps.ipv4, 25) == "refused"
    assert knock(closed.vps.ipv4, 8080) == "silent"
    closed.payload["allow_tcp"] = []
    assert "SSH takes keys only" in closed.access()
    closed.must(f"systemd-run --unit=service-25 {SERVICE.format(port=25)}")


def test_the_hosts_own_nftables_service_may_flush_everything_and_ours_comes_back(closed: Walls) -> None:
    before = closed.table()
    closed.must("systemctl restart nftables")
    assert closed.table() == before
    assert closed.access() == "ok: nothing to do\n"
    closed.must("nft flush ruleset")
    assert "packet filter loaded" in closed.access()
    assert closed.table() == before


def test_a_run_that_is_killed_anywhere_is_finished_by_the_next(closed: Walls) -> None:
    wanted = closed.table()
    script = "/usr/local/lib/mailroom/current/access.py"
    for number, seconds in enumerate((0.1, 0.2, 0.3)):
        more = shlex.quote(json.dumps(closed.payload | {"allow_tcp": [9000 + number]}))
        closed.must(
            f"rm {DROP_INS}/00-mailroom.conf; printf %s {more} | timeout -s KILL {seconds} {script} apply; "
            f"timeout -s KILL {seconds} {script} confirm; true"
        )
        closed.access()
        assert closed.table() == wanted
        left = closed.must("ls /etc/mailroom-host; systemctl is-active mailroom-rollback.timer; true")
        assert left.split() == ["firewall.loaded", "firewall.new", "firewall.nft", "inactive"]
    assert closed.access() == "ok: nothing to do\n"


def offered(walls: Walls, before: str = "true") -> str:
    """What sshd lets a login without a key try, from its own refusal; `before` runs first."""
    command = f"ssh -o BatchMode=yes -o PreferredAuthentications=none -o StrictHostKeyChecking=no {walls.vps.ipv4}"
    return walls.vps.ssh(f"{before}; {command}").stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "image",
    [
        f"echo 'PasswordAuthentication yes' >{DROP_INS}/50-cloud-init.conf",
        f"sed -i '/^Include/d' {CONFIG}; echo 'PasswordAuthentication yes' >>{CONFIG}",
        f"sed -i '1i PasswordAuthentication yes\nKbdInteractiveAuthentication yes' {CONFIG}",
    ],
    ids=["cloud-init", "no Include", "before the Include"],
)
def test_no_image_keeps_its_password_logins_and_keys_still_work(closed: Walls, image: str) -> None:
    reload = "systemctl reload ssh; sleep 0.3"
    assert "password" in offered(closed, f"cp -p {CONFIG} /root/sshd_config; rm {DROP_INS}/*; {image}; {reload}")
    assert "SSH takes keys only" in closed.access()
    assert offered(closed).endswith("Permission denied (publickey).")
    assert closed.access() == "ok: nothing to do\n"
    closed.must(f"cp -p /root/sshd_config {CONFIG}; rm -f {DROP_INS}/50-*; {reload}")


def test_files_that_sshd_refuses_change_nothing(closed: Walls) -> None:
    closed.must(f"rm {DROP_INS}/00-mailroom.conf; echo 'AuthenticationMethods publickey,password' >>{CONFIG}")
    before = closed.table()
    closed.payload["allow_tcp"] = [8080]
    answer = closed.run("access.py apply", closed.payload)
    assert answer.returncode == 1
    assert "AuthenticationMethods" in answer.stderr
    assert closed.table() == before
    assert closed.vps.ssh(f"ls {DROP_INS}").stdout == ""
    closed.must(f"sed -i '/^AuthenticationMethods/d' {CONFIG}")


def test_undone_it_lets_everybody_in_again_and_keeps_keys_only(closed: Walls) -> None:
    folder = "/usr/local/lib/mailroom/current"
    undo = f"cd {folder} && python3 -c 'import access; print(access.undo())'"
    assert closed.must(undo) == "['packet filter']"
    assert closed.table() == ""
    assert knock(closed.vps.ipv4, 25) == "open"
    assert "publickey)" in offered(closed)
    assert closed.must("ls -d /etc/mailroom-host /etc/systemd/system/mailroom-* 2>/dev/null; true") == ""
    assert closed.must(undo) == "[]"
