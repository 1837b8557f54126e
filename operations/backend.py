"""Which backend a run keeps its state in, and whether it is the one its stack requires; reads, changes nothing."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import yaml

from standards.finding import Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT: Final = Path(__file__).resolve().parent.parent / "Pulumi.yaml"
# The options that say whose bucket it is, and the variable that stands in for each (gocloud.dev/blob/azureblob).
_WHOSE: Final = {"endpoint": "", "storage_account": "AZURE_STORAGE_ACCOUNT", "domain": "AZURE_STORAGE_DOMAIN"}
_AZURE: Final = "blob.core.windows.net"  # its domain where nothing says another
# Further options that hold no secret, without which the same bucket may not be reached.
_HOW: Final = {"region", "s3ForcePathStyle", "use_path_style", "disableSSL", "metadata", "awssdk"}


def require(
    required: str | None, stack: str, environment: Mapping[str, str] = os.environ, project: Path = PROJECT
) -> None:
    """Raise `Problems` when the run's backend is another one than `mailroom:backend`; nothing where none is required.

    In a backend that does not know what was made the stack looks new: its records would be made twice, its DKIM keys
    anew.
    """
    used = in_use(environment, project)
    if required is None or used is None or _place(used, environment) == _place(required, environment):
        return
    finding = error_about(
        "mailroom:backend",
        "backend-differs",
        expected=f"the backend {_shown(required)}",
        found=f"this run keeps its state in {_shown(used)}",
        why="what was made is not known there: the run would begin anew, with other DKIM keys",
        fix=f"`export PULUMI_BACKEND_URL={shlex.quote(_shown(required))}`, the value of `mailroom:backend`, which goes "
        "before Pulumi.yaml and `pulumi login`; or change the setting",
    )
    raise Problems(f"stack {stack} is kept elsewhere; nothing was changed", [finding])


def in_use(environment: Mapping[str, str], project: Path = PROJECT) -> str | None:
    """The URL of the backend, as the engine finds it (pkg/workspace/creds.go); None where nothing tells.

    The environment goes before the project's own `backend`, and that before the login.
    """
    return environment.get("PULUMI_BACKEND_URL") or _of_project(project) or _of_login(environment)


def _of_project(project: Path) -> str | None:
    try:
        return _text(yaml.safe_load(project.read_text(encoding="utf-8"))["backend"]["url"])
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return None


def _of_login(environment: Mapping[str, str]) -> str | None:
    home = environment.get("PULUMI_HOME") or Path(environment.get("HOME", "/"), ".pulumi")
    folder = environment.get("PULUMI_CREDENTIALS_PATH") or home
    try:
        return _text(json.loads(Path(folder, "credentials.json").read_text(encoding="utf-8"))["current"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _text(value: object) -> str | None:
    return value if value and isinstance(value, str) else None


def _place(url: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """What two URLs of one backend have in common: options such as `metadata` and `region` are no part of it."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        whose = _whose(parts.query, environment)
        if parts.scheme == "azblob":
            whose["domain"] = whose["domain"] or _AZURE
        return parts.scheme, _server(parts.netloc).lower().removesuffix(":443"), parts.path.rstrip("/"), *whose.values()
    folder = unquote(parts.netloc + parts.path) or "~"
    if folder == "~" or folder.startswith("~/"):
        folder = environment.get("HOME", "/") + folder[1:]
    return "file", os.path.realpath(folder)


def _server(netloc: str) -> str:
    return netloc.rpartition("@")[2]


def _whose(query: str, environment: Mapping[str, str]) -> dict[str, str]:
    given = dict(parse_qsl(query))
    return {name: given.get(name, "").rstrip("/") or environment.get(variable, "") for name, variable in _WHOSE.items()}


def _shown(url: str) -> str:
    """A URL without what may be a secret in it."""
    parts = urlsplit(url)
    known = [(name, value) for name, value in parse_qsl(parts.query) if name in {*_WHOSE, *_HOW}]
    query = urlencode(known, safe=":/")
    return parts._replace(netloc=_server(parts.netloc), query=query, fragment="").geturl()
