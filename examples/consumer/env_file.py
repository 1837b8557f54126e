#!/usr/bin/python3
"""Writes the application's .env file (settings as JSON on standard input), or removes the one that it wrote."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path

# Quotes, backslashes and line breaks are read one way here and another there. dotenv-expand, which Node programs add
# to dotenv, puts variables in for $NAME and ${NAME}, in single quotes, too.
READ_DIFFERENTLY = re.compile(r"['\n\r\\\0]|\$[A-Za-z_{]")
MARK = "# Written by the Pulumi stack of this application; its next run overwrites changes.\n"


def text(settings: dict[str, str]) -> str:
    """NAME='value' lines, as shells and dotenv libraries read them; raises `ValueError` where they would differ."""
    if wrong := [name for name, value in settings.items() if READ_DIFFERENTLY.search(value)]:
        raise ValueError(
            f"{', '.join(wrong)} must not hold quotes ('), backslashes, line breaks, or a $ with a letter, _ or {{ "
            "behind it: choose another one"
        )
    return MARK + "".join(f"{name}='{value}'\n" for name, value in settings.items())


def foreign(path: Path) -> bool:
    """Whether something is there that this program did not write."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return True
    return path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(MARK)


def write(path: Path, settings: dict[str, str]) -> None:
    """Replace the file as a whole, readable for its owner alone from its first moment on."""
    if foreign(path):
        raise ValueError(f"{path} is not ours: move it away, or set envFile to another path")
    content = text(settings)
    file, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # has mode 0600
    try:
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def main() -> int:
    """Do it; a reason not to ends with 1."""
    action, path = sys.argv[1], Path(sys.argv[2])
    try:
        if action == "write":
            write(path, json.load(sys.stdin))
        elif not foreign(path):
            path.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
