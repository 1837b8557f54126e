"""`network` and `bootstrap` on a real machine that came without IPv6: switched on, taken back, put back."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from components.host import facts
from components.host.requirements import judge
from components.settings import HostSettings
from operations import outside
from tests.lab.walls import Walls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Lab

DROP_INS = "/etc/systemd/network/10-netplan-host0.network.d"
MEMORY = "/etc/mailroom-host"
SHORT = 5  # seconds instead of a minute; to see whether another machine has the address takes 2
# Where netplan puts what it makes of its files; the sysctl is what some providers' images come with.
IMAGE = """
set -e
mkdir -p /run/systemd/network
mv /etc/systemd/network/10-provider.network /run/systemd/network/10-netplan-host0.network
echo 'net.ipv6.conf.all.disable_ipv6 = 1' >/etc/sysctl.d/10-provider.conf
sed -i 's/^IPv6AcceptRA=no/LinkLocalAddressing=no/' /run/systemd/network/10-netplan-host0.network
systemctl restart systemd-sysctl
networkctl reload
networkctl reconfigure host0
useradd --system --user-group chasquid
"""
SENDS = """
import smtplib, sys
server, sender, subject = sys.argv[1:]
with smtplib.SMTP(server, 25, "vps.example.test") as client:
    client.sendmail(sender, ["check@receiver.test"], f"From: {sender}\\r\\nSubject: {subject}\\r\\n\\r\\nHello\\r\\n")
"""


@pytest.fixture(scope="module")
def walls(lab: Lab) -> Iterator[Walls]:
    """A machine ordered without IPv6, with our scripts on it."""
    vps = lab.fresh_vps(ipv6=False, octet=70)
    made = Walls(vps)
    made.must(IMAGE)
    yield made
    lab.remove_vps(vps)


@pytest.fixture(scope="module")
def wanted(lab: Lab) -> dict[str, Any]:
    """What the program makes of the settings."""
    return {
        "address": lab.plan.address(70).ipv6,
        "prefix": 64,
        "gateway": lab.plan.gateway.ipv6,
        "addresses": [lab.plan.address(71).ipv6],
        "echo": None,
    }


def everything(walls: Walls) -> str:
    """All that decides about the network, files and kernel."""
    return walls.must(
        "head -v -n 99 /etc/systemd/network/*/* /etc/sysctl.d/* /proc/sys/net/ipv6/conf/*/disable_ipv6 2>/dev/null; "
        "ip -o address show dev host0 scope global | grep -o 'inet.*/[0-9]*'; ip route; ip -6 route show default"
    )


def test_the_gate_lets_pass_what_network_will_switch_on(walls: Walls, wanted: dict[str, Any]) -> None:
    found = json.loads(walls.must("python3 -", Path(facts.__file__).read_text()))
    host = {"name": "smtp.example.test", "ipv4": walls.vps.ipv4, "ipv6": wanted["address"],
            "hostKey": walls.vps.host_key}  # fmt: skip

    def judged(**more: Any) -> dict[str, str]:
        settings = HostSettings.model_validate({**host, **more})
        return {finding.id: finding.severity for finding in judge(found, settings, time.time())}

    assert walls.must("cat /proc/sys/net/ipv6/conf/host0/disable_ipv6") == "1"
    assert found["network_file"] == "/run/systemd/network/10-netplan-host0.network"
    assert judged() == {"host-ipv6": "error"}
    assert judged(network={"ipv6": {"gateway": wanted["gateway"]}}) == {"host-ipv6": "note"}


def test_a_wrong_gateway_is_taken_back_at_once(walls: Walls, lab: Lab, wanted: dict[str, Any]) -> None:
    walls.access()
    before = everything(walls)
    wrong = lab.plan.address(99).ipv6
    walls.payload["network"] = wanted | {"gateway": wrong}
    answer = walls.run("access.py apply", walls.payload)
    assert answer.returncode == 1
    assert f"no machine on host0 has the address of the gateway {wrong}" in answer.stderr
    assert everything(walls) == before
    assert walls.must(f"ls {MEMORY}").split() == ["firewall.loaded", "firewall.new", "firewall.nft"]


def test_a_network_that_nobody_confirms_takes_itself_back(walls: Walls, wanted: dict[str, Any]) -> None:
    before = everything(walls)
    timer = walls.payload["units"]["mailroom-rollback.timer"]
    walls.payload["units"]["mailroom-rollback.timer"] = timer.replace("=60", f"={SHORT}")
    walls.payload["network"] = wanted
    changed = walls.run("access.py apply", walls.payload)
    walls.payload["units"]["mailroom-rollback.timer"] = timer
    assert changed.returncode == 0, changed.stderr
    assert f"host0 has {wanted['address']}" in changed.stdout
    walls.must(f"while [ -e {MEMORY}/before ]; do sleep 0.2; done")
    assert everything(walls) == before


def test_ipv6_is_switched_on_and_seen_from_outside(walls: Walls, wanted: dict[str, Any]) -> None:
    walls.payload["network"] = wanted
    said = walls.access()
    assert f"host0 has {wanted['address']} by way of {wanted['gateway']}" in said
    assert outside.knock(wanted["address"], 22) == "answers"
    assert outside.knock(wanted["addresses"][0], 22) == "answers"
    assert walls.access() == "ok: nothing to do\n"


def test_mail_leaves_from_the_address_in_dns_although_there_is_another(
    walls: Walls, lab: Lab, wanted: dict[str, Any]
) -> None:
    lab.dns.set("example.test", "TXT", [f"v=spf1 ip6:{wanted['address']} -all"])
    server = lab.plan.receiver.ipv6
    argv = f"python3 -c {shlex.quote(SENDS)} {server} alice@example.test 'two addresses'"
    walls.must(f"setpriv --reuid chasquid --regid chasquid --clear-groups {argv}")
    arrived = lab.wait_message(lambda found: found["subject"] == "two addresses")
    assert (arrived["client_ip"], arrived["spf"]) == (wanted["address"], "pass")


def test_a_boot_keeps_it(walls: Walls, wanted: dict[str, Any]) -> None:
    walls.must("install -D -m 644 /run/systemd/network/10-netplan-host0.network -t /etc/systemd/network")
    walls.vps.reboot()
    assert outside.knock(wanted["address"], 22) == "answers"
    assert walls.access() == "ok: nothing to do\n"


def test_without_the_setting_the_host_is_as_it_came(walls: Walls) -> None:
    del walls.payload["network"]
    assert "network is as it was before the setting" in walls.access()
    assert walls.must(f"ls -d {DROP_INS} {MEMORY}/network.json /etc/sysctl.d/99-zz-* 2>/dev/null; true") == ""
    assert walls.must("cat /proc/sys/net/ipv6/conf/host0/disable_ipv6") == "1"
    assert walls.must("ip -6 -o address show dev host0 scope global") == ""
    assert walls.access() == "ok: nothing to do\n"


# A mirror that hands every request on to the machine's own one, as content delivery networks do.
MIRROR = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", sys.argv[1] + self.path.removeprefix("/debian"))
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", 8099), Handler).serve_forever()
"""
SOURCES = "/etc/apt/sources.list"
SYSTEM = f"""
cat {SOURCES} /etc/timezone /etc/default/locale /etc/locale.gen 2>&1
readlink /etc/localtime
date +%Z
command -v tree locale-gen
true
"""


@pytest.fixture(scope="module")
def mirror(walls: Walls) -> str:
    uri = walls.must(f"sed -n 's/^deb .*\\(http[^ ]*\\) bookworm main/\\1/p' {SOURCES}").splitlines()[0].rstrip("/")
    walls.must(f"systemd-run --unit=mirror python3 -c {shlex.quote(MIRROR)} {uri}")
    return "http://127.0.0.1:8099/debian"


def prepare(walls: Walls, **bootstrap: object) -> str:
    answer = walls.run("prepare.py", {"packages": ["tzdata"], **({"bootstrap": bootstrap} if bootstrap else {})})
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_bootstrap_is_applied_changed_and_put_back(walls: Walls, mirror: str) -> None:
    prepare(walls)
    before = walls.must(SYSTEM)
    first = {"timezone": "Asia/Tokyo", "apt_mirror": mirror, "packages": ["tree"]}
    said = prepare(walls, **first)
    assert f"packages come from {mirror}, installed tree, time zone is Asia/Tokyo" in said
    assert walls.must("date +%Z; cat /etc/timezone; command -v tree").split() == ["JST", "Asia/Tokyo", "/usr/bin/tree"]
    assert f"{mirror} bookworm main" in walls.must(f"cat {SOURCES}")
    assert prepare(walls, **first) == "ok: nothing to do\n"
    said = prepare(walls, locale="de_DE.UTF-8", timezone="Etc/UTC")
    assert "mirror is as it was before" in said
    assert "installed locales, time zone is Etc/UTC, locale is de_DE.UTF-8, removed tree" in said
    assert walls.must(". /etc/default/locale; LANG=$LANG locale charmap; date +%Z").split() == ["UTF-8", "UTC"]
    said = prepare(walls)
    assert walls.must(SYSTEM) == before, said
    assert walls.must(f"ls {MEMORY}/bootstrap") == "packages.json"
    assert prepare(walls) == "ok: nothing to do\n"


@pytest.mark.parametrize(
    ("bootstrap", "words"),
    [
        ({"timezone": "Europe/Berln"}, "perhaps to Europe/Berlin"),
        ({"apt_mirror": "http://127.0.0.1:8098/debian"}, "http://127.0.0.1:8098/debian has no signed release"),
    ],
    ids=["timezone", "mirror"],
)
def test_what_this_host_cannot_have_changes_nothing(walls: Walls, bootstrap: dict[str, str], words: str) -> None:
    before = walls.must(SYSTEM)
    answer = walls.run("prepare.py", {"packages": [], "bootstrap": {"packages": ["tree"], **bootstrap}})
    assert answer.returncode == 1
    assert words in answer.stderr
    assert walls.must(SYSTEM) == before
