"""bootstrap.py under prepare.py: validated first, applied, changed, and put back to the byte."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.host.test_prepare import host as prepared  # noqa: F401  (the fixture `host` builds on it)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.host.test_prepare import FakeHost

MIRROR = "https://deb.example.net/debian"
ONE_LINE = """\
# deb http://deb.example.org/debian bookworm main
deb http://deb.example.org/debian/ bookworm main contrib # ours
deb-src [signed-by=/usr/share/keyrings/x.gpg arch=amd64]  http://deb.example.org/debian bookworm-updates main
deb http://security.debian.org/debian-security bookworm-security main
deb https://download.docker.com/linux/debian bookworm stable
deb https://apt.releases.example.com bookworm main
"""
UBUNTU = """\
Types: deb
URIs: http://archive.ubuntu.com/ubuntu/
  http://de.archive.ubuntu.com/ubuntu
Suites: noble noble-updates noble-backports
Components: main universe
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

# security
Types: deb
URIs: http://security.ubuntu.com/ubuntu/
Suites: noble-security
Components: main universe
"""
CLOUD = """\
Types: deb deb-src
URIs: mirror+file:///etc/apt/mirrors/debian.list
Suites: bookworm bookworm-updates
Components: main

Types: deb deb-src
URIs: mirror+file:///etc/apt/mirrors/debian-security.list
Suites: bookworm-security
Components: main
"""
# apt-get update of a mirror that is being asked is told by its own lists; what it says is in $FAKE/mirror.
APT = """
case "$*" in
  *sourceparts*) cp "$(printf '%s\\n' "$@" | sed -n 's/^-oDir::Etc::sourceparts=//p')"/* "$FAKE/asked" ;
    if [ -e "$FAKE/mirror" ]; then cat "$FAKE/mirror" >&2; exit 100; fi; exit 0 ;;
  remove*--simulate*) [ ! -e "$FAKE/needs" ] || cat "$FAKE/needs"; exit 0 ;;
  remove*) for word; do sed -i "/^$word\\$/d" "$FAKE/installed"; done; exit 0 ;;
esac
"""
TOOLS = {
    "locale": 'cat "$FAKE/locales"\n',
    "locale-gen": 'sed -n "s/ UTF-8$//; s/UTF-8/utf8/p" "$FAKE/etc/locale.gen" >>"$FAKE/locales"\n',
    "apt-mark": "",
}


@pytest.fixture
def host(prepared: FakeHost, monkeypatch: pytest.MonkeyPatch) -> FakeHost:  # noqa: F811
    """A Debian 12 with time zone Etc/UTC, the database of zones, and one-line sources."""
    import bootstrap

    root = prepared.root
    for folder in ("asked", "zones/Europe", "zones/Etc", "etc/apt/sources.list.d", "etc/default"):
        (root / folder).mkdir(parents=True)
    for zone in ("Europe/Berlin", "Etc/UTC"):
        (root / "zones" / zone).touch()
    (root / "etc/localtime").symlink_to("/usr/share/zoneinfo/Etc/UTC")
    (root / "etc/timezone").write_text("Etc/UTC\n")
    (root / "etc/apt/sources.list").write_text(ONE_LINE)
    (root / "etc/default/locale").write_text("LANG=C.UTF-8\nLC_TIME=C\n")
    (root / "supported").write_text("de_DE.UTF-8 UTF-8\nen_US.UTF-8 UTF-8\n")
    prepared.tell("locales", "C\nC.utf8\n")
    prepared.tell("installed", "tzdata\nlocales\n")
    apt = root / "bin/apt-get"
    apt.write_text(apt.read_text().replace("#!/bin/sh\n", f'#!/bin/sh\necho "apt-get $*" >>"$FAKE/calls"\n{APT}'))
    for name, body in TOOLS.items():
        (root / "bin" / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"$FAKE/calls"\n{body}')
        (root / "bin" / name).chmod(0o755)
    for name, path in {
        "MEMORY": "state/bootstrap", "ZONES": "zones", "LOCALTIME": "etc/localtime", "TIMEZONE": "etc/timezone",
        "LOCALE": "etc/default/locale", "LOCALE_GEN": "etc/locale.gen", "LOCALES": "supported",
        "SOURCES": "etc/apt/sources.list", "SOURCE_PARTS": "etc/apt/sources.list.d",
    }.items():  # fmt: skip
        monkeypatch.setattr(bootstrap, name, root / path)
    return prepared


def prepare(host: FakeHost, **bootstrap: object) -> tuple[Any, str]:
    """One run of prepare.py; its status and what it said, our own users and folders apart."""
    import prepare

    payload = {"packages": ["certbot"], **({"bootstrap": bootstrap} if bootstrap else {})}
    host.monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(payload)))
    with pytest.raises(SystemExit) as stop:
        prepare.main()
    captured = host.capsys.readouterr()
    return stop.value.code, captured.out or captured.err


def system(root: Path) -> dict[str, tuple[int, str]]:
    """Every file below etc with its mode, links by their target."""
    return {
        str(path): (0, os.readlink(path)) if path.is_symlink() else (path.stat().st_mode, path.read_text())
        for path in sorted((root / "etc").rglob("*"))
        if path.is_symlink() or path.is_file()
    }


ALL: dict[str, Any] = {
    "timezone": "Europe/Berlin",
    "locale": "de_DE.UTF-8",
    "apt_mirror": MIRROR,
    "packages": ["htop"],
}


def test_without_the_setting_nothing_is_touched_or_remembered(host: FakeHost) -> None:
    before = system(host.root)
    assert prepare(host)[0] == 0
    assert prepare(host) == (0, "ok: nothing to do\n")
    assert system(host.root) == before
    assert not (host.root / "state").exists()


def test_everything_that_is_named_is_applied_and_a_second_run_changes_nothing(host: FakeHost) -> None:
    status, said = prepare(host, **ALL)
    assert status == 0, said
    assert f"packages come from {MIRROR}, installed certbot htop" in said
    assert "time zone is Europe/Berlin, locale is de_DE.UTF-8" in said
    assert os.readlink(host.root / "etc/localtime") == "../zones/Europe/Berlin"
    assert (host.root / "etc/timezone").read_text() == "Europe/Berlin\n"
    assert (host.root / "etc/default/locale").read_text() == "LC_TIME=C\nLANG=de_DE.UTF-8\n"
    before = system(host.root)
    (host.root / "calls").unlink()
    assert prepare(host, **ALL) == (0, "ok: nothing to do\n")
    assert system(host.root) == before
    assert not [call for call in host.calls() if call.startswith(("apt-get", "locale-gen"))]


def test_further_packages_come_in_the_one_transaction_of_the_others(host: FakeHost) -> None:
    prepare(host, packages=["htop", "tmux"])
    installs = [call for call in host.calls() if call.startswith("apt-get install")]
    assert len(set(installs)) == 1
    assert installs[0].endswith(" certbot htop tmux")


@pytest.mark.parametrize("between", [{}, {"timezone": "Etc/UTC", "locale": "en_US.UTF-8", "apt_mirror": MIRROR + "2"}])
def test_what_was_there_comes_back_to_the_byte_when_the_setting_goes(host: FakeHost, between: dict[str, Any]) -> None:
    (host.root / "etc/apt/sources.list").chmod(0o640)
    before = system(host.root)
    prepare(host, **ALL)
    if between:
        prepare(host, **between)
    status, said = prepare(host)
    assert status == 0, said
    assert system(host.root) == before
    assert prepare(host) == (0, "ok: nothing to do\n")


def test_a_file_that_somebody_changed_since_stays_theirs(host: FakeHost) -> None:
    prepare(host, **ALL)
    (host.root / "etc/apt/sources.list").write_text("deb http://deb.example.org/debian trixie main\n")
    said = prepare(host)[1]
    assert f"left {host.root}/etc/apt/sources.list, which somebody changed since" in said
    assert "trixie" in (host.root / "etc/apt/sources.list").read_text()


def test_what_an_installation_writes_itself_was_not_there_before(host: FakeHost) -> None:
    """The package locales makes these files when it is installed."""
    for name in ("etc/default/locale", "etc/locale.gen"):
        (host.root / name).unlink(missing_ok=True)
    host.tell("installed", "tzdata\n")
    apt = host.root / "bin/apt-get"
    apt.write_text(
        apt.read_text() + 'case "$1" in install) touch "$FAKE/etc/default/locale" "$FAKE/etc/locale.gen" ;; esac'
    )
    before = system(host.root)
    prepare(host, locale="de_DE.UTF-8")
    prepare(host)
    assert system(host.root) == before


def test_a_package_that_was_there_before_stays_when_the_setting_goes(host: FakeHost) -> None:
    host.tell("installed", "htop\n")
    prepare(host, packages=["htop", "tmux"])
    assert prepare(host)[1] == "changed: removed tmux\n"
    assert "htop" in (host.root / "installed").read_text()


def test_a_package_that_mail_needs_by_now_stays(host: FakeHost) -> None:
    prepare(host, packages=["certbot", "tmux"])
    assert "removed tmux\n" in prepare(host)[1]
    assert "certbot" in (host.root / "installed").read_text()


def test_a_package_that_another_needs_by_now_stays_and_is_apts_own(host: FakeHost) -> None:
    prepare(host, packages=["tmux"])
    host.tell("needs", "Remv tmux [3.3]\nRemv tmux-plugins [1]\n")
    assert prepare(host)[1] == "changed: left tmux, which tmux-plugins needs\n"
    assert "apt-mark auto tmux" in host.calls()
    assert prepare(host) == (0, "ok: nothing to do\n")


def test_a_run_that_was_killed_before_the_installation_remembers_what_it_was_about_to_add(host: FakeHost) -> None:
    import bootstrap

    bootstrap.remember_packages(["tmux"])
    host.tell("installed", "tmux\n")
    assert "removed tmux" in prepare(host)[1]


@pytest.mark.parametrize(
    ("bootstrap", "words"),
    [
        ({"timezone": "Europe/Berln"}, "there is no timezone 'Europe/Berln' on this host"),
        ({"timezone": "Europe/Berln"}, "perhaps to Europe/Berlin"),
        ({"timezone": "Europe"}, "there is no timezone 'Europe'"),
        ({"locale": "de_DF.UTF-8"}, "perhaps to de_DE.UTF-8"),
    ],
)
def test_what_this_host_does_not_have_changes_nothing(host: FakeHost, bootstrap: dict[str, str], words: str) -> None:
    before = system(host.root)
    status, said = prepare(host, packages=["htop"], apt_mirror=MIRROR, **bootstrap)
    assert status == 1
    assert words in said
    assert system(host.root) == before
    assert not [call for call in host.calls() if call.startswith("apt-get")]


def test_a_mirror_is_asked_for_these_suites_before_it_replaces_the_sources(host: FakeHost) -> None:
    before = system(host.root)
    host.tell("mirror", "E: The repository 'https://deb.example.net/debian bookworm Release' has no Release file.\n")
    status, said = prepare(host, apt_mirror=MIRROR)
    assert status == 1
    assert f"the mirror {MIRROR} has no signed release of what this host runs: E: The repository" in said
    assert system(host.root) == before
    assert f"deb {MIRROR} bookworm main" in (host.root / "asked/sources.list").read_text()


def test_sources_of_nobody_we_know_are_named(host: FakeHost) -> None:
    (host.root / "etc/apt/sources.list").write_text("deb https://apt.releases.example.com bookworm main\n")
    status, said = prepare(host, apt_mirror=MIRROR)
    assert status == 1
    assert "is the distribution's own archive" in said


def test_in_one_line_entries_only_the_distributions_own_archive_moves(host: FakeHost) -> None:
    import bootstrap

    text, count = bootstrap.one_line(ONE_LINE, MIRROR)
    assert count == 2
    changed = [line for line, old in zip(text.splitlines(), ONE_LINE.splitlines(), strict=True) if line != old]
    assert changed == [
        f"deb {MIRROR} bookworm main contrib # ours",
        f"deb-src [signed-by=/usr/share/keyrings/x.gpg arch=amd64]  {MIRROR} bookworm-updates main",
    ]
    assert bootstrap.one_line(text, MIRROR) == (text, 2)


@pytest.mark.parametrize(
    ("stanzas", "old"),
    [
        (UBUNTU, "http://archive.ubuntu.com/ubuntu/\n  http://de.archive.ubuntu.com/ubuntu"),
        (CLOUD, "mirror+file:///etc/apt/mirrors/debian.list"),
    ],
    ids=["Ubuntu", "Debian's cloud image"],
)
def test_in_stanzas_only_the_distributions_own_archive_moves(host: FakeHost, stanzas: str, old: str) -> None:
    import bootstrap

    text, count = bootstrap.deb822(stanzas, MIRROR)
    assert count == 1
    assert text == stanzas.replace(f"URIs: {old}\n", f"URIs: {MIRROR}\n", 1)
    assert bootstrap.deb822(text, MIRROR) == (text, 1)


def test_undone_all_but_packages_is_as_it_was(host: FakeHost) -> None:
    import bootstrap

    before = system(host.root)
    prepare(host, **ALL)
    assert len(bootstrap.undo()) == 3
    assert system(host.root) == before
    assert bootstrap.undo() == []
