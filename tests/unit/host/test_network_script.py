"""network.py under access.py: what networkd is told, what is checked before it stays, and every way back."""

from __future__ import annotations

import http.server
import json
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.host.test_access_script import PAYLOAD, RELOAD, apply, confirm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.host.conftest import FakeHost

WANTED: dict[str, Any] = {
    "address": "2001:db8::10",
    "prefix": 64,
    "gateway": "fe80::1",
    "addresses": ["2001:db8::11"],
    "echo": None,
}
OLD = "# Written by Mailroom\n[Network]\n"
RECONFIGURE = "networkctl reconfigure eth0"
DROP_IN = "networkd/10-netplan-eth0.network.d/90-mailroom.conf"


def change(host: FakeHost, **changes: object) -> tuple[Any, str]:
    """Apply as the program does, by the script's name."""
    import access

    host.monkeypatch.setattr(sys, "argv", ["access.py", "apply"])
    return host.run(access.main, PAYLOAD | {"network": WANTED | changes})


def settled(host: FakeHost, **changes: object) -> None:
    status, said = change(host, **changes)
    assert status == 0, said
    assert confirm(host)[0] == 0
    host.calls()


def without(host: FakeHost) -> tuple[Any, str]:
    return apply(host)


def tree(host: FakeHost) -> dict[str, str]:
    """Every file and switch that decides about the network."""
    files = [*(host.root / "networkd").rglob("*"), *(host.root / "sysctl").iterdir(), *(host.root / "conf").glob("*/*")]
    return {str(path.relative_to(host.root)): path.read_text().strip() for path in files if path.is_file()}


def test_networkd_gets_address_and_gateway_beside_the_file_that_netplan_made(host: FakeHost) -> None:
    status, said = change(host)
    assert status == 0, said
    text = (host.root / DROP_IN).read_text()
    assert "[Address]\nAddress=2001:db8::10/64\nPreferredLifetime=forever\n" in text
    assert "[Route]\nGateway=fe80::1\nGatewayOnLink=yes\n" in text
    assert "eth0 has 2001:db8::10 by way of fe80::1, 2001:db8::11 (never sends)" in said


def test_a_further_address_is_never_chosen_for_sending(host: FakeHost) -> None:
    change(host)
    assert "[Address]\nAddress=2001:db8::11/128\nPreferredLifetime=0\n" in (host.root / DROP_IN).read_text()


def test_ipv6_is_on_now_and_at_every_boot(host: FakeHost) -> None:
    change(host)
    on = {path.parent.name for path in (host.root / "conf").glob("*/*") if path.read_text().strip() == "0"}
    assert on == {"all", "default", "eth0"}
    lines = (host.root / "sysctl/99-zz-mailroom.conf").read_text().splitlines()[1:]
    assert lines == [f"net/ipv6/conf/{name}/disable_ipv6 = 0" for name in ("all", "default", "eth0")]


def test_the_way_back_is_armed_before_the_network_changes(host: FakeHost) -> None:
    change(host)
    calls = host.calls()
    assert calls.index("systemctl restart mailroom-rollback.timer") < calls.index(RECONFIGURE)
    assert (host.root / "state/before/network.json").exists()


def test_a_second_run_changes_nothing(host: FakeHost) -> None:
    settled(host)
    before = tree(host)
    assert change(host) == (0, "ok: nothing to do\n")
    assert tree(host) == before
    assert RECONFIGURE not in host.calls()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda root: (root / DROP_IN).write_text(OLD),
        lambda root: (root / DROP_IN).unlink(),
        lambda root: (root / "sysctl/99-zz-mailroom.conf").unlink(),
        lambda root: (root / "networkctl").write_text("Network File: /etc/systemd/network/20-other.network\n"),
    ],
    ids=["drop-in", "no drop-in", "sysctl", "another file of the interface"],
)
def test_what_somebody_changed_is_changed_back_and_confirmed_again(host: FakeHost, spoil: Any) -> None:
    settled(host)
    spoil(host.root)
    status, said = change(host)
    assert (status, "waits for its confirmation" in said) == (0, True)
    assert confirm(host)[0] == 0
    assert len(list((host.root / "networkd").rglob("*.conf"))) == 1
    assert change(host) == (0, "ok: nothing to do\n")


def test_another_gateway_in_the_settings_replaces_the_first(host: FakeHost) -> None:
    settled(host)
    settled(host, gateway="2001:db8::1")
    text = (host.root / DROP_IN).read_text()
    assert "Gateway=2001:db8::1\n" in text
    assert "fe80::1" not in text


@pytest.mark.parametrize("was_set", [False, True])
def test_taken_back_everything_is_as_it_was_before_this_change(host: FakeHost, was_set: bool) -> None:
    import access

    settled(host, addresses=[]) if was_set else None
    before = tree(host)
    change(host, addresses=["2001:db8::12"])
    assert tree(host) != before
    host.calls()
    assert host.run(access.restore_now)[0] == 0
    assert tree(host) == before
    assert RECONFIGURE in host.calls()
    assert (host.root / "state/network.json").exists() == was_set


def test_a_boot_before_networkd_brings_the_files_back(host: FakeHost) -> None:
    import access

    before = tree(host)
    change(host)
    host.tell("networkd-fails")
    assert host.run(access.restore_now)[0] == 0
    assert tree(host) == before


def test_a_run_after_a_killed_one_still_goes_back_to_what_was_before_both(host: FakeHost) -> None:
    import access

    before = tree(host)
    without(host)  # waits, and knows nothing of the network
    change(host)
    change(host, addresses=[])
    host.run(access.restore_now)
    assert tree(host) == before


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"silent": ""}, "no machine on eth0 has the address of the gateway fe80::1"),
        ({"lost": "2001:db8::10"}, "eth0 does not get the address 2001:db8::10"),
        ({"lost": "fe80::1"}, "eth0 gets no route by way of fe80::1"),
        ({"flags": '{"dadfailed": true}'}, "another machine on eth0 has the address 2001:db8::10"),
        ({"flags": '{"tentative": true}'}, "still asking whether another machine has 2001:db8::10"),
        ({"flags": '{"preferred_life_time": 0}'}, "mail cannot leave from 2001:db8::10"),
        ({"flags": '{"preferred_life_time": 9}'}, "mail could leave from 2001:db8::11"),
        ({"networkd-fails": ""}, "no such link"),
        ({"networkctl": "Network File: n/a\n"}, "eth0 is not configured by systemd-networkd"),
        ({"route": ""}, "no interface has a default route"),
    ],
)
def test_a_network_that_does_not_work_is_taken_back_at_once(host: FakeHost, state: dict[str, str], words: str) -> None:
    before = tree(host)
    for name, text in state.items():
        host.tell(name, text)
    status, said = change(host)
    assert status == 1
    assert words in said
    assert "what was before is back" in said
    assert tree(host) == before
    assert not (host.root / "state/network.json").exists()


def test_a_kernel_without_ipv6_is_said_before_anything_changes(host: FakeHost) -> None:
    import network

    host.monkeypatch.setattr(network, "CONF", host.root / "none")
    status, said = change(host)
    assert status == 1
    assert "without IPv6 (ipv6.disable=1" in said
    assert not [*(host.root / "units").glob("*")], "not even a unit"
    assert not {RECONFIGURE, RELOAD} & set(host.calls())


def test_without_the_setting_the_network_is_not_even_looked_at(host: FakeHost) -> None:
    assert without(host)[0] == 0
    assert not [call for call in host.calls() if call.startswith(("ip ", "networkctl "))]


def test_when_the_setting_goes_what_was_before_it_comes_back_confirmed(host: FakeHost) -> None:
    import access

    before = tree(host)
    settled(host)
    ours = tree(host)
    status, said = without(host)
    assert status == 0
    assert "network is as it was before the setting" in said
    assert tree(host) == before
    host.run(access.restore_now)
    assert tree(host) == ours, "nobody confirmed that"
    without(host)
    assert confirm(host)[0] == 0
    assert without(host) == (0, "ok: nothing to do\n")
    assert tree(host) == before


def test_further_addresses_alone_leave_the_hosts_own_ipv6_alone(host: FakeHost) -> None:
    settled(host, prefix=None, gateway=None)
    text = (host.root / DROP_IN).read_text()
    assert "2001:db8::11/128" in text
    assert "[Network]" not in text
    assert "2001:db8::10" not in text
    assert not (host.root / "sysctl/99-zz-mailroom.conf").exists()
    assert change(host, prefix=None, gateway=None) == (0, "ok: nothing to do\n")


def test_undone_nothing_of_it_is_left(host: FakeHost) -> None:
    import access

    before = tree(host)
    settled(host)
    assert access.undo() == ["packet filter", "network settings"]
    assert tree(host) == before


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A service on ::1; the second is what it answers next."""
    said = ["2001:db8::10\n"]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ip?text=1" else 404)
            self.end_headers()
            self.wfile.write(said[-1].encode())

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        import socket

        address_family = socket.AF_INET6

    with Server(("::1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://[::1]:{server.server_port}/ip?text=1", said
        server.shutdown()
        thread.join()


def test_a_service_outside_says_which_address_it_sees(host: FakeHost, echo: tuple[str, list[str]]) -> None:
    url, said = echo
    assert change(host, echo=url)[0] == 0
    said.append("2001:db8::bad")
    before = json.loads((host.root / "state/before/network.json").read_text())["files"]
    status, why = change(host, echo=url, addresses=[])
    assert before == {}
    assert status == 1
    assert f"{url} sees '2001:db8::bad' (status 200) instead of 2001:db8::10" in why


def test_a_service_that_cannot_be_reached_over_ipv6_is_named(host: FakeHost) -> None:
    status, why = change(host, echo="http://127.0.0.1:9/ip")
    assert status == 1
    assert "http://127.0.0.1:9/ip does not answer over IPv6" in why
