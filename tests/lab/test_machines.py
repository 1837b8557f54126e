"""The lab's machines are real and bare, nothing leaves the lab, and it recovers from any condition without a trace."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import base, lifecycle, machines, network, state
from lab.client import Lab
from lab.errors import LabError
from lab.folders import CHECKOUT, LABS, Folders
from lab.shell import Progress, run
from tests.lab.program import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Vps


@pytest.fixture(scope="module")
def shared_vps(lab: Lab) -> Iterator[Vps]:
    """A machine for the tests that change nothing on it."""
    machine = lab.fresh_vps()
    yield machine
    lab.remove_vps(machine)


@pytest.fixture
def second_lab(lab_name: str) -> Iterator[str]:
    """The name of a lab the test starts and stops itself."""
    name = f"{lab_name}b"
    Lab(name).down()
    yield name
    Lab(name).down()


def connects(vps: Vps, address: str, port: int) -> bool:
    """Whether the machine reaches an address; an answer of any kind must come at once."""
    started = time.monotonic()
    code = vps.ssh(f"timeout 5 bash -c '</dev/tcp/{address}/{port}'").returncode
    assert time.monotonic() - started < 3, f"{address} port {port} was not refused but swallowed"
    return code == 0


def cli(*arguments: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "lab", *arguments]
    return subprocess.Popen(argv, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def traces(lab: str) -> list[str]:
    """Everything on this machine that carries the lab's name, from the kernel's own lists."""
    lists = {
        "netns": run("ip", "netns", "list"),
        "mount": Path("/proc/self/mountinfo").read_text(),
        "nft": run("nft", "list", "tables"),
        "cgroup": "\n".join(str(path) for h in machines.hierarchies() for path in h.iterdir()),
        "folder": "\n".join(str(path) for path in LABS.glob("*")),
        "process": "\n".join(
            line.replace("\0", " ") for process, line in processes("cmdline") if process != os.getpid()
        ),
    }
    return [
        f"{kind}: {line}" for kind, text in lists.items() for line in text.splitlines() if re.search(rf"{lab}\b", line)
    ]


def test_a_fresh_vps_answers_ssh_within_seconds_and_boots_a_real_systemd(lab: Lab, shared_vps: Vps) -> None:
    assert shared_vps.ssh("true").returncode == 0  # the base is built, once for this machine
    started = time.monotonic()
    vps = lab.fresh_vps()
    try:
        answer = vps.ssh(
            "cat /proc/1/comm; systemctl is-system-running --wait; . /etc/os-release; echo $VERSION_CODENAME"
        )
    finally:
        lab.remove_vps(vps)

    assert time.monotonic() - started < 10
    assert answer.stdout.split() == ["systemd", "running", "bookworm"]


def test_ssh_refuses_a_machine_that_shows_another_host_key(lab: Lab, shared_vps: Vps) -> None:
    other = " ".join((CHECKOUT / "lab/keys/operator_ed25519.pub").read_text().split()[:2])
    imposter = dataclasses.replace(shared_vps, host_key=other)

    answer = imposter.ssh("true")

    assert answer.returncode == 255
    assert "host key" in answer.stderr.lower()


def test_a_fresh_vps_has_no_mail_software(shared_vps: Vps) -> None:
    installed = shared_vps.ssh("dpkg-query -W -f '${Package} ${Provides}\\n'").stdout
    listening = shared_vps.ssh("ss -Hltn").stdout

    assert "openssh-server" in installed
    assert not re.search(r"postfix|exim|sendmail|mail-transport-agent|chasquid|certbot|dovecot|rspamd", installed)
    assert {line.split()[3].rpartition(":")[2] for line in listening.splitlines()} == {"22"}


@pytest.mark.parametrize(
    "stanza",
    ["Package: chasquid\nStatus: install ok installed", "Package: tiny\nProvides: a, mail-transport-agent (= 1)"],
)
def test_a_base_with_mail_software_is_recognised(tmp_path: Path, stanza: str) -> None:
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(f"Package: libc6\nStatus: install ok installed\nDescription: x\n mail\n\n{stanza}\n")

    assert len(base.mail_packages(tmp_path)) == 1


def test_packages_come_through_this_machines_mirror(vps: Vps) -> None:
    update = vps.ssh("apt-get update && apt-cache policy certbot", timeout=120)

    assert update.returncode == 0, update.stderr
    assert re.search(r"Candidate: \d", update.stdout)


def test_nothing_else_outside_the_lab_is_reachable(lab: Lab, shared_vps: Vps) -> None:
    mirror = lab.plan.mirrors[0]

    assert connects(shared_vps, mirror.ipv4[0], mirror.port)
    assert not connects(shared_vps, mirror.ipv4[0], 25)
    assert not connects(shared_vps, "203.0.113.7", mirror.port)
    assert not connects(shared_vps, "2001:db8:ffff::7", 443)
    assert shared_vps.ssh("timeout 3 ping -c1 203.0.113.7").returncode != 0


def test_a_guest_cannot_reach_services_of_this_machine(lab: Lab, shared_vps: Vps) -> None:
    with closing(socket.create_server(("", 0))) as server:
        port = server.getsockname()[1]
        source = run("ip", "-4", "route", "get", "203.0.113.7").split("src ")[1].split()[0]
        with closing(socket.create_connection((source, port), timeout=5)):
            pass  # the server is there and listens on that address

        assert not connects(shared_vps, source, port)
        assert not connects(shared_vps, lab.plan.uplink_machine.ipv4, port)


def test_commands_run_inside_the_lab_cannot_leave_it_either(lab: Lab) -> None:
    command = "getent hosts mx.receiver.test; timeout 5 bash -c '</dev/tcp/203.0.113.7/80'"
    started = time.monotonic()

    process = cli("--name", lab.name, "exec", "--", "bash", "-c", command)
    said = process.communicate(timeout=30)[0]

    assert lab.plan.receiver.ipv6 in said
    assert process.returncode == 1
    assert time.monotonic() - started < 4, "not refused but swallowed"


def test_neighbours_of_this_machine_cannot_enter_the_lab(lab: Lab, shared_vps: Vps, neighbour: str) -> None:
    connect = f"timeout 3 bash -c '</dev/tcp/{shared_vps.ipv4}/22'"

    answer = subprocess.run(["ip", "netns", "exec", neighbour, "bash", "-c", connect], capture_output=True, check=False)

    assert answer.returncode == 1, "let in, or not refused at once"


@pytest.fixture
def neighbour(lab_name: str) -> Iterator[str]:
    """A network namespace that has this machine as its router."""
    name, near, far = f"{lab_name}-n", "mailroomt1", "mailroomt2"
    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        run("ip", "address", "add", "198.19.254.1/30", "dev", near)
        run("ip", "link", "set", near, "up")
        Path(f"/proc/sys/net/ipv4/conf/{near}/forwarding").write_text("1")
        for line in (
            f"address add 198.19.254.2/30 dev {far}",
            f"link set {far} up",
            "route add default via 198.19.254.1",
        ):
            run("ip", "-n", name, *line.split())
        yield name
    finally:
        run("ip", "link", "delete", near)
        run("ip", "netns", "delete", name)


def test_this_machine_reaches_a_guest_over_both_families(shared_vps: Vps) -> None:
    assert shared_vps.ipv6 is not None
    for address in (shared_vps.ipv4, shared_vps.ipv6):
        with closing(socket.create_connection((address, 22), timeout=5)) as connection:
            assert connection.recv(4) == b"SSH-"


def test_a_vps_ordered_without_ipv6_has_only_ipv4(lab: Lab) -> None:
    vps = lab.fresh_vps(ipv6=False)
    try:
        addresses = vps.ssh("ip -brief address show dev host0 scope global").stdout.split()[2:]
    finally:
        lab.remove_vps(vps)

    assert vps.ipv6 is None
    assert addresses == [f"{vps.ipv4}/24"]


def test_no_two_machines_share_an_identity(lab: Lab, shared_vps: Vps, vps: Vps) -> None:
    assert shared_vps.host_key != vps.host_key
    assert shared_vps.ssh("cat /etc/machine-id").stdout != vps.ssh("cat /etc/machine-id").stdout
    assert {shared_vps.ipv4, shared_vps.ipv6}.isdisjoint({vps.ipv4, vps.ipv6})


def test_a_guest_trusts_the_labs_ca_and_asks_the_labs_resolver(shared_vps: Vps) -> None:
    command = "openssl s_client -connect acme.lab.test:14000 -verify_hostname acme.lab.test -verify_return_error"

    answer = shared_vps.ssh(f"{command} </dev/null")

    assert answer.returncode == 0, answer.stderr
    assert "Verify return code: 0 (ok)" in answer.stdout


def test_a_reboot_keeps_files_and_starts_a_new_boot(vps: Vps) -> None:
    before = vps.boot_id()
    vps.ssh("echo kept > /root/file; sync")

    vps.reboot()

    assert vps.boot_id() not in {"", before}
    assert vps.ssh("cat /root/file").stdout == "kept\n"


def test_a_power_cut_keeps_what_was_written_and_the_guest_dies_at_once(vps: Vps) -> None:
    vps.ssh("echo kept > /root/file")

    vps.kill9()
    with pytest.raises(OSError, match=r"refused|unreachable|timed out|No route"):
        socket.create_connection((vps.ipv4, 22), timeout=1).close()
    vps.start()

    assert vps.ssh("cat /root/file").stdout == "kept\n"


def test_up_starts_again_what_a_killed_supervisor_took_with_it(lab: Lab, vps: Vps) -> None:
    vps.ssh("echo kept > /root/file")
    lab.dns.set("kept.example.test", "A", ["203.0.113.9"])
    for name in (lifecycle.SERVICES, vps.name):
        identity = Folders(lab.name).machines / name / "supervisor.json"
        os.kill(json.loads(identity.read_text())["pid"], signal.SIGKILL)
    machines.wait_until(lambda: not vps.machine.running(), timeout=5)
    assert lab.status["up"] is False

    Lab.create(lab.name)

    assert lab.status["up"] is True
    assert vps.ssh("cat /root/file").stdout == "kept\n"
    assert lab.dns.get("kept.example.test", "A") == ["203.0.113.9"]
    lab.dns.delete("kept.example.test", "A")


def test_a_second_up_waits_for_the_first_and_a_killed_one_is_no_obstacle(second_lab: str) -> None:
    killed = cli("--name", second_lab, "up")
    time.sleep(0.7)
    killed.kill()
    killed.communicate()

    first, second = cli("--name", second_lab, "up"), cli("--name", second_lab, "up")
    said = [first.communicate(timeout=60)[0], second.communicate(timeout=60)[0]]

    assert (first.returncode, second.returncode) == (0, 0), said
    assert sum("waiting for another command" in text for text in said) == 1
    assert sum("services ready" in text for text in said) == 1
    status = cli("--name", second_lab, "status", "--json").communicate(timeout=30)[0]
    assert json.loads(status)["up"] is True


def test_down_leaves_nothing_and_does_not_disturb_other_labs(lab: Lab, second_lab: str, shared_vps: Vps) -> None:
    before = machine_sysctls()
    other = Lab.create(second_lab)
    vps = other.fresh_vps()
    assert not connects(vps, lab.plan.resolver.ipv4, 53), "one lab reaches another"
    plan = other.plan
    assert traces(second_lab)

    removed = other.down()

    assert traces(second_lab) == []
    assert not Path("/sys/class/net", plan.uplink_interface).exists()
    assert not re.search(rf"{plan.ipv4}|{plan.ipv6}", run("ip", "route") + run("ip", "-6", "route"))
    assert machine_sysctls() == before
    assert any("services" in line for line in removed)
    assert other.down() == []
    assert shared_vps.ssh("true").returncode == 0


@pytest.mark.parametrize("lost", ["state", "netns", "mounts"])
def test_down_needs_no_intact_lab(second_lab: str, lost: str) -> None:
    lab = Lab.create(second_lab)
    uplink = Path("/sys/class/net", lab.plan.uplink_interface)
    if lost == "state":
        Folders(second_lab).state.write_text('{"name": "lab-')
    elif lost == "netns":
        run("ip", "netns", "delete", lab.plan.netns)
    else:
        machines.remove_mounts(Folders(second_lab).machines)

    lab.down()

    assert traces(second_lab) == []
    assert not uplink.exists()


def machine_sysctls() -> dict[str, str]:
    """Forwarding switches of this machine's own interfaces; labs' links come and go."""
    paths = Path("/proc/sys/net").glob("ipv[46]/conf/*/forwarding")
    values = {str(path): path.read_text() for path in paths if not path.parent.name.startswith("mailroom")}
    return values | {"ip_forward": Path("/proc/sys/net/ipv4/ip_forward").read_text()}


def test_sysctls_are_set_back_to_what_they_were_before_the_first_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "SYSCTLS", tmp_path)
    monkeypatch.setattr(network, "BEFORE", tmp_path / "before.json")
    (tmp_path / "forwarding").write_text("1\n")
    network._remember("forwarding", "0")
    network._remember("forwarding", "1")  # a second lab sees what the first one set

    restored = network.restore_sysctls()

    assert (tmp_path / "forwarding").read_text() == "0"
    assert len(restored) == 1
    assert network.restore_sysctls() == []


def test_a_lab_of_another_living_checkout_is_left_alone(tmp_path: Path) -> None:
    foreign = state.State(name="dev", index=0, owner=str(tmp_path))
    lifecycle._refuse_foreign("dev", foreign)  # that checkout has been deleted: nobody is left to ask

    (tmp_path / "lab").mkdir()
    with pytest.raises(LabError, match=re.escape(f"make -C {tmp_path} down")):
        lifecycle._refuse_foreign("dev", foreign)


def test_without_root_one_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(LabError, match="sudo make up"):
        lifecycle.up("dev", Progress(quiet=True))


@pytest.mark.parametrize("name", ["prod", "lab-", "lab-a/b", "lab-" + "x" * 40])
def test_a_name_that_is_no_labs_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="is no name of a lab"):
        lifecycle.down(name, Progress(quiet=True))


def test_the_bridge_keeps_its_hardware_address_as_machines_come_and_go(lab: Lab) -> None:
    """Else the services answer to an address that is gone until their neighbour entry expires."""

    def address() -> str:
        links = ["nsenter", f"--net=/run/netns/{lab.plan.netns}", "ip", "-brief", "link", "show", "br0"]
        return subprocess.run(links, capture_output=True, text=True, check=True).stdout.split()[2]

    before = address()
    machine = lab.fresh_vps()
    during = address()
    lab.remove_vps(machine)
    assert [during, address()] == [before, before]
