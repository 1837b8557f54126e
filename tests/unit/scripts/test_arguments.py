"""A value that cannot be used is refused with an example, before anything is asked or dialled."""

from __future__ import annotations

import sys

import pytest

from operations import preflight as work
from scripts import preflight, send_test


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["foo"], "ADDRESS: 'foo' is not an IPv4 address; expected an address such as 192.0.2.10"),
        (["192.0.2.10", "--resolver", "foo"], "--resolver: 'foo' is not an IPv4 address; expected an address such as"),
        (["192.0.2.10", "--limit", "0"], "--limit: '0' cannot be used; expected 1 to 1440, such as 60"),
        (["192.0.2.10", "--limit", "-1"], "--limit: '-1' cannot be used"),
        (["192.0.2.10", "--limit", "nan"], "--limit: 'nan' cannot be used"),
        (["192.0.2.10", "--limit", "soon"], "--limit: 'soon' cannot be used"),
        (["192.0.2.10", "--port", "0"], "--port: '0' cannot be used; expected 1 to 65535, such as 22"),
        (["192.0.2.10", "--port", "65536"], "--port: '65536' cannot be used"),
        (["192.0.2.10", "--user", "A b"], "--user: 'A b' cannot be used here; expected a login name, such as root"),
        (["192.0.2.10", "--receiver", "a b"], "--receiver: 'a b' is not a host or domain name"),
    ],
)
def test_preflight_says_what_it_expects(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: list[str], said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["preflight.py", *typed])
    monkeypatch.setattr(work, "run", lambda *_: pytest.fail("it was dialled"))
    with pytest.raises(SystemExit) as ended:
        preflight.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("receiver", ["mx.example.com", "192.0.2.25", "2001:db8::25"])
def test_a_receiver_is_a_name_or_an_address(monkeypatch: pytest.MonkeyPatch, receiver: str) -> None:
    monkeypatch.setattr(sys, "argv", ["preflight.py", "2001:DB8::1", "--limit", "1", "--receiver", receiver])
    chosen = preflight.arguments()
    assert (chosen.address, chosen.limit, chosen.receiver) == ("2001:db8::1", 1, [receiver])


def test_send_test_says_what_an_address_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["send_test.py", "--stack", "prod", "--to", "me"])
    with pytest.raises(SystemExit):
        send_test.arguments()
    assert "--to: 'me'" in capsys.readouterr().err
