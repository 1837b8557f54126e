"""Which files go to a host, and under which digest; how they get there is the runner's job."""

from __future__ import annotations

import base64
import bz2
import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

COMPONENTS = Path(__file__).resolve().parent.parent
# Host scripts carry a shebang; what they import from one another on the host does not.
LIBRARIES = ("host/bootstrap.py", "host/firewall.py", "host/hostlib.py", "host/network.py", "host/sshd.py",
             "host/systems.py")  # fmt: skip
PACKAGES = {"policy": "chasquid/policy"}  # folder in the bundle -> the package it holds
DIRECTORY = "/usr/local/lib/mailroom"


@dataclass(frozen=True)
class Bundle:
    """All host scripts by file name, packages by `folder/file`; `digest` changes with any of them."""

    files: dict[str, str]

    @cached_property
    def digest(self) -> str:
        """Of names and texts."""
        return hashlib.sha256(self._text.encode()).hexdigest()[:12]

    @property
    def directory(self) -> str:
        """Where the scripts stand on the host."""
        return f"{DIRECTORY}/{self.digest}"

    @cached_property
    def packed(self) -> str:
        """What install_scripts.sh takes: the engine copies, logs and compares a step's input several times a run.

        By bzip2, which makes the same of it on every machine: zlib and xz have several implementations.
        """
        return base64.b64encode(bz2.compress(self._text.encode())).decode()

    @property
    def _text(self) -> str:
        return json.dumps(self.files, sort_keys=True)


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
