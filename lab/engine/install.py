"""Puts the built engine and the stand-ins' launchers into a checkout; finding and building is `build`'s.

Layout: `.engine/bin` holds `pulumi` itself and, beside it, the language host and the dynamic provider, which
the engine then takes without a word; `.engine/home` is a PULUMI_HOME whose plugin cache holds the providers.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from typing import TYPE_CHECKING

from lab.engine import pins
from lab.engine.build import Engine

if TYPE_CHECKING:
    from pathlib import Path

# The SDK's dynamic provider must run with the program's own interpreter, which the engine names.
DYNAMIC = """#!/bin/sh
python=${PULUMI_PYTHON_CMD:-python3}
case ${PULUMI_RUNTIME_VIRTUALENV:-} in
    "") ;;
    /*) python=$PULUMI_RUNTIME_VIRTUALENV/bin/python ;;
    *) python=$PWD/$PULUMI_RUNTIME_VIRTUALENV/bin/python ;;
esac
exec "$python" -u DYNAMIC "$@"
"""


def install(checkout: Path, cached: Path) -> Engine:
    """Make `.engine` of the checkout complete, from the engine in the cache; cheap when it already is."""
    root = checkout.resolve()
    own = root / ".engine"
    _put_engine(cached, own / "bin" / "pulumi")
    _put_script(own / "bin" / "pulumi-language-python", _launcher(root, "language"))
    dynamic = DYNAMIC.replace("DYNAMIC", shlex.quote(str(root / "lab/engine/dynamic.py")))
    _put_script(own / "bin" / "pulumi-resource-pulumi-python", dynamic)
    make_home(root, own / "home")
    return Engine(own / "bin" / "pulumi", home=own / "home", official=False)


def make_home(checkout: Path, home: Path) -> None:
    """Make a PULUMI_HOME whose plugin cache holds the stand-ins; every lab has its own."""
    for name, version in pins.PLUGINS.items():
        folder = home / "plugins" / f"resource-{name}-v{version}"
        _put_script(folder / f"pulumi-resource-{name}", _launcher(checkout.resolve(), name))


def _launcher(root: Path, module: str) -> str:
    """A script that runs one of our modules with the checkout's interpreter, deaf to PYTHON* variables."""
    start = f"import sys; sys.path.insert(0, {str(root)!r}); from lab.engine.start import main; main({module!r})"
    return f'#!/bin/sh\nexec {shlex.quote(str(root / ".venv/bin/python"))} -I -c {shlex.quote(start)} "$@"\n'


def _put_script(path: Path, text: str) -> None:
    if path.is_file() and path.read_text() == text and os.access(path, os.X_OK):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as new:
        new.write(text)
    os.chmod(new.name, 0o755)  # noqa: S103  (a program for everyone, with nothing secret in it)
    os.replace(new.name, path)


def _put_engine(cached: Path, path: Path) -> None:
    """A hard link, else a copy; never a symbolic link, beside whose target the engine would look."""
    if path.is_file():
        there, wanted = path.stat(), cached.stat()
        if (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        os.link(cached, new)
    except OSError:
        shutil.copy2(cached, new)
    os.replace(new, path)
