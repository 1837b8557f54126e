"""Preflight against real machines: nothing is set up on them, and what it says is what is wrong there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from lab.folders import CHECKOUT
from lab.shell import wait_until
from operations import preflight
from operations.preflight import Request, contact, outside
from operations.ssh import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.client import Lab, Vps

pytestmark = pytest.mark.usefixtures("agent")
RECEIVERS = ("mx.receiver.test", "mx.colleagues.test")
TINYCORE = 'NAME=TinyCore\nID=tinycore\nVERSION_ID=15.0\nPRETTY_NAME="TinyCoreLinux 15.0"\n'
# A mail server as another package would leave it: program, package database, process and greeting.
POSTFIX = """
set -e
install -D "$(readlink -f /usr/bin/python3)" /usr/lib/postfix/sbin/master
echo /usr/lib/postfix/sbin/master >/var/lib/dpkg/info/postfix.list
cat >>/var/lib/dpkg/status <<'X'

Package: postfix
Status: install ok installed
Architecture: all
Version: 3.9
Provides: mail-transport-agent
Maintainer: nobody
Description: stands for the real one
X
cat >/root/greet.py <<'X'
import socket
server = socket.create_server(("", 25))
while True:
    connection = server.accept()[0]
    connection.sendall(b"220 foreign.test ESMTP Postfix\\r\\n")
    connection.close()
X
systemd-run --quiet --unit=foreign --setenv=PYTHONHOME=/usr /usr/lib/postfix/sbin/master /root/greet.py
for i in $(seq 50); do ss -Hltn 'sport = :25' | grep -q . && exit; sleep 0.1; done; exit 1
"""


@pytest.fixture(scope="module")
def vps(lab: Lab) -> Iterator[Vps]:
    machine = lab.fresh_vps(octet=64)
    yield machine
    lab.remove_vps(machine)


@pytest.fixture
def fences(vps: Vps) -> Iterator[None]:
    """Whatever packet filter a test puts up is gone after it."""
    yield
    vps.ssh("nft flush ruleset")


def fence(vps: Vps, hook: str, rule: str) -> None:
    rules = f"table inet provider {{\nchain {hook} {{\ntype filter hook {hook} priority 0\n{rule}\n}}\n}}\n"
    done = vps.ssh("nft -f -", rules)
    assert done.returncode == 0, done.stderr


def look(lab: Lab, vps: Vps, folder: Path) -> preflight.Result:
    wanted = Request(address=vps.ipv4, receivers=RECEIVERS, resolver=lab.plan.resolver.ipv4)
    return preflight.run(wanted, print, folder)


def found(result: preflight.Result) -> dict[str, str]:
    """What stands against the host: finding -> its subject."""
    return {finding.id: finding.subject for finding in result.findings if finding.severity == "error"}


def test_a_bare_machine_is_fit_in_every_respect_and_stays_as_it_was(lab: Lab, vps: Vps) -> None:
    names = [word for name in RECEIVERS for word in ("--receiver", name)]
    command = [sys.executable, "scripts/preflight.py", vps.ipv4, *names, "--resolver", lab.plan.resolver.ipv4, "--json"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["hostKey"] == vps.host_key
    assert [(each["family"], each["outcome"]) for each in result["outbound"]["tries"]] == [(4, "ok")] * 2 + [
        (6, "ok")
    ] * 2
    reached = {"25": "listener", "465": "listener", "587": "listener"}
    assert result["inbound"] == {vps.ipv4: reached, vps.ipv6: reached}
    assert [finding["id"] for finding in result["findings"]] == ["preflight.unpinned"]
    assert vps.ssh("ss -Hltn 'sport != :22'").stdout == "", "a listener was left behind"


@pytest.mark.usefixtures("fences")
def test_port_25_refused_over_ipv4_is_told_for_ipv4_alone(lab: Lab, vps: Vps, tmp_path: Path) -> None:
    fence(vps, "output", "meta nfproto ipv4 tcp dport 25 reject with tcp reset")
    assert found(look(lab, vps, tmp_path)) == {"preflight.outbound-25": f"{vps.ipv4}, outgoing port 25 over IPv4"}


@pytest.mark.usefixtures("fences")
def test_port_25_dropped_over_ipv6_and_a_closed_way_in_are_told_and_nothing_else(
    lab: Lab, vps: Vps, tmp_path: Path
) -> None:
    fence(vps, "output", "meta nfproto ipv6 tcp dport 25 drop")
    fence(vps, "input", "meta nfproto ipv4 tcp dport 465 drop")
    result = look(lab, vps, tmp_path)
    assert found(result) == {
        "preflight.outbound-25": f"{vps.ipv4}, outgoing port 25 over IPv6",
        "preflight.inbound": f"{vps.ipv4}, incoming mail ports at {vps.ipv4}",
    }
    assert result.inbound is not None
    assert result.inbound.ports[vps.ipv4] == {25: outside.LISTENER, 465: outside.SILENT, 587: outside.LISTENER}
    assert vps.ssh("ss -Hltn 'sport != :22'").stdout == "", "a listener that nobody reached was left behind"


@pytest.mark.usefixtures("fences")
def test_where_only_the_mail_server_may_connect_to_port_25_its_user_is_tried(
    lab: Lab, vps: Vps, tmp_path: Path
) -> None:
    assert vps.ssh("useradd --system chasquid").returncode == 0
    fence(vps, "output", "tcp dport 25 meta skuid != chasquid reject with tcp reset")
    try:
        result = look(lab, vps, tmp_path)
    finally:
        vps.ssh("userdel chasquid")
    assert found(result) == {}
    assert result.outbound["user"] == "chasquid"


def test_a_foreign_mail_server_is_named_with_what_removes_it(lab: Lab, vps: Vps, tmp_path: Path) -> None:
    done = vps.ssh("sh -s", POSTFIX)
    assert done.returncode == 0, done.stderr
    try:
        result = look(lab, vps, tmp_path)
    finally:
        vps.ssh("systemctl stop foreign")
    assert set(found(result)) == {"host-foreign-mta", "host-ports"}
    (holder,) = (finding for finding in result.findings if finding.id == "host-ports")
    assert "master listens on 25" in holder.found
    assert "apt-get purge postfix" in holder.fix
    assert result.inbound is not None
    assert result.inbound.ports[vps.ipv4][25] == outside.OTHER


class Disguise:
    """A machine that is switched off, as another system with a key of its own: its provider's installer."""

    def __init__(self, vps: Vps, folder: Path) -> None:
        self.root, self.saved = vps.root, folder / "saved"
        self.files = ["usr/lib/os-release", "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub"]

    def on(self) -> str:
        """Put it on; the installer's host key."""
        for file in self.files:
            (self.saved / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(self.root / file, self.saved / file)
        (self.root / self.files[0]).write_text(TINYCORE)
        key = self.root / self.files[1]
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        os.rename(self.root / "usr/bin/python3", self.root / "usr/bin/python3.away")
        return " ".join((self.root / self.files[2]).read_text().split()[:2])

    def off(self) -> None:
        """The system that was ordered, with cloud-init at work from its first moment."""
        for file in self.files:
            shutil.copy2(self.saved / file, self.root / file)
        os.rename(self.root / "usr/bin/python3.away", self.root / "usr/bin/python3")
        (self.root / "etc/tmpfiles.d/first-boot.conf").write_text("d /run/cloud-init\nf /run/cloud-init/enabled\n")


def test_a_slow_machine_is_waited_for_and_the_installers_key_is_never_pinned(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact, "PAUSE_SECONDS", 0.3)
    monkeypatch.setattr(contact, "REFUSED_SECONDS", 0.3)
    vps = lab.fresh_vps(octet=65)
    file = tmp_path / "Pulumi.slow.yaml"
    listed = (
        f"config:\n  mailroom:hosts: # one\n  - {{name: smtp.example.test, ipv4: {vps.ipv4}, ipv6: '{vps.ipv6}'}}\n"
    )
    file.write_text(listed)
    said: list[str] = []
    lock = threading.Lock()

    def say(text: str) -> None:
        with lock:
            said.append(text)

    def told(words: str) -> None:
        assert wait_until(lambda: any(words in text for text in said), timeout=30), said

    disguise = Disguise(vps, tmp_path)
    vps.stop()
    wanted = Request(
        address=vps.ipv4, receivers=RECEIVERS, resolver=lab.plan.resolver.ipv4, stack="slow", pin=True, limit=90
    )
    try:
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(preflight.run, wanted, say, tmp_path)
            told("no answer from")
            installer = disguise.on()
            vps.start()
            told("TinyCoreLinux 15.0")
            told(fingerprint(installer))
            vps.kill9()
            disguise.off()
            vps.start()
            told("cloud-init is still at work")
            assert file.read_text() == listed, "a key was pinned before the first boot was over"
            assert vps.ssh("touch /run/cloud-init/result.json").returncode == 0
            result = waiting.result(timeout=60)
    finally:
        lab.remove_vps(vps)
    assert file.read_text() == listed.replace("'}", f"', hostKey: {vps.host_key}}}")
    assert installer not in file.read_text()
    assert found(result) == {}
