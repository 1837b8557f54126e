"""Reads which package mirrors this machine itself is configured for; names none of its own."""

from __future__ import annotations

import os
import re
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lab.addresses import Mirror
from lab.errors import LabError
from lab.shell import run

if TYPE_CHECKING:
    from collections.abc import Iterator

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place and suite apt takes packages from."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str | None = None

    def line(self) -> str:
        """The source in apt's one-line format, restricted to `main`."""
        options = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {options}{self.uri} {self.suite} main"


def source_lines(suite: str, root: Path = Path("/")) -> list[str]:
    """What apt in a guest of this Debian suite gets: the machine's own Debian mirrors, moved to the suite."""
    own = os_release(root).get("VERSION_CODENAME", "")
    debian = [source for source in configured(root) if _is_debian(source, own)]
    if not debian:
        raise LabError(
            f"/etc/apt names no http(s) mirror with the component main of the suite {own or '(unknown)'}; the"
            " lab builds its machines from the mirror this machine uses, so apt-get must work here first"
        )
    moved = [Source(**{**vars(source), "suite": source.suite.replace(own, suite, 1)}) for source in debian]
    return list(dict.fromkeys(source.line() for source in moved))


def configured(root: Path = Path("/")) -> list[Source]:
    """All binary package sources of this machine, from `sources.list` and `sources.list.d`."""
    apt = root / "etc/apt"
    parts = apt / "sources.list.d"
    found: list[Source] = []
    for path in [apt / "sources.list", *sorted(parts.glob("*.list"))]:
        if path.is_file():
            found += _one_line(path.read_text(), root)
    for path in sorted(parts.glob("*.sources")):
        found += _deb822(path.read_text(), root)
    return found


def os_release(root: Path = Path("/")) -> dict[str, str]:
    """The fields of `/etc/os-release`."""
    path = root / "etc/os-release"
    pairs = (line.split("=", 1) for line in path.read_text().splitlines() if "=" in line) if path.exists() else ()
    return {key: value.strip().strip("\"'") for key, value in pairs}


def proxy() -> str | None:
    """The proxy apt uses for http on this machine."""
    setting = run("apt-config", "dump", "--no-empty", "--format", "%v%n", "Acquire::http::Proxy").strip()
    return setting or os.environ.get("http_proxy") or None


def endpoints(lines: list[str]) -> tuple[Mirror, ...]:
    """The endpoints guests need for these sources, with the addresses they have now."""
    through = proxy()
    if through:
        return (_resolve(through if "://" in through else f"http://{through}"),)
    uris = dict.fromkeys(word for line in lines for word in line.split() if re.match("https?://", word))
    return tuple(dict.fromkeys(_resolve(uri) for uri in uris))


def _is_debian(source: Source, codename: str) -> bool:
    """Third parties use our codename too (`bookworm stable`): the key must be Debian's or apt's default."""
    suites = (codename, f"{codename}-updates", f"{codename}-security")
    key = source.signed_by is None or "debian-archive" in source.signed_by
    return bool(codename) and source.suite in suites and "main" in source.components and key


def _resolve(uri: str) -> Mirror:
    parts = urlsplit(uri)
    host = parts.hostname or ""
    port = parts.port or PORTS.get(parts.scheme, 80)
    try:
        found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise LabError(
            f"the package mirror {host} of this machine has no IPv4 address here ({error}); apt-get must work"
            " on this machine before a lab can start"
        ) from error
    addresses = tuple(sorted({str(entry[4][0]) for entry in found}))
    if any(address.startswith("127.") for address in addresses):
        raise LabError(
            f"apt on this machine uses {host}:{port}, which only this machine itself can reach; give apt an"
            " address that other machines reach too, for example http://192.0.2.8:3142"
        )
    return Mirror(name=host, port=port, ipv4=addresses)


def _one_line(text: str, root: Path) -> Iterator[Source]:
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<rest>[^#]+)", line)
        if not match:
            continue
        uri, suite, *components = match["rest"].split()
        options = dict(word.split("=", 1) for word in shlex.split(match["options"] or "") if "=" in word)
        for real in _uris(uri, root):
            signed_by = options.get("signed-by")
            yield Source(uri=real, suite=suite, components=tuple(components), signed_by=signed_by)


def _deb822(text: str, root: Path) -> Iterator[Source]:
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", kept):
        joined = re.sub(r"\n[ \t]+", " ", stanza)
        pairs = (line.split(":", 1) for line in joined.splitlines() if ":" in line)
        fields = {key.strip().lower(): value.strip() for key, value in pairs}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in {
            "no",
            "false",
        }:
            continue
        components = tuple(fields.get("components", "").split())
        for uri in fields.get("uris", "").split():
            for real in _uris(uri, root):
                for suite in fields.get("suites", "").split():
                    signed_by = fields.get("signed-by")
                    yield Source(uri=real, suite=suite, components=components, signed_by=signed_by)


def _uris(uri: str, root: Path) -> list[str]:
    """The http(s) address behind a URI; `mirror+file:` (Debian's cloud images) names a file with a list."""
    if uri.startswith("mirror+file:"):
        path = root / urlsplit(uri).path.lstrip("/")
        words = [line.split()[0] for line in path.read_text().splitlines() if line.strip()] if path.exists() else []
        return [word for word in words if re.match("https?://", word)][:1]
    return [uri] if re.match("https?://", uri) else []
