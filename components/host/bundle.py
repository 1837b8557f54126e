"""Which files go to a host, and under which digest; how they get there is the runner's job."""

from __future__ import annotations

import hashlib
import json
import shlex
import tempfile
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from components.cache import cache_folder

COMPONENTS = Path(__file__).resolve().parent.parent
# Host scripts carry a shebang; what they import from one another on the host does not.
LIBRARIES = ("host/bootstrap.py", "host/firewall.py", "host/hostlib.py", "host/network.py", "host/sshd.py",
             "host/systems.py")  # fmt: skip
PACKAGES = {"policy": "chasquid/policy"}  # folder in the bundle -> the package it holds
DIRECTORY = "/usr/local/lib/mailroom"
INSTALL_SCRIPTS = Path(__file__).with_name("install_scripts.sh")


@dataclass(frozen=True)
class Bundle:
    """All host scripts by file name, packages by `folder/file`; `digest` changes with any of them."""

    files: dict[str, str]

    @cached_property
    def digest(self) -> str:
        """Of names and texts."""
        return _sha256(self.text)[:12]

    @property
    def directory(self) -> str:
        """Where the scripts stand on the host."""
        return f"{DIRECTORY}/{self.digest}"

    @cached_property
    def text(self) -> str:
        """What install_scripts.sh takes: JSON."""
        return json.dumps(self.files, sort_keys=True)

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each file, in hex: what a host checks, and a preview compares."""
        return {name: _sha256(text) for name, text in self.files.items()}

    @property
    def remote_path(self) -> str:
        """Where it is uploaded to, from home, where nobody else can put a link; the installing step verifies it."""
        return f".mailroom-scripts-{self.digest}.json"

    def file(self) -> Path:
        """`text` as a file in this machine's cache: a text in a step the engine copies and logs many times a run."""
        path = cache_folder("scripts") / f"{self.digest}.json"
        if not path.is_file() or path.read_bytes() != self.text.encode():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as fresh:
                fresh.write(self.text)
            Path(fresh.name).replace(path)
        return path

    def installer(self, uploaded: str = "") -> str:
        """The command that installs it on a host: from a file there, checked by `digests` on stdin, else from stdin."""
        words = [INSTALL_SCRIPTS.read_text(encoding="utf-8"), "install_scripts", self.directory, uploaded]
        return f"sh -c {shlex.join(word for word in words if word)}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def is_host_script(path: Path) -> bool:
    """Whether `path` runs on hosts: it says so in its first line (install_scripts.sh brings the bundle itself)."""
    return path.read_text(encoding="utf-8").startswith("#!")


def scripts() -> list[Path]:
    """What stands flat on a host: scripts, and what they import."""
    paths = [path for path in sorted(COMPONENTS.glob("*/*.py")) if is_host_script(path)]
    return paths + [COMPONENTS / name for name in LIBRARIES]


def modules() -> dict[str, Path]:
    """The packages' modules, as `folder/file`."""
    return {
        f"{folder}/{path.name}": path
        for folder, package in PACKAGES.items()
        for path in sorted((COMPONENTS / package).glob("*.py"))
    }


@cache
def bundle() -> Bundle:
    """Collect the scripts of every part; two of one name are a programming error."""
    paths = scripts()
    files = {path.name: path.read_text(encoding="utf-8") for path in paths}
    if len(files) != len(paths):
        raise ValueError(f"two host scripts share a file name: {sorted(path.name for path in paths)}")
    return Bundle(files | {name: path.read_text(encoding="utf-8") for name, path in modules().items()})
