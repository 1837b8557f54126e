"""Activation: which change restarts, what a kill leaves behind, what a failure goes back to."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from components.chasquid import config

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Answer, FakeHost

HOSTNAME, DOMAIN = "smtp.example.com", "example.com"
ALIASES, USERS, KEY = (f"domains/{DOMAIN}/{name}" for name in ("aliases", "users", "dkim:m1.pem"))


def file(*lines: str) -> dict[str, Any]:
    return {"mode": "0640", "lines": list(lines)}


class Wanted:
    """The two sets and the program that a test activates."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.plain = {
            "chasquid.conf": file("one"),
            "chasquid.service": file("[Service]"),
            ALIASES: file("i: x@y.example"),
        }
        self.secret = {USERS: file("users"), KEY: file("key")}
        self.binary, self.domains = "0123456789ab", [DOMAIN]

    def activate(self) -> Answer:
        for kind, files in (("plain", self.plain), ("secret", self.secret)):
            assert self.host.run("stage", {"kind": kind, "files": files}).status == 0
        return self.host.run("activate", self.payload())

    def payload(self) -> dict[str, Any]:
        return {
            "plain": config.digest(self.plain),
            "secret": config.digest(self.secret),
            "binary": self.binary,
            "hostname": HOSTNAME,
            "domains": self.domains,
            "certificates": {HOSTNAME: [HOSTNAME]},
        }


@pytest.fixture
def wanted(host: FakeHost) -> Wanted:
    return Wanted(host)


def current(host: FakeHost) -> Path:
    return host.path("etc/mailroom/current").resolve()


def restarts(host: FakeHost) -> int:
    return host.systemd.said.count("restart")


def test_the_first_activation_starts_and_enables_the_service(host: FakeHost, wanted: Wanted) -> None:
    answer = wanted.activate()
    assert "restarted once" in answer.stdout
    assert (restarts(host), host.systemd.enabled) == (1, True)
    assert host.path("etc/systemd/system/chasquid.service").read_text() == "[Service]\n"
    assert (current(host) / "chasquid.conf").read_text() == "one\n"


def test_a_second_activation_does_nothing(host: FakeHost, wanted: Wanted) -> None:
    wanted.activate()
    assert wanted.activate().stdout == "ok: nothing to do\n"
    assert restarts(host) == 1


@pytest.mark.parametrize(("kind", "path"), [("plain", ALIASES), ("secret", USERS)])
def test_users_and_aliases_are_re_read_without_a_restart(host: FakeHost, wanted: Wanted, kind: str, path: str) -> None:
    wanted.activate()
    getattr(wanted, kind)[path]["lines"].append("another")
    assert "without a restart" in wanted.activate().stdout
    assert restarts(host) == 1
    assert host.systemd.said[-1] == "kill"


def test_the_running_process_sees_new_users_from_where_it_started(host: FakeHost, wanted: Wanted) -> None:
    wanted.activate()
    started = host.path(f"proc/{host.systemd.pid}/cwd").resolve()
    wanted.secret[USERS] = file("newer")
    wanted.activate()
    assert current(host) != started
    assert (started / USERS).read_text() == "newer\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda wanted: wanted.plain.update({"chasquid.conf": file("two")}),
        lambda wanted: wanted.plain.update({"chasquid.service": file("[Service]", "Nice=1")}),
        lambda wanted: wanted.secret.update({KEY: file("another key")}),
        lambda wanted: wanted.secret.pop(KEY),
        lambda wanted: (wanted.domains.append("b.example"), wanted.plain.update({"domains/b.example/aliases": file()})),
        lambda wanted: setattr(wanted, "binary", "ba9876543210"),
    ],
    ids=["configuration", "unit", "key", "no key", "domain", "program"],
)
def test_what_chasquid_reads_at_its_start_takes_one_restart(host: FakeHost, wanted: Wanted, change: Any) -> None:
    wanted.activate()
    change(wanted)
    assert "restarted once" in wanted.activate().stdout
    assert restarts(host) == 2
    assert wanted.activate().stdout == "ok: nothing to do\n"


def test_a_certificate_that_is_not_served_takes_one_restart(host: FakeHost, wanted: Wanted) -> None:
    wanted.activate()
    host.monkeypatch.setattr(
        host.modules["activate"],
        "probe",
        lambda _: [] if restarts(host) > 1 else ["port 465 serves another certificate"],
    )
    assert "port 465 serves another certificate" in wanted.activate().stdout
    assert restarts(host) == 2


def test_a_manual_restart_is_accepted_as_it_is(host: FakeHost, wanted: Wanted) -> None:
    wanted.activate()
    host.systemd.run(["systemctl", "restart"])
    assert wanted.activate().stdout == "ok: nothing to do\n"


def test_a_stopped_and_disabled_service_comes_back(host: FakeHost, wanted: Wanted) -> None:
    wanted.activate()
    host.systemd.do_disable([])
    assert "it was not running" in wanted.activate().stdout
    assert host.systemd.enabled


def test_a_configuration_edited_on_the_host_is_replaced(host: FakeHost, wanted: Wanted) -> None:
    wanted.activate()
    (current(host) / "chasquid.conf").write_text("edited")
    assert "restarted once" in wanted.activate().stdout
    assert (current(host) / "chasquid.conf").read_text() == "one\n"
    assert wanted.activate().stdout == "ok: nothing to do\n"


def test_aliases_edited_on_the_host_are_replaced_without_a_restart(host: FakeHost, wanted: Wanted) -> None:
    wanted.activate()
    (current(host) / "lists" / DOMAIN / "aliases").write_text("edited")
    assert "without a restart" in wanted.activate().stdout
    assert (current(host) / ALIASES).read_text() == "i: x@y.example\n"


def test_files_that_chasquid_refuses_change_nothing(host: FakeHost, wanted: Wanted) -> None:
    wanted.activate()
    before = current(host)
    host.monkeypatch.setattr(host.modules["activate"], "run_trial", lambda *_: "aliases file error")
    wanted.plain[ALIASES] = file("bad")
    answer = wanted.activate()
    assert answer.status == 1
    assert "aliases file error" in answer.stderr
    assert (current(host), restarts(host), host.systemd.reread) == (before, 1, before)
    assert list(host.path("etc/mailroom/releases").iterdir()) == [before]


def failing_probe(host: FakeHost, content: str) -> None:
    """Releases whose chasquid.conf has this content do not serve."""
    host.monkeypatch.setattr(
        host.modules["activate"],
        "probe",
        lambda release: ["port 25 is dead"] if (release / "chasquid.conf").read_text() == content + "\n" else [],
    )


def test_a_release_that_does_not_serve_gives_way_to_the_one_before(host: FakeHost, wanted: Wanted) -> None:
    wanted.activate()
    before = current(host)
    failing_probe(host, "two")
    good = copy.deepcopy(wanted.plain)
    wanted.plain["chasquid.conf"] = file("two")
    answer = wanted.activate()
    assert answer.status == 1
    assert "port 25 is dead" in answer.stderr
    assert "is back and serves" in answer.stderr
    assert (current(host), host.systemd.reread) == (before, before)
    wanted.plain = good
    assert wanted.activate().stdout == "ok: nothing to do\n"


def test_a_first_release_that_does_not_serve_is_stopped_and_does_not_start_at_boot(
    host: FakeHost, wanted: Wanted
) -> None:
    failing_probe(host, "one")
    assert wanted.activate().status == 1
    assert (host.systemd.pid, host.systemd.enabled, host.path("etc/mailroom/current").is_symlink()) == (0, False, False)


def test_a_bad_release_left_by_a_kill_is_never_what_a_later_failure_goes_back_to(
    host: FakeHost, wanted: Wanted
) -> None:
    wanted.activate()
    before = current(host)
    failing_probe(host, "two")
    go_back = host.modules["activate"].go_back
    host.monkeypatch.setattr(host.modules["activate"], "go_back", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    wanted.plain["chasquid.conf"] = file("two")
    with pytest.raises(KeyboardInterrupt):
        wanted.activate()
    assert current(host) != before
    host.monkeypatch.setattr(host.modules["activate"], "go_back", go_back)
    wanted.secret[KEY] = file("new key")
    assert wanted.activate().status == 1
    assert current(host) == before


def test_the_release_of_the_running_process_is_kept(host: FakeHost, wanted: Wanted) -> None:
    wanted.activate()
    started = host.path(f"proc/{host.systemd.pid}/cwd").resolve()
    for number in range(4):
        wanted.plain[ALIASES] = file(f"i: x{number}@y.example")
        wanted.activate()
    assert started.is_dir()
    assert len(list(host.path("etc/mailroom/releases").iterdir())) == 3  # it, the current and the previous one


def test_staged_files_of_a_domain_nobody_asked_for_are_refused(host: FakeHost, wanted: Wanted) -> None:
    wanted.plain["domains/stranger.example/aliases"] = file()
    answer = wanted.activate()
    assert answer.status == 1
    assert "stranger.example" in answer.stderr


def test_a_missing_staged_set_says_what_to_run(host: FakeHost, wanted: Wanted) -> None:
    answer = host.run("activate", wanted.payload())
    assert answer.status == 1
    assert "pulumi up --replace" in answer.stderr


@pytest.mark.parametrize("first", [True, False], ids=["first activation", "change of a running one"])
@pytest.mark.parametrize("path", ["chasquid.conf", ALIASES])
def test_a_run_killed_anywhere_is_finished_by_the_next(host: FakeHost, wanted: Wanted, first: bool, path: str) -> None:
    step, killed = 0, True
    while killed:
        if not first:
            wanted.plain[path] = file("i: before@example.com")
            assert wanted.activate().status == 0
        wanted.plain[path] = file("i: after@example.com", str(step))
        host.run("stage", {"kind": "plain", "files": wanted.plain})
        host.run("stage", {"kind": "secret", "files": wanted.secret})
        killed = host.killed_at(step, lambda: host.run("activate", wanted.payload()))
        before = restarts(host)
        assert host.run("activate", wanted.payload()).status == 0
        assert restarts(host) <= before + 1
        running = host.path(f"proc/{host.systemd.pid}/cwd").resolve()
        assert (running / path).read_text() == f"i: after@example.com\n{step}\n"
        assert (current(host) / path).read_text() == f"i: after@example.com\n{step}\n"
        assert host.run("activate", wanted.payload()).stdout == "ok: nothing to do\n"
        step += 1
        if first:
            for name in ("etc/mailroom/current", "etc/mailroom/proven", "etc/mailroom/previous"):
                host.path(name).unlink(missing_ok=True)
            host.systemd.do_disable([])
    assert step > 5


def test_a_kill_between_a_corrected_unit_and_the_restart_is_noticed(host: FakeHost, wanted: Wanted) -> None:
    step, killed = 0, True
    while killed:
        wanted.activate()
        host.path("etc/systemd/system/chasquid.service").write_text("edited on the host")
        host.systemd.run(["systemctl", "restart"])
        before = restarts(host)
        killed = host.killed_at(step, lambda: host.run("activate", wanted.payload()))
        host.run("activate", wanted.payload())
        assert restarts(host) > before, f"killed before change {step}"
        step += 1
    assert step > 5


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("☠ chasquid.go:280        tls: failed to find any PEM data", "tls: failed to find any PEM data"),
        (
            "☠ chasquid.go:292      a.example: users file error: proto: (line 1:44): invalid value: secret",
            "a.example: users file error: proto: (line 1:44)",
        ),
        ("", "no message"),
    ],
)
def test_last_words_are_short_and_hold_no_secret(host: FakeHost, line: str, expected: str) -> None:
    assert host.modules["activate"].words(line) == expected
