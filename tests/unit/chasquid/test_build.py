"""Building the pinned program: one digest or none."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from components.chasquid import build

PROGRAMS = {"chasquid": b"server", "chasquid-util": b"util"}


@pytest.fixture
def pins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Pins of the two programs above, an empty cache, and a compiler that counts its runs."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in PROGRAMS.items()}
    pinned = build.pins() | {"sha256": {"amd64": digests, "arm64": digests}, "runs": 0}

    def compile_programs(*_: object) -> dict[str, bytes]:
        pinned["runs"] += 1
        return dict(PROGRAMS)

    monkeypatch.setattr(build, "pins", lambda: pinned)
    monkeypatch.setattr(build, "compile_programs", compile_programs)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return pinned


def test_the_tar_holds_both_programs_and_nothing_that_changes(pins: dict[str, Any]) -> None:
    path = build.build("amd64", "go")
    with tarfile.open(path) as tar:
        found = {member.name: (member.mode, member.mtime, member.uid, member.uname) for member in tar}
    assert found == dict.fromkeys(PROGRAMS, (0o755, 0, 0, ""))
    assert path.read_bytes() == build.packed(dict(reversed(PROGRAMS.items())))
    assert pins["runs"] == 1


def test_a_build_in_the_cache_is_not_built_again(pins: dict[str, Any]) -> None:
    build.build("amd64", "go")
    build.build("amd64", "go")
    assert pins["runs"] == 1


def test_a_damaged_build_in_the_cache_is_built_again(pins: dict[str, Any]) -> None:
    path = build.build("amd64", "go")
    good = path.read_bytes()
    path.write_bytes(good.replace(b"server", b"SERVER"))
    assert build.build("amd64", "go").read_bytes() == good
    path.write_bytes(good[:700])
    assert build.build("amd64", "go").read_bytes() == good


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_another_digest_is_refused_and_nothing_kept(pins: dict[str, Any], name: str) -> None:
    pins["sha256"]["amd64"] = pins["sha256"]["amd64"] | {name: "0" * 64}
    with pytest.raises(build.BuildError, match=f"{name} for amd64 .* expected {'0' * 64}"):
        build.build("amd64", "go")
    assert not build.release("amd64").tar.exists()


def test_a_module_with_another_checksum_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    said = '{"Sum": "h1:other=", "Dir": "/nowhere"}'
    monkeypatch.setattr(
        build, "_go", lambda _, arguments, *__: said if "download" in arguments else pytest.fail("built")
    )
    with pytest.raises(build.BuildError, match="h1:other="):
        build.compile_programs("amd64", "go")


def test_every_architecture_has_its_own_pins() -> None:
    amd64, arm64 = build.release("amd64"), build.release("arm64")
    assert set(amd64.sha256) == set(arm64.sha256) == set(build.COMMANDS)
    assert amd64.directory_name != arm64.directory_name
    assert amd64.tar != arm64.tar
    assert amd64.remote_path != arm64.remote_path


def test_the_command_line_says_what_is_wrong_in_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.main(["--arch", "amd64", "--go", str(tmp_path / "no-go")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {tmp_path}/no-go cannot be run")


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_a_real_build_has_the_pinned_digests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arch: str) -> None:
    go = build.release(arch).tar.parents[1] / f"go-{build.pins()['go']}" / "bin" / "go"
    assert go.is_file(), "the pinned Go is missing: run `make setup`"
    compiled = subprocess.check_output([go, "env", "GOCACHE"], text=True).strip()
    monkeypatch.setenv("GOCACHE", compiled)  # tests/lab/test_supply_chain.py builds with an empty one
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.build(arch, str(go)).is_file()


@pytest.mark.parametrize("name", build.MENDED)
def test_a_module_that_cannot_be_mended_as_reviewed_is_not_built(tmp_path: Path, name: str) -> None:
    for file, (before, _) in build.MENDED.items():
        (tmp_path / "module" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "module" / file).write_text(f"func f() {{\n{before}\t}}\n}}\n")
    before, after = build.MENDED[name]
    made = Path(build.mended(tmp_path / "module", tmp_path / "copy"))
    assert (made / name).read_text() == f"func f() {{\n{after}\t}}\n}}\n"
    file = tmp_path / "module" / name
    assert before in file.read_text(), "the module itself stays as it is"
    file.write_text("func f() {}\n")
    with pytest.raises(build.BuildError, match=f"{name}.*review MENDED"):
        build.mended(tmp_path / "module", tmp_path / "again")
