#!/usr/bin/python3
"""Makes the staged files what runs: tries them out, swaps, restarts at most once, probes; goes back on failure.

Payload: {"plain": digest, "secret": digest, "binary": directory name, "hostname": ..., "domains": [...],
"certificates": {name: [names]}}.

/etc/mailroom/current is the release that chasquid starts from, /etc/mailroom/proven the last one that passed the
probe, /etc/mailroom/previous the proven one before. chasquid enters its release when it starts (chdir) and stays
there when `current` moves on, so every domains/<D>/{users,aliases} is a link through `current` to lists/<D>/: a
running process re-reads the newest ones. Killed at any point, the next run looks at what runs and converges.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from components.certificates import deploy_hook
    from components.chasquid import policy_units
    from components.chasquid import probe as client
    from components.host import hostlib
else:
    import deploy_hook
    import hostlib
    import policy_units
    import probe as client

MAILROOM = Path("/etc/mailroom")
PROGRAMS = Path("/usr/local/lib/mailroom/chasquid")
POLICY = "/run/mailroom-policy/socket"  # asked about each message (post_data.go)
UNIT = Path("/etc/systemd/system/chasquid.service")
PENDING = Path("/run/mailroom/restart-pending")  # there while what runs may be older than what is on disk
SERVICE = "chasquid.service"
USER = GROUP = "chasquid"
ADDRESS = "127.0.0.1"
SCRIPTS = Path(__file__).resolve().parent  # this bundle, the sender policy's code in it
LISTENERS = 3  # one a port: 25, 587, 465
TRIAL_LIMIT = 20  # seconds until a trial listens or has ended
START_LIMIT = 15  # seconds until a restarted server must answer on every port
RELOAD_LIMIT = 1  # seconds; a reload that fails ends the process at once
NOT_CHASQUIDS = {"probe.json", "policy.json", "scripts", policy_units.SOCKET, policy_units.SERVICE}
LISTS = re.compile(r"domains/([^/]+)/(users|aliases)")  # chasquid re-reads these without a restart
LOG_PREFIX = re.compile(r"^\S+ +[a-z_]+\.go:\d+ +")
STAGE_AGAIN = "stage it again: `pulumi up --replace <URN of the step>`, see `pulumi stack --show-urns`"
FATAL = "☠"  # how chasquid marks the line it ends with


def main() -> None:
    """Converge; see the module's docstring."""
    wanted = hostlib.read_payload()
    release = build(wanted)
    reasons = restart_reasons(release)
    current = MAILROOM / "current"
    if not reasons and current.resolve() == release:
        accept(release)
        hostlib.finish([*policy_units.converge(release), *(["chasquid enabled at boot"] if enable() else [])])
    if error := try_out(release):
        refuse(release, error)
    switch = restart if reasons else reload
    if problems := switch(release) or probe_until(START_LIMIT, release):
        go_back(release, problems)
    accept(release)
    without = "users, aliases and limits re-read without a restart"
    how = f"chasquid restarted once ({reasons[0]})" if reasons else without
    hostlib.finish([f"release {release.name} activated", how])


# --- building a release ---------------------------------------------------------------------------------------


def build(wanted: dict[str, Any]) -> Path:
    """The release directory of what is wanted: complete and as staged, or not there at all.

    One that was changed by hand is left to the process that may use it; the release gets a second name then.
    """
    identity = {key: wanted[key] for key in ("plain", "secret", "binary", "domains")} | {"scripts": str(SCRIPTS)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    for folder in (MAILROOM, MAILROOM / "releases"):
        hostlib.make_directory(folder, 0o750, group=GROUP)
    files, links = content(wanted)
    for name in (digest, f"{digest}-again"):
        release = MAILROOM / "releases" / name
        if is_intact(release, files, links):
            break
        if release not in in_use():
            write(release, files, links)
            break
    facts = {"hostname": wanted["hostname"], "certificates": sorted(wanted["certificates"])}
    hostlib.write_file(release / "probe.json", json.dumps(facts), 0o640, group=GROUP)
    return release


def content(wanted: dict[str, Any]) -> tuple[dict[str, tuple[bytes, int]], dict[str, str]]:
    """What a release holds: path -> (content, mode) of its files, path -> target of its links."""
    files = dict(staged_files(wanted))
    domains = {path.split("/")[1] for path in files if path.startswith("domains/")}
    if strangers := sorted(domains - set(wanted["domains"]) if wanted["domains"] else ()):
        hostlib.fail(
            f"files for {', '.join(strangers)} are staged", f"expected domains {', '.join(wanted['domains'])} only",
            STAGE_AGAIN,
        )  # fmt: skip
    links = {
        "certs": str(MAILROOM / "certs"), "bin": str(PROGRAMS / wanted["binary"]), "scripts": str(SCRIPTS),
        "hooks/post-data": POLICY,
    }  # fmt: skip
    files[f"domains/{client.DOMAIN}/users"] = (client.users_file(), 0o640)
    files[f"domains/{client.DOMAIN}/aliases"] = (b"", 0o640)
    for domain in sorted(domains.union(wanted["domains"], {client.DOMAIN})):
        for name in ("users", "aliases"):
            links[f"domains/{domain}/{name}"] = str(MAILROOM / "current" / "lists" / domain / name)
    return {LISTS.sub(r"lists/\1/\2", path): file for path, file in files.items()}, links


def staged_files(wanted: dict[str, Any]) -> Iterator[tuple[str, tuple[bytes, int]]]:
    """Both staged sets, with the mode each file asks for."""
    for kind in ("plain", "secret"):
        staged = MAILROOM / "staged" / kind / wanted[kind]
        if not staged.is_dir():
            hostlib.fail(
                f"{staged} is missing",
                "expected the staged files",
                STAGE_AGAIN,
            )
        for path, mode in json.loads((staged / ".modes.json").read_text(encoding="utf-8")).items():
            yield path, ((staged / path).read_bytes(), int(mode, 8))


def is_intact(release: Path, files: dict[str, tuple[bytes, int]], links: dict[str, str]) -> bool:
    """Whether a release on disk is what it should be, byte for byte, with nothing added."""
    found = {str(path.relative_to(release)) for path in release.rglob("*") if path.is_symlink() or path.is_file()}
    return found - {"probe.json"} == {*files, *links} and all(
        [(release / path).read_bytes() == data for path, (data, _) in files.items()]
        + [(release / path).is_symlink() and str((release / path).readlink()) == to for path, to in links.items()]
    )


def write(release: Path, files: dict[str, tuple[bytes, int]], links: dict[str, str]) -> None:
    """Write a release beside its place, readable for the service's group alone, then rename it there."""
    fresh = release.with_name(f"{release.name}.new")
    for path in (fresh, release):
        shutil.rmtree(path, ignore_errors=True)
    for path in sorted({parent for name in [*files, *links] for parent in (fresh / name).parents}, key=str):
        if path.is_relative_to(fresh):
            hostlib.make_directory(path, 0o750, group=GROUP)
    for name, (data, mode) in files.items():
        hostlib.write_file(fresh / name, data, mode & 0o750, group=GROUP)
    for name, target in links.items():
        (fresh / name).symlink_to(target)
    fresh.rename(release)


# --- trying it out --------------------------------------------------------------------------------------------


def try_out(release: Path) -> str | None:
    """Start the new program with the new files beside the running one; what it ends with, None if it listens.

    chasquid has no checker for certificates, keys, users and aliases but its own start. The trial listens on
    free loopback ports and has an empty queue of its own, so it neither takes nor sends mail.
    """
    place = MAILROOM / "trial"
    shutil.rmtree(place, ignore_errors=True)
    try:
        lay_out_trial(release, place)
        return run_trial(release, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def lay_out_trial(release: Path, place: Path) -> None:
    """A configuration directory that reads the release's own lists instead of those in use."""
    hostlib.make_directory(place, 0o750, group=GROUP)
    hostlib.make_directory(place / "data", 0o700, owner=USER, group=GROUP)
    for name in ("chasquid.conf", "certs", "hooks"):
        (place / name).symlink_to(release / name)
    for path in release.glob("domains/*/*"):
        trial = place / path.relative_to(release)
        hostlib.make_directory(trial.parent, 0o750, group=GROUP)
        trial.symlink_to(release / "lists" / path.parent.name / path.name if path.is_symlink() else path)
    hostlib.make_directory(place / "domains", 0o750, group=GROUP)


def run_trial(release: Path, place: Path) -> str | None:
    """Run as the service's user until all listeners are there."""
    listeners = ("smtp_address", "submission_address", "submission_over_tls_address", "monitoring_address")
    overrides = "".join(f'{name}: "{ADDRESS}:0" ' for name in listeners)
    overrides += f'data_dir: "{place / "data"}" mail_log_path: "<stdout>"'
    command = [str(release / "bin" / "chasquid"), f"--config_dir={place}", f"--config_overrides={overrides}"]
    with subprocess.Popen(
        [*as_service(), *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8"
    ) as trial:
        signal.signal(signal.SIGALRM, lambda *_: trial.kill())
        signal.alarm(TRIAL_LIMIT)
        listening, last = 0, "it said nothing"
        for line in trial.stderr or ():
            last = line if not last.startswith(FATAL) else last
            listening += "Server listening on" in line
            if listening == LISTENERS:
                trial.kill()
                break
        signal.alarm(0)
    return None if listening == LISTENERS else words(last)


def as_service() -> list[str]:
    """Drop root, so that files the service cannot read fail here; a trial never outlives us."""
    return ["setpriv", f"--reuid={USER}", f"--regid={GROUP}", "--clear-groups", "--pdeathsig=KILL", "--"]


def refuse(release: Path, error: str) -> None:
    """A release that fails its trial never runs; what runs is untouched."""
    if release not in in_use():
        shutil.rmtree(release, ignore_errors=True)
    hostlib.fail(
        f"chasquid refuses the new files: {error}", "expected it to start with them",
        "what ran before still runs; correct the settings and run `pulumi up` again",
    )  # fmt: skip


# --- what runs ------------------------------------------------------------------------------------------------


def in_use() -> set[Path]:
    """Releases that must stay: linked, or the running process's own."""
    linked = {(MAILROOM / name).resolve() for name in ("current", "proven", "previous")}
    running = hostlib.entered(SERVICE)
    return linked | ({running} if running else set())


def restart_reasons(release: Path) -> list[str]:
    """Why the running process cannot be the wanted one; empty when it only may have to re-read its lists."""
    running = hostlib.entered(SERVICE)
    if running is None:
        return ["it was not running"]
    reasons = []
    if PENDING.exists():
        reasons.append("an earlier activation was interrupted")
    if fingerprint(running) != fingerprint(release):
        reasons.append("program, configuration, domains or DKIM keys changed")
    if not UNIT.is_file() or UNIT.read_bytes() != (release / "chasquid.service").read_bytes():
        reasons.append("its unit file changed")
    return reasons or unproven(release)


def unproven(release: Path) -> list[str]:
    """The running process has what it needs, but does it serve? New certificates show here."""
    if not probe(release):
        return []
    time.sleep(1)  # one slow answer is no reason to cut every session
    return probe(release)


def fingerprint(release: Path) -> str:
    """Digest of all that chasquid reads at its start only: everything but the lists, and the certificates."""
    digest = hashlib.sha256()
    for path in sorted(release.rglob("*")):
        name = str(path.relative_to(release))
        if name in NOT_CHASQUIDS or name.startswith("lists/"):
            continue
        if path.is_symlink():
            digest.update(f"{name}\0{path.readlink()}\0".encode())
        elif path.is_file():
            digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return digest.hexdigest()


# --- changing it ----------------------------------------------------------------------------------------------


def enable() -> bool:
    """Start at boot; says whether that is new."""
    if hostlib.run(["systemctl", "is-enabled", "--quiet", SERVICE]).returncode == 0:
        return False
    hostlib.run(["systemctl", "enable", "--quiet", SERVICE])
    return True


def restart(release: Path) -> list[str]:
    """Swap and restart, once; what systemd said against it."""
    hostlib.make_directory(PENDING.parent, 0o755)
    PENDING.touch()
    hostlib.point(MAILROOM / "current", f"releases/{release.name}")
    policy_units.converge(release)  # before chasquid asks it
    hostlib.write_file(UNIT, (release / "chasquid.service").read_bytes(), 0o644)
    hostlib.run(["systemctl", "daemon-reload"])
    enable()
    hostlib.run(["systemctl", "reset-failed", SERVICE])
    answer = hostlib.run(["systemctl", "restart", SERVICE])
    return [words(answer.stderr)] if answer.returncode else []


def reload(release: Path) -> list[str]:
    """Only users or aliases changed: swap and let chasquid re-read; the process stays the same."""
    before = hostlib.main_pid(SERVICE)
    hostlib.point(MAILROOM / "current", f"releases/{release.name}")
    policy_units.converge(release)
    hostlib.run(["systemctl", "kill", "--signal=HUP", "--kill-who=main", SERVICE])
    time.sleep(RELOAD_LIMIT)
    return [] if hostlib.main_pid(SERVICE) == before else ["the process ended when it re-read its users and aliases"]


def accept(release: Path) -> None:
    """The release passed: it is what a later failure goes back to."""
    PENDING.unlink(missing_ok=True)
    proven = MAILROOM / "proven"
    if proven.is_dir() and proven.resolve() != release:
        hostlib.point(MAILROOM / "previous", f"releases/{proven.resolve().name}")
    hostlib.point(proven, f"releases/{release.name}")
    for other in set((MAILROOM / "releases").iterdir()) - in_use():
        shutil.rmtree(other)


def go_back(release: Path, problems: list[str]) -> None:
    """Go back to the proven release, or stop where there is none; the run fails either way."""
    reason = "; ".join([*problems[:3], *last_words()])
    proven = (MAILROOM / "proven").resolve()
    if proven.is_dir() and proven != release:
        failed = restart(proven) or probe_until(START_LIMIT, proven)
        if not failed:
            PENDING.unlink(missing_ok=True)
        hostlib.fail(
            f"the new release failed its probe ({reason})",
            "expected it to serve as before" if failed else "the release before it is back and serves",
            f"the release before it fails, too ({failed[0]})" if failed else "correct the settings, then `pulumi up`",
        )
    if proven != release:  # the first one ever: leave nothing that starts at boot
        hostlib.run(["systemctl", "disable", "--now", "--quiet", SERVICE])
        (MAILROOM / "current").unlink(missing_ok=True)
    hostlib.fail(
        f"chasquid does not serve ({reason})",
        "expected it on ports 25, 465 and 587" + ("" if proven == release else "; it is stopped now"),
        "see `journalctl -u chasquid` on the host, then run `pulumi up` again",
    )


def last_words() -> list[str]:
    """What chasquid ended with, when it did."""
    answer = hostlib.run(["journalctl", "-u", SERVICE, "-n", "50", "-o", "cat", "--no-pager", "--since=-2min"])
    fatal = [line for line in answer.stdout.splitlines() if line.startswith(FATAL)]
    return [f"chasquid says: {words(fatal[-1])}"] if fatal else []


def words(line: str) -> str:
    """A log line without its prefix, short; of a users file no more than the position, its text is secret."""
    text = LOG_PREFIX.sub("", line.strip() or "no message").strip()
    if re.search(r"users file|authenticator", text):
        text = re.sub(r"(\(line \d+:\d+\)).*", r"\1", text)
    return text[:300]


# --- probe ----------------------------------------------------------------------------------------------------


def probe_until(limit: float, release: Path) -> list[str]:
    """Probe until it passes or time is out; what was wrong last."""
    end = time.monotonic() + limit
    while (problems := probe(release)) and time.monotonic() < end:
        time.sleep(0.3)
    return problems


def probe(release: Path) -> list[str]:
    """What is wrong with what runs: another program, or something a client sees."""
    return other_program(release) or client.seen(release)


def other_program(release: Path) -> list[str]:
    """Whether the process runs the release's binary; a replaced file shows as deleted."""
    pid, expected = hostlib.main_pid(SERVICE), (release / "bin").readlink() / "chasquid"
    try:
        found = str((hostlib.PROC / str(pid) / "exe").readlink()) if pid else "nothing"
    except OSError:
        found = "nothing"
    return [] if found == str(expected) else [f"{found} runs, expected {expected}"]


if __name__ == "__main__":
    try:
        main()
    except (OSError, ssl.SSLError, subprocess.SubprocessError, deploy_hook.DeployError) as error:
        print(
            f"error: activation stopped ({error}), expected a prepared host, run `pulumi up` again",
            file=sys.stderr,
        )
        sys.exit(1)
