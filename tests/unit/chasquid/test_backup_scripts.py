"""A host's backup and its restore: what is taken, what comes back, what stays, and that nothing leaves twice."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
import tracemalloc
from contextlib import closing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import FakeHost

NAME = "smtp.example.com"
MESSAGES = ("m:one", "m:two")
USER = "i@example.com"


@dataclass
class Machine:
    """A host of its own root folder, and what was restarted there."""

    host: FakeHost
    served: int = 0

    def path(self, name: str) -> Path:
        return self.host.root / name

    def write(self, name: str, text: str) -> Path:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def move(self, root: Path) -> None:
        """Go on as another, bare machine."""
        old = self.host.root
        self.host.root = root
        for module in self.host.modules.values():
            for name, value in vars(module).copy().items():
                if name.isupper() and hasattr(value, "is_relative_to") and value.is_relative_to(old):
                    self.host.monkeypatch.setattr(module, name, root / value.relative_to(old))
        self.write("etc/machine-id", "another\n")

    def back_up(self) -> bytes:
        out = io.BytesIO()
        patch = self.host.monkeypatch
        with patch.context() as changed:
            changed.setattr(sys, "stdin", io.StringIO(json.dumps({"host": NAME})))
            changed.setattr(sys, "stdout", SimpleNamespace(buffer=out))
            self.host.modules["backup"].main()
        return out.getvalue()

    def restore(self, tar: bytes, **options: Any) -> dict[str, list[str]]:
        digest = hashlib.sha256(tar).hexdigest()
        payload = {"host": NAME, "sha256": digest, "queue": "new machine", "replaceCertificates": False} | options
        stdin = io.BytesIO(json.dumps(payload).encode() + b"\n" + tar)
        with self.host.monkeypatch.context() as changed:
            changed.setattr(sys, "stdin", SimpleNamespace(buffer=stdin))
            self.host.modules["restore"].main()
        return dict(json.loads(self.host.capsys.readouterr().out))

    def queue(self) -> set[str]:
        return {path.name for path in self.path("var/lib/chasquid/queue").glob("*")}

    def sent(self) -> int:
        with closing(sqlite3.connect(self.path("var/lib/mailroom-policy/counters.sqlite"))) as database:
            return int(database.execute("SELECT sum(amount) FROM sent WHERE key = 'i@example.com'").fetchone()[0])


def certify(machine: Machine, days: int = 90, account: str = "aaaa", serial: str = "1") -> bytes:
    """A lineage as certbot keeps it, with an account; the certificate."""
    archive = machine.path(f"etc/letsencrypt/archive/{NAME}")
    live = machine.path(f"etc/letsencrypt/live/{NAME}")
    for folder in (archive, live):
        folder.mkdir(parents=True, exist_ok=True)
    key, chain = archive / "privkey1.pem", archive / "fullchain1.pem"
    subject = ["-subj", f"/CN={NAME}", "-days", str(days), "-set_serial", serial]
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    command = ["openssl", "req", "-x509", *new, "-keyout", str(key), "-out", str(chain), *subject]
    subprocess.run(command, check=True, capture_output=True)
    for name in ("cert", "chain"):
        (archive / f"{name}1.pem").write_bytes(chain.read_bytes())
    for name in ("cert", "chain", "fullchain", "privkey"):
        (live / f"{name}.pem").unlink(missing_ok=True)
        (live / f"{name}.pem").symlink_to(f"../../archive/{NAME}/{name}1.pem")
    machine.write(f"etc/letsencrypt/renewal/{NAME}.conf", f"[renewalparams]\naccount = {account}\n")
    machine.write(f"etc/letsencrypt/accounts/acme.example/directory/{account}/private_key.json", account)
    return chain.read_bytes()


@pytest.fixture
def machine(host: FakeHost) -> Machine:
    """A host that sends: certificates, a queue, counters, a suspended user."""
    machine = Machine(host)
    patch, restore = host.monkeypatch, host.modules["restore"]
    patch.setattr(host.modules["backup"], "as_user", lambda _, action: action())
    patch.setattr(restore, "give", lambda *_: None)
    patch.setattr(restore, "serve", lambda _: setattr(machine, "served", machine.served + 1))
    patch.setattr(host.modules["prepare"], "service_user", lambda *_: [])
    patch.setattr(host.modules["prepare"], "data_directory", lambda *_: [])
    machine.write("etc/machine-id", "the first\n")
    for name in MESSAGES:
        machine.write(f"var/lib/chasquid/queue/{name}", f"message {name}")
    machine.write("var/lib/chasquid/queue/.m:half-written", "x")
    machine.write("var/lib/chasquid/domaininfo/s:example.org", "learnt")
    machine.write("etc/letsencrypt/mailroom/cloudflare.ini", "the token")
    machine.write(f"var/lib/mailroom-policy/suspended/{USER}", '{"since": "2026-01-01", "reason": "x"}')
    limits = host.modules["restore"].limits
    store = limits.Store(machine.path("var/lib/mailroom-policy"))
    store.admit(USER, ["a@example.org"], {"users": {USER: {}}, "addresses": [], "warmUp": 0})
    store.close()
    return machine


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """The root of another machine, bare."""
    root = tmp_path / "fresh"
    for folder in ("var/lib/mailroom-policy", "var/lib/chasquid", "etc", "run"):
        (root / folder).mkdir(parents=True)
    return root


def members(tar: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {member.name: member for member in archive}


def test_a_backup_takes_what_only_the_host_has_and_no_token(machine: Machine) -> None:
    certify(machine)
    names = set(members(machine.back_up()))
    assert {f"letsencrypt/archive/{NAME}/privkey1.pem", "chasquid/queue/m:one", "policy/counters.sqlite",
            f"policy/suspended/{USER}", "chasquid/domaininfo/s:example.org"} <= names  # fmt: skip
    assert not [name for name in names if "cloudflare" in name or "half-written" in name]


def test_a_message_that_leaves_while_it_is_read_stops_no_backup(machine: Machine) -> None:
    script = machine.host.modules["backup"]
    original = script.add_file

    def leaving(tar: tarfile.TarFile, name: str, *where: Any) -> None:
        if name.endswith("/m:one"):
            machine.path("var/lib/chasquid/queue/m:one").unlink()
        original(tar, name, *where)

    machine.host.monkeypatch.setattr(script, "add_file", leaving)
    names = set(members(machine.back_up()))
    assert "chasquid/queue/m:two" in names
    assert "chasquid/queue/m:one" not in names


def test_a_link_in_a_services_folder_leads_no_backup_out_of_it(machine: Machine) -> None:
    secret = machine.write("etc/shadow", "secret")
    machine.path("var/lib/chasquid/queue/m:link").symlink_to(secret)
    assert "chasquid/queue/m:link" not in members(machine.back_up())


def test_a_folder_that_becomes_a_link_while_it_is_read_leads_no_backup_out_of_it(machine: Machine) -> None:
    machine.write("etc/m:one", "secret")
    script, queue = machine.host.modules["backup"], machine.path("var/lib/chasquid/queue")
    original = script.add_file

    def swapped(tar: tarfile.TarFile, name: str, *where: Any) -> None:
        if name.endswith("/m:one"):
            queue.rename(queue.with_name("aside"))
            queue.symlink_to(machine.path("etc"))
        original(tar, name, *where)

    machine.host.monkeypatch.setattr(script, "add_file", swapped)
    with tarfile.open(fileobj=io.BytesIO(machine.back_up())) as archive:
        member = archive.extractfile("chasquid/queue/m:one")
        assert member is not None
        assert member.read() == b"message m:one"


def test_a_pipe_in_a_services_folder_holds_up_no_backup(machine: Machine) -> None:
    script, pipe = machine.host.modules["backup"], machine.path("var/lib/chasquid/queue/m:pipe")
    os.mkfifo(pipe)
    assert "chasquid/queue/m:pipe" not in members(machine.back_up())
    with tarfile.open(fileobj=io.BytesIO(), mode="w") as archive:
        script.add_file(archive, "m:pipe", pipe)  # it was a file when it was looked at
        assert not archive.getnames()


def test_damaged_counters_are_left_out_and_told(machine: Machine, fresh: Path) -> None:
    for path in machine.path("var/lib/mailroom-policy").glob("counters*"):
        path.write_bytes(b"no database" * 1000)
    tar = machine.back_up()
    assert "counters.sqlite is left out" in machine.host.capsys.readouterr().err
    assert "policy/counters.sqlite" not in members(tar)
    machine.move(fresh)
    machine.restore(tar)
    assert machine.queue() == set(MESSAGES)


def test_a_bare_machine_gets_everything(machine: Machine, fresh: Path) -> None:
    certificate = certify(machine)
    tar = machine.back_up()
    machine.move(fresh)
    said = machine.restore(tar)
    assert machine.queue() == set(MESSAGES)
    assert machine.path("var/lib/chasquid/domaininfo/s:example.org").read_text() == "learnt"
    assert machine.path(f"etc/letsencrypt/live/{NAME}/fullchain.pem").read_bytes() == certificate
    assert machine.path("etc/letsencrypt/accounts/acme.example/directory/aaaa/private_key.json").exists()
    assert machine.path(f"var/lib/mailroom-policy/suspended/{USER}").exists()
    assert machine.sent() == 3  # a minute's, an hour's and a day's
    assert said["kept"] == []
    assert not machine.path("var/lib/mailroom-restore").exists()


def test_a_second_restore_brings_back_no_message_that_left_and_no_suspension_that_was_lifted(
    machine: Machine, fresh: Path
) -> None:
    tar = machine.back_up()
    machine.move(fresh)
    machine.restore(tar)
    machine.path("var/lib/chasquid/queue/m:one").unlink()  # delivered
    uninstalled = machine.host.modules["uninstall"].STATE
    assert not machine.host.modules["restore"].MEMORY.is_relative_to(uninstalled)  # a second life remembers, too
    machine.path(f"var/lib/mailroom-policy/suspended/{USER}").unlink()  # lifted
    said = machine.restore(tar)
    assert machine.queue() == {"m:two"}
    assert not machine.path(f"var/lib/mailroom-policy/suspended/{USER}").exists()
    assert said["done"] == []
    assert [line.split()[0] for line in said["kept"]] == ["suspension", "1"]
    assert machine.sent() == 3


@pytest.mark.parametrize(
    ("choice", "same", "expected"),
    [
        ("new machine", True, {"m:two"}), ("always", True, {"m:one", "m:two"}),
        ("never", False, set()), ("new machine", False, {"m:one", "m:two"}),
    ],
)  # fmt: skip
def test_mail_returns_to_the_machine_that_has_sent_it_only_when_asked(
    machine: Machine, fresh: Path, choice: str, *, same: bool, expected: set[str]
) -> None:
    machine.path("var/lib/chasquid/queue/.m:half-written").unlink()
    tar = machine.back_up()
    if same:
        machine.path("var/lib/chasquid/queue/m:one").unlink()
    else:
        machine.move(fresh)
    machine.restore(tar, queue=choice)
    assert machine.queue() == expected


def test_the_queued_message_of_the_host_wins_over_the_backups(machine: Machine) -> None:
    tar = machine.back_up()
    machine.write("var/lib/chasquid/queue/m:one", "one recipient less")
    machine.restore(tar, queue="always")
    assert machine.path("var/lib/chasquid/queue/m:one").read_text() == "one recipient less"


def test_a_newer_certificate_stays_unless_it_is_to_be_replaced_and_is_kept_aside_then(machine: Machine) -> None:
    old = certify(machine, serial="1")
    tar = machine.back_up()
    new = certify(machine, serial="2")
    live = machine.path(f"etc/letsencrypt/live/{NAME}/fullchain.pem")
    assert f"certificate {NAME}: this host has a newer one" in machine.restore(tar)["kept"]
    assert live.read_bytes() == new
    assert f"certificate {NAME}" in machine.restore(tar, replaceCertificates=True)["done"]
    assert live.read_bytes() == old
    (aside,) = machine.path("etc/letsencrypt/mailroom/replaced").glob(f"{NAME}-*/archive/fullchain1.pem")
    assert aside.read_bytes() == new


def test_a_damaged_certificate_is_put_back(machine: Machine) -> None:
    good = certify(machine)
    tar = machine.back_up()
    machine.path(f"etc/letsencrypt/archive/{NAME}/privkey1.pem").unlink()
    assert f"certificate {NAME}" in machine.restore(tar)["done"]
    assert machine.path(f"etc/letsencrypt/live/{NAME}/fullchain.pem").read_bytes() == good


def test_two_acme_accounts_at_one_ca_never_meet(machine: Machine, fresh: Path) -> None:
    certify(machine, account="aaaa")
    tar = machine.back_up()
    machine.move(fresh)
    certify(machine, account="bbbb")
    said = machine.restore(tar)
    accounts = machine.path("etc/letsencrypt/accounts/acme.example/directory")
    assert [path.name for path in accounts.iterdir()] == ["bbbb"]
    assert f"certificate {NAME}: it is renewed by another ACME account here" in said["kept"]
    machine.restore(tar, replaceCertificates=True)
    assert [path.name for path in accounts.iterdir()] == ["aaaa"]


def test_counters_are_added_to_those_of_the_new_machine(machine: Machine, fresh: Path) -> None:
    tar = machine.back_up()
    machine.move(fresh)
    limits = machine.host.modules["restore"].limits
    store = limits.Store(machine.path("var/lib/mailroom-policy"), clock=lambda: 1.0)
    store.admit(USER, ["b@example.org"], {"users": {USER: {}}, "addresses": [], "warmUp": 0})
    store.close()
    machine.restore(tar)
    assert machine.sent() == 6


@pytest.mark.parametrize(("end", "digest"), [(10, "of what came"), (10, "as taken"), (-10, "as taken")])
def test_a_backup_that_did_not_arrive_as_it_was_taken_changes_nothing(
    machine: Machine, fresh: Path, end: int, digest: str
) -> None:
    tar = machine.back_up()
    machine.move(fresh)
    with pytest.raises(SystemExit):
        machine.restore(tar[:end], sha256=hashlib.sha256(tar if digest == "as taken" else tar[:end]).hexdigest())
    assert machine.queue() == set()
    assert not machine.path("var/lib/mailroom-restore").exists()


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("../../etc/cron.d/x", None), ("/etc/cron.d/x", None), ("chasquid/queue/../../x", None),
        ("etc/cron.d/x", None), ("chasquid/queue/.hidden", None), ("chasquid/queue", None),
        ("chasquid/queue/m:x", "/etc/shadow"), (f"letsencrypt/live/{NAME}/cert.pem", "/etc/shadow"),
        (f"letsencrypt/live/{NAME}/cert.pem", "../../archive/other/cert1.pem"),
        (f"letsencrypt/live/{NAME}/cert.pem", f"../../archive/{NAME}/privkey1.pem"),
        ("letsencrypt/live/cert.pem", "../../archive/live/cert1.pem"),
        ("letsencrypt/renewal-hooks/deploy/x", None), ("letsencrypt/mailroom/hooks/x", None),
    ],
)  # fmt: skip
def test_a_tar_with_a_name_or_link_that_no_backup_has_is_refused(
    machine: Machine, fresh: Path, name: str, link: str | None
) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        if link:
            member.type, member.linkname = tarfile.SYMTYPE, link
        tar.addfile(member, io.BytesIO())
    machine.move(fresh)
    with pytest.raises(SystemExit):
        machine.restore(made.getvalue())
    assert "unexpected" in machine.host.capsys.readouterr().err
    assert not machine.path("var/lib/mailroom-restore").exists()


def test_what_is_not_as_it_was_taken_is_not_even_opened(machine: Machine) -> None:
    tar = machine.back_up()
    machine.host.monkeypatch.setattr(machine.host.modules["restore"].tarfile, "open", None)
    with pytest.raises(SystemExit):
        machine.restore(tar, sha256=hashlib.sha256(b"another").hexdigest())
    assert "did not arrive as it was taken" in machine.host.capsys.readouterr().err


def test_a_renewal_file_brings_no_hook_path_or_option_of_others(machine: Machine, fresh: Path) -> None:
    certify(machine)
    kept = [
        "# renew_before_expiry = 30 days", "renew_before_expiry = 20 days", "version = 2.1.0",
        "[renewalparams]", "account = aaaa", "server = https://acme.example/directory", "key_type = ecdsa",
        "pref_challs = dns-01,", "dns_cloudflare_credentials = /etc/letsencrypt/mailroom/cloudflare.ini",
        "[acme_renewal_info]", "ari_retry_after = 2026-11-24T10:00:00+00:00",
    ]  # fmt: skip
    foreign = [
        "pre_hook = touch /x", "  post_hook=touch /x", '"renew_hook" = touch /x', "deploy_hook = touch /x",
        "manual_auth_hook = /x auth", "manual_cleanup_hook = /x", "config_dir = /x", "cert = /etc/cron.d/x",
        "server = file:///x", "authenticator = '''", "[[webroot_map]]", "nginx_ctl = /x", "dns_x_program = /x",
    ]  # fmt: skip
    machine.write(f"etc/letsencrypt/renewal/{NAME}.conf", "\n".join([*kept, *foreign, ""]))
    tar = machine.back_up()
    machine.move(fresh)
    told = machine.restore(tar)["kept"]
    assert machine.path(f"etc/letsencrypt/renewal/{NAME}.conf").read_text() == "\n".join([*kept, ""])
    assert len(told) == len(foreign)
    assert f"certificate {NAME}: no pre_hook comes from a backup" in told


def test_a_renewal_file_of_ours_comes_back_as_it_was(machine: Machine) -> None:
    folder = machine.path("etc/letsencrypt")
    text = "\n".join([
        f"archive_dir = {folder}/archive/{NAME}", f"cert = {folder}/live/{NAME}/cert.pem",
        f"fullchain = {folder}/live/{NAME}/fullchain.pem", "[renewalparams]", "authenticator = manual",
        f"manual_auth_hook = {folder}/mailroom/challenge auth",
        f"manual_cleanup_hook = {folder}/mailroom/challenge cleanup", "",
    ])  # fmt: skip
    assert machine.host.modules["restore"].renewal_file(NAME, text) == (text, [])


def test_a_long_file_is_never_in_memory_as_a_whole(machine: Machine) -> None:
    size = 32 << 20
    with machine.path("var/lib/chasquid/queue/m:long").open("wb") as file:
        file.truncate(size)
    tracemalloc.start()
    tar = machine.back_up()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert members(tar)["chasquid/queue/m:long"].size == size
    assert peak < size / 4


def test_a_file_that_is_cut_while_it_is_read_spoils_no_backup(machine: Machine) -> None:
    script, path = machine.host.modules["backup"], machine.path("var/lib/chasquid/queue/m:one")
    original = script.Filled

    def cut(file: Any) -> Any:
        if os.path.samestat(path.stat(), os.fstat(file.fileno())):
            os.truncate(path, 3)
        return original(file)

    machine.host.monkeypatch.setattr(script, "Filled", cut)
    found = members(machine.back_up())
    assert found["chasquid/queue/m:one"].size == len("message m:one")
    assert "chasquid/queue/m:two" in found
    assert "m:one became shorter" in machine.host.capsys.readouterr().err


def test_the_server_starts_anew_only_for_mail_or_certificates(machine: Machine, fresh: Path) -> None:
    tar = machine.back_up()
    machine.move(fresh)
    machine.write("etc/mailroom/current", "a release")
    machine.restore(tar)
    assert machine.served == 1
    machine.restore(tar)
    assert machine.served == 1


def test_certbot_at_work_is_waited_for(machine: Machine) -> None:
    certify(machine)
    script, path = machine.host.modules["backup"], machine.path("etc/letsencrypt/.certbot.lock")
    program = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, 2); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout
        holder.stdout.readline()
        assert script.lock(path) is None
        holder.communicate()
    descriptor = script.lock(path)
    assert descriptor is not None
    os.close(descriptor)


def test_a_service_gets_its_folder_after_all_that_is_in_it_and_no_link_is_followed(host: FakeHost) -> None:
    restore = host.modules["restore"]
    folder = host.root / "staging"
    (folder / "suspended").mkdir(parents=True)
    (folder / "suspended/user").write_text("x")
    (folder / "link").symlink_to(host.root)
    given: list[tuple[Path, bool]] = []
    host.monkeypatch.setattr(restore.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=1, pw_gid=1))
    host.monkeypatch.setattr(
        restore.os, "chown", lambda path, *_, follow_symlinks=True: given.append((path, follow_symlinks))
    )
    restore.give(folder, "mailroom-policy")
    assert given[-1][0] == folder
    assert {path for path, _ in given} == {folder, *folder.rglob("*")}
    assert not [path for path, followed in given if followed]


def test_mail_that_a_killed_restore_put_back_is_loaded_by_the_next(machine: Machine, fresh: Path) -> None:
    tar, script = machine.back_up(), machine.host.modules["restore"]
    machine.move(fresh)
    machine.write("etc/mailroom/current", "a release")

    def killed(_: object) -> None:
        raise KeyboardInterrupt

    with machine.host.monkeypatch.context() as changed:
        changed.setattr(script, "serve", killed)
        with pytest.raises(KeyboardInterrupt):
            machine.restore(tar)
    machine.restore(tar)
    machine.restore(tar)
    assert machine.served == 1
