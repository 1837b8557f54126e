"""Uninstalling: mail that is queued gets its chance, what is ours goes, what a person may need stays."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import FakeHost

PAYLOAD = {"hostname": "smtp.example.com", "drain_seconds": 60}
OURS = (
    "etc/systemd/system/chasquid.service",
    "etc/mailroom/releases/one/chasquid.conf",
    "etc/mailroom/staged/secret/one/users",
    "usr/local/lib/mailroom/chasquid/one/chasquid",
    "usr/local/lib/mailroom/0123456789ab/uninstall.py",
    "etc/letsencrypt/renewal-hooks/deploy/mailroom-deploy",
    "etc/letsencrypt/renewal-hooks/deploy/mailroom-reload",
    "etc/letsencrypt/mailroom/cloudflare.ini",
    "etc/letsencrypt/mailroom/challenge.json",
    "etc/letsencrypt/mailroom/hooks/example.com:00",
    "etc/systemd/system/mailroom-certificate-report.service",
    "var/lib/mailroom/certificates.json",
    "srv/certificates/.mailroom",
    "srv/certificates/example.com/privkey.pem",
    "etc/systemd/system/certbot.service.d/mailroom.conf",
    "etc/systemd/system/mailroom-firewall.service",
    "etc/systemd/system/mailroom-rollback.timer",
    "etc/mailroom-host/firewall.nft",
    "etc/fail2ban/jail.d/mailroom-chasquid.conf",
)
KEPT = (
    "etc/letsencrypt/live/smtp.example.com/privkey.pem",
    "etc/letsencrypt/accounts/acme/key.json",
    "etc/letsencrypt/renewal-hooks/deploy/somebody-elses",
    "etc/systemd/system/certbot.service.d/somebody-elses.conf",
    "var/lib/chasquid/domaininfo/example.com",
    "etc/ssh/sshd_config.d/000-mailroom.conf",
    "etc/fail2ban/jail.d/mailroom-sshd.conf",
)


@pytest.fixture
def full(host: FakeHost) -> FakeHost:
    """A host with everything on it, and the service running."""
    for name in (*OURS, *KEPT):
        host.path(name).parent.mkdir(parents=True, exist_ok=True)
        host.path(name).write_text("x")
    copies = {"copies": {"folder": str(host.path("srv/certificates")), "group": "root"}}
    host.path("etc/mailroom/certificates.json").write_text(json.dumps(copies))
    (host.path("etc/mailroom/releases/one") / "bin").symlink_to("/programs")
    host.path("etc/mailroom/current").symlink_to("releases/one")
    host.path("var/lib/chasquid/queue").mkdir()
    host.systemd.enabled, host.systemd.pid = True, 1
    return host


def queue(host: FakeHost, *names: str) -> None:
    for name in names:
        (host.path("var/lib/chasquid/queue") / name).write_text("message")


def test_what_is_ours_goes_and_what_is_not_stays(full: FakeHost) -> None:
    answer = full.run("uninstall", PAYLOAD)
    assert answer.status == 0
    assert [name for name in OURS if full.path(name).exists()] == []
    assert [name for name in KEPT if not full.path(name).exists()] == []
    assert (full.systemd.pid, full.systemd.enabled) == (0, False)


def test_one_line_says_where_the_rest_is(full: FakeHost) -> None:
    queue(full, "m:1", "m:2")
    full.monkeypatch.setattr(full.modules["uninstall"], "drain", lambda _: None)
    answer = full.run("uninstall", PAYLOAD)
    assert answer.stdout.count("\n") == 1
    assert "var/lib/chasquid/queue (2 messages undelivered)" in answer.stdout
    assert "etc/letsencrypt" in answer.stdout


def test_an_empty_queue_needs_no_second_start(full: FakeHost) -> None:
    full.run("uninstall", PAYLOAD)
    assert "start" not in full.systemd.said


def test_queued_mail_is_delivered_while_nobody_can_submit(full: FakeHost) -> None:
    queue(full, "m:1", "m:2")
    seen: list[str] = []
    drain = full.path("run/systemd/system/chasquid.service.d/drain.conf")

    def delivered(_: float) -> None:
        seen.append(drain.read_text())
        next(full.path("var/lib/chasquid/queue").glob("m:*")).unlink()

    full.monkeypatch.setattr(full.modules["uninstall"].time, "sleep", delivered)
    answer = full.run("uninstall", PAYLOAD)
    assert full.systemd.said[:4] == ["disable", "daemon-reload", "start", "stop"]
    assert '"127.0.0.1:1025"' in seen[0]
    assert ":25" not in seen[0].replace("127.0.0.1:", "")
    assert "draining: 2 messages left" in answer.stderr
    assert "draining: 1 message left" in answer.stderr
    assert not drain.exists()


def test_the_drain_ends_at_its_limit(full: FakeHost) -> None:
    queue(full, "m:1")
    clock = iter(range(0, 1000, 30))
    full.monkeypatch.setattr(full.modules["uninstall"].time, "monotonic", lambda: next(clock))
    answer = full.run("uninstall", PAYLOAD)
    assert answer.status == 0
    assert "1 message undelivered" in answer.stdout
    assert (full.path("var/lib/chasquid/queue") / "m:1").exists()


def test_nothing_installed_is_no_error(host: FakeHost) -> None:
    for name in ("etc/mailroom", "usr/local/lib/mailroom"):
        host.modules["uninstall"].remove(host.path(name))
    answer = host.run("uninstall", PAYLOAD)
    assert (answer.status, answer.stdout.startswith("ok: nothing to do")) == (0, True)


def test_a_run_killed_anywhere_is_finished_by_the_next(full: FakeHost) -> None:
    step = 0
    queue(full, "m:1")
    full.monkeypatch.setattr(full.modules["uninstall"].time, "sleep", lambda _: queue_empty(full))
    while full.killed_at(step, lambda: full.run("uninstall", PAYLOAD)):
        step += 1
    assert step > 2
    full.run("uninstall", PAYLOAD)
    assert [name for name in OURS if full.path(name).exists()] == []


def queue_empty(host: FakeHost) -> None:
    for path in host.path("var/lib/chasquid/queue").glob("m:*"):
        path.unlink()


def test_a_host_that_was_renamed_keeps_the_server_of_its_new_name(full: FakeHost) -> None:
    full.path("etc/mailroom/current/probe.json").write_text('{"hostname": "mail.example.com"}')
    answer = full.run("uninstall", PAYLOAD)
    assert answer.status == 0
    assert [name for name in OURS if not full.path(name).exists()] == []
    assert full.systemd.pid == 1


def test_the_same_name_is_uninstalled(full: FakeHost) -> None:
    full.path("etc/mailroom/current/probe.json").write_text('{"hostname": "smtp.example.com"}')
    assert full.run("uninstall", PAYLOAD).status == 0
    assert not full.path("etc/mailroom").exists()
