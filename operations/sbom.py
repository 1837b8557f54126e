"""Lists what the program and its server are made of, as CycloneDX 1.6, with the tools CycloneDX itself keeps.

The same inputs give the same bytes. What a host's distribution installs is not listed: the host itself knows best.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from components.cache import cache_folder
from components.chasquid import build

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

CHECKOUT = Path(__file__).parent.parent
GO_TOOLS = Path(__file__).with_name("go")  # cyclonedx-gomod and all it needs, pinned by go.mod and go.sum
VALIDATE = """\
import pathlib, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
for path in sys.argv[1:]:
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(pathlib.Path(path).read_text(encoding="utf-8")):
        sys.exit(f"{path}: {wrong}")
"""


class SbomError(Exception):
    """Which tool failed, on what, and what to do."""


def write(folder: Path, arches: Iterable[str]) -> list[Path]:
    """One file for the program, one for each server program of each architecture; all valid by the schema."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    written = [_program(folder / "mailroom.cdx.json")]
    for arch in arches:
        written.extend(_server(folder, arch))
    validate(written)
    return written


def validate(files: Iterable[Path]) -> None:
    """Raise SbomError unless each file keeps to the schema, strictly."""
    _run([tool_folder("requirements-sbom.in", "sbom") / "python", "-c", VALIDATE, *files])


def tool_folder(requirements: str, name: str) -> Path:
    """Where `make sbom` has put the tool that this file pins first: the user's cache, named after its version."""
    version = re.search(r"^[\w-]+==(\S+)$", (CHECKOUT / requirements).read_text(encoding="utf-8"), re.MULTILINE)
    if version is None:
        raise SbomError(f"{requirements} pins nothing, expected a line such as cyclonedx-bom==7.5.0")
    return cache_folder(f"{name}-{version[1]}") / "bin"


def _program(output: Path) -> Path:
    """The Python packages as the program's users install them, each with the digests pip checks."""
    python = tool_folder("requirements-sbom.in", "sbom")
    _run([
        python / "cyclonedx-py", "requirements", "requirements.txt", "--pyproject", "pyproject.toml",
        "--spec-version", "1.6", "--output-reproducible", "--output-file", output,
    ])  # fmt: skip
    return output


def _server(folder: Path, arch: str) -> Iterator[Path]:
    """The Go modules that the very files which hosts run say they were built from."""
    release, go = build.release(arch), tool_folder("requirements-go.in", "go") / "go"
    flags = {"GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    path = f"{go.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # the tool asks `go version -m`
    with tempfile.TemporaryDirectory() as programs, tarfile.open(build.build(arch, str(go))) as tar:
        tar.extractall(programs)  # noqa: S202  (our own: every digest was compared with release.json)
        for program in sorted(release.sha256):
            output = folder / f"{program}-{release.version}-{arch}.cdx.json"
            _run(
                [
                    go, "-C", GO_TOOLS, "tool", "cyclonedx-gomod", "bin", "-json", "-output-version", "1.6", "-std",
                    "-noserial", "-notimestamp", "-version", f"v{release.version}", "-output", output,
                    Path(programs, program),
                ],
                flags | {"CGO_ENABLED": "0", "PATH": path},
            )  # fmt: skip
            yield output


def _run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
    merged = {**os.environ, **(environment or {})}
    try:
        done = subprocess.run(command, cwd=CHECKOUT, env=merged, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SbomError(f"{command[0]} cannot be run ({error.strerror}); `make sbom` installs it") from error
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise SbomError(f"{command[0]} failed; put right what it says, then run `make sbom` again:\n{tail}")
