"""The server as it is mended, by the tests in mended/, which its own compiler runs."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from pathlib import Path

from components.chasquid import build

TESTS = {path.name.removesuffix("_test.go"): path for path in Path(__file__).with_name("mended").glob("*_test.go")}


def test_the_mended_server_asks_the_policy_and_tells_a_guesser_nothing(tmp_path: Path) -> None:
    pinned = build.pins()
    arch = {"aarch64": "arm64"}.get(platform.machine(), "amd64")
    go = build.release(arch).tar.parents[1] / f"go-{pinned['go']}" / "bin" / "go"
    (tmp_path / "go.mod").write_text("module mailroom.invalid/chasquid\n\ngo 1.25\n")
    download = [go, "mod", "download", "-json", f"{pinned['module']}@v{pinned['version']}"]
    found = json.loads(subprocess.check_output(download, cwd=tmp_path))
    source = Path(build.mended(Path(found["Dir"]), tmp_path / "source"))
    for package, ours in TESTS.items():
        for theirs in (source / "internal" / package).glob("*_test.go"):  # some bring servers up
            theirs.unlink()
        shutil.copy(ours, source / "internal" / package)
    done = subprocess.run(
        [go, "test", "-vet=off", "-trimpath", "-count=1", *(f"./internal/{package}" for package in TESTS)],
        cwd=source, env=build.environment(arch), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == len(TESTS) == 2
