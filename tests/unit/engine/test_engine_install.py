"""A checkout gets its engine and launchers where the engine looks for them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from lab.engine import pins
from lab.engine.install import install, make_home

ROOT = Path(__file__).parents[3]


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    path = tmp_path / "cache" / "pulumi"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_the_engine_is_no_symbolic_link_and_has_the_hosts_beside_it(cached: Path, tmp_path: Path) -> None:
    engine = install(tmp_path, cached)
    assert engine.pulumi.samefile(cached)
    assert not engine.pulumi.is_symlink()
    names = {path.name for path in engine.pulumi.parent.iterdir() if os.access(path, os.X_OK)}
    assert names == {"pulumi", "pulumi-language-python", "pulumi-resource-pulumi-python"}


def test_where_a_hard_link_is_impossible_the_engine_is_copied(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    engine = install(tmp_path, cached)
    assert not engine.pulumi.samefile(cached)
    assert os.access(engine.pulumi, os.X_OK)
    before = snapshot(tmp_path / ".engine")
    install(tmp_path, cached)
    assert snapshot(tmp_path / ".engine") == before


def test_a_second_installation_changes_nothing_and_costs_nothing(cached: Path, tmp_path: Path) -> None:
    install(tmp_path, cached)
    before = snapshot(tmp_path / ".engine")
    start = time.process_time()
    install(tmp_path, cached)
    assert time.process_time() - start < 0.05
    assert snapshot(tmp_path / ".engine") == before


def test_a_new_engine_takes_the_place_of_the_old_one(cached: Path, tmp_path: Path) -> None:
    install(tmp_path, cached)
    newer = tmp_path / "newer"
    newer.write_text("#!/bin/sh\necho newer\n")
    assert install(tmp_path, newer).pulumi.read_text() == newer.read_text()
    assert cached.read_text() == "#!/bin/sh\n"  # the one in the cache is not written to


def test_a_home_holds_each_provider_under_the_version_its_sdk_asks_for(tmp_path: Path) -> None:
    make_home(tmp_path, tmp_path / "home")
    for name in pins.PLUGINS:
        version = metadata.version(f"pulumi-{name}")
        launcher = tmp_path / f"home/plugins/resource-{name}-v{version}/pulumi-resource-{name}"
        assert os.access(launcher, os.X_OK)


@pytest.mark.parametrize("module", ["language", "command", "cloudflare"])
def test_a_stand_in_starts_without_the_sdk_and_without_an_ssh_library(module: str) -> None:
    code = (
        "import os, sys; from lab.engine.start import main\n"
        "unwanted, leave = {'pulumi.resource', 'asyncssh', 'http.client'}, os._exit\n"
        "os._exit = lambda code: (print(unwanted & set(sys.modules), flush=True), leave(code))\n"
        f"main({module!r})"
    )
    command = [sys.executable, "-c", code, "127.0.0.1:1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as plugin:
        assert plugin.stdout is not None
        assert plugin.stdout.readline().strip().isdecimal()
        plugin.terminate()
        assert plugin.stdout.read().strip() == "set()"


def test_a_launcher_serves_its_stand_in_in_a_path_with_spaces(tmp_path: Path) -> None:
    checkout = tmp_path / "a check'out"
    (checkout / ".venv/bin").mkdir(parents=True)
    wrapper = checkout / ".venv/bin/python"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    (checkout / "lab").symlink_to(ROOT / "lab")
    make_home(checkout, checkout / "home")
    (launcher,) = (checkout / "home/plugins").glob("resource-command-*/pulumi-resource-command")
    with subprocess.Popen([launcher, "127.0.0.1:1"], stdout=subprocess.PIPE, text=True) as plugin:
        assert plugin.stdout is not None
        assert plugin.stdout.readline().strip().isdecimal()
        plugin.terminate()
        assert plugin.wait(10) == 0


@pytest.mark.parametrize("what", ["command", "dynamic"])
def test_a_plugin_leaves_when_its_engine_is_killed(what: str) -> None:
    start = {
        "command": f"[{sys.executable!r}, '-c', 'from lab.engine.start import main; main(\"command\")', '127.0.0.1:1']",
        "dynamic": f"[{sys.executable!r}, '-u', 'lab/engine/dynamic.py', '127.0.0.1:1']",
    }[what]
    engine = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen({start}, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", engine], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        plugin = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _runs(plugin):
        time.sleep(0.05)
    assert not _runs(plugin)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
