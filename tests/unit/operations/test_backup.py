"""A backup from its stack to a place and back: hosts and engine are stand-ins, age, git and restic are real."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from operations import recovery, report, ssh, stacks
from operations.backup import age, archive, places, restore, signature, take
from scripts import backup as script
from standards.finding import Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

HOST, OTHER = "smtp.example.com", "mx.example.org"
TAR = b"the tar of a host" * 9000
SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "v1:a"}
STATE = {"version": 3, "deployment": {"resources": [{"urn": "urn:pulumi:prod::mailroom::x", "outputs": [SECRET]}]}}
STACK_FILE = "config: {}\nencryptionsalt: v1:abc\n"


@dataclass
class World:
    """The hosts and the backend as the operations see them, and what reached them."""

    folder: Path
    hosts: tuple[str, ...] = (HOST,)
    state: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(STATE)))
    exists: bool = True
    fails: bool = False
    received: list[tuple[str, dict[str, Any], bytes]] = field(default_factory=list)
    imported: list[str] = field(default_factory=list)

    @property
    def identity(self) -> Path:
        return self.folder / "identity"

    @property
    def place(self) -> Path:
        return self.folder / "place"

    @property
    def recipient(self) -> str:
        done = subprocess.run(["age-keygen", "-y", self.identity], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def take(self, stack: str = "prod", place: places.Place | None = None) -> take.Taken:
        return take.take(stack, place or places.Folder(self.place), [self.recipient])

    def restore(self, stack: str = "prod", place: places.Place | None = None, **wanted: Any) -> restore.Outcome:
        return restore.restore(stack, place or places.Folder(self.place), self.identity, restore.Wanted(**wanted))

    # what the operations call

    def settings(self, stack: str) -> SimpleNamespace:
        made = [
            SimpleNamespace(
                name=name, address="192.0.2.1", host_key="k", ssh=SimpleNamespace(port=22, user="root")
            ) for name in self.hosts
        ]  # fmt: skip
        return SimpleNamespace(stack=stack, hosts=made, ssh_private_key=None)

    def pulumi(self, stack: str, *arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
        state = self.state if self.exists else {"version": 3, "deployment": {}}
        return subprocess.CompletedProcess(arguments, 0, json.dumps(state), "")

    def stream(
        self, target: ssh.Target, command: str, chunks: Iterable[bytes], output: Callable[[bytes], object], _: float
    ) -> ssh.Completed:
        text = b"".join(chunks)
        if self.fails:
            output(TAR[:5000])
            return ssh.Completed(1, "", "error: the disk is full")
        if "backup.py" in command:
            try:
                for start in range(0, len(TAR), 4096):
                    output(TAR[start : start + 4096])
            except OSError as error:  # as ssh.stream takes every one for its own
                raise Problems(f"the connection broke: {error}", []) from None
            return ssh.Completed(0, "", "")
        head, _, rest = text.partition(b"\n")
        self.received.append((command, json.loads(head), rest))
        output(b'{"done": ["1 queued message"], "kept": []}')
        return ssh.Completed(0, "", "")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    world.place.mkdir()
    subprocess.run(["age-keygen", "-o", world.identity], capture_output=True, check=True)
    monkeypatch.setattr(stacks, "CHECKOUT", tmp_path)
    monkeypatch.setattr(stacks, "settings", world.settings)
    monkeypatch.setattr(stacks, "command", lambda *_: ("pulumi", dict(os.environ)))
    monkeypatch.setattr(recovery, "pulumi", world.pulumi)
    monkeypatch.setattr(recovery, "exists", lambda _: world.exists)
    monkeypatch.setattr(recovery, "ensure", lambda _: None)
    monkeypatch.setattr(restore, "_import", lambda _, state: world.imported.append(state))
    monkeypatch.setattr(ssh, "stream", world.stream)
    monkeypatch.setattr(ssh, "run", lambda *_, **__: ssh.Completed(0, "", ""))
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "the passphrase")
    monkeypatch.setattr(signature, "COST", 2)
    (tmp_path / "Pulumi.prod.yaml").write_text(STACK_FILE)
    return world


def names(world: World) -> list[str]:
    return sorted(path.name for path in world.place.iterdir())


def stop(world: World, **wanted: Any) -> str:
    """Why a restore stops; it has changed nothing."""
    before = sorted(world.folder.iterdir())
    with pytest.raises(Problems) as caught:
        world.restore(**wanted)
    assert world.received == []
    assert world.imported == []
    assert sorted(world.folder.iterdir()) == before
    return str(caught.value)


def test_an_empty_machine_gets_all_of_it_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = world.take()
    (world.folder / "Pulumi.prod.yaml").unlink()
    world.exists = False
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE")
    monkeypatch.setattr(restore, "_import", lambda *_: world.imported.append(os.environ["PULUMI_CONFIG_PASSPHRASE"]))
    outcome = world.restore(passphrase_to=world.folder / "told", signer=taken.signer)
    assert (world.folder / "Pulumi.prod.yaml").read_text() == STACK_FILE
    assert world.imported == ["the passphrase"]
    assert (world.folder / "told").read_text() == "the passphrase\n"
    assert (world.folder / "told").stat().st_mode & 0o777 == 0o600
    ((_, payload, tar),) = world.received
    assert tar == TAR
    assert payload["sha256"] == hashlib.sha256(TAR).hexdigest()
    assert outcome.backup == taken.backup
    assert f"{HOST}: 1 queued message" in outcome.done


def test_settings_and_a_state_that_are_there_stay(world: World) -> None:
    world.take()
    (world.folder / "Pulumi.prod.yaml").write_text(STACK_FILE + "# edited\n")
    world.state["deployment"]["resources"].append({"urn": "newer"})
    outcome = world.restore()
    assert (world.folder / "Pulumi.prod.yaml").read_text() == STACK_FILE + "# edited\n"
    assert world.imported == []
    assert [line.split(":")[0] for line in outcome.kept] == ["Pulumi.prod.yaml", "the state"]


def test_what_is_as_in_the_backup_is_not_worth_a_word(world: World) -> None:
    world.take()
    world.state["deployment"]["resources"][0]["outputs"][0]["ciphertext"] = "v1:encrypted anew by an import"
    assert world.restore(only="stack") == restore.Outcome(names(world)[0])


def test_nothing_secret_lies_in_the_place(world: World) -> None:
    world.take()
    written = b"".join(path.read_bytes() for path in world.place.rglob("*") if path.is_file())
    assert b"age-encryption.org" in written
    assert [word for word in (b"the tar of", b"passphrase", b"urn:") if word in written] == []


@pytest.mark.parametrize("name", ["manifest.json", "stack.age", f"host-{HOST}.age"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_stops_the_restore_before_any_change(world: World, name: str, damage: str) -> None:
    path = world.place / world.take().backup / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data) if damage == "flipped" else data[:-1] if name != "manifest.json" else data[:-2])
    if damage == "gone":
        path.unlink()
        if name == "manifest.json":
            assert "no backup at all" in stop(world)
            return
    assert "nothing was restored" in stop(world)


def test_a_part_of_another_backup_is_found_out_though_its_manifest_was_adapted(world: World) -> None:
    name = f"host-{HOST}.age"
    first = world.place / world.take().backup
    second = world.place / "prod-20990101T000000Z"
    shutil.copytree(first, second)
    assert "under another name" in stop(world)
    with age.encrypting(second / f"{name}.new", [world.recipient]) as stream:
        stream.write(b"older")
    (second / f"{name}.new").replace(second / name)
    manifest = json.loads((second / "manifest.json").read_text())
    manifest["taken"] = "2099-01-01T00:00:00+00:00"
    manifest["hosts"][HOST] = {
        "sealed": archive.digest_of(second / name), "plain": hashlib.sha256(b"older").hexdigest()
    }  # fmt: skip
    (second / "manifest.json").write_text(json.dumps(manifest))
    assert "not the one sealed" in stop(world)


def test_a_manifest_that_leads_out_of_the_folder_is_refused() -> None:
    part = {"sealed": "x", "plain": "x"}
    hosts = {"../../etc": part}
    value = {"format": archive.FORMAT, "stack": "prod", "taken": "2026-01-01T00:00:00+00:00", "hosts": hosts}
    with pytest.raises(Problems, match="names that are none"):
        archive.Manifest.parse(value, "x")


@pytest.mark.parametrize("number", [1, 3])
def test_a_format_without_a_signature_or_of_the_future_is_refused(number: int) -> None:
    with pytest.raises(Problems, match=f"format {number}"):
        archive.Manifest.parse({"format": number}, "x")


def forge(world: World, passphrase: str, name: str = "prod-20990101T000000Z") -> None:
    """A newer backup of somebody who can write to the place and knows the recipient, but not the passphrase."""
    taken = next(path for path in world.place.iterdir())
    forged = world.place / name
    shutil.copytree(taken, forged)
    manifest = json.loads((forged / "manifest.json").read_text()) | {"taken": "2099-01-01T00:00:00+00:00"}
    (forged / "manifest.json").write_text(json.dumps(manifest))
    sealed = archive.Sealed(archive.Manifest.parse(manifest, "x"), "config: {evil: 1}", "{}", passphrase)
    with age.encrypting(forged / "stack.age.new", [world.recipient]) as stream:
        stream.write(signature.sign(sealed.text().encode(), signature.key_of(passphrase, "prod")))
    (forged / "stack.age.new").replace(forged / "stack.age")


def test_a_backup_of_somebody_without_the_passphrase_stops_the_restore_before_any_change(world: World) -> None:
    own = world.take().signer
    forge(world, "not the passphrase")
    told = stop(world)
    assert f"signed by {own}" in told
    assert signature.signer_of(signature.key_of("not the passphrase", "prod")) in told


def test_the_forgers_backup_would_be_taken_if_its_signature_were_right(world: World) -> None:
    world.take()
    forge(world, "the passphrase")
    assert world.restore(check=True).backup == "prod-20990101T000000Z"


def test_a_signature_covers_every_byte(world: World) -> None:
    key = signature.key_of("the passphrase", "prod")
    signed = signature.sign(b"content", key)
    assert signature.content_of(signed, signature.signer_of(key)) == b"content"
    assert signature.content_of(signed[:-1], signature.signer_of(key)) is None
    assert signature.content_of(b"{}\ncontent", signature.signer_of(key)) is None
    assert signature.content_of(signed, "no signer") is None
    assert signature.signer_of(signature.key_of("the passphrase", "other")) != signature.signer_of(key)


def test_a_machine_without_the_passphrase_asks_who_signed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = world.take().signer
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE")
    told = stop(world, only="stack")
    assert "no passphrase" in told
    assert "--signer" in told
    assert stop(world, only="stack", signer=signature.signer_of(signature.key_of("another", "prod")))
    assert world.restore(only="stack", signer=signer)


def test_a_backup_from_before_a_change_of_the_passphrase_comes_back_by_its_signer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = world.take().signer
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "a new one")
    assert signer in stop(world)
    assert world.restore(check=True, signer=signer)


@pytest.mark.parametrize("passphrase", [None, ""])
def test_without_a_passphrase_nothing_is_backed_up(
    world: World, monkeypatch: pytest.MonkeyPatch, passphrase: str | None
) -> None:
    monkeypatch.setattr(stacks, "passphrase", lambda _: passphrase)
    monkeypatch.setattr(ssh, "stream", None)
    with pytest.raises(Problems, match="signed with it"):
        world.take()
    assert names(world) == []


def test_a_stack_that_was_never_deployed_is_told_and_nothing_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.exists = False
    monkeypatch.setattr(ssh, "stream", None)
    with pytest.raises(Problems, match="never deployed") as caught:
        world.take()
    assert report.trouble_code(caught.value) == report.COULD_NOT_TELL
    assert names(world) == []


def test_a_mistyped_backup_is_told_with_the_newest_one(world: World) -> None:
    newest = world.take().backup
    told = stop(world, backup="prod-20000101T000000Z")
    assert "no backup prod-20000101T000000Z" in told
    assert f"--backup {newest} is the newest" in told
    assert "--list" in told
    assert "no backup ../place" in stop(world, backup=f"../place/{newest}")


def test_a_mistyped_stack_is_told_with_those_that_have_backups(world: World) -> None:
    world.take()
    with pytest.raises(Problems, match="there are backups of prod"):
        world.restore("prd")


@pytest.mark.parametrize(
    ("stack", "told", "status"),
    [
        ("prod", "prod-20260101T000000Z\n", 0),
        ("prd", "no backup of stack prd in this place; there are backups of prod, test\n", 1),
    ],
)
def test_the_list_says_what_there_is(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    *, stack: str, told: str, status: int,
) -> None:  # fmt: skip
    for name in ("prod-20260101T000000Z", "test-20260101T000000Z"):
        (world.place / name).mkdir()
        (world.place / name / "manifest.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["backup.py", "--stack", stack, "--to", str(world.place), "--list"])
    assert script.main() == status
    assert capsys.readouterr().out == told


def test_a_run_says_who_signed_and_what_it_removed(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = world.place / "prod-20200101T000000Z"
    old.mkdir()
    (old / "manifest.json").write_text("{}")
    arguments = ["--stack", "prod", "--to", str(world.place), "--recipient", world.recipient, "--keep", "1"]
    monkeypatch.setattr("sys.argv", ["backup.py", *arguments])
    assert script.main() == 0
    told = capsys.readouterr().out
    assert signature.signer_of(signature.key_of("the passphrase", "prod")) in told
    assert f"removed {old.name}" in told
    assert len(names(world)) == 1


def test_a_killed_restore_leaves_no_half_of_a_stacks_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.take()
    path = world.folder / "Pulumi.prod.yaml"
    path.unlink()

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            world.restore(only="stack")
    assert not path.exists()
    world.restore(only="stack")
    assert path.read_text() == STACK_FILE


def test_another_key_opens_nothing(world: World) -> None:
    world.take()
    world.identity.unlink()
    subprocess.run(["age-keygen", "-o", world.identity], capture_output=True, check=True)
    assert "--identity" in stop(world)


def test_another_stacks_backup_is_refused_and_by_force_gives_the_hosts_alone(world: World) -> None:
    name = world.take().backup
    (world.folder / "Pulumi.mine.yaml").write_text("config: {}\n")
    with pytest.raises(Problems, match="one of stack prod"):
        world.restore("mine", backup=name)
    assert world.received == []
    outcome = world.restore("mine", backup=name, force=True)
    assert len(world.received) == 1
    assert world.imported == []
    assert outcome.done == [f"{HOST}: 1 queued message"]


def test_another_hosts_backup_is_refused_and_by_force_taken(world: World) -> None:
    world.take()
    world.hosts = (OTHER,)
    assert f"one of {HOST}" in stop(world)
    assert world.restore(force=True).done == [f"{OTHER}: 1 queued message"]


def test_a_check_changes_nothing(world: World) -> None:
    world.take()
    world.exists = False
    world.restore(check=True, passphrase_to=world.folder / "told")
    assert (world.received, world.imported) == ([], [])
    assert not (world.folder / "told").exists()


def test_a_failed_host_leaves_no_backup_and_no_rest_of_one(world: World) -> None:
    world.fails = True
    with pytest.raises(Problems, match="the disk is full"):
        world.take()
    assert list(world.place.iterdir()) == []


def test_a_full_disk_is_told_in_ages_own_words(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    recipient, real = world.recipient, shutil.which("age")
    (world.folder / "bin").mkdir()
    program = world.folder / "bin" / "age"
    full = 'case "$*" in *" -o "*) echo "age: error: no space left on device" >&2; exit 1 ;; esac'
    program.write_text(f'#!/bin/sh\n{full}\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    with pytest.raises(Problems, match="no space left on device"):
        take.take("prod", places.Folder(world.place), [recipient])
    assert list(world.place.iterdir()) == []


@pytest.mark.parametrize(
    ("recipients", "shown"),
    [([], "none"), (["age1nonsense"], "age1nonsense"), (["AGE-SECRET-KEY-1ABC"], "not shown"), (["--help"], "--help"),
     (["age1" + "q" * 58], "malformed")],
)  # fmt: skip
def test_a_recipient_that_is_none_is_refused_before_a_host_is_asked(
    world: World, monkeypatch: pytest.MonkeyPatch, recipients: list[str], shown: str
) -> None:
    monkeypatch.setattr(ssh, "stream", None)
    with pytest.raises(Problems, match="age-keygen") as caught:
        take.take("prod", places.Folder(world.place), recipients)
    assert shown in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_an_ssh_key_reads_a_backup_too(world: World) -> None:
    world.identity.unlink()
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(world.identity)]
    subprocess.run(keygen, check=True)
    public = world.identity.with_suffix(".pub").read_text().strip()
    take.take("prod", places.Folder(world.place), [public])
    assert world.restore(check=True).done == []


def test_a_disk_that_is_not_mounted_is_told(world: World) -> None:
    world.place.rmdir()
    with pytest.raises(Problems, match="no such folder"):
        world.take()
    assert not world.place.exists()


def test_only_the_stacks_own_oldest_backups_are_removed(world: World) -> None:
    mine = [f"prod-2026010{day}T000000Z" for day in (1, 2, 3)]
    others = ["prod-old-20250101T000000Z", "a-folder-of-yours", "prod-20250101T000000Z"]
    for name in [*mine, *others]:
        (world.place / name).mkdir()
    for name in [*mine, others[0]]:
        (world.place / name / "manifest.json").write_text("{}")
    folder = places.Folder(world.place)
    assert places.of_stack("prod", folder.names()) == mine
    assert folder.prune("prod", 2) == mine[:1]
    assert names(world) == sorted([*mine[1:], *others])


def test_a_git_repository_keeps_backups(world: World) -> None:
    bare = world.folder / "bare.git"
    subprocess.run(["git", "init", "-q", "--bare", str(bare)], check=True)
    place = places.place(f"git+file://{bare}")
    first = world.take(place=place).backup
    assert world.restore(place=place).backup == first
    with place.writing("prod-20990101T000000Z") as folder:
        (folder / "manifest.json").write_text("{}")
    assert sorted(place.names()) == [first, "prod-20990101T000000Z"]
    assert place.prune("prod", 1) == [first]
    assert place.names() == ["prod-20990101T000000Z"]


def test_a_restic_repository_keeps_backups(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESTIC_PASSWORD", "x")
    monkeypatch.setenv("RESTIC_CACHE_DIR", str(world.folder / "cache"))
    place = places.place(f"restic:{world.folder / 'restic'}")
    first = world.take(place=place).backup
    assert world.restore(place=place).backup == first
    with place.writing("prod-20990101T000000Z") as folder:
        (folder / "manifest.json").write_text("{}")
    assert place.prune("prod", 1) == [first]


def test_a_restic_repository_is_made_by_a_backup_and_by_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.folder / "restic"
    (world.folder / "repository").write_text(f"{path}\n")
    monkeypatch.setenv("RESTIC_PASSWORD", "x")
    monkeypatch.setenv("RESTIC_REPOSITORY_FILE", str(world.folder / "repository"))
    place = places.place("restic:")  # the one that restic's own variable names
    assert "it is made" in (place.check() or "")
    with pytest.raises(Problems, match="unable to open config file"):
        place.names()
    assert not path.exists()
    with place.writing("prod-20990101T000000Z") as folder:
        (folder / "manifest.json").write_text("{}")
    assert place.check() is None
    monkeypatch.setenv("RESTIC_PASSWORD", "another")
    with pytest.raises(Problems, match="wrong password"):
        place.check()


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("git+https://me:s3cr%t@git.example.com/b.git", "credential helper"),
        ("git+https://ghp_s3cr%t@git.example.com/b.git", "credential helper"),
        ("restic:rest:https://me:s3cr%t@store.example.com:8000/", "RESTIC_REPOSITORY_FILE"),
        ("restic:s3:https://:s3cr%t@store.example.com/", "RESTIC_REPOSITORY_FILE"),
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(text: str, advice: str) -> None:
    with pytest.raises(Problems, match=advice) as caught:
        places.place(text)
    assert "s3cr" not in str(caught.value)
    assert "example.com" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["git+ssh://git@git.example.com:22/a:b@c.git", "git+git@git.example.com:b.git", "restic:sftp:me@example.com:/srv",
     "restic:s3:https://store.example.com:9000/b", "git+https://me@git.example.com/b.git", "/mnt/a:b@c"],
)  # fmt: skip
def test_an_address_without_a_password_is_a_place(text: str) -> None:
    assert places.place(text)


def test_a_tool_repeats_no_password_that_it_was_told_elsewhere(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.folder / "bin").mkdir()
    program = world.folder / "bin" / "git"
    program.write_text("#!/bin/sh\necho 'fatal: no https://me:s3cr%t@git.example.com/b.git' >&2\nexit 128\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    with pytest.raises(Problems, match="no https://[*]{3}@git.example.com") as caught:
        places.place("git+https://git.example.com/b.git").check()
    assert "s3cr" not in str(caught.value)


def test_a_place_that_does_not_answer_is_told_before_a_host_is_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "stream", None)
    with pytest.raises(Problems, match="does not answer"):
        world.take(place=places.place(f"git+file://{world.folder}/nothing"))
