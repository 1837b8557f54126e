"""Builds the pinned chasquid on the operator's machine: one digest from every laptop and CI; no host access.

The result is one uncompressed tar (compressors differ between machines) in the user's cache.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.cache import cache_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RELEASE = Path(__file__).with_name("release.json")
COMMANDS = {"chasquid": ".", "chasquid-util": "./cmd/chasquid-util"}
# What is mended in the module's source, file by file: (as it is, as we build it).
# - A length in a signature (RFC 6376 section 3.5, l=) beyond the end of the body stops the whole server there, and a
#   shorter one vouches for text that anybody may have added: such a signature fails.
# - An answer to AUTH is held back by a random part of what the work left of 100 ms, and only a user who exists costs
#   work, so the time tells who exists: the end is drawn before the work begins, and any wrong password costs the same.
# - The post-data hook is a program, started for each message: where it is a link, the socket there is asked (ADDED).
MENDED = {
    "internal/dkim/verify.go": (
        "\tif sig.l > 0 {\n\t\tbodyC = bodyC[:sig.l]\n",
        (
            "\tif sig.l > 0 && sig.l != uint64(len(bodyC)) {\n"
            '\t\tresult.Error = fmt.Errorf("%w (l= is not the length of the body)", ErrBodyHashMismatch)\n'
            "\t\tresult.State = PERMFAIL\n\t\treturn result\n"
        ),
    ),
    "internal/auth/auth.go": (
        (
            "\tdefer func(start time.Time) {\n\t\telapsed := time.Since(start)\n\t\tdelay := a.AuthDuration - elapsed\n"
            "\t\tif delay > 0 {\n\t\t\tmaxDelta := int64(float64(delay) * 0.2)\n"
            "\t\t\tdelay += time.Duration(rand.Int64N(maxDelta))\n\t\t\ttime.Sleep(delay)\n\t\t}\n\t}(time.Now())\n"
        ),
        (
            "\tdefer func(end time.Time) { time.Sleep(time.Until(end)) }(\n"
            "\t\ttime.Now().Add(a.AuthDuration + rand.N(a.AuthDuration/5)))\n"
        ),
    ),
    "internal/userdb/userdb.go": (
        "\tif !ok {\n\t\treturn false\n\t}\n\n\treturn passwd.PasswordMatches(plainPassword)\n",
        (
            "\tif ok && passwd.GetDenied() == nil && passwd.PasswordMatches(plainPassword) {\n\t\treturn true\n\t}\n"
            "\tif passwd.GetScrypt().GetLogN() < 14 {\n"
            "\t\tnobody := &Scrypt{LogN: 14, R: 8, P: 1, KeyLen: 32, Salt: make([]byte, 16)}\n"
            "\t\tnobody.PasswordMatches(plainPassword)\n\t}\n\treturn false\n"
        ),
    ),
    "internal/smtpsrv/conn.go": (
        "\t// TODO: check if the file is executable.\n",
        (
            "\tif socket, err := os.Readlink(c.postDataHook); err == nil {\n"
            "\t\treturn c.askPostData(socket, data)\n\t}\n"
        ),
    ),
}
# Files of ours beside the module's: their place there, and here.
ADDED = {"internal/smtpsrv/post_data.go": Path(__file__).with_name("post_data.go")}
LDFLAGS = "-s -w -X main.version={version}"


class BuildError(Exception):
    """What went wrong, what was expected and what to do, as one message."""


@dataclass(frozen=True)
class Release:
    """One architecture's pinned build. `sha256` maps each program to the digest of its file."""

    version: str
    arch: str
    sha256: dict[str, str]

    @property
    def directory_name(self) -> str:
        """Where hosts keep it, below /usr/local/lib/mailroom/chasquid: named after its content."""
        return self.sha256["chasquid"][:12]

    @property
    def name(self) -> str:
        """The tar's file name, here and on hosts."""
        return f"chasquid-{self.version}-{self.arch}-{self.directory_name}.tar"

    @property
    def tar(self) -> Path:
        """The built tar on this machine."""
        return cache_folder("chasquid") / self.name

    @property
    def remote_path(self) -> str:
        """Where it is uploaded to, from home, where nobody else can put a link; the installing step verifies it."""
        return f".{self.name}"


def pins() -> dict[str, Any]:
    """The content of release.json."""
    return dict(json.loads(RELEASE.read_text(encoding="utf-8")))


def release(arch: str) -> Release:
    """The pinned release of `arch` (amd64 or arm64)."""
    pinned = pins()
    return Release(pinned["version"], arch, dict(pinned["sha256"][arch]))


def build(arch: str, go: str) -> Path:
    """Make the release's tar unless it is there; returns its path. Raises BuildError.

    The compiled programs must have the pinned digests: another one means another Go, module or flag.
    """
    wanted = release(arch)
    wanted.tar.parent.mkdir(parents=True, exist_ok=True)
    with open(wanted.tar.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_pinned(wanted):
            print(f"building chasquid {wanted.version} for {arch} from its Go module (about a minute)", file=sys.stderr)
            programs = compile_programs(arch, go)
            _refuse_other_digests(wanted, programs)
            _write(wanted.tar, packed(programs))
    return wanted.tar


def _is_pinned(wanted: Release) -> bool:
    """Whether the cache has the tar, undamaged."""
    try:
        with tarfile.open(wanted.tar) as tar:
            files = {member.name: tar.extractfile(member) for member in tar}
            found = {name: hashlib.sha256(file.read()).hexdigest() for name, file in files.items() if file}
    except (OSError, tarfile.TarError):
        return False
    return found == wanted.sha256


def compile_programs(arch: str, go: str) -> dict[str, bytes]:
    """Compile both programs from a mended copy of the module, with its own go.sum."""
    pinned = pins()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "go.mod").write_text("module mailroom.invalid/chasquid\n\ngo 1.25\n", encoding="utf-8")
        module = f"{pinned['module']}@v{pinned['version']}"
        found = json.loads(_go(go, ["mod", "download", "-json", module], folder, arch))
        if found["Sum"] != pinned["sum"]:
            raise BuildError(
                f"module {module} has the checksum {found['Sum']}, expected {pinned['sum']} (release.json); "
                "do not use it: clean the module cache and find out where it comes from"
            )
        source = mended(Path(found["Dir"]), Path(folder, "source"))
        return {name: _compile(go, source, package, Path(folder, name), arch) for name, package in COMMANDS.items()}


def mended(module: Path, copy: Path) -> str:
    """A copy of the module's source with our mends; Go itself refuses to replace files of its module cache."""
    shutil.copytree(module, copy, copy_function=shutil.copyfile)
    for path in (copy, *copy.rglob("*/")):
        path.chmod(0o755)
    for name, (as_it_is, as_we_build_it) in MENDED.items():
        file = copy / name
        text = file.read_text(encoding="utf-8")
        if text.count(as_it_is) != 1:
            raise BuildError(
                f"{name} of the module is not as expected, so it cannot be mended; review MENDED in {__file__}"
            )
        file.write_text(text.replace(as_it_is, as_we_build_it), encoding="utf-8")
    for name, ours in ADDED.items():
        shutil.copyfile(ours, copy / name)
    return str(copy)


def _compile(go: str, directory: str, package: str, output: Path, arch: str) -> bytes:
    flags = ["-mod=readonly", "-trimpath", "-buildvcs=false", f"-ldflags={LDFLAGS.format(version=pins()['version'])}"]
    _go(go, ["build", *flags, "-o", str(output), package], directory, arch)
    return output.read_bytes()


def environment(arch: str) -> dict[str, str]:
    """Where each machine's Go makes the same bytes."""
    own = {name: value for name, value in os.environ.items() if name not in ("GOEXPERIMENT", "GODEBUG")}
    return {
        **own, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": arch,
        "GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOAMD64": "v1", "GOARM64": "v8.0",
    }  # fmt: skip


def _go(go: str, arguments: Sequence[str], directory: str, arch: str) -> str:
    try:
        answer = subprocess.run(
            [go, *arguments], cwd=directory, env=environment(arch), capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BuildError(f"{go} cannot be run ({error.strerror}), expected the pinned Go; give its path") from error
    if answer.returncode:
        tail = "\n".join(answer.stderr.strip().splitlines()[-5:])
        message = f"`go {arguments[0]}` failed; check the machine's access to Go modules, then run again:\n{tail}"
        raise BuildError(message)
    return answer.stdout


def _refuse_other_digests(wanted: Release, programs: Mapping[str, bytes]) -> None:
    for name, data in programs.items():
        digest = hashlib.sha256(data).hexdigest()
        if digest != wanted.sha256[name]:
            raise BuildError(
                f"{name} for {wanted.arch} was built with sha256 {digest}, expected {wanted.sha256[name]} "
                f"(release.json, made with Go {pins()['go']}); use that Go, or review and renew the pins"
            )


def packed(programs: Mapping[str, bytes]) -> bytes:
    """The programs as a tar that depends on nothing but their content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted(programs.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.rename(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m components.chasquid.build --arch amd64 --go PATH` prints the tar's path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", required=True, choices=["amd64", "arm64"])
    parser.add_argument("--go", required=True, help="the pinned Go (requirements-go.txt)")
    chosen = parser.parse_args(arguments)
    try:
        print(build(chosen.arch, chosen.go))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
