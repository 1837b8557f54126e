"""What goes to a host, and how it stands there: scripts that run, modules that are only imported."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

subject = importlib.import_module("components.host.bundle")  # the package has a function of that name
FILES = {"run.py": "#!/usr/bin/python3\n", "lib.py": "A = 1\n", "policy/service.py": "B = 2\n"}


@pytest.fixture
def components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of components of its own, with one script and one package."""
    for name, text in {
        "host/hostlib.py": "",
        "host/run.py": "#!x",
        "host/not.py": "",
        "chasquid/policy/a.py": "A",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(subject, "COMPONENTS", tmp_path)
    monkeypatch.setattr(subject, "LIBRARIES", ("host/hostlib.py",))
    subject.bundle.cache_clear()
    yield tmp_path
    subject.bundle.cache_clear()


def test_scripts_libraries_and_packages_go_and_nothing_else(components: Path) -> None:
    assert set(subject.bundle().files) == {"run.py", "hostlib.py", "policy/a.py"}


def test_a_changed_module_of_a_package_is_another_bundle(components: Path) -> None:
    before = subject.bundle().digest
    (components / "chasquid/policy/a.py").write_text("B")
    subject.bundle.cache_clear()
    assert subject.bundle().digest != before


def test_two_scripts_of_one_name_are_refused(components: Path) -> None:
    (components / "chasquid/run.py").write_text("#!y")
    with pytest.raises(ValueError, match="share a file name"):
        subject.bundle()


def install(target: Path, files: dict[str, str]) -> str:
    argv = ["sh", str(subject.INSTALL_SCRIPTS), str(target)]
    return subprocess.run(argv, input=subject.Bundle(files).text, capture_output=True, text=True, check=True).stdout


def install_upload(target: Path, upload: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    argv = ["sh", str(subject.INSTALL_SCRIPTS), str(target), str(upload)]
    digests = json.dumps(subject.Bundle(files).digests)
    return subprocess.run(argv, input=digests, capture_output=True, text=True, check=False)


def test_an_uploaded_bundle_is_installed_and_the_upload_removed(tmp_path: Path) -> None:
    upload = tmp_path / "upload.json"
    upload.write_text(subject.Bundle(FILES).text)
    assert install_upload(tmp_path / "0123", upload, FILES).returncode == 0
    assert (tmp_path / "0123/policy/service.py").read_text() == FILES["policy/service.py"]
    assert not upload.exists()


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(FILES | {"run.py": "#!/bin/evil"}),
        json.dumps(FILES | {"more.py": ""}),
        json.dumps({}),
        "{",
        "[]",
        None,
    ],
    ids=["another text", "one more", "none", "no JSON", "no names", "no file"],
)
def test_an_upload_that_is_not_what_was_sent_is_refused_and_nothing_changes(tmp_path: Path, text: str | None) -> None:
    upload = tmp_path / "upload.json"
    if text is not None:
        upload.write_text(text)
    done = install_upload(tmp_path / "0123", upload, FILES)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {upload} ")
    assert 'pulumi up --replace "**/bundle"' in done.stderr
    assert not (tmp_path / "0123").exists()
    assert not (tmp_path / "current").is_symlink()


def test_a_step_that_ran_already_needs_no_upload(tmp_path: Path) -> None:
    install(tmp_path / "0123", FILES)
    assert install_upload(tmp_path / "0123", tmp_path / "upload.json", FILES).returncode == 0


def test_the_file_to_upload_is_made_once_and_again_when_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = subject.Bundle(FILES)
    made = bundle.file()
    assert json.loads(made.read_text()) == FILES
    inode = made.stat().st_ino
    assert bundle.file().stat().st_ino == inode
    made.write_text(made.read_text().replace("1", "2"))
    assert json.loads(bundle.file().read_text()) == FILES
    assert os.listdir(made.parent) == [made.name]


def test_scripts_can_run_and_modules_cannot_whatever_the_umask(tmp_path: Path) -> None:
    target = tmp_path / "lib" / "0123"
    before = os.umask(0o077)
    try:
        install(target, FILES)
    finally:
        os.umask(before)
    found = {str(path.relative_to(target)): path.stat().st_mode & 0o777 for path in target.rglob("*")}
    assert found == {"run.py": 0o755, "lib.py": 0o644, "policy": 0o755, "policy/service.py": 0o644}
    assert (tmp_path / "lib").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "lib" / "current").resolve() == target


def test_a_bundle_that_stands_is_left_alone(tmp_path: Path) -> None:
    install(tmp_path / "0123", FILES)
    inode = (tmp_path / "0123" / "run.py").stat().st_ino
    install(tmp_path / "0123", FILES)
    assert (tmp_path / "0123" / "run.py").stat().st_ino == inode


def test_what_a_killed_run_left_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "0123.new").mkdir()
    (tmp_path / "0123.new" / "half.py").touch()
    install(tmp_path / "0123", FILES)
    assert not (tmp_path / "0123" / "half.py").exists()
