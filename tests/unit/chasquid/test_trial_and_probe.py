"""The two judges of a release: chasquid's own start beside the running one, and what a client sees afterwards."""

from __future__ import annotations

import importlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import FakeHost

LISTENING = "_ server.go:327      Server listening on 127.0.0.1:0 (SMTP)"
HOSTNAME = "smtp.example.com"


@pytest.fixture
def release(host: FakeHost, tmp_path: Path) -> Path:
    """A release with one domain, its lists beside it as `activate` lays them out."""
    release = host.path("etc/mailroom/releases/new")
    for folder in ("domains/example.com", "lists/example.com"):
        (release / folder).mkdir(parents=True)
    for name in ("users", "aliases"):
        (release / "domains/example.com" / name).symlink_to("/nowhere/current/lists")
        (release / "lists/example.com" / name).write_text(f"new {name}")
    (release / "domains/example.com/dkim:m1.pem").write_text("key")
    (release / "chasquid.conf").write_text("conf")
    (release / "bin").symlink_to(tmp_path / "programs")
    (tmp_path / "programs").mkdir()
    return release


@pytest.fixture
def trial(host: FakeHost, release: Path, tmp_path: Path) -> Callable[[str], str | None]:
    """Try the release out with a shell script in place of chasquid."""
    original = importlib.util.spec_from_file_location("activate_as_it_is", host.modules["activate"].__file__)
    assert original is not None
    assert original.loader is not None
    fresh = importlib.util.module_from_spec(original)
    original.loader.exec_module(fresh)

    def run(script: str) -> str | None:
        program = tmp_path / "programs/chasquid"
        program.write_text(f"#!/bin/sh\nconfig=${{1#--config_dir=}}\n{script}\n")
        program.chmod(0o755)
        host.monkeypatch.setattr(host.modules["activate"], "run_trial", fresh.run_trial)
        host.monkeypatch.setattr(fresh, "as_service", list)
        result: str | None = host.modules["activate"].try_out(release)
        assert not host.path("etc/mailroom/trial").exists()
        return result

    return run


def test_a_program_that_listens_three_times_passes(trial: Callable[[str], str | None]) -> None:
    assert trial(f"for i in 1 2 3; do echo '{LISTENING}' >&2; done; exec sleep 60") is None


def test_a_program_that_ends_before_it_listens_everywhere_fails_with_its_last_words(
    trial: Callable[[str], str | None],
) -> None:
    script = f"echo '{LISTENING}' >&2; echo '☠ chasquid.go:299      aliases file error' >&2; echo goodbye >&2; exit 1"
    assert trial(script) == "aliases file error"


def test_a_program_that_says_nothing_fails(trial: Callable[[str], str | None]) -> None:
    assert trial("exit 0") == "it said nothing"


def test_the_trial_reads_the_new_lists_and_keys_not_those_in_use(
    trial: Callable[[str], str | None], tmp_path: Path
) -> None:
    trial(f'cd "$config/domains/example.com"; cat users aliases dkim* ../../chasquid.conf >{tmp_path}/read')
    assert (tmp_path / "read").read_text() == "new usersnew aliaseskeyconf"


def test_the_trial_has_its_own_queue_and_ports(trial: Callable[[str], str | None], tmp_path: Path) -> None:
    trial(f'echo "$2" >{tmp_path}/overrides; test -d "$config/data" && echo there >>{tmp_path}/overrides')
    overrides, there = (tmp_path / "overrides").read_text().splitlines()
    assert f'data_dir: "{tmp_path}/etc/mailroom/trial/data"' in overrides
    assert overrides.count(': "127.0.0.1:0"') == 4
    assert there == "there"


@pytest.fixture
def smtp() -> Iterator[Callable[[dict[bytes, bytes]], int]]:
    """A server that answers each command as told; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def start(answers: dict[bytes, bytes]) -> int:
        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                connection.sendall(answers[b""])
                for line in lines:
                    connection.sendall(answers[line.split()[0]])

        threading.Thread(target=serve, daemon=True).start()
        return int(listener.getsockname()[1])

    yield start
    listener.close()


GOOD = {
    b"": b"220 smtp.example.com ESMTP chasquid\r\n",
    b"EHLO": b"250-smtp.example.com\r\n250-STARTTLS\r\n250 HELP\r\n",
    b"AUTH": b"503 5.7.10 You feel vulnerable\r\n",
}


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({}, None),
        ({b"": b"220 smtp.example.com.evil.example ESMTP\r\n"}, "greets with"),
        ({b"": b"421 too busy\r\n"}, "greets with"),
        ({b"EHLO": b"250-smtp.example.com\r\n250-AUTH PLAIN\r\n250 HELP\r\n"}, "offers AUTH without TLS"),
        ({b"AUTH": b"235 welcome\r\n"}, "takes AUTH without TLS"),
        ({b"AUTH": b"334 \r\n"}, "takes AUTH without TLS"),
    ],
)
def test_the_probe_sees_a_wrong_banner_and_authentication_without_tls(
    host: FakeHost, smtp: Callable[[dict[bytes, bytes]], int], answers: dict[bytes, bytes], problem: str | None
) -> None:
    found = host.modules["probe"].speaks_before_tls(smtp({**GOOD, **answers}), HOSTNAME)
    assert len(found) == (0 if problem is None else 1)
    assert problem is None or problem in found[0]


def test_the_probe_sees_another_program(host: FakeHost, release: Path) -> None:
    host.systemd.pid = 7
    process = host.path("proc/7")
    process.mkdir()
    program = (release / "bin").readlink() / "chasquid"
    (process / "exe").symlink_to(program)
    assert host.modules["activate"].other_program(release) == []
    (process / "exe").unlink()
    (process / "exe").symlink_to(f"{program} (deleted)")
    assert "(deleted) runs" in host.modules["activate"].other_program(release)[0]
