"""The sender policy runs the code of the release that is current, before chasquid asks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import FakeHost

UNITS = ("mailroom-policy.socket", "mailroom-policy.service")


@pytest.fixture
def release(host: FakeHost) -> Path:
    """A release whose code stands in the bundle `one`, current."""
    release = host.path("etc/mailroom/releases/new")
    release.mkdir(parents=True)
    for unit in UNITS:
        (release / unit).write_text(f"[Unit]\nDescription={unit}\n")
    (release / "scripts").symlink_to("/bundles/one")
    host.path("etc/mailroom/current").symlink_to("releases/new")
    return release


def converge(host: FakeHost, release: Path) -> list[str]:
    host.systemd.policy.clear()
    changes: list[str] = host.modules["policy_units"].converge(release)
    return changes


def test_the_first_time_it_is_installed_enabled_and_started(host: FakeHost, release: Path) -> None:
    assert converge(host, release) == ["sender policy restarted"]
    assert host.path("etc/systemd/system/mailroom-policy.socket").read_text() == (release / UNITS[0]).read_text()
    assert "enable" in host.systemd.policy


def test_a_second_time_changes_nothing(host: FakeHost, release: Path) -> None:
    converge(host, release)
    assert converge(host, release) == []
    assert "restart" not in host.systemd.policy


def test_new_code_restarts_the_service_but_never_the_socket_where_chasquid_waits(host: FakeHost, release: Path) -> None:
    converge(host, release)
    (release / "scripts").unlink()
    (release / "scripts").symlink_to("/bundles/two")
    assert converge(host, release) == ["sender policy restarted"]
    assert host.systemd.policy.count("restart") == 1
    assert "stop" not in host.systemd.policy


def test_a_changed_socket_is_opened_anew_while_the_service_is_down(host: FakeHost, release: Path) -> None:
    converge(host, release)
    (release / UNITS[0]).write_text("[Socket]\n")
    converge(host, release)
    assert [verb for verb in host.systemd.policy if verb != "enable"] == ["stop", "restart", "start", "restart"]


def test_a_release_from_before_there_was_a_policy_can_still_be_gone_back_to(host: FakeHost, release: Path) -> None:
    (release / UNITS[1]).unlink()
    assert converge(host, release) == []
    assert host.systemd.policy == []
