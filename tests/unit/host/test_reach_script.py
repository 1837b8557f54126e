"""reach.py: what it says of mail servers it tries, and that its listener answers us alone and ends."""

from __future__ import annotations

import ast
import errno
import json
import os
import pwd
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from components.host import reach

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(reach.__file__)
# Of Debian 12's python3-minimal, what reach.py may use.
MINIMAL = {"__future__", "os", "pwd", "signal", "socket", "sys", "threading", "time"}
GREETING = b"220 mx.example ESMTP\r\n"


def test_it_imports_only_what_python3_minimal_has_and_speaks_python_3_7() -> None:
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 7))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name.name for node in imports if isinstance(node, ast.Import) for name in node.names}
    names |= {str(node.module) for node in imports if isinstance(node, ast.ImportFrom)}
    assert names <= MINIMAL


def serve(*says: bytes, hold: bool = False) -> int:
    """A server on loopback that says one thing a line it gets; its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def main() -> None:
        with server, server.accept()[0] as connection:
            for text in says:
                connection.sendall(text)
                connection.recv(100)
            if hold:
                connection.recv(100)

    threading.Thread(target=main, daemon=True).start()
    return int(server.getsockname()[1])


def tried(port: int) -> dict[str, object]:
    return reach.try_server("mx.example", socket.AF_INET, ("127.0.0.1", port), port)


def test_a_server_that_greets_is_reached_and_its_answer_kept() -> None:
    found = tried(serve(GREETING, b"250-mx.example at your service, [192.0.2.10]\r\n250 SIZE 1\r\n"))
    assert found["outcome"] == "ok"
    assert found["greeting"] == "220 mx.example ESMTP"
    assert "[192.0.2.10]" in str(found["reply"])
    assert "250 SIZE" in str(found["reply"]), "the reply was not read to its end"


def test_a_server_that_greets_with_a_refusal_or_hangs_up_is_no_way_out() -> None:
    assert tried(serve(b"554 go away\r\n"))["outcome"] == "no greeting"
    assert tried(serve())["outcome"] == "no greeting"


def test_a_dropped_connection_is_silent_and_a_rejected_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    assert tried(port)["outcome"] == "refused"
    assert reach.outcome_of(TimeoutError()) == "silent"
    assert reach.outcome_of(ConnectionResetError()) == "reset"
    assert reach.outcome_of(OSError(errno.ENETUNREACH, "x")) == "Network is unreachable"


def test_a_connection_that_opens_and_says_nothing_is_no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "SECONDS", 0.1)
    assert tried(serve(b"", hold=True))["outcome"] == "no greeting"


def test_a_name_that_nobody_knows_is_listed_and_its_json_is_read_by_everybody() -> None:
    done = subprocess.run(
        [sys.executable, "-", "out", "nobody.invalid"],
        input=SCRIPT.read_text(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout)["unresolved"] == ["nobody.invalid"], done.stderr


def test_what_a_server_says_cannot_break_the_json() -> None:
    assert json.loads(reach.to_json({"a": '"\\\x1b[0m\n', "b": [1, None, True]})) == {
        "a": "???[0m?",
        "b": [1, None, True],
    }


def test_root_tries_as_the_user_whose_mail_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[str, object]] = []
    sender = pwd.struct_passwd(("chasquid", "x", 4321, 4322, "", "/", ""))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: sender if name == "chasquid" else None)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: sender)
    for call in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, call, lambda value, call=call: became.append((call, value)))
    reach.become_sender()
    assert became == [("setgroups", []), ("setgid", 4322), ("setuid", 4321)]


def test_before_that_user_exists_root_stays_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: str) -> None:
        raise KeyError

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    assert reach.become_sender() == "root"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The one port that the listener takes, on IPv4 alone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = int(server.getsockname()[1])
    monkeypatch.setattr(reach, "MAIL_PORTS", (free,))
    return free


def test_the_listener_answers_who_knows_the_word_and_then_ends(port: int) -> None:
    listener = reach.Listener("word", [4])
    listener.bind()
    thread = threading.Thread(target=listener.serve, args=(20,))
    thread.start()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as scanner:
        scanner.sendall(b"GET ")
        assert scanner.recv(10) == b"", "a stranger was answered"
    assert listener.served == set()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as friend:
        friend.sendall(b"word")
        assert friend.recv(10) == b"word"
    thread.join(5)
    assert not thread.is_alive(), "it goes on after everybody was there"


def test_a_port_that_is_taken_is_left_alone_and_named(port: int) -> None:
    with socket.create_server(("0.0.0.0", port)):
        listener = reach.Listener("word", [4])
        listener.bind()
    assert listener.open == {}
    assert listener.refused == {(4, port): "Address already in use"}


def test_nobody_comes_and_it_ends_in_time(port: int) -> None:
    listener = reach.Listener("word", [4])
    listener.bind()
    thread = threading.Thread(target=listener.serve, args=(0.1,))
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


def test_the_kernel_ends_a_listener_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    alarms: list[int] = []
    monkeypatch.setattr(reach.signal, "alarm", alarms.append)
    monkeypatch.setattr(reach.Listener, "bind", lambda _: None)
    monkeypatch.setattr(reach.Listener, "serve", lambda *_: None)
    reach.listen("word", 8, [4])
    assert alarms == [13]
