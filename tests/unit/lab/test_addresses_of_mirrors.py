"""Which mirrors a machine is configured for, read from apt's own files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab import mirrors
from lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path

KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEB822 = f"""# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm
  bookworm-updates
Components: main non-free-firmware
Signed-By: {KEY}

Types: deb
URIs: https://packages.example/apt
Suites: bookworm
Components: main
Signed-By: /etc/apt/keyrings/vendor.gpg

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with Debian 12 and no sources yet."""
    (tmp_path / "etc/apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "etc/os-release").write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    return tmp_path


def test_guests_take_debians_own_suites_from_the_machines_mirror_and_no_third_party(machine: Path) -> None:
    (machine / "etc/apt/sources.list.d/debian.sources").write_text(DEB822)

    assert mirrors.source_lines("bookworm", machine) == [
        f"deb [signed-by={KEY}] http://mirror.example/debian bookworm main",
        f"deb [signed-by={KEY}] http://mirror.example/debian bookworm-updates main",
    ]


def test_one_line_sources_are_read_with_their_options(machine: Path) -> None:
    (machine / "etc/apt/sources.list").write_text(
        "# deb http://old.example/debian bookworm main\n"
        "deb [arch=amd64] http://mirror.example/debian bookworm main contrib # comment\n"
        "deb-src http://mirror.example/debian bookworm main\n"
        "deb http://vendor.example/debian bookworm stable\n"
        "deb cdrom:[Debian]/ bookworm main\n"
    )
    (machine / "etc/apt/sources.list.d/security.list").write_text(
        "deb https://security.example/debian-security bookworm-security main\n"
    )

    assert mirrors.source_lines("bookworm", machine) == [
        "deb http://mirror.example/debian bookworm main",
        "deb https://security.example/debian-security bookworm-security main",
    ]


def test_another_suite_comes_from_the_same_mirror(machine: Path) -> None:
    (machine / "etc/apt/sources.list").write_text("deb http://mirror.example/debian bookworm-security main\n")

    assert mirrors.source_lines("trixie", machine) == ["deb http://mirror.example/debian trixie-security main"]


def test_a_mirror_list_file_is_followed(machine: Path) -> None:
    (machine / "etc/apt/mirrors").mkdir()
    (machine / "etc/apt/mirrors/debian.list").write_text("https://cloud.example/debian priority:1\n")
    (machine / "etc/apt/sources.list").write_text("deb mirror+file:///etc/apt/mirrors/debian.list bookworm main\n")

    assert mirrors.source_lines("bookworm", machine) == ["deb https://cloud.example/debian bookworm main"]


def test_a_machine_without_a_debian_mirror_is_told_so(machine: Path) -> None:
    with pytest.raises(LabError, match="names no http\\(s\\) mirror .* bookworm"):
        mirrors.source_lines("bookworm", machine)


def test_a_proxy_is_the_endpoint_guests_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "proxy", lambda: "http://192.0.2.8:3142")

    (found,) = mirrors.endpoints(["deb http://mirror.example/debian bookworm main"])

    assert (found.port, found.ipv4) == (3142, ("192.0.2.8",))


def test_a_proxy_that_only_this_machine_reaches_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "proxy", lambda: "127.0.0.1:3142")

    with pytest.raises(LabError, match=r"only this machine itself can reach"):
        mirrors.endpoints([])


def test_each_mirror_is_one_endpoint_with_the_port_of_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "proxy", lambda: None)
    lines = [
        "deb http://192.0.2.7/debian bookworm main",
        "deb http://192.0.2.7/debian bookworm-updates main",
        "deb https://192.0.2.9/debian-security bookworm-security main",
    ]

    assert [(m.ipv4[0], m.port) for m in mirrors.endpoints(lines)] == [("192.0.2.7", 80), ("192.0.2.9", 443)]
