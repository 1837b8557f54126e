"""What runs on hosts can be made again by anybody, byte by byte, and is listed with its digests."""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import re
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from components.chasquid import build
from operations import sbom

if TYPE_CHECKING:
    from pathlib import Path

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
RELEASE = build.release(ARCH)


@pytest.fixture(scope="module")
def go() -> Path:
    return sbom.tool_folder("requirements-go.in", "go") / "go"


@pytest.fixture(scope="module")
def earlier() -> dict[str, bytes]:
    """The programs as `make setup` or `make test` compiled them, in another folder and with another cache."""
    with tarfile.open(RELEASE.tar) as tar:
        return {member.name: file.read() for member in tar if (file := tar.extractfile(member))}


def digests(programs: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in programs.items()}


@pytest.fixture
def empty_caches(go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing compiled before, and the sources unpacked in a folder of their own."""
    places = subprocess.check_output([go, "env", "GOMODCACHE", "GOPROXY"], text=True).split()
    monkeypatch.setenv("GOPROXY", f"file://{places[0]}/cache/download,{places[1]}")
    monkeypatch.setenv("GOSUMDB", "off")  # release.json and the module's go.sum hold the checksums
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("GOCACHE", str(tmp_path / "compiled"))


@pytest.fixture
def patient_go(go: Path, tmp_path: Path) -> str:
    """The compiler at low priority: other tests run meanwhile."""
    script = tmp_path / "go"
    script.write_text(f'#!/bin/sh\nexec nice -n 10 "{go}" "$@"\n')
    script.chmod(0o755)
    return str(script)


@pytest.mark.usefixtures("empty_caches")
def test_two_builds_of_the_server_have_one_digest_which_is_the_pinned_one(
    patient_go: str, earlier: dict[str, bytes]
) -> None:
    fresh = build.compile_programs(ARCH, patient_go)
    assert digests(fresh) == digests(earlier) == RELEASE.sha256


def write_lists(folder: Path) -> Path:
    """Run what `make sbom` runs; it fails unless every file is valid by the schema of CycloneDX 1.6."""
    command = [sbom.CHECKOUT / "scripts/sbom.py", "--output", folder, "--arch", ARCH]
    subprocess.run(command, check=True, capture_output=True, cwd=folder.parent)
    return folder


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lists(tmp_path_factory.mktemp("sbom") / "lists")


def listed(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    return found


def test_a_list_is_written_for_the_program_and_each_server_program(lists: Path) -> None:
    servers = {f"{program}-{RELEASE.version}-{ARCH}.cdx.json" for program in build.COMMANDS}
    assert {path.name for path in lists.iterdir()} == {"mailroom.cdx.json", *servers}


def test_each_pinned_requirement_is_listed_with_version_purl_and_every_digest(lists: Path) -> None:
    locked = (sbom.CHECKOUT / "requirements.txt").read_text()
    wanted = {
        (found[1], found[2], f"pkg:pypi/{found[1]}@{found[2]}", *sorted(re.findall("[0-9a-f]{64}", found[3])))
        for found in re.finditer(r"(?m)^([\w-]+)==(\S+)((?:.*\\\n)+.*)", locked)
    }
    assert len(wanted) == len(re.findall("(?m)^[a-z0-9-]+==", locked)) > 20

    found = listed(lists / "mailroom.cdx.json")
    assert found["metadata"]["component"]["name"] == "mailroom"
    assert wanted == {
        (
            *(part["name"], part["version"], part["purl"]),
            *sorted(each["content"] for place in part["externalReferences"] for each in place["hashes"]),
        )
        for part in found["components"]
    }


@pytest.mark.parametrize("program", list(build.COMMANDS))
def test_each_go_module_of_a_server_program_is_listed_with_version_purl_and_digest(
    lists: Path, program: str, go: Path, earlier: dict[str, bytes], tmp_path: Path
) -> None:
    binary = tmp_path / program
    binary.write_bytes(earlier[program])
    said = subprocess.check_output([go, "version", "-m", binary], text=True)
    wanted = {
        (module, version, f"pkg:golang/{module}@{version}", base64.b64decode(checksum).hex())
        for module, version, checksum in re.findall(r"(?m)^\tdep\t(\S+)\t(\S+)\th1:(\S+)$", said)
    }
    assert len(wanted) == said.count("\n\tdep\t") >= 5

    found = listed(lists / f"{program}-{RELEASE.version}-{ARCH}.cdx.json")
    library = {part["name"]: part for part in found["components"]}
    assert library.pop("std")["version"] == f"go{build.pins()['go']}"
    assert wanted == {
        (part["name"], part["version"], part["purl"].split("?")[0], part["hashes"][0]["content"])
        for part in library.values()
    }


@pytest.mark.parametrize("program", list(build.COMMANDS))
def test_a_list_names_the_very_binary_that_hosts_run(lists: Path, program: str) -> None:
    about = listed(lists / f"{program}-{RELEASE.version}-{ARCH}.cdx.json")["metadata"]
    assert about["component"]["version"] == f"v{RELEASE.version}"
    properties = {each["name"]: each["value"] for each in about["properties"]}
    assert properties["cdx:gomod:binary:hash:SHA-256"] == RELEASE.sha256[program]


def test_the_lists_are_the_same_each_time(lists: Path, tmp_path: Path) -> None:
    again = write_lists(tmp_path / "again")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in lists.iterdir()
    }


def test_a_file_that_breaks_the_schema_is_refused(lists: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.cdx.json"
    path.write_text((lists / "mailroom.cdx.json").read_text().replace('"library"', '"collection"', 1))
    with pytest.raises(sbom.SbomError, match="collection"):
        sbom.validate([path])
