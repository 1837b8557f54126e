"""guard.py with stand-ins, and its filters as fail2ban reads them: who is counted as whom."""

from __future__ import annotations

import configparser
import ipaddress
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from components.host.component import BANS

if TYPE_CHECKING:
    from tests.unit.host.conftest import FakeHost

with pytest.MonkeyPatch.context() as path:
    path.syspath_prepend(str(BANS.parent))  # flat, as on a host
    import guard

FILES = {str(path.relative_to(BANS)): path.read_text() for path in BANS.glob("*/*")}
PAYLOAD: dict[str, Any] = {"ssh_port": 2222, "fail2ban": FILES}
DEBIAN = [
    'Unattended-Upgrade::Origins-Pattern:: origin=Debian,codename=${distro_codename},label=Debian-Security',
    'Unattended-Upgrade::Origins-Pattern:: origin=Debian,codename=${distro_codename}-security,label=Debian-Security',
    "APT::Periodic::Unattended-Upgrade 1",
]  # fmt: skip
STRANGE = "2001:0:0:1::1"  # the middle of its network is zero


@pytest.fixture
def guarded(host: FakeHost) -> FakeHost:
    """A Debian with timesyncd, where fail2ban has just been installed."""
    for folder in ("jail.d", "filter.d", "action.d", "fail2ban.d"):
        (host.root / "fail2ban" / folder).mkdir(parents=True)
    (host.root / "apt.conf.d").mkdir()
    host.tell("os-release", 'PRETTY_NAME="Debian"\nID=debian\n')
    host.tell("apt", "\n".join(DEBIAN))
    host.tell("known/systemd-timesyncd.service")
    for name in ("firewall", "hostlib", "sshd"):
        host.monkeypatch.setattr(guard, name, sys.modules[name])
    host.monkeypatch.setattr(guard, "FAIL2BAN", host.root / "fail2ban")
    host.monkeypatch.setattr(guard, "UPGRADES", host.root / "apt.conf.d/99")
    host.monkeypatch.setattr(guard, "OS_RELEASE", host.root / "os-release")
    host.monkeypatch.setattr(guard, "START_LIMIT", 0)
    return host


def run(host: FakeHost) -> tuple[Any, str]:
    return host.run(guard.main, PAYLOAD)


def test_a_first_run_sets_up_all_three_and_a_second_nothing(guarded: FakeHost) -> None:
    status, said = run(guarded)
    assert status == 0, said
    assert "systemctl restart fail2ban" in guarded.calls()
    for unit in ("fail2ban", "apt-daily.timer", "apt-daily-upgrade.timer", "systemd-timesyncd.service"):
        assert (guarded.root / "enabled" / unit).exists()
    assert run(guarded) == (0, "ok: nothing to do\n")
    assert not [call for call in guarded.calls() if re.match(r"systemctl (restart|enable)", call)]


@pytest.mark.parametrize("file", ["jail.d/mailroom-sshd.conf", "filter.d/mailroom-chasquid.conf"])
def test_a_file_that_somebody_changed_is_ours_again(guarded: FakeHost, file: str) -> None:
    run(guarded)
    (guarded.root / "fail2ban" / file).write_text("others")
    assert run(guarded)[1] == f"changed: fail2ban: {file}, restarted\n"


def test_a_fail2ban_that_does_not_watch_is_restarted_and_named_when_that_does_not_help(guarded: FakeHost) -> None:
    run(guarded)
    guarded.tell("fail2ban-sleeps")
    status, said = run(guarded)
    assert status == 1
    assert "fail2ban does not watch" in said


def test_files_that_fail2ban_refuses_do_not_stop_the_running_one(guarded: FakeHost) -> None:
    guarded.tell("fail2ban-refuses")
    assert run(guarded)[0] == 1
    assert "systemctl restart fail2ban" not in guarded.calls()


def test_the_jails_cover_every_port_and_spare_loopback_and_the_operator(guarded: FakeHost) -> None:
    run(guarded)
    jails = configparser.ConfigParser(interpolation=None)
    jails.read((guarded.root / "fail2ban/jail.d").glob("*"))
    assert set(jails.sections()) == {"sshd", "chasquid"}
    assert 'port="25, 465, 587"' in jails["chasquid"]["action"]
    assert 'port="22, 2200, 2222"' in jails["sshd"]["action"]
    for jail in jails.sections():
        assert jails[jail]["ignoreip"].split() == ["127.0.0.0/8", "::1", "192.0.2.7"]
        assert int(jails[jail]["maxretry"]) >= 10


def test_an_operator_with_ipv6_is_spared_with_its_network() -> None:
    text = guard.jail("chasquid", [25], ["2001:db8:1::5", "50000", "2001:db8::10", "22"])
    assert "ignoreip = 127.0.0.0/8 ::1 2001:db8:1::5\n" in text
    ignored = re.search(r"(?m)^ignoreregex = (.*)$", text)
    assert ignored
    assert re.search(ignored[1], "SMTP.Conn [2001:db8:1::77]:1: error")
    assert re.search(ignored[1], "from 2001:db8:1:0:5::1 port 1")
    assert not re.search(ignored[1], "SMTP.Conn [2001:db8:1:1::77]:1: error")
    assert not re.search(ignored[1], "SMTP.Conn [2001:db8:11::77]:1: error")


@pytest.mark.parametrize(
    "told",
    [DEBIAN[:2], DEBIAN[1:], [*DEBIAN, "Unattended-Upgrade::Origins-Pattern:: origin=Debian,label=Debian"]],
    ids=["not every day", "less", "more"],
)
def test_updates_that_another_file_changes_are_an_error(guarded: FakeHost, told: list[str]) -> None:
    guarded.tell("apt", "\n".join(told))
    status, said = run(guarded)
    assert status == 1
    assert "undoes what 99 says" in said


def test_updates_are_those_of_security_and_never_reboot(guarded: FakeHost) -> None:
    run(guarded)
    text = (guarded.root / "apt.conf.d/99").read_text()
    assert text.count("origin=") == text.lower().count('-security"') == 2
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in text
    assert "#clear Unattended-Upgrade::Allowed-Origins;" in text


def test_ubuntu_gets_the_security_updates_of_ubuntu(guarded: FakeHost) -> None:
    """As its own 50unattended-upgrades names them, `${distro_id}` filled in, without the -updates it leaves out."""
    archives = [("Ubuntu", "security"), ("UbuntuESMApps", "apps-security"), ("UbuntuESM", "infra-security")]
    wanted = [f"origin={origin},archive=${{distro_codename}}-{archive}" for origin, archive in archives]
    told = [f"Unattended-Upgrade::Origins-Pattern:: {origin}" for origin in wanted]
    guarded.tell("os-release", 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nID=ubuntu\nID_LIKE=debian\n')
    guarded.tell("apt", "\n".join([*told, "APT::Periodic::Unattended-Upgrade 1"]))
    status, said = run(guarded)
    assert status == 0, said
    assert re.findall(r'(?m)^\t"(origin=.*)";$', (guarded.root / "apt.conf.d/99").read_text()) == wanted


def test_a_time_service_that_is_there_stays_and_another_is_not_started(guarded: FakeHost) -> None:
    guarded.tell("known/chrony.service")
    assert "clock: chrony started" in run(guarded)[1]
    assert not (guarded.root / "enabled/systemd-timesyncd.service").exists()


def test_a_container_has_the_clock_of_its_host(guarded: FakeHost) -> None:
    guarded.tell("container")
    run(guarded)
    assert not (guarded.root / "enabled/systemd-timesyncd.service").exists()


def test_a_host_without_a_time_service_is_an_error(guarded: FakeHost) -> None:
    (guarded.root / "known/systemd-timesyncd.service").unlink()
    assert "no time service" in run(guarded)[1]


def test_undone_only_the_jail_of_chasquid_goes(guarded: FakeHost) -> None:
    run(guarded)
    assert guard.undo() == ["fail2ban's jail"]
    left = {path.name for path in (guarded.root / "fail2ban").rglob("*.conf")}
    assert left == {"mailroom.conf", "mailroom-common.conf", "mailroom-sshd.conf"}
    assert guard.undo() == []


# --- filters --------------------------------------------------------------------------------------------------


def patterns(name: str) -> list[re.Pattern[str]]:
    """The filter's expressions, as fail2ban puts its tags into them."""
    parser = configparser.ConfigParser()
    parser.read([BANS / "filter.d/mailroom-common.conf", BANS / f"filter.d/mailroom-{name}.conf"])
    found = []
    for line in parser["Definition"]["failregex"].splitlines():
        text = line.replace("<IP4>", r"(?P<id>(?:\d{1,3}\.){3}\d{1,3})")
        found.append(re.compile(text.replace("<F-ID>", "(?P<id>").replace("</F-ID>", ")"), re.MULTILINE))
    return found


PATTERNS = {name: patterns(name) for name in ("chasquid", "sshd")}


def counted(name: str, message: str) -> str | None:
    """Who is counted for a line of the journal."""
    line = f"host {'chasquid' if name == 'chasquid' else 'sshd'}[7]: {message}"
    match = next((found for pattern in PATTERNS[name] if (found := pattern.search(line))), None)
    return match.group("id") if match else None


def chasquid_line(address: str) -> str:
    shown = f"[{address}]" if ":" in address else address
    return f"_ conn.go:319        SMTP.Conn {shown}:41234: error: AUTH failed: 535  5.7.8 Incorrect user or password"


def network_of(identity: str) -> ipaddress.IPv6Network:
    """What action.d/mailroom.conf bans for an identity."""
    return ipaddress.IPv6Network(identity if "::" in identity else f"{identity}::/64")


HEXTETS = st.tuples(*[st.one_of(st.just(0), st.integers(0, 0xFFFF))] * 7)


@given(first=st.integers(0x2000, 0x3FFF), rest=HEXTETS)
@example(first=0x2001, rest=(0xDB8, 0, 0, 0, 0, 0, 1))
@example(first=0x2001, rest=(0, 0, 1, 1, 2, 3, 4))
def test_an_ipv6_address_is_counted_and_banned_as_its_network(first: int, rest: tuple[int, ...]) -> None:
    address = ipaddress.IPv6Address(":".join(f"{hextet:x}" for hextet in (first, *rest)))
    of_64 = ipaddress.IPv6Network((int(address) >> 64 << 64, 64))
    for identity in (
        counted("chasquid", chasquid_line(str(address))),
        counted("sshd", f"Invalid user x from {address} port 5"),
    ):
        assert identity
        network = network_of(identity)
        if rest[0] == rest[1] == 0 != rest[2]:
            assert address in network, "alone, where the text has no common beginning"
        else:
            assert network == of_64
            assert identity == counted("chasquid", chasquid_line(str(of_64[2**64 - 1]))), "neighbours are one"


@given(first=st.integers(0x2000, 0x3FFF), rest=HEXTETS, end=st.integers(0, 2**64 - 1))
def test_the_operators_network_is_known_by_every_address_in_it(first: int, rest: tuple[int, ...], end: int) -> None:
    address = ipaddress.IPv6Address(":".join(f"{hextet:x}" for hextet in (first, *rest)))
    neighbour = ipaddress.IPv6Address(int(address) >> 64 << 64 | end)
    if rest[0] == rest[1] == 0 != rest[2]:
        return
    pattern = re.compile(guard.network_pattern(address))
    assert pattern.match(str(neighbour))
    assert not pattern.match(str(ipaddress.IPv6Address(int(neighbour) ^ 1 << 64))) or rest[0] == rest[1] == 0


@pytest.mark.parametrize(
    ("name", "message", "who"),
    [
        ("chasquid", chasquid_line("192.0.2.9"), "192.0.2.9"),
        ("chasquid", chasquid_line("::1"), None),
        ("chasquid", chasquid_line("192.0.2.9").replace("535", "503"), None),
        ("chasquid", chasquid_line("192.0.2.9").replace("535", "454"), None),
        ("chasquid", chasquid_line("192.0.2.9").lower(), None),
        ("chasquid", "2026-11-24 11:48:59.470223 192.0.2.9:39845 auth failed for alice@example.test", None),
        ("chasquid", f"_ conn.go:300  SMTP.Conn 198.51.100.1:5: <- {chasquid_line('192.0.2.9')}", None),
        ("sshd", "Invalid user admin from 192.0.2.9 port 41234", "192.0.2.9"),
        ("sshd", "Invalid user x from 192.0.2.9 port 1 from 2001:db8:5::1 port 2", "2001:db8:5"),
        ("sshd", "Invalid user x from 192.0.2.9 port 1 ssh2: a from 198.51.100.1 port 2", "198.51.100.1"),
        ("sshd", "Connection closed by authenticating user root 192.0.2.9 port 1 [preauth]", "192.0.2.9"),
        ("sshd", "Disconnecting authenticating user root 192.0.2.9 port 1: Too many authentication failures [preauth]",
         "192.0.2.9"),
        ("sshd", "error: maximum authentication attempts exceeded for root from 192.0.2.9 port 1 ssh2 [preauth]",
         "192.0.2.9"),
        ("sshd", "Failed password for root from 192.0.2.9 port 1 ssh2", "192.0.2.9"),
        ("sshd", "Failed publickey for root from 192.0.2.9 port 1 ssh2: RSA SHA256:abc", "192.0.2.9"),
        ("sshd", "Accepted publickey for root from 192.0.2.9 port 1 ssh2: ED25519 SHA256:abc", None),
        ("sshd", "Connection closed by 192.0.2.9 port 1 [preauth]", None),
        ("sshd", "Connection closed by invalid user x 192.0.2.9 port 1 [preauth]", None),
    ],
)  # fmt: skip
def test_a_line_counts_for_whom_it_is_about_and_for_nobody_whom_a_client_names(
    name: str, message: str, who: str | None
) -> None:
    assert counted(name, message) == who


def test_openssh_9_8_logs_under_another_name() -> None:
    line = "host sshd-session[7]: Invalid user admin from 192.0.2.9 port 41234"
    assert PATTERNS["sshd"][0].search(line)


def test_no_line_of_fail2bans_files_has_a_comment_by_accident() -> None:
    for name, text in FILES.items():
        for line in text.splitlines():
            assert line.startswith("#") or " ;" not in line, (name, line)
    assert Path(BANS / "action.d/mailroom.conf").exists()
