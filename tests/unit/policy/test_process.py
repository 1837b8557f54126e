"""The service as the process that it is on a host, whatever happens to it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALICE = "alice@example.com"
FOLDER = Path("components/chasquid").resolve()  # as the service's working directory is on a host
MESSAGE = f"From: {ALICE}\nTo: to@receiver.test\n\nHello\n".encode()


@dataclass
class Host:
    """Where the service runs, and what chasquid would ask it."""

    folder: Path
    exchange: Callable[..., tuple[int | None, bytes]]
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """As systemd does: the socket is there first, and stays when the service ends (sd_listen_fds(3))."""
        fd = self.socket.fileno()
        program = (
            "import os, pathlib\n"
            f"os.dup2({fd}, 3)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
            "import policy.__main__ as start\n"
            f"start.SETTINGS, start.STATE = (pathlib.Path({str(self.folder)!r}) / name for name in ('p.json', '.'))\n"
            "start.main([])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-c", program], cwd=FOLDER, pass_fds=[fd], stderr=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.folder / "socket"))
        self.socket.listen(16)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)
        self.socket.close()

    def end(self, how: signal.Signals) -> str:
        """What it had logged."""
        self.process.send_signal(how)
        return self.process.communicate(timeout=30)[1].decode()

    def ask(self, message: bytes = MESSAGE, **fields: str) -> tuple[int | None, bytes]:
        return self.exchange(self.folder / "socket", message, **fields)


@pytest.fixture
def host(tmp_path: Path, settings: dict[str, Any], exchange: Callable[..., Any]) -> Iterator[Host]:
    (tmp_path / "p.json").write_text(json.dumps(settings))
    with Host(tmp_path, exchange) as running:
        yield running


def test_a_users_own_message_is_taken_and_a_forged_one_refused(host: Host) -> None:
    assert host.ask() == (0, b"")
    status, text = host.ask(b"From: ceo@bank.test\n\nHello\n")
    assert status == 20
    assert text.startswith(b"5.7.1 alice@example.com may not send as ceo@bank.test (From)")
    assert text.count(b"\n") == 1


def test_a_message_as_big_as_chasquid_takes_is_judged_like_any_other(host: Host) -> None:
    assert host.ask(MESSAGE + (b"x" * 997 + b"\n") * (25 * 2**20 // 998)) == (0, b"")


def test_a_message_bigger_than_that_waits(host: Host) -> None:
    assert host.ask(MESSAGE + b"\0" * 33 * 2**20) == (None, b"")
    assert host.ask() == (0, b"")


def test_messages_at_once_all_get_their_answer_and_no_more_than_the_limit_allows(host: Host) -> None:
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: host.ask(), range(8)))
    assert sorted(verdict for verdict, _ in answers if verdict is not None) == [0] * 4 + [75] * 4


def test_a_killed_service_keeps_what_was_counted(host: Host) -> None:
    for _ in range(4):
        assert host.ask() == (0, b"")
    host.end(signal.SIGKILL)
    host.start()
    status, text = host.ask()
    assert (status, text[:5]) == (75, b"4.7.1")


def test_who_asks_while_the_service_restarts_waits_for_its_answer(host: Host) -> None:
    assert host.ask() == (0, b"")
    host.end(signal.SIGTERM)
    with ThreadPoolExecutor(1) as client:
        asking = client.submit(host.ask)
        time.sleep(0.1)
        host.start()
        assert asking.result(30) == (0, b"")


def test_a_service_that_is_killed_in_the_middle_accepts_nothing(host: Host) -> None:
    host.ask()
    host.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as client:
        asking = client.submit(host.ask)
        time.sleep(0.2)
        host.socket.close()  # or the request would wait for a successor
        host.end(signal.SIGKILL)
        assert asking.result(30) == (None, b"")


def test_a_service_that_is_told_to_stop_ends_at_once(host: Host) -> None:
    host.ask()
    started = time.monotonic()
    host.end(signal.SIGTERM)
    assert host.process.returncode == 0
    assert time.monotonic() - started < 5


def test_each_decision_is_one_line_of_the_log(host: Host) -> None:
    host.ask(RCPT_TO="a@x.test b@y.test")
    host.ask(b'From: "\x1b[31m"\nrefused user=bob\n\n', MAIL_FROM=f"{ALICE}\nrefused user=bob from=<>")
    lines = host.end(signal.SIGTERM).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"accepted user={ALICE} remote=192.0.2.1:1 from=<{ALICE}> to=2 ms=")
    assert lines[1].startswith(f"refused user={ALICE} remote=192.0.2.1:1 from=<{ALICE}?refused")


def test_the_service_does_not_start_without_the_socket_of_systemd(host: Host) -> None:
    done = subprocess.run([sys.executable, "-B", "-m", "policy"], cwd=FOLDER, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"mailroom-policy.socket" in done.stderr
