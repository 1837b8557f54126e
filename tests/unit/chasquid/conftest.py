"""A host in a temporary folder: the scripts as the flat modules they are there, systemd as a stand-in."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[3]
ROOMS = ("host", "certificates", "chasquid")
SCRIPTS = (
    *("probe", "policy_units", "stage", "install_binary", "activate", "verify_users", "uninstall"),
    *("prepare", "certificate", "backup", "restore"),
)
CHANGING = ("restart", "start", "stop", "kill", "enable", "disable", "daemon-reload")


class Killed(BaseException):
    """What kill -9 is to a script: nothing after it runs."""


@dataclass
class Answer:
    """How a script ended."""

    status: int
    stdout: str
    stderr: str


@dataclass
class Systemd:
    """Answers systemctl as systemd does, as far as the scripts look; a process is a folder in `proc`."""

    root: Path
    said: list[str] = field(default_factory=list)
    pid: int = 0
    enabled: bool = False
    reread: Path | None = None  # where the running process has read its lists from
    policy: list[str] = field(default_factory=list)  # what was asked about the sender policy's units

    def run(self, argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if argv[0] != "systemctl":  # nft has no table of ours
            return subprocess.CompletedProcess(argv, 1 if argv[0] == "nft" else 0, "", "")
        verb = argv[1]
        if any(unit.startswith("mailroom-policy") for unit in argv):
            self.policy += [verb] * (verb in CHANGING)
            return self.policy_units(argv)
        if verb in CHANGING:
            self.said.append(verb)
        answer = getattr(self, f"do_{verb.replace('-', '_')}", lambda _: 0)(argv)
        status, text = answer if isinstance(answer, tuple) else (answer, "")
        return subprocess.CompletedProcess(argv, status, text, "")

    def policy_units(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        process = self.root / "proc" / "9"
        if argv[1:] == ["restart", "mailroom-policy.service"]:
            process.mkdir(exist_ok=True)
            (process / "cwd").unlink(missing_ok=True)
            (process / "cwd").symlink_to((self.root / "etc/mailroom/current/scripts").readlink())
        state = "active" if process.is_dir() else "inactive"
        return subprocess.CompletedProcess(argv, 0, f"ActiveState={state}\nMainPID=9\n", "")

    def do_show(self, _: list[str]) -> tuple[int, str]:
        return 0, f"ActiveState={'active' if self.pid else 'inactive'}\nMainPID={self.pid}\n"

    def do_is_enabled(self, _: list[str]) -> int:
        return 0 if self.enabled else 1

    def do_enable(self, _: list[str]) -> int:
        self.enabled = True
        return 0

    def do_disable(self, _: list[str]) -> int:
        self.enabled, self.pid = False, 0
        return 0

    def do_stop(self, _: list[str]) -> int:
        self.pid = 0
        return 0

    def do_kill(self, _: list[str]) -> int:
        self.reread = (self.root / "etc/mailroom/current").resolve()
        return 0

    def do_restart(self, _: list[str]) -> int:
        release = (self.root / "etc/mailroom/current").resolve()
        self.pid = 100 + self.said.count("restart")
        process = self.root / "proc" / str(self.pid)
        process.mkdir(parents=True)
        (process / "cwd").symlink_to(release)
        (process / "exe").symlink_to((release / "bin").readlink() / "chasquid")
        self.reread = release
        return 0


@dataclass
class FakeHost:
    """The folders of one host and its systemd."""

    root: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    modules: dict[str, Any]
    systemd: Systemd

    def path(self, name: str) -> Path:
        return self.root / name

    def run(self, script: str, payload: object) -> Answer:
        self.monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(payload)))
        status = 0
        try:
            self.modules[script].main()
        except SystemExit as end:
            status = int(end.code or 0)
        said = self.capsys.readouterr()
        return Answer(status, said.out, said.err)

    def killed_at(self, step: int, action: Callable[[], object]) -> bool:
        """Run `action`, killed before its `step`-th change of the host; False if it needed fewer."""
        left = [step]

        def counted(original: Callable[..., Any]) -> Callable[..., Any]:
            def change(*args: Any, **options: Any) -> Any:
                if args[0] == "systemctl" or (isinstance(args[0], list) and args[0][1] not in CHANGING):
                    return original(*args, **options)
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return original(*args, **options)

            return change

        hostlib = self.modules["hostlib"]
        with self.monkeypatch.context() as patch:
            for name in ("point", "write_file", "make_directory", "run"):
                patch.setattr(hostlib, name, counted(getattr(hostlib, name)))
            for name in ("unlink", "touch", "rename"):
                patch.setattr(Path, name, counted(getattr(Path, name)))
            try:
                action()
            except Killed:
                return True
        return False


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> FakeHost:
    """A host without anything of ours; ownership, which needs root, is proven on real machines."""
    names = ("hostlib", "bootstrap", "firewall", "network", "sshd", "access", "guard", "deploy_hook", *SCRIPTS)
    for room in ROOMS:
        monkeypatch.syspath_prepend(str(ROOT / "components" / room))
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    modules = {name: importlib.import_module(name) for name in names}
    for module in modules.values():
        for name, value in vars(module).copy().items():
            if name.isupper() and isinstance(value, Path) and value.is_absolute():
                monkeypatch.setattr(module, name, tmp_path / str(value).lstrip("/"))
    for folder in ("etc/systemd/system", "etc/mailroom/certs", "proc", "run", "usr/local/lib/mailroom", "var/lib"):
        (tmp_path / folder).mkdir(parents=True)
    systemd = Systemd(tmp_path)
    monkeypatch.setattr(modules["hostlib"], "run", systemd.run)
    monkeypatch.setattr(modules["hostlib"].shutil, "chown", lambda *_, **__: None)
    monkeypatch.setattr(modules["hostlib"].os, "fsync", lambda _: None)
    monkeypatch.setattr(modules["hostlib"], "_is_as_wanted", lambda path, data, mode, *_: as_wanted(path, data, mode))
    monkeypatch.setattr(modules["activate"], "probe", modules["activate"].other_program)
    monkeypatch.setattr(modules["activate"], "RELOAD_LIMIT", 0)
    monkeypatch.setattr(modules["activate"], "START_LIMIT", 0)
    monkeypatch.setattr(modules["activate"], "run_trial", lambda *_: None)
    monkeypatch.setattr(modules["activate"], "as_service", list)
    monkeypatch.setattr(modules["activate"].time, "sleep", lambda _: None)
    return FakeHost(tmp_path, monkeypatch, capsys, modules, systemd)


def as_wanted(path: Path, data: bytes, mode: int) -> bool:
    return path.is_file() and path.stat().st_mode & 0o7777 == mode and path.read_bytes() == data
