"""What the packet filter says, who is shut out by it, and how sshd is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.host.conftest import FakeHost

SS = """\
tcp   LISTEN 0      128          0.0.0.0:22         0.0.0.0:*    users:(("sshd",pid=36,fd=3))
tcp   LISTEN 0      511                *:80               *:*    users:(("nginx",pid=7,fd=6),("nginx",pid=8,fd=6))
tcp   LISTEN 0      128        127.0.0.1:1099       0.0.0.0:*    users:(("chasquid",pid=9,fd=3))
tcp   LISTEN 0      4096   127.0.0.53%lo:53         0.0.0.0:*    users:(("systemd-resolve",pid=5,fd=3))
tcp   LISTEN 0      128            [::1]:6010          [::]:*
udp   UNCONN 0      0               [::]:5353          [::]:*
udp   UNCONN 0      0            0.0.0.0:68         0.0.0.0:*    users:(("dhclient",pid=4,fd=3))
udp   UNCONN 0      0            0.0.0.0:40000      0.0.0.0:*    users:(("dnsmasq",pid=6,fd=3))
"""


@pytest.fixture
def rules(host: FakeHost) -> str:
    import firewall

    return firewall.rules([22], [], ipv6_mail=True)


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def test_only_our_table_is_replaced_and_in_one_transaction(rules: str) -> None:
    code = [line for line in lines(rules) if not line.startswith("#")]
    assert code[:3] == ["table inet mailroom", "delete table inet mailroom", "table inet mailroom {"]
    assert "flush" not in rules
    assert "forward" not in rules


def test_what_comes_in_is_dropped_unless_it_is_named(rules: str) -> None:
    assert "type filter hook input priority filter; policy drop;" in lines(rules)
    assert "tcp dport { 22, 25, 465, 587 } accept" in lines(rules)
    assert not [line for line in lines(rules) if line.startswith("udp dport")]


def test_mail_of_others_is_refused_by_number_of_the_user(host: FakeHost, rules: str) -> None:
    assert f"tcp dport 25 meta skuid != {host.root.stat().st_uid} reject with tcp reset" in lines(rules)
    assert lines(rules).index('oifname "lo" accept') < lines(rules).index(
        f"tcp dport 25 meta skuid != {host.root.stat().st_uid} reject with tcp reset"
    )


@pytest.mark.parametrize(("ipv6_mail", "refused"), [(True, False), (False, True)])
def test_ipv6_mail_is_refused_aloud_when_it_is_off(host: FakeHost, ipv6_mail: bool, refused: bool) -> None:
    import firewall

    text = firewall.rules([], [], ipv6_mail=ipv6_mail)
    assert ("meta nfproto ipv6 tcp dport 25 reject with tcp reset" in lines(text)) == refused


def test_who_is_shut_out_is_named_with_the_setting_and_clients_and_loopback_are_not(host: FakeHost) -> None:
    import firewall

    host.tell("listeners", SS)
    assert firewall.shut_out([22], []) == [
        "closed to others: nginx on tcp 80 (open it: firewall: {allowTcp: [80]})",
        "closed to others: a program on udp 5353 (open it: firewall: {allowUdp: [5353]})",
    ]
    assert firewall.shut_out([22, 80], [5353]) == []


def test_the_login_is_found_behind_sudo(host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "components" / "host"))
    import sshd

    for pid, parent, environment in ((30, 20, b"A=1\0"), (20, 10, b""), (10, 1, b"B=2\0SSH_CONNECTION=a b c 22\0")):
        place = tmp_path / "proc" / str(pid)
        place.mkdir(parents=True)
        (place / "environ").write_bytes(environment)
        (place / "status").write_text(f"Name:\tx\nPPid:\t{parent}\n")
    monkeypatch.setattr(sshd, "PROC", tmp_path / "proc")
    monkeypatch.setattr(sshd.os, "getpid", lambda: 30)
    assert sshd.connection() == ["a", "b", "c", "22"]
    monkeypatch.setattr(sshd.os, "getpid", lambda: 40)
    assert sshd.connection() == []
