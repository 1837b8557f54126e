#!/usr/bin/python3
"""Makes the staged files what runs: checks, swaps, restarts at most once, probes; rolls back when the probe fails.

Payload: {"plain": digest, "secret": digest, "binary": directory name, "hostname": ..., "domains": [...],
"certificates": {name: [names]}}.

/etc/mailroom/current is the release that chasquid reads, /etc/mailroom/proven the last one that passed the
probe. Killed at any point, the next run compares what runs (/run/mailroom/running.json) and converges.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.certificates import deploy_hook
    from components.host import hostlib
else:
    import deploy_hook
    import hostlib

MAILROOM = Path("/etc/mailroom")
PROGRAMS = Path("/usr/local/lib/mailroom/chasquid")
UNIT = Path("/etc/systemd/system/chasquid.service")
RUNNING = Path("/run/mailroom/running.json")
SERVICE = "chasquid.service"
GROUP = "chasquid"
ADDRESS = "127.0.0.1"
START_LIMIT = 15  # seconds until a restarted server must answer on every port
RELOADED = re.compile(r"domains/[^/]+/(users|aliases)")  # chasquid re-reads these without a restart


def main() -> None:
    """Converge; see the module's docstring."""
    wanted = hostlib.read_payload()
    release = build(wanted)
    check(release, wanted)
    fingerprint = restart_fingerprint(release)
    if running() == fingerprint:
        finish_without_restart(release, wanted)
    restart(release, fingerprint)
    if problems := probe_until(START_LIMIT, wanted):
        roll_back(release, wanted, problems)
    accept(release)
    hostlib.finish([f"release {release.name} activated, chasquid restarted once"])


# --- building and checking ------------------------------------------------------------------------------------


def build(wanted: dict[str, Any]) -> Path:
    """Copy the staged sets into a release directory, complete or not there at all."""
    name = hashlib.sha256(" ".join(wanted[key] for key in ("plain", "secret", "binary")).encode()).hexdigest()[:16]
    release = MAILROOM / "releases" / name
    for directory in (MAILROOM, MAILROOM / "releases"):
        hostlib.make_directory(directory, 0o750, group=GROUP)
    if release.is_dir():
        return release
    fresh = release.with_name(f"{name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    hostlib.make_directory(fresh, 0o750, group=GROUP)
    for kind in ("plain", "secret"):
        copy_set(MAILROOM / "staged" / kind / wanted[kind], fresh)
    (fresh / "certs").symlink_to(MAILROOM / "certs")
    (fresh / "bin").symlink_to(PROGRAMS / wanted["binary"])
    fresh.rename(release)
    return release


def copy_set(staged: Path, target: Path) -> None:
    """Every file of a staged set, with the mode it asks for, readable for the service's group."""
    if not staged.is_dir():
        hostlib.fail(f"{staged} is missing", "expected the staged files", "run `pulumi up --refresh` again")
    for path, mode in json.loads((staged / ".modes.json").read_text(encoding="utf-8")).items():
        place = target / path
        for parent in reversed(place.relative_to(target).parents[:-1]):
            hostlib.make_directory(target / parent, 0o750, group=GROUP)
        hostlib.write_file(place, (staged / path).read_bytes(), int(mode, 8), group=GROUP)


def check(release: Path, wanted: dict[str, Any]) -> None:
    """Let the new release's own checker read it, before anything that runs is touched."""
    util = str(release / "bin" / "chasquid-util")
    commands = [["print-config"], *(["check-userdb", domain] for domain in wanted["domains"])]
    for command in commands:
        answer = hostlib.run([util, f"-C={release}", *command])
        if answer.returncode:
            refuse(release, f"chasquid-util {' '.join(command)}: {one_line(answer.stdout + answer.stderr)}")
    for domain in wanted["domains"]:
        if bad := bad_alias_lines(release / "domains" / domain / "aliases"):
            refuse(release, f"aliases of {domain}: {bad[0]!r} is no alias line")
    for name in wanted["certificates"]:
        directory = MAILROOM / "certs" / deploy_hook.directory_of(name, wanted["hostname"])
        if not (directory / "fullchain.pem").is_file():
            refuse(release, f"{directory} holds no certificate for {name}")


def bad_alias_lines(path: Path) -> list[str]:
    """Lines that would end chasquid at its next reload (docs/aliases.md); pipes are refused too."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#") and not re.fullmatch(r"[^\s:,|]+:\s*[^|]+", line)]


def refuse(release: Path, what: str) -> None:
    """A release that fails its check never runs; what runs is untouched."""
    shutil.rmtree(release, ignore_errors=True)
    hostlib.fail(f"the new configuration is not valid ({what})", "nothing was changed", "correct the settings")


# --- what runs ------------------------------------------------------------------------------------------------


def restart_fingerprint(release: Path) -> str:
    """Digest of everything chasquid reads only at its start: all but users and aliases, and the certificates."""
    digest = hashlib.sha256(str((release / "bin").readlink()).encode())
    for path in sorted(path for path in release.rglob("*") if path.is_file() and not path.is_symlink()):
        name = str(path.relative_to(release))
        if name.startswith(("bin/", "certs/")):
            continue
        digest.update(name.encode() + b"\0" + (b"" if RELOADED.fullmatch(name) else path.read_bytes()) + b"\0")
    for pair in sorted((MAILROOM / "certs").glob("*/fullchain.pem")):
        digest.update(pair.parent.name.encode() + b"\0" + pair.read_bytes())
    return digest.hexdigest()


def running() -> str | None:
    """The fingerprint of the process that runs now; None when it was started by somebody else, or not at all."""
    try:
        record = json.loads(RUNNING.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record["fingerprint"] if record["invocation"] == invocation() else None


def invocation() -> str:
    """systemd's ID of the running service; a restart gives another one, a stopped service none."""
    answer = hostlib.run(["systemctl", "show", SERVICE, "-p", "ActiveState,InvocationID,MainPID"])
    facts = dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
    return f"{facts['InvocationID']} {facts['MainPID']}" if facts.get("ActiveState") == "active" else "none"


def finish_without_restart(release: Path, wanted: dict[str, Any]) -> None:
    """Only users or aliases changed, or nothing: swap and let chasquid re-read; the process stays the same."""
    before = invocation()
    changed = hostlib.point(MAILROOM / "current", f"releases/{release.name}")
    if changed:
        hostlib.run(["systemctl", "kill", "-s", "HUP", "--kill-who=main", SERVICE])
        time.sleep(1)  # a reload that fails ends the process
    problems = ["the process ended when it re-read its users and aliases"] if invocation() != before else []
    if problems := problems or probe(wanted):
        roll_back(release, wanted, problems)
    accept(release)
    hostlib.finish([f"release {release.name} activated, users and aliases re-read without a restart"] if changed else [])


def restart(release: Path, fingerprint: str) -> None:
    """Swap and restart; what was started is recorded for the next run."""
    hostlib.point(MAILROOM / "current", f"releases/{release.name}")
    if hostlib.write_file(UNIT, (release / "chasquid.service").read_bytes(), 0o644):
        hostlib.run(["systemctl", "daemon-reload"])
    hostlib.run(["systemctl", "enable", SERVICE])
    hostlib.run(["systemctl", "reset-failed", SERVICE])
    hostlib.run(["systemctl", "restart", SERVICE])
    hostlib.make_directory(RUNNING.parent, 0o755)
    record = {"fingerprint": fingerprint, "invocation": invocation()}
    hostlib.write_file(RUNNING, json.dumps(record), 0o600)


def accept(release: Path) -> None:
    """The release passed: it is what a later failure goes back to."""
    hostlib.point(MAILROOM / "proven", f"releases/{release.name}")
    for other in (MAILROOM / "releases").iterdir():
        if other.name != release.name:
            shutil.rmtree(other)


def roll_back(release: Path, wanted: dict[str, Any], problems: list[str]) -> None:
    """Go back to the proven release, or stop where there is none; the run fails either way."""
    reason = f"{'; '.join(problems)}{last_error()}"
    proven = MAILROOM / "proven"
    if proven.is_symlink() and proven.resolve().is_dir() and proven.resolve().name != release.name:
        old = proven.resolve()
        restart(old, restart_fingerprint(old))
        state = "but it does not answer either" if probe_until(START_LIMIT, wanted) else "and runs"
        shutil.rmtree(release, ignore_errors=True)
        hostlib.fail(f"the new release failed its probe ({reason})", f"the previous one is back {state}", "correct it")
    hostlib.run(["systemctl", "stop", SERVICE])
    RUNNING.unlink(missing_ok=True)
    hostlib.fail(
        f"chasquid failed its first probe ({reason})", "expected it to serve 25, 465 and 587; it is stopped now",
        "see `journalctl -u chasquid` on the host, then run `pulumi up` again",
    )  # fmt: skip


def last_error() -> str:
    """chasquid's own last words, when it has any."""
    answer = hostlib.run(["journalctl", "-u", SERVICE, "-n", "30", "-o", "cat", "--no-pager"])
    errors = [line for line in answer.stdout.splitlines() if re.search(r"\b(F|E|[Ff]atal|[Ee]rror)\b", line)]
    return f"; chasquid says: {one_line(errors[-1])}" if errors else ""


def one_line(text: str) -> str:
    """The last line of an output, short."""
    lines = text.strip().splitlines() or ["no message"]
    return lines[-1][:300]


# --- probe ----------------------------------------------------------------------------------------------------


def probe_until(limit: float, wanted: dict[str, Any]) -> list[str]:
    """Probe until it passes or time is out; what was wrong last."""
    end = time.monotonic() + limit
    while (problems := probe(wanted)) and time.monotonic() < end:
        time.sleep(0.3)
    return problems


def probe(wanted: dict[str, Any]) -> list[str]:
    """What a client sees that it should not: banners, AUTH without TLS, certificates, the wrong binary."""
    problems = []
    for port in deploy_hook.STARTTLS:
        try:
            problems += speaks_before_tls(port, wanted["hostname"])
        except OSError as error:
            problems.append(f"port {port} does not answer: {error}")
    if problems:
        return problems
    directories = [deploy_hook.directory_of(name, wanted["hostname"]) for name in wanted["certificates"]]
    return deploy_hook.unserved(directories, wanted["hostname"])


def speaks_before_tls(port: int, hostname: str) -> list[str]:
    """The banner names us; AUTH is neither offered nor accepted before TLS (RFC 4954 section 4)."""
    problems = []
    with socket.create_connection((ADDRESS, port), timeout=5) as connection, connection.makefile("rb") as lines:
        if hostname not in (banner := reply(lines)):
            problems.append(f"port {port} greets with {banner[:80]!r}, expected {hostname}")
        connection.sendall(b"EHLO localhost\r\n")
        if "AUTH" in reply(lines).upper():
            problems.append(f"port {port} offers AUTH without TLS")
        connection.sendall(b"AUTH PLAIN AG5vYm9keQBub3RoaW5n\r\n")
        if not (answer := reply(lines)).startswith(("4", "5")):
            problems.append(f"port {port} takes AUTH without TLS: {answer[:80]!r}")
    return problems


def reply(lines: Any) -> str:
    """One SMTP reply with all its lines (RFC 5321 section 4.2)."""
    text = ""
    while line := lines.readline(1000).decode(errors="replace"):
        text += line
        if line[3:4] != "-":
            return text
    raise OSError("the connection ended before a reply")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ssl.SSLError, deploy_hook.DeployError) as error:
        print(f"error: activation stopped ({error}), expected a prepared host, run `pulumi up` again", file=sys.stderr)
        sys.exit(1)
