#!/usr/bin/python3
"""certbot's deploy hook: hands a renewed certificate to chasquid and proves that it is served.

A copy of this file is /etc/letsencrypt/renewal-hooks/deploy/mailroom-deploy, so it imports nothing of ours
and holds no secret. certbot calls it with RENEWED_LINEAGE; `--all` checks every certificate (after each
renewal run: it heals a hook that was killed). certificate.py uses the same functions.

Where chasquid finds its certificates:
  /etc/mailroom/certs/<dir>       symlink to ../pairs/<dir>/<digest>/{fullchain.pem,privkey.pem}, swapped
                                  in one rename: nobody ever sees a key without its certificate
  <dir>                           `0-<name>` for the host's certificate, `1-<name>` for all others: chasquid
                                  serves the first directory to clients that send no server name
  /etc/mailroom/certificates.json {"host": <name>, "names": [<name>, ...]}: what is deployed; a lineage that
                                  is not listed is none of ours
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable

MAILROOM = Path("/etc/mailroom")
LETSENCRYPT = Path("/etc/letsencrypt")
LOCK = Path("/run/mailroom.lock")
GROUP = "chasquid"
SERVICE = "chasquid.service"
ADDRESS = "127.0.0.1"
IMPLICIT_TLS, STARTTLS = (465,), (25, 587)
LOCK_LIMIT = 300  # seconds to wait for a run of the program that is at work on this host
START_LIMIT = 30  # seconds until a restarted server must serve its certificate
FILES = ("fullchain.pem", "privkey.pem")
FILE_MODE = 0o640
MINUTE, HOUR, DAY = 60, 3600, 86400


class DeployError(Exception):
    """One line that says what is wrong, what is expected and what to do."""


def directory_of(name: str, host: str) -> str:
    """Name of the directory under /etc/mailroom/certs for the certificate `name`."""
    return f"{0 if name == host else 1}-{name}"


# --- what the files say -------------------------------------------------------------------------------------


def leaf_of(fullchain: bytes) -> bytes:
    """The first certificate of a PEM file, as DER."""
    found = re.search(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", fullchain, re.DOTALL)
    if not found:
        raise DeployError("fullchain.pem holds no certificate, a PEM block is expected, issue it again")
    return base64.b64decode(found.group(1))


def check_pair(fullchain: Path, privkey: Path) -> None:
    """Refuse a key that is not the certificate's."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(fullchain, privkey)
    except (OSError, ssl.SSLError) as error:
        message = (
            f"{fullchain.parent}: key and certificate do not belong together ({error}), a pair is expected, "
            "nothing was deployed; run `certbot certificates` on the host"
        )
        raise DeployError(message) from error


def validity(certificate: Path) -> tuple[float, float]:
    """Begin and end of a certificate's life, as seconds since 1970."""
    argv = ["openssl", "x509", "-in", str(certificate), "-noout", "-startdate", "-enddate"]
    answer = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    dates = dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
    if answer.returncode or not {"notBefore", "notAfter"} <= dates.keys():
        raise DeployError(f"{certificate}: openssl cannot read it ({answer.stderr.strip()}), issue it again")
    return ssl.cert_time_to_seconds(dates["notBefore"]), ssl.cert_time_to_seconds(dates["notAfter"])


# --- copy ---------------------------------------------------------------------------------------------------


def deploy(lineage: Path, host: str) -> bool:
    """Copy a lineage's newest pair to where chasquid reads it; says whether that changed anything."""
    content = {file: (lineage / file).read_bytes() for file in FILES}
    check_pair(lineage / FILES[0], lineage / FILES[1])
    directory = directory_of(lineage.name, host)
    link, pairs = MAILROOM / "certs" / directory, MAILROOM / "pairs" / directory
    changed = not is_intact(link, content)
    if changed:
        for parent in (MAILROOM / "certs", MAILROOM / "pairs", pairs):
            make_directory(parent)
        digest = hashlib.sha256(b"\0".join(content.values())).hexdigest()[:16]
        current = link.resolve().name  # a damaged pair stays in its place until the good one is in use
        pair = pairs / (digest if digest != current else f"{digest}-again")
        write_pair(pair, content)
        swap(link, f"../pairs/{directory}/{pair.name}")
    for other in pairs.iterdir():
        if other.name != link.resolve().name:
            shutil.rmtree(other)
    renew_at_a_third(lineage)
    return changed


def is_intact(pair: Path, content: dict[str, bytes]) -> bool:
    """Whether a deployed pair has this content and is readable for the service alone."""
    try:
        return pair.is_symlink() and all(
            (pair / name).read_bytes() == data
            and (pair / name).stat().st_mode & 0o7777 == FILE_MODE
            and (pair / name).group() == GROUP
            for name, data in content.items()
        )
    except (OSError, KeyError):
        return False


def make_directory(path: Path) -> None:
    """A directory that the service can enter and nobody else."""
    path.mkdir(mode=0o750, parents=True, exist_ok=True)
    path.chmod(0o750)
    shutil.chown(path, group=GROUP)


def write_pair(pair: Path, content: dict[str, bytes]) -> None:
    """Write both files beside their place and put them there in one rename."""
    fresh = pair.with_name(pair.name + ".new")
    for path in (fresh, pair):
        if path.exists():
            shutil.rmtree(path)
    make_directory(fresh)
    for name, data in content.items():
        with os.fdopen(os.open(fresh / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            shutil.chown(fresh / name, group=GROUP)
            os.fchmod(file.fileno(), FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    fresh.rename(pair)


def swap(link: Path, target: str) -> None:
    """Point a symlink somewhere else; a reader sees the old target or the new one."""
    fresh = link.parent.parent / f"{link.name}.link"  # chasquid takes every directory in certs for a certificate
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.rename(link)


def renew_at_a_third(lineage: Path) -> None:
    """Let certbot renew when a third of the real lifetime is left; its own default assumes 90 days."""
    begin, end = validity(lineage / FILES[0])
    set_option(lineage.name, "renew_before_expiry", interval((end - begin) / 3))


def interval(seconds: float) -> str:
    """A duration in the words of certbot's renewal files, in the largest unit that keeps it exact enough."""
    for unit, size in (("days", DAY), ("hours", HOUR), ("minutes", MINUTE)):
        if seconds >= 10 * size:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds)} seconds"


def set_option(name: str, option: str, value: str) -> bool:
    """Set one option at the top of a lineage's renewal file; certbot keeps it when it rewrites the file."""
    path = LETSENCRYPT / "renewal" / f"{name}.conf"
    before = path.read_text(encoding="utf-8")
    lines = [line for line in before.splitlines() if not re.match(rf"#?\s*{option}\s*=", line)]
    after = "\n".join([f"{option} = {value}", *lines, ""])
    if after == before:
        return False
    fresh = path.with_name(f"{path.name}.new")  # certbot reads *.conf only
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
        file.write(after)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    return True


# --- serve --------------------------------------------------------------------------------------------------


def served_leaf(port: int, server_name: str | None) -> bytes:
    """The certificate a mail port shows, as DER."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # compared with the file byte by byte instead
    with socket.create_connection((ADDRESS, port), timeout=10) as plain:
        if port in STARTTLS:
            with plain.makefile("rb") as lines:
                dialogue(plain, lines)
        with context.wrap_socket(plain, server_hostname=server_name) as secure:
            return secure.getpeercert(binary_form=True) or b""


def dialogue(connection: socket.socket, lines: BinaryIO) -> None:
    """Speak SMTP (RFC 5321, RFC 3207) up to where TLS begins."""
    for command, code in ((b"", b"220"), (b"EHLO localhost\r\n", b"250"), (b"STARTTLS\r\n", b"220")):
        connection.sendall(command)
        while (line := lines.readline(1000))[3:4] == b"-":
            pass
        if not line.startswith(code):
            raise OSError(f"answer {line[:80]!r} instead of {code.decode()}")


def unserved(directories: Iterable[str], host: str) -> list[str]:
    """What each port shows instead of the deployed certificates; empty when all is served."""
    problems = []
    for directory in directories:
        name = directory.partition("-")[2]
        expected = leaf_of((MAILROOM / "certs" / directory / FILES[0]).read_bytes())
        server_names = (name, None) if name == host else (name,)  # the first is for clients without SNI, too
        for port in (*STARTTLS, *IMPLICIT_TLS):
            for server_name in server_names:
                try:
                    if served_leaf(port, server_name) != expected:
                        problems.append(f"port {port} serves another certificate for {name}")
                except OSError as error:
                    problems.append(f"port {port} does not serve {name}: {error}")
    return problems


def restart_and_prove(directories: list[str], host: str) -> bool:
    """Restart a running server that shows an old certificate; says whether it did."""
    if not is_running() or not unserved(directories, host):
        return False
    subprocess.run(["systemctl", "restart", SERVICE], check=True, timeout=120)
    end = time.monotonic() + START_LIMIT
    while problems := unserved(directories, host):
        if time.monotonic() > end:
            raise DeployError(
                f"{'; '.join(sorted(set(problems)))}, the files in {MAILROOM}/certs are expected, "
                f"see `journalctl -u {SERVICE}`"
            )
        time.sleep(0.5)
    return True


def is_running() -> bool:
    """Whether systemd runs the mail server."""
    return subprocess.run(["systemctl", "is-active", "--quiet", SERVICE], check=False).returncode == 0


def wait_for_program() -> BinaryIO:
    """Hold the lock of the program's steps, so that no restart falls into one of them; kept until exit.

    A step that waits for certbot gives up long before this does (certificate.py), so the two never wait
    for each other for good; past the limit the restart is more important than a stuck step.
    """
    file = LOCK.open("ab")
    end = time.monotonic() + LOCK_LIMIT
    while time.monotonic() < end:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.5)
        else:
            break
    return file


def main(arguments: list[str]) -> None:
    """Deploy the lineage certbot has just renewed, or with --all every one of ours."""
    wanted = json.loads((MAILROOM / "certificates.json").read_text(encoding="utf-8"))
    host, names = wanted["host"], wanted["names"]
    if arguments != ["--all"]:
        renewed = Path(os.environ.get("RENEWED_LINEAGE", "")).name
        if not renewed:
            raise DeployError("RENEWED_LINEAGE is not set, certbot sets it, by hand give --all instead")
        names = [name for name in names if name == renewed]
    if not names:  # somebody else's certificate
        return
    changed = [name for name in names if deploy(LETSENCRYPT / "live" / name, host)]
    with wait_for_program():
        restarted = restart_and_prove([directory_of(name, host) for name in names], host)
    if changed or restarted:
        print(f"changed: deployed {', '.join(changed) or 'nothing'}{', restarted chasquid' * restarted}")
    else:
        print("ok: nothing to do")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (DeployError, OSError, KeyError, subprocess.SubprocessError) as reason:
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(1)
