"""access.py with stand-ins: the way back is armed before a change, brings back every byte, and goes when confirmed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.unit.host.conftest import FakeHost

UNITS = {
    "mailroom-firewall.service": "[Unit]\n",
    "mailroom-rollback.service": "[Unit]\n",
    "mailroom-rollback.timer": "[Timer]\n",
}
PAYLOAD: dict[str, Any] = {"ssh_port": 22, "allow_tcp": [], "allow_udp": [], "ipv6_mail": True, "units": UNITS}
ARM = "systemctl restart mailroom-rollback.timer"
LOAD = "nft --file -"
RELOAD = "systemctl reload ssh.service"


def apply(host: FakeHost, **changes: object) -> tuple[Any, str]:
    import access

    return host.run(access.apply, PAYLOAD | changes)


def confirm(host: FakeHost) -> tuple[Any, str]:
    import access

    return host.run(access.confirm)


def close(host: FakeHost, **changes: object) -> None:
    assert apply(host, **changes)[0] == 0
    assert confirm(host)[0] == 0
    host.calls()


def tree(host: FakeHost) -> dict[str, tuple[int, str]]:
    """Every file that sshd or the packet filter reads, with its mode."""
    files = [*(host.root / "ssh").rglob("*"), host.root / "table", host.root / "state/firewall.nft"]
    return {str(path): (path.stat().st_mode, path.read_text()) for path in files if path.is_file()}


def test_the_way_back_is_armed_before_anything_changes(host: FakeHost) -> None:
    status, said = apply(host)
    calls = host.calls()
    assert status == 0, said
    assert calls.index(ARM) < calls.index(RELOAD) < calls.index(LOAD)
    assert "SSH takes keys only, packet filter loaded" in said
    assert "waits for its confirmation" in said
    assert not (host.root / "state/firewall.nft").exists(), "not kept before it is confirmed"


def test_confirmed_it_is_kept_for_every_boot_and_nothing_takes_it_back(host: FakeHost) -> None:
    apply(host)
    assert confirm(host) == (0, "changed: packet filter and SSH by keys alone are kept\n")
    assert "policy drop" in (host.root / "state/firewall.nft").read_text()
    assert (host.root / "enabled/mailroom-firewall.service").exists()
    assert not (host.root / "active/mailroom-rollback.timer").exists()
    assert not (host.root / "state/before").exists()


def test_a_second_run_changes_nothing(host: FakeHost) -> None:
    close(host)
    before = tree(host)
    assert apply(host) == (0, "ok: nothing to do\n")
    assert tree(host) == before
    assert not {ARM, LOAD, RELOAD} & set(host.calls())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda root: (root / "table").write_text("others"),
        lambda root: (root / "table").unlink(),
        lambda root: (root / "state/firewall.nft").write_text("others"),
        lambda root: (root / "enabled/mailroom-firewall.service").unlink(),
        lambda root: (root / "active/mailroom-firewall.service").unlink(),
        lambda root: (root / "ssh/sshd_config.d/00-mailroom.conf").write_text("PasswordAuthentication yes\n"),
        lambda root: (root / "ssh/sshd_config").write_text("PasswordAuthentication yes\n"),
        lambda root: (root / "enabled/mailroom-rollback.service").unlink(),
        lambda root: (root / "units/mailroom-rollback.timer").write_text("others"),
    ],
    ids=["rules", "no rules", "kept", "disabled", "stopped", "drop-in", "sshd_config", "way back", "unit"],
)
def test_what_somebody_changed_is_changed_back_and_confirmed_again(host: FakeHost, spoil: Any) -> None:
    close(host)
    wanted = (host.root / "table").read_text()
    spoil(host.root)
    assert "waits for its confirmation" in apply(host)[1]
    assert confirm(host)[0] == 0
    assert host.table == wanted
    assert apply(host) == (0, "ok: nothing to do\n")


def test_taken_back_everything_is_as_it_was_to_the_byte(host: FakeHost) -> None:
    import access

    (host.root / "ssh/sshd_config").write_text("Port 22\n")  # no Include: it is changed, too
    (host.root / "ssh/sshd_config").chmod(0o640)
    host.tell("table", "table inet mailroom {\n\tolder\n}\n")
    before = tree(host)
    apply(host)
    assert tree(host) != before
    host.calls()
    assert host.run(access.restore_now)[0] == 0
    assert tree(host) == before
    assert "systemctl reload --no-block ssh.service" in host.calls()
    assert host.run(access.restore_now) == (0, "ok: nothing to do\n")


def test_an_unconfirmed_change_is_confirmed_too_late(host: FakeHost) -> None:
    import access

    apply(host)
    host.run(access.restore_now)
    status, said = confirm(host)
    assert status == 1
    assert "taken back before it was confirmed" in said
    assert host.table == ""


def test_a_run_after_a_killed_one_still_goes_back_to_what_was_before_both(host: FakeHost) -> None:
    import access

    before = tree(host)
    apply(host)
    apply(host, allow_tcp=[8080])
    assert "8080" in host.table
    host.run(access.restore_now)
    assert tree(host) == before


def test_half_a_memory_is_no_memory(host: FakeHost) -> None:
    """Killed while it wrote down what was there: nothing had changed yet."""
    (host.root / "state/before.new").mkdir(parents=True)
    (host.root / "state/before.new/table.nft").write_text("half")
    apply(host)
    assert (host.root / "state/before/table.nft").read_text() == ""


@pytest.mark.parametrize(("trouble", "words"), [("nft-refuses", "syntax error"), ("sshd-refuses", "bad option")])
def test_rules_and_files_that_are_refused_leave_everything_as_it_was(host: FakeHost, trouble: str, words: str) -> None:
    import access

    host.monkeypatch.setattr(sys, "argv", ["access.py", "apply"])
    host.tell(trouble, words)
    before = tree(host)
    status, said = host.run(access.main, PAYLOAD)
    assert status == 1
    assert words in said
    assert "what was before is back" in said
    assert tree(host) == before
    assert not [call for call in host.calls() if call.startswith("systemctl reload")]


def test_rules_that_are_refused_are_found_before_anything_is_written(host: FakeHost) -> None:
    host.tell("nft-refuses", "syntax error")
    with pytest.raises(OSError, match="syntax error"):
        apply(host)
    assert not [*(host.root / "units").glob("*")]
    assert not (host.root / "enabled/mailroom-rollback.service").exists()


def test_a_kernel_that_takes_no_rules_at_all_leaves_the_way_back_armed(host: FakeHost) -> None:
    import access

    host.monkeypatch.setattr(sys, "argv", ["access.py", "apply"])
    host.tell("kernel-refuses", "no such file")
    before = tree(host)
    status, said = host.run(access.main, PAYLOAD)
    assert status == 1
    assert "no such file" in said
    assert "comes back within a minute" in said
    assert (host.root / "active/mailroom-rollback.timer").exists()
    assert tree(host) == before, "sshd's files are back already"


def test_a_word_that_wins_over_ours_is_named(host: FakeHost) -> None:
    import access
    import sshd

    host.monkeypatch.setattr(sys, "argv", ["access.py", "apply"])
    host.monkeypatch.setattr(sshd, "asks_for_passwords", lambda: ["passwordauthentication"])
    status, said = host.run(access.main, PAYLOAD)
    assert status == 1
    assert "passwordauthentication stays on" in said


def test_an_earlier_word_of_the_image_does_not_win(host: FakeHost) -> None:
    config = host.root / "ssh/sshd_config"
    config.write_text("PasswordAuthentication yes\n" + config.read_text())
    close(host)
    assert config.read_text().splitlines()[1].startswith("Include ")
    assert apply(host) == (0, "ok: nothing to do\n")


def test_every_port_by_which_the_operator_comes_in_stays_open(host: FakeHost) -> None:
    import sshd

    host.monkeypatch.setattr(sshd, "connection", lambda: ["192.0.2.7", "50000", "10.0.0.2", "2022"])
    apply(host, ssh_port=2222, allow_tcp=[443], allow_udp=[443, 51820])
    assert "tcp dport { 22, 25, 443, 465, 587, 2022, 2200, 2222 } accept" in host.table
    assert "udp dport { 443, 51820 } accept" in host.table


def test_undone_it_leaves_nothing_but_keys_only(host: FakeHost) -> None:
    import access

    close(host)
    assert access.undo() == ["packet filter"]
    assert host.table == ""
    assert not list((host.root / "units").iterdir())
    assert not list((host.root / "enabled").iterdir())
    assert not (host.root / "state").exists()
    assert (host.root / "ssh/sshd_config.d/00-mailroom.conf").exists()
    assert access.undo() == []


def test_an_unknown_action_is_refused_with_the_known_ones(host: FakeHost) -> None:
    import access

    host.monkeypatch.setattr(sys, "argv", ["access.py", "open"])
    assert host.run(access.main) == (
        1, "error: no such action, expected one of apply, confirm, restore, run it by `pulumi up`\n"
    )  # fmt: skip
