"""Which backend a run keeps its state in, and whether it is the one its stack requires; reads, changes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from standards.finding import Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Mapping


def require(required: str | None, stack: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raise `Problems` when the run's backend is another one than `mailroom:backend`; nothing where none is required.

    In a backend that does not know what was made the stack looks new: its records would be made twice, its DKIM keys
    anew.
    """
    used = in_use(environment)
    if required is None or used is None or _place(used, environment) == _place(required, environment):
        return
    finding = error_about(
        "mailroom:backend",
        "backend-differs",
        expected=f"the backend {_shown(required)}",
        found=f"this run keeps its state in {_shown(used)}",
        why="what was made is not known there: the run would begin anew, with other DKIM keys",
        fix=f"`export PULUMI_BACKEND_URL={_shown(required)}`, or `pulumi login` to it; or change the setting",
    )
    raise Problems(f"stack {stack} is kept elsewhere; nothing was changed", [finding])


def in_use(environment: Mapping[str, str]) -> str | None:
    """The URL of the backend, as the engine finds it (sdk/go/common/workspace/creds.go); None where nothing tells."""
    if url := environment.get("PULUMI_BACKEND_URL"):
        return url
    home = environment.get("PULUMI_HOME") or Path(environment.get("HOME", "/"), ".pulumi")
    folder = environment.get("PULUMI_CREDENTIALS_PATH") or home
    try:
        found = json.loads(Path(folder, "credentials.json").read_text(encoding="utf-8"))
        return str(found["current"]) or None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _place(url: str, environment: Mapping[str, str]) -> tuple[str, str, str]:
    """What two URLs of one backend have in common: options such as `metadata` and `region` are no part of it."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        endpoint = parse_qs(parts.query).get("endpoint", [""])[-1]
        return f"{parts.scheme}://{parts.hostname or ''}", parts.path.rstrip("/"), endpoint.rstrip("/")
    folder = unquote(parts.netloc + parts.path) or "~"
    if folder == "~" or folder.startswith("~/"):
        folder = environment.get("HOME", "/") + folder[1:]
    return "file", os.path.realpath(folder), ""


def _shown(url: str) -> str:
    """A URL without what may be a secret in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
