"""Where this machine keeps what is made once for all checkouts; the makers are the parts' own."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Our folder of this name in the user's cache (XDG Base Directory Specification), which may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mailroom" / name
