"""Finds the Pulumi engine to use, or builds the pinned one from its Go module, once, into the cache.

What is put into a checkout is decided in `install`.  Standard library only: every script imports this module.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.engine import pins

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACKAGE = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
LANGUAGE_HOST = "pulumi-language-python"
# Without a version string the engine prints "" for `pulumi version`, which the Automation API refuses.
LINKER = f"-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v{pins.ENGINE}"
MODULE = Path(__file__).with_name("go")
REPORT_EVERY = 30.0  # seconds between two progress lines of a build


class EngineError(Exception):
    """There is no usable engine; the text says what to do."""


@dataclass(frozen=True)
class Engine:
    """An engine ready for use: its `pulumi`, and the PULUMI_HOME with the stand-ins when it needs one."""

    pulumi: Path
    home: Path | None
    official: bool

    def environment(self) -> dict[str, str]:
        """The variables under which a child process uses this engine, to be laid over those it inherits."""
        path = os.environ.get("PATH", os.defpath)
        variables = {"PATH": f"{self.pulumi.parent}{os.pathsep}{path}", "PULUMI_SKIP_UPDATE_CHECK": "true"}
        if self.home is not None:
            variables["PULUMI_HOME"] = str(self.home)
            # The stand-ins are all there is: a missing plugin is an error at once, not a download.
            variables["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] = "true"
        return variables


def find(checkout: Path) -> Engine:
    """The engine of this checkout: an official one on PATH, else what `install` has put there."""
    if pulumi := official():
        return Engine(pulumi, home=None, official=True)
    own = checkout.resolve() / ".engine"
    if not (own / "bin" / "pulumi").exists():
        raise EngineError(f"there is no Pulumi engine in {own / 'bin'} and no official one on PATH: run `make setup`")
    return Engine(own / "bin" / "pulumi", home=own / "home", official=False)


def official() -> Path | None:
    """The official `pulumi` on PATH that has its Python language host; one that is too old is refused."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    folders = [folder for folder in path if not _is_ours(folder)]
    found = shutil.which("pulumi", path=os.pathsep.join(folders))
    if not found:
        return None
    pulumi = Path(found)
    beside = (pulumi.parent, pulumi.resolve().parent)
    if not shutil.which(LANGUAGE_HOST, path=os.pathsep.join(map(str, [*beside, *folders]))):
        return None
    _refuse_old(pulumi)
    return pulumi


def _is_ours(folder: str) -> bool:
    """Whether a folder on PATH is the `.engine/bin` of a checkout, this one or another."""
    return Path(folder).resolve().parts[-2:] == (".engine", "bin")


def _refuse_old(pulumi: Path) -> None:
    text = version_of(pulumi)
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    if not match:
        raise EngineError(
            f"`{pulumi} version` prints {text!r}, expected a version such as v{pins.ENGINE}: "
            "install Pulumi again (https://www.pulumi.com/docs/install/) or take it off PATH"
        )
    if tuple(map(int, match.groups())) < tuple(map(int, pins.ENGINE.split("."))):
        raise EngineError(
            f"{pulumi} is version {text}, expected at least v{pins.ENGINE}: update it "
            "(https://www.pulumi.com/docs/install/), or take it off PATH and run `make setup`"
        )


def version_of(pulumi: Path) -> str:
    """What `pulumi version` prints."""
    environment = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    done = subprocess.run([pulumi, "version"], capture_output=True, text=True, check=False, env=environment)
    return done.stdout.strip() or done.stderr.strip()


# --- building ----------------------------------------------------------------


def cache() -> Path:
    """The folder for what is made once for all checkouts."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mailroom"


def built() -> Path:
    """Where the pinned engine is, once it is built; a change of any pin gives another place."""
    pinned = hashlib.sha256(f"{pins.GO}\n{LINKER}\n{sys.platform}-{platform.machine()}\n".encode())
    for name in ("go.mod", "go.sum"):
        pinned.update((MODULE / name).read_bytes())
    return cache() / "engine" / f"v{pins.ENGINE}-{pinned.hexdigest()[:12]}" / "pulumi"


def build(go: Path) -> Path:
    """The pinned engine from the cache, built there first when it is missing; `go` is the Go executable."""
    target = built()
    if target.exists():
        return target
    store = target.parent.parent
    store.mkdir(parents=True, exist_ok=True)
    with _locked(store / "lock"):
        if target.exists():  # another builder was faster
            return target
        for leftover in store.glob("building-*"):  # of a builder that was killed
            shutil.rmtree(leftover)
        _check_go(go)
        work = Path(tempfile.mkdtemp(prefix="building-", dir=store))
        try:
            _compile(go, work / "pulumi")
            work.chmod(0o755)
            work.rename(target.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another build of the Pulumi engine is running; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_go(go: Path) -> None:
    if not os.access(go, os.X_OK):
        raise EngineError(
            f"there is no Go at {go} to build the Pulumi engine with: run `make setup`, which "
            f"installs Go {pins.GO}, or install an official Pulumi, v{pins.ENGINE} or later"
        )
    question = [str(go), "env", "GOVERSION"]
    done = subprocess.run(question, capture_output=True, text=True, check=False, env=_environment())
    answer = done.stdout.strip() or done.stderr.strip()
    if answer != f"go{pins.GO}":
        raise EngineError(f"{go} is {answer!r}, expected go{pins.GO}: run `make setup`")


def _environment() -> dict[str, str]:
    """The build's environment: nothing a user has set may change what comes out."""
    settings = {"GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}
    return {**os.environ, **settings}


def _compile(go: Path, output: Path) -> None:
    _say(
        f"Building the Pulumi engine v{pins.ENGINE} from its Go module, because no official Pulumi is on "
        "PATH: its many packages take about 7 minutes on 2 cores, once for this machine."
    )
    command = [str(go), "build", "-v", "-trimpath", "-ldflags", LINKER, "-o", str(output), PACKAGE]
    start = time.monotonic()
    with subprocess.Popen(
        command, cwd=MODULE, env=_environment(), stderr=subprocess.PIPE, text=True, bufsize=1
    ) as child:
        last = _report(child.stderr or [])
    if child.returncode:
        raise EngineError(f"`{shlex.join(command)}` in {MODULE} failed:\n" + "\n".join(last))
    if (version := version_of(output)) != f"v{pins.ENGINE}":
        raise EngineError(f"the engine just built is {version!r}, expected v{pins.ENGINE}: run `make setup`")
    _say(f"Built the Pulumi engine in {time.monotonic() - start:.0f} s.")


def _report(lines: Iterable[str]) -> Iterable[str]:
    """Say now and then how far the build is; return its last lines, where an error would be."""
    start = reported = time.monotonic()
    last = deque[str](maxlen=20)
    for count, line in enumerate(lines, 1):
        last.append(line.rstrip())
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            _say(f"  {count} packages after {reported - start:.0f} s, now {line.strip()}")
    return last


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
