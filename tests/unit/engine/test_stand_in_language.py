"""The language host runs programs and answers as the official one does."""

from __future__ import annotations

import asyncio
import sys
from importlib import metadata
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from lab.engine import values
from lab.engine.language import Language
from lab.engine.rpc import proto

if TYPE_CHECKING:
    from pathlib import Path


class RefusedError(Exception):
    """What the engine would show."""


async def _abort(code: Any, text: str) -> None:
    raise RefusedError(text)


def call(method: str, request: Any) -> Any:
    async def scenario() -> Any:
        return await getattr(Language("127.0.0.1:1"), method)(request, SimpleNamespace(abort=_abort))

    return asyncio.run(scenario())


def info(project: Path, **options: Any) -> Any:
    return proto.ProgramInfo(
        root_directory=str(project), program_directory=str(project), entry_point=".", options=values.struct(options)
    )


def run(project: Path, program: str, **options: Any) -> Any:
    """Run a program whose Pulumi SDK is a stub in its folder; the SDK's own behaviour is no matter here."""
    (project / "__main__.py").write_text(program)
    request = proto.RunRequest(
        info=info(project, **{"virtualenv": sys.prefix, **options}),
        pwd=str(project),
        project="mail",
        stack="dev",
        parallel=4,
        dryRun=True,
        config={"mail:greeting": "hello", "mail:password": "canary"},
        configSecretKeys=["mail:password"],
    )
    return call("Run", request)


@pytest.fixture
def stubbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder, and before all else on the program's path an SDK that only notes what it is told."""
    stub = tmp_path / "stub" / "pulumi"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text(
        "import sys, types\n"
        "class RunError(Exception): pass\n"
        "def error(text): open(sys.path_of_log, 'a').write(text)\n"
        "log = types.SimpleNamespace(error=error)\n"
        f"sys.path_of_log = {str(tmp_path / 'log')!r}\n"
    )
    (stub / "runtime.py").write_text(
        "import json, os\n"
        "get_config_env = lambda: json.loads(os.environ['PULUMI_CONFIG'])\n"
        "get_config_secret_keys_env = lambda: json.loads(os.environ['PULUMI_CONFIG_SECRET_KEYS'])\n"
        "def set_all_config(config, secret): globals().update(config=config, secret=secret)\n"
        "class Settings:\n"
        "    def __init__(self, **given): self.given = given\n"
        "def configure(settings): globals().update(settings=settings.given)\n"
        "async def run_in_stack(program): program()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(stub.parent))
    project = tmp_path / "project"
    project.mkdir()
    return project


def log(project: Path) -> str:
    path = project.parent / "log"
    return path.read_text() if path.exists() else ""


def test_a_program_gets_its_configuration_its_settings_and_its_own_folder(stubbed: Path) -> None:
    program = (
        "import json, os, sys, pulumi.runtime as r\n"
        "venv = os.environ['VIRTUAL_ENV']\n"
        "print(json.dumps([r.config, r.secret, r.settings, os.getcwd(), venv, sys.argv]), file=open('seen', 'w'))\n"
    )
    assert run(stubbed, program) == proto.RunResponse()
    text = (stubbed / "seen").read_text()
    assert '"mail:password": "canary"' in text
    assert '["mail:password"]' in text
    for fact in ('"project": "mail"', '"dry_run": true', '"engine": "127.0.0.1:1"', str(stubbed), sys.prefix):
        assert fact in text


def test_the_program_does_not_see_the_stand_ins(stubbed: Path) -> None:
    program = "import sys; assert not any('lab/engine' in p for p in sys.path), sys.path"
    assert run(stubbed, program) == proto.RunResponse()


def test_a_run_error_is_a_message_and_an_exit_code(stubbed: Path) -> None:
    answer = run(stubbed, "import pulumi; raise pulumi.RunError('mailroom:hosts is missing')")
    assert (answer.error, answer.bail) == ("program exited with non-zero exit code: 1", False)
    assert log(stubbed) == "mailroom:hosts is missing"


def test_any_other_error_is_a_traceback_from_the_programs_own_frame_on(stubbed: Path) -> None:
    answer = run(stubbed, "def inner():\n    1 / 0\ninner()\n")
    assert (answer.error, answer.bail) == ("", True)
    assert "ZeroDivisionError" in log(stubbed)
    assert "in inner" in log(stubbed)
    assert "program.py" not in log(stubbed)


def test_a_cancelled_program_ends_without_a_traceback(stubbed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    slow_end = "class Slow:\n  write = len\n  flush = lambda _: time.sleep(0.3)\n"
    program = f"import sys, time\n{slow_end}sys.stdout = Slow()\nopen('started', 'w').close()\ntime.sleep(30)\n"
    (stubbed / "__main__.py").write_text(program)
    request = proto.RunRequest(info=info(stubbed, virtualenv=sys.prefix), pwd=str(stubbed), parallel=1)

    async def scenario() -> Any:
        host = Language("127.0.0.1:1")
        running = asyncio.create_task(host.Run(request, SimpleNamespace(abort=_abort)))
        while not (stubbed / "started").exists():
            await asyncio.sleep(0.02)
        for _ in range(2):  # as the engine does: its own cancellation, then that of the call
            await host.Cancel(None, None)
            await asyncio.sleep(0.1)
        return await running

    assert asyncio.run(scenario()).error == "program exited with non-zero exit code: 130"
    assert "Traceback" not in capfd.readouterr().err


def test_every_installed_sdk_asks_for_its_plugin_used_or_not(tmp_path: Path) -> None:
    request = proto.GetRequiredPackagesRequest(info=info(tmp_path, virtualenv=sys.prefix))
    found = {package.name: package.version for package in call("GetRequiredPackages", request).packages}
    assert found == {name: "v" + metadata.version(f"pulumi-{name}") for name in ("command", "cloudflare")}


@pytest.mark.parametrize("options", [{"toolchain": "uv"}, {"toolchain": "pip", "typechecker": "mypy"}])
def test_what_the_stand_in_cannot_do_is_refused(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(RefusedError, match="pip toolchain only, and no type checker"):
        run(tmp_path, "", **options)


def test_a_missing_virtual_environment_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r'set to ".venv", but there is no Python in it: run `pulumi install`'):
        run(tmp_path, "", virtualenv=".venv")
