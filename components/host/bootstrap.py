"""What a host gets beside mail: time zone, locale, package mirror and further packages; used by prepare.py.

What was there before is remembered when a setting first changes it, and put back when the setting goes: files from
copies, packages by removing those that came with a setting. A file that somebody else changed since stays theirs.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from components.host import hostlib, systems

    Wanted = Mapping[str, Any]
else:
    import hostlib
    import systems

MEMORY = Path("/etc/mailroom-host/bootstrap")  # a folder for each setting that is in force, and `packages.json`
ZONES = Path("/usr/share/zoneinfo")
LOCALTIME = Path("/etc/localtime")
TIMEZONE = Path("/etc/timezone")  # Debian 12 and Ubuntu have it beside the link, Debian 13 does not
LOCALE = Path("/etc/default/locale")
LOCALE_GEN = Path("/etc/locale.gen")
LOCALES = Path("/usr/share/i18n/SUPPORTED")
SOURCES = Path("/etc/apt/sources.list")
SOURCE_PARTS = Path("/etc/apt/sources.list.d")
OS_RELEASE = Path("/etc/os-release")
BUILT_IN = "C.UTF-8"  # part of libc-bin
NEEDS = {"timezone": "tzdata", "locale": "locales"}  # setting -> the package it needs
ONE_LINE = re.compile(r"(?P<head>deb(?:-src)?\s+(?:\[[^]]*]\s+)?)(?P<uris>\S+)\s+(?P<suites>\S+)(?P<components>.*)")
MIRROR_LIMIT = 60  # seconds
# Nothing but the signed list of a suite's contents: kilobytes, where a whole update fetches megabytes.
NO_INDEXES = ("Packages", "Sources", "Translations", "Contents-deb", "Contents-dsc", "DEP-11", "CNF")


def check(wanted: Wanted) -> None:
    """Refuse what this host does not have; nothing is changed yet. What needs a missing package is checked later."""
    zone = wanted.get("timezone")
    if zone and ZONES.is_dir() and not (ZONES / zone).is_file():
        known = [str(path.relative_to(ZONES)) for path in ZONES.glob("[A-Z]*/**/*") if path.is_file()]
        _refuse("timezone", zone, "a time zone of this host's database, such as Europe/Berlin", known)
    name = wanted.get("locale")
    if name and name != BUILT_IN and LOCALES.is_file():
        known = [line.split()[0] for line in LOCALES.read_text(encoding="utf-8").splitlines() if line.strip()]
        if name not in known:
            _refuse("locale", name, f"a locale of {LOCALES}, such as de_DE.UTF-8", known)


def _refuse(setting: str, value: str, expected: str, known: Sequence[str]) -> None:
    near = difflib.get_close_matches(value, known, 1)
    hostlib.fail(
        f"there is no {setting} {value!r} on this host",
        f"expected {expected}",
        f"correct `bootstrap.{setting}` of this host" + (f", perhaps to {near[0]}" if near else ""),
    )


def packages(wanted: Wanted) -> list[str]:
    """The packages that the settings ask for or need."""
    needed = [package for setting, package in NEEDS.items() if wanted.get(setting, BUILT_IN) != BUILT_IN]
    return sorted({*wanted.get("packages", ()), *needed})


def remember_packages(names: Iterable[str]) -> None:
    """Write down, before they are installed, that these packages come with a setting."""
    if ours := {*installed_by_us(), *names}:
        _write_packages(ours)


def installed_by_us() -> list[str]:
    """Packages that came with a setting."""
    path = MEMORY / "packages.json"
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def forget_packages(names: Iterable[str]) -> None:
    """These are gone, or are no business of a setting any more."""
    _write_packages(set(installed_by_us()) - set(names))


def _write_packages(names: Iterable[str]) -> None:
    hostlib.make_directory(MEMORY.parent, 0o700)
    hostlib.make_directory(MEMORY, 0o700)
    hostlib.write_file(MEMORY / "packages.json", json.dumps(sorted(names)), 0o600)


# --- time zone and locale ---------------------------------------------------------------------------------------


def set_timezone(zone: str | None) -> list[str]:
    """The system's time zone; programs that run already keep theirs until they start again."""
    if zone is None:
        return _put_back("timezone")
    target = os.path.relpath(ZONES / zone, LOCALTIME.parent)
    wanted: dict[Path, bytes | str] = {LOCALTIME: target}
    if TIMEZONE.exists():
        wanted[TIMEZONE] = f"{zone}\n".encode()
    return [f"time zone is {zone}"] if _write("timezone", wanted) else []


def set_locale(name: str | None) -> list[str]:
    """The system's locale, made where it is missing."""
    if name is None:
        return _put_back("locale")
    target = _locale_file()
    lines = target.read_text(encoding="utf-8").splitlines() if target.is_file() else []
    text = "\n".join([*(line for line in lines if not line.startswith("LANG=")), f"LANG={name}"]) + "\n"
    wanted: dict[Path, bytes | str] = {target: text.encode()}
    if name != BUILT_IN:
        listed = LOCALE_GEN.read_text(encoding="utf-8") if LOCALE_GEN.is_file() else ""
        if not re.search(rf"(?m)^{re.escape(name)} UTF-8\s*$", listed):
            listed += ("" if listed.endswith("\n") or not listed else "\n") + f"{name} UTF-8\n"
        wanted[LOCALE_GEN] = listed.encode()
    changed = _write("locale", wanted)
    if name != BUILT_IN and not _has_locale(name):
        answer = hostlib.run(["locale-gen"], timeout=300)
        if answer.returncode or not _has_locale(name):
            said = (answer.stderr or answer.stdout).strip().splitlines() or ["nothing"]
            hostlib.fail(f"locale-gen does not make {name}: {said[-1][:300]}", "expected a locale", "run it by hand")
        changed = True
    return [f"locale is {name}"] if changed else []


def _locale_file() -> Path:
    """Debian 13 keeps it in /etc/locale.conf, and /etc/default/locale is a link to it."""
    return Path(os.path.realpath(LOCALE))


def _has_locale(name: str) -> bool:
    """`locale -a` writes de_DE.utf8 for de_DE.UTF-8."""
    listed = hostlib.run(["locale", "-a"]).stdout.split()
    return name.lower().replace("-", "") in {entry.lower().replace("-", "") for entry in listed}


# --- mirror -----------------------------------------------------------------------------------------------------


def set_mirror(mirror: str | None) -> list[str]:
    """Where apt gets the distribution from; other sources and the security archive stay. The mirror is asked first."""
    if mirror is None:
        return _put_back("mirror")
    changed: dict[Path, bytes | str] = {}
    entries = 0
    for path in [SOURCES, *sorted(SOURCE_PARTS.glob("*.list")), *sorted(SOURCE_PARTS.glob("*.sources"))]:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            fresh, count = one_line(text, mirror) if path.suffix == ".list" else deb822(text, mirror)
            entries += count
            if fresh != text:
                changed[path] = fresh.encode()
    if not entries:
        hostlib.fail(
            f"no entry of {SOURCES} and {SOURCE_PARTS} is the distribution's own archive",
            "expected one whose URI ends with /debian or /ubuntu and whose components have `main`",
            "add one, or take `bootstrap.aptMirror` of this host out",
        )
    if not changed:
        return []
    if said := refusal(changed):
        hostlib.fail(
            f"the mirror {mirror} has no signed release of what this host runs: {said}",
            "expected a mirror of its distribution",
            "correct `bootstrap.aptMirror` of this host; its package sources are unchanged",
        )
    _write("mirror", changed)
    return [f"packages come from {mirror}"]


def one_line(text: str, mirror: str) -> tuple[str, int]:
    """A file of one-line entries with the mirror in it, and how many entries are the distribution's."""
    found = 0
    lines = text.splitlines(keepends=True)
    for index, line in enumerate(lines):
        entry = ONE_LINE.match(line)
        if entry and _is_archive([entry["uris"]], [entry["suites"]], entry["components"].split(), mirror):
            found += 1
            lines[index] = entry["head"] + mirror + line[entry.end("uris") :]
    return "".join(lines), found


def deb822(text: str, mirror: str) -> tuple[str, int]:
    """The same for a file of stanzas (sources.list(5)); what is no URI keeps every byte."""
    found = 0
    parts = re.split(r"(\n[ \t]*\n)", text)
    for index, stanza in enumerate(parts):
        fields = {
            match["name"].lower(): match
            for match in re.finditer(r"(?m)^(?P<name>[A-Za-z-]+):(?P<value>.*(?:\n[ \t]+\S.*)*)", stanza)
        }
        if {"uris", "suites", "components"} <= set(fields):
            uris, suites, components = (fields[name]["value"].split() for name in ("uris", "suites", "components"))
            if _is_archive(uris, suites, components, mirror):
                found += 1
                start, end = fields["uris"].span("value")
                parts[index] = f"{stanza[:start]} {mirror}{stanza[end:]}"
    return "".join(parts), found


def _is_archive(uris: Sequence[str], suites: Sequence[str], components: Sequence[str], mirror: str) -> bool:
    """Whether an entry is the distribution's main archive: neither its security archive nor somebody else's."""
    security = all(suite.endswith(("-security", "/updates")) for suite in suites)
    known = all(uri.rstrip("/").rpartition("/")[2] in systems.ARCHIVES or uri.rstrip("/") == mirror for uri in uris)
    return known and "main" in components and not security


def refusal(files: Mapping[Path, bytes | str]) -> str | None:
    """What apt has against these sources, with its own keys and proxy; None for nothing. Changes nothing."""
    with tempfile.TemporaryDirectory(prefix="mailroom-apt-") as folder:
        root = Path(folder)
        root.chmod(0o755)  # apt fetches as another user
        for name in ("sources", "lists/partial"):
            (root / name).mkdir(parents=True)
        for path, data in files.items():
            suffix = "" if path.suffix == ".sources" else ".list"
            (root / "sources" / f"{path.stem}{suffix or path.suffix}").write_bytes(bytes(data))  # type: ignore[arg-type]
        options = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": f"{root}/sources",
            "Dir::State::lists": f"{root}/lists",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Update::Error-Mode": "any",
            "Acquire::Retries": "1",
            "Acquire::http::Timeout": "15",
            "Acquire::https::Timeout": "15",
            **{f"Acquire::IndexTargets::{kind}::{index}::DefaultEnabled": "false"
               for kind in ("deb", "deb-src") for index in NO_INDEXES},
        }  # fmt: skip
        argv = ["apt-get", "-q", "update", *(f"-o{key}={value}" for key, value in options.items())]
        answer = hostlib.run(argv, timeout=MIRROR_LIMIT)
    errors = [line for line in (answer.stderr + answer.stdout).splitlines() if line.startswith(("E:", "Err:", "W:"))]
    return (errors[0][:300] if errors else "apt-get update failed") if answer.returncode else None


# --- what was before --------------------------------------------------------------------------------------------


def undo() -> list[str]:
    """Put time zone, locale and mirror back, for good; packages stay, as those of mail do."""
    done = [*set_timezone(None), *set_locale(None), *set_mirror(None)]
    shutil.rmtree(MEMORY, ignore_errors=True)
    return done


def remember(wanted: Wanted) -> None:
    """Copy what the settings are about to change; before packages, whose installation writes these files, too."""
    paths = {"timezone": [LOCALTIME, TIMEZONE], "locale": [_locale_file(), LOCALE_GEN]}
    for setting in paths.keys() & wanted.keys():
        _remember(setting, paths[setting])


def _remember(setting: str, paths: Iterable[Path]) -> dict[str, Any]:
    """Copy what nobody copied yet for this setting; the list of copies is written last, so it never lies."""
    folder, memory = MEMORY / setting, _memory(setting)
    if fresh := [path for path in paths if str(path) not in memory]:
        for directory in (MEMORY.parent, MEMORY, folder):
            hostlib.make_directory(directory, 0o700)
        for path in fresh:
            memory[str(path)] = {"before": _state(path), "ours": []}
            (folder / _copy_name(path)).unlink(missing_ok=True)
            if memory[str(path)]["before"]:
                shutil.copy2(path, folder / _copy_name(path), follow_symlinks=False)
        hostlib.write_file(folder / "memory.json", json.dumps(memory), 0o600)
    return memory


def _write(setting: str, files: Mapping[Path, bytes | str]) -> bool:
    """Write files (bytes) and links (text), after what was there is safe; says whether that changed any."""
    memory = _remember(setting, files)
    for path, content in files.items():
        ours, digest = memory[str(path)]["ours"], _digest(content)
        if ours[-1:] != [digest]:
            memory[str(path)]["ours"] = [*ours[-1:], digest]  # the last one, too: we may be killed before the change
    hostlib.write_file(MEMORY / setting / "memory.json", json.dumps(memory), 0o600)
    changes = {path: content for path, content in files.items() if _state(path) != _digest(content)}
    for path, content in changes.items():
        if isinstance(content, str):
            hostlib.point(path, content)
        else:
            mode = path.stat().st_mode & 0o7777 if path.is_file() else 0o644
            hostlib.write_file(path, content, mode)
    return bool(changes)


def _put_back(setting: str) -> list[str]:
    """What was there before the setting; a file that somebody else changed since stays as it is."""
    folder = MEMORY / setting
    done, left = [], []
    for name, entry in _memory(setting).items():
        path, saved = Path(name), folder / _copy_name(Path(name))
        now = _state(path)
        if now not in {*entry["ours"], entry["before"]}:
            left.append(name)
        elif now != entry["before"]:
            done.append(name)
            if entry["before"] is None:
                path.unlink()
            elif saved.is_symlink():
                hostlib.point(path, os.readlink(saved))
            else:
                hostlib.write_file(path, saved.read_bytes(), saved.stat().st_mode & 0o7777)
    shutil.rmtree(folder, ignore_errors=True)
    changes = [f"{setting} is as it was before"] if done else []
    return changes + ([f"left {', '.join(left)}, which somebody changed since"] if left else [])


def _memory(setting: str) -> dict[str, Any]:
    path = MEMORY / setting / "memory.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _copy_name(path: Path) -> str:
    return str(path).lstrip("/").replace("/", "__")


def _state(path: Path) -> str | None:
    """What stands at a path: the digest of a file or of a link's target, None for nothing."""
    if path.is_symlink():
        return _digest(os.readlink(path))
    return _digest(path.read_bytes()) if path.is_file() else None


def _digest(content: bytes | str) -> str:
    kind = "link" if isinstance(content, str) else "file"
    data = content.encode() if isinstance(content, str) else content
    return f"{kind} {hashlib.sha256(data).hexdigest()}"
