"""deploy_hook.py: pairs are swapped whole, killed runs converge, and what is served is proven."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import FakeHost

NAME = "smtp.example.com"


def deployed(host: FakeHost, directory: str = f"0-{NAME}") -> tuple[bytes, bytes]:
    return tuple((host.certs / directory / file).read_bytes() for file in ("fullchain.pem", "privkey.pem"))  # type: ignore[return-value]


def pair_of(lineage: Path) -> tuple[bytes, bytes]:
    return (lineage / "fullchain.pem").read_bytes(), (lineage / "privkey.pem").read_bytes()


def list_ours(host: FakeHost, *names: str) -> None:
    text = json.dumps({"host": NAME, "names": names})
    (host.root / "mailroom" / "certificates.json").write_text(text)


def test_the_hosts_directory_sorts_before_every_other() -> None:
    from deploy_hook import directory_of

    names = ["0.example", "a.example", "smtp.example.com", "-"]
    assert min(directory_of(name, NAME) for name in names) == directory_of(NAME, NAME)


def test_a_pair_is_readable_for_the_service_and_nobody_else(host: FakeHost) -> None:
    import deploy_hook

    deploy_hook.deploy(host.issue(NAME), NAME)
    folder = (host.certs / f"0-{NAME}").resolve()
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent, host.certs)} == {0o750}
    assert {path.group() for path in folder.iterdir()} == {host.constants()["GROUP"]}


def test_a_second_deployment_of_the_same_pair_changes_nothing(host: FakeHost) -> None:
    import deploy_hook

    lineage = host.issue(NAME)
    assert deploy_hook.deploy(lineage, NAME)
    before = (host.certs / f"0-{NAME}").readlink(), (host.letsencrypt / f"renewal/{NAME}.conf").stat().st_ino
    assert not deploy_hook.deploy(lineage, NAME)
    after = (host.certs / f"0-{NAME}").readlink(), (host.letsencrypt / f"renewal/{NAME}.conf").stat().st_ino
    assert after == before


def test_only_the_newest_pair_is_kept(host: FakeHost) -> None:
    import deploy_hook

    for _ in range(2):
        deploy_hook.deploy(host.issue(NAME), NAME)
    assert len(list((host.root / "mailroom/pairs" / f"0-{NAME}").iterdir())) == 1
    assert deployed(host) == pair_of(host.letsencrypt / "live" / NAME)


def test_a_key_that_is_not_the_certificates_never_replaces_a_good_pair(host: FakeHost) -> None:
    import deploy_hook

    deploy_hook.deploy(host.issue(NAME), NAME)
    good = deployed(host)
    lineage = host.issue(NAME)
    (lineage / "privkey.pem").write_bytes((host.issue("other.example") / "privkey.pem").read_bytes())
    with pytest.raises(deploy_hook.DeployError, match="do not belong together"):
        deploy_hook.deploy(lineage, NAME)
    assert deployed(host) == good


@pytest.mark.parametrize("damage", ["truncated", "readable", "dangling"])
def test_a_damaged_copy_is_made_again(host: FakeHost, damage: str) -> None:
    import deploy_hook

    lineage = host.issue(NAME)
    deploy_hook.deploy(lineage, NAME)
    key = host.certs / f"0-{NAME}" / "privkey.pem"
    {"truncated": lambda: key.write_text(""), "readable": lambda: key.chmod(0o644), "dangling": key.unlink}[damage]()
    assert deploy_hook.deploy(lineage, NAME)
    assert deployed(host) == pair_of(lineage)
    assert key.stat().st_mode & 0o777 == 0o640
    assert not deploy_hook.deploy(lineage, NAME)


@pytest.mark.parametrize(
    "before", ["write_pair", "os.fchmod", "Path.rename", "swap", "Path.symlink_to", "shutil.rmtree"]
)
def test_a_run_killed_anywhere_leaves_a_whole_pair_and_the_next_run_converges(host: FakeHost, before: str) -> None:
    import deploy_hook

    deploy_hook.deploy(host.issue(NAME), NAME)
    old = deployed(host)
    lineage = host.issue(NAME)
    host.dies_in_hook(before, lineage)
    assert deployed(host) in (old, pair_of(lineage))
    deploy_hook.deploy(lineage, NAME)
    assert deployed(host) == pair_of(lineage)
    assert [entry.name for entry in host.certs.iterdir()] == [f"0-{NAME}"]
    assert len(list((host.root / "mailroom/pairs" / f"0-{NAME}").iterdir())) == 1


@pytest.mark.parametrize(
    ("days", "expected"),
    [(90, "30 days"), (47, "16 days"), (6, "48 hours"), (0.25, "120 minutes"), (0.001, "29 seconds")],
)
def test_renewal_begins_when_a_third_of_the_life_is_left(days: float, expected: str) -> None:
    from deploy_hook import interval

    assert interval(days * 86400 / 3) == expected


def test_the_renewal_point_follows_the_real_lifetime(host: FakeHost) -> None:
    import deploy_hook

    deploy_hook.deploy(host.issue(NAME, days=45), NAME)
    lines = (host.letsencrypt / f"renewal/{NAME}.conf").read_text().splitlines()
    assert lines[0] == "renew_before_expiry = 15 days"
    assert [line for line in lines if "renew_before_expiry" in line] == lines[:1]
    assert "[renewalparams]" in lines


def test_a_lineage_that_is_not_ours_is_left_alone(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    import deploy_hook

    list_ours(host, NAME)
    lineage = host.issue("other.example")
    monkeypatch.setenv("RENEWED_LINEAGE", str(lineage))
    deploy_hook.main([])
    assert not host.certs.exists()


def test_a_renewed_lineage_is_deployed_while_the_mail_server_is_off(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    import deploy_hook

    list_ours(host, NAME)
    monkeypatch.setenv("RENEWED_LINEAGE", str(host.issue(NAME)))
    deploy_hook.main([])
    assert deployed(host) == pair_of(host.letsencrypt / "live" / NAME)
    assert host.systemctl_runs() == ["is-active --quiet chasquid.service"]


def test_all_heals_every_certificate_of_ours(host: FakeHost) -> None:
    import deploy_hook

    list_ours(host, NAME, "example.com")
    for name in (NAME, "example.com"):
        host.issue(name)
    deploy_hook.main(["--all"])
    assert sorted(entry.name for entry in host.certs.iterdir()) == [f"0-{NAME}", "1-example.com"]


def test_by_hand_the_hook_says_what_it_misses(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    import deploy_hook

    list_ours(host, NAME)
    monkeypatch.delenv("RENEWED_LINEAGE", raising=False)
    with pytest.raises(deploy_hook.DeployError, match="--all"):
        deploy_hook.main([])


class Server:
    """Serves one certificate on two loopback ports, as a mail server does: TLS at once and after STARTTLS."""

    def __init__(self, lineage: Path) -> None:
        self.load(lineage)
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.implicit, self.starttls = (each.getsockname()[1] for each in self.sockets)
        for each, starttls in zip(self.sockets, (False, True), strict=True):
            threading.Thread(target=self._serve, args=(each, starttls), daemon=True).start()

    def load(self, lineage: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(lineage / "fullchain.pem", lineage / "privkey.pem")

    def _serve(self, listener: socket.socket, starttls: bool) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                if starttls:
                    connection.sendall(b"220-two lines\r\n220 ready\r\n")
                    connection.recv(100)
                    connection.sendall(b"250-hello\r\n250-STARTTLS\r\n250 HELP\r\n")
                    connection.recv(100)
                    connection.sendall(b"220 go ahead\r\n")
                with self.context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(1)


@pytest.fixture
def server(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    import deploy_hook

    serving = Server(host.issue(NAME))
    monkeypatch.setattr(deploy_hook, "IMPLICIT_TLS", (serving.implicit,))
    monkeypatch.setattr(deploy_hook, "STARTTLS", (serving.starttls,))
    monkeypatch.setattr(deploy_hook, "START_LIMIT", -1)
    list_ours(host, NAME)
    host.flag("chasquid-runs")
    yield serving
    for each in serving.sockets:
        each.shutdown(socket.SHUT_RDWR)
        each.close()


def restarts(host: FakeHost) -> int:
    return host.systemctl_runs().count("restart chasquid.service")


def test_a_server_that_serves_the_file_on_every_port_is_not_restarted(host: FakeHost, server: Server) -> None:
    import deploy_hook

    deploy_hook.main(["--all"])
    assert restarts(host) == 0


def test_a_server_with_the_old_certificate_is_restarted_once_and_then_proven(
    host: FakeHost, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import deploy_hook

    lineage = host.issue(NAME)
    run = deploy_hook.subprocess.run

    def restarting(argv: list[str], **options: object) -> object:
        if argv[:2] == ["systemctl", "restart"]:
            server.load(lineage)
        return run(argv, **options)

    monkeypatch.setattr(deploy_hook.subprocess, "run", restarting)
    monkeypatch.setattr(deploy_hook, "START_LIMIT", 5)
    deploy_hook.main(["--all"])
    assert restarts(host) == 1
    assert capsys.readouterr().out == f"changed: deployed {NAME}, restarted chasquid\n"


def test_a_restart_that_does_not_help_is_a_failure_that_names_the_ports(host: FakeHost, server: Server) -> None:
    import deploy_hook

    host.issue(NAME)
    ports = sorted((server.implicit, server.starttls))
    expected = "; ".join(f"port {port} serves another certificate for {NAME}" for port in ports)
    with pytest.raises(deploy_hook.DeployError, match=re.escape(expected)):
        deploy_hook.main(["--all"])


def test_a_port_that_is_closed_is_a_failure(host: FakeHost, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import deploy_hook

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(deploy_hook, "IMPLICIT_TLS", (port,))
    with pytest.raises(deploy_hook.DeployError, match=f"port {port} does not serve"):
        deploy_hook.main(["--all"])


def test_a_run_of_the_program_is_not_disturbed_by_a_restart(
    host: FakeHost, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import deploy_hook

    monkeypatch.setattr(deploy_hook, "LOCK_LIMIT", 0.3)
    waited = []
    monkeypatch.setattr(deploy_hook, "restart_and_prove", lambda *_: waited.append(holds_lock(host)) or False)
    deploy_hook.main(["--all"])
    assert waited == [True]


def holds_lock(host: FakeHost) -> bool:
    """Whether somebody holds the lock of the program's steps."""
    import fcntl

    with (host.root / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
