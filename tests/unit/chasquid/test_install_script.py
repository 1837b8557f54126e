"""Installing the program: only the pinned bytes, whole or not at all, and the one in use stays."""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import FakeHost

PROGRAMS = "usr/local/lib/mailroom/chasquid"


def program(version: str = "1.18.0") -> bytes:
    return f"#!/bin/sh\necho 'chasquid {version} (source date: x)'\n".encode()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def upload(host: FakeHost, chasquid: bytes, **members: bytes) -> dict[str, Any]:
    """Put a tar on the host; the payload that pins it."""
    files = {"chasquid": chasquid, "chasquid-util": b"util", **members}
    tar = host.root / "upload.tar"
    with tarfile.open(tar, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    pinned = {name: digest(files[name]) for name in ("chasquid", "chasquid-util")}
    return {"tar": str(tar), "sha256": pinned, "version": "1.18.0"}


@pytest.fixture(autouse=True)
def _runs_programs(host: FakeHost) -> None:
    """chasquid --version answers from the file itself."""
    import subprocess

    host.monkeypatch.setattr(
        host.modules["hostlib"],
        "run",
        lambda argv, **_: subprocess.run(argv, capture_output=True, text=True, check=False),
    )


def installed(host: FakeHost) -> set[str]:
    return {path.name for path in host.path(PROGRAMS).iterdir()}


def test_both_programs_are_installed_under_their_digest_and_the_upload_is_gone(host: FakeHost) -> None:
    payload = upload(host, program())
    answer = host.run("install_binary", payload)
    assert answer.stdout.startswith("changed: "), answer.stderr
    target = host.path(PROGRAMS) / digest(program())[:12]
    assert {path.name: path.stat().st_mode & 0o777 for path in target.iterdir()} == {
        "chasquid": 0o755,
        "chasquid-util": 0o755,
    }
    assert not (host.root / "upload.tar").exists()


def test_a_second_run_needs_no_upload(host: FakeHost) -> None:
    payload = upload(host, program())
    host.run("install_binary", payload)
    assert host.run("install_binary", payload).stdout == "ok: nothing to do\n"


def test_a_damaged_program_is_installed_again(host: FakeHost) -> None:
    host.run("install_binary", upload(host, program()))
    target = host.path(PROGRAMS) / digest(program())[:12] / "chasquid"
    target.write_bytes(b"damaged")
    assert host.run("install_binary", upload(host, program())).status == 0
    assert target.read_bytes() == program()


@pytest.mark.parametrize("name", ["chasquid", "chasquid-util"])
def test_another_digest_is_refused_and_nothing_installed(host: FakeHost, name: str) -> None:
    payload = upload(host, program())
    payload["sha256"][name] = "0" * 64
    answer = host.run("install_binary", payload)
    assert answer.status == 1
    assert f"expected sha256 {'0' * 64}" in answer.stderr
    assert not host.path(PROGRAMS).exists()


def test_a_file_that_escapes_from_the_tar_is_never_written(host: FakeHost) -> None:
    host.run("install_binary", upload(host, program(), **{"../../../../../escaped": b"x"}))
    assert not list(host.root.rglob("escaped"))


def test_a_program_that_does_not_run_here_is_refused(host: FakeHost) -> None:
    answer = host.run("install_binary", upload(host, b"\x7fELF for another machine"))
    assert answer.status == 1
    assert "uname -m" in answer.stderr
    assert not (host.path(PROGRAMS) / digest(b"\x7fELF for another machine")[:12]).exists()


def test_another_version_is_refused(host: FakeHost) -> None:
    assert "expected chasquid 1.18.0" in host.run("install_binary", upload(host, program("1.17.0"))).stderr


def test_a_missing_upload_says_what_to_do(host: FakeHost) -> None:
    payload = upload(host, program())
    (host.root / "upload.tar").unlink()
    answer = host.run("install_binary", payload)
    assert answer.status == 1
    assert "pulumi up" in answer.stderr


def test_programs_that_a_release_refers_to_are_kept_and_others_removed(host: FakeHost) -> None:
    for name in ("running", "forgotten"):
        host.path(f"{PROGRAMS}/{name}").mkdir(parents=True)
    release = host.path("etc/mailroom/releases/one")
    release.mkdir(parents=True)
    (release / "bin").symlink_to(host.path(f"{PROGRAMS}/running"))
    host.run("install_binary", upload(host, program()))
    assert installed(host) == {"running", digest(program())[:12]}


def test_a_run_killed_anywhere_is_finished_by_the_next(host: FakeHost) -> None:
    step = 0
    while host.killed_at(step, lambda: host.run("install_binary", upload(host, program()))):
        assert host.run("install_binary", upload(host, program())).status == 0
        assert installed(host) == {digest(program())[:12]}
        for path in (host.path(PROGRAMS) / digest(program())[:12]).iterdir():
            path.unlink()
        step += 1
    assert step > 3
