"""Writes a file of the operator's whole: a reader, or a killed run, finds the old text or the new one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Replace `path`, which keeps its mode, in one rename; a link keeps leading to it. Raises `OSError`."""
    path = path.resolve()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder) / path.name
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, fresh)
        fresh.replace(path)
