"""facts.py: parsers of what tools print, its own JSON, and that it runs where python3 is minimal."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.host import facts

SCRIPT = Path(facts.__file__)
# Of Debian 12's python3-minimal, what facts.py may use; json, shutil and dataclasses are not in it.
MINIMAL = {"__future__", "fcntl", "os", "platform", "pwd", "re", "struct", "subprocess", "time"}


def test_it_imports_only_what_python3_minimal_has() -> None:
    imports = [
        node for node in ast.walk(ast.parse(SCRIPT.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {name.name for node in imports if isinstance(node, ast.Import) for name in node.names}
    names |= {str(node.module) for node in imports if isinstance(node, ast.ImportFrom)}
    assert names <= MINIMAL


def test_a_full_disk_and_a_wrong_clock_are_read_as_the_host_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, free, of_root = 100_000, 9_000, 5_000  # what is kept for root is not for us
    full = os.statvfs_result((4096, 4096, blocks, free + of_root, free, 0, 0, 0, 0, 255))
    monkeypatch.setattr(facts.os, "statvfs", {"/": full}.__getitem__)
    monkeypatch.setattr(facts.time, "time", lambda: 86400.0)
    monkeypatch.setattr(facts, "output_of", lambda *_: None)
    found = facts.facts()
    assert (found["disk_free_mb"], found["time"]) == (35, 86400.0)


def test_its_syntax_is_understood_by_the_python_of_unsupported_releases() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 7))


def test_sent_on_standard_input_it_prints_one_json_document() -> None:
    answer = subprocess.run([sys.executable, "-"], input=SCRIPT.read_text(), capture_output=True, text=True, check=True)
    found = json.loads(answer.stdout)
    assert answer.stdout.count("\n") == 1
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"os_id", "os_version", "arch", "systemd", "time", "disk_free_mb", "memory_mb", "root", "sudo"} <= set(found)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_its_json_is_what_everybody_reads(value: object) -> None:
    assert json.loads(facts.to_json(value)) == value


def test_os_release_is_read_with_and_without_quotes() -> None:
    assert facts.os_release('NAME="Debian GNU/Linux"\nID=debian\n# ID=x\nVERSION_ID="12"\n') == {
        "NAME": "Debian GNU/Linux",
        "ID": "debian",
        "VERSION_ID": "12",
    }


def test_memory_is_counted_in_mib() -> None:
    assert facts.memory_mb("MemTotal:        1000448 kB\nMemFree: 1 kB\n") == 977


def test_only_listeners_on_mail_ports_are_reported_with_their_process() -> None:
    text = (
        'LISTEN 0 4096 0.0.0.0:25 0.0.0.0:* users:(("exim4",pid=999999999,fd=3),("exim4",pid=2,fd=3))\n'
        "LISTEN 0 128 [::]:587 [::]:*\n"
        'LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=1,fd=3))\n'
        "LISTEN 0 128 127.0.0.1:2525 0.0.0.0:*\n"
    )
    assert facts.listeners(text) == [
        {"port": 25, "address": "0.0.0.0", "process": "exim4", "exe": None, "package": None},
        {"port": 587, "address": "::", "process": None, "exe": None, "package": None},
    ]


def test_a_mail_server_is_known_by_what_it_provides_while_it_is_installed() -> None:
    text = (
        "ii \tpostfix\tdefault-mta, mail-transport-agent\n"
        "rc \texim4-base\tmail-transport-agent\n"
        "ii \tchasquid\t\n"
        "ii \tbash\t\n"
    )
    assert facts.mtas(text) == ["postfix", "chasquid"]


def test_addresses_are_grouped_by_interface() -> None:
    text = (
        "2: eth0    inet 192.0.2.10/24 brd 192.0.2.255 scope global eth0\\       valid_lft forever\n"
        "2: eth0    inet6 2001:db8::10/64 scope global \\       valid_lft forever\n"
        "3: wg0    inet 10.0.0.2/32 scope global wg0\\       valid_lft forever\n"
    )
    assert facts.addresses(text) == {"eth0": ["192.0.2.10", "2001:db8::10"], "wg0": ["10.0.0.2"]}


def test_cloud_init_is_at_work_from_its_start_to_its_result_and_absent_elsewhere(tmp_path: Path) -> None:
    assert facts.cloud_init(str(tmp_path)) is None
    (tmp_path / "result.json").touch()
    assert facts.cloud_init(str(tmp_path)) is None, "one that is switched off was taken for one at work"
    (tmp_path / "enabled").touch()
    assert facts.cloud_init(str(tmp_path)) == "done"
    (tmp_path / "result.json").unlink()
    assert facts.cloud_init(str(tmp_path)) == "running"


def test_a_program_is_traced_to_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "output_of", lambda *argv: f"postfix: {argv[-1]}\n" if "master" in argv[-1] else None)
    assert facts.package("/usr/lib/postfix/sbin/master") == "postfix"
    assert facts.package("/opt/own/mta") is None


@pytest.mark.parametrize("read", [facts.listeners, facts.mtas, facts.addresses])
def test_a_missing_tool_is_unknown_and_not_empty(read: object) -> None:
    assert read(None) is None  # type: ignore[operator]


def test_the_holder_of_a_lock_is_found_without_taking_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    assert facts.lock_holder(str(lock)) is None
    holder = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = facts.lock_holder(str(lock))
        assert process.stdin is not None
        process.stdin.close()
    assert found is not None
    assert found["pid"] == process.pid
    with lock.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("routes", "device"),
    [
        (
            "default via 192.0.2.1 dev eth0 proto dhcp src 192.0.2.10 metric 100\ndefault via 10.0.0.1 dev eth1\n",
            "eth0",
        ),
        ("default proto static\n\tnexthop via 192.0.2.1 dev ens18 weight 1\n", "ens18"),
        ("", None),
        (None, None),
    ],
)
def test_the_interface_is_the_one_of_the_first_default_route(routes: str | None, device: str | None) -> None:
    assert facts.interface(routes) == device


@pytest.mark.parametrize(
    ("status", "file"),
    [
        ("* 2: eth0\n     Link File: n/a\n  Network File: /run/systemd/network/10-netplan-eth0.network\n  State: x",
         "/run/systemd/network/10-netplan-eth0.network"),
        ("* 2: eth0\n  Network File: n/a\n", None),
        (None, None),
    ],
)  # fmt: skip
def test_an_interface_without_a_file_of_networkd_has_another_manager(status: str | None, file: str | None) -> None:
    assert facts.network_file(status) == file
