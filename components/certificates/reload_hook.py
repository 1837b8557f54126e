#!/usr/bin/python3
"""Hands renewed certificates on to the host's other services: readable copies, then the operator's reload hooks.

certbot runs it after mailroom-deploy with RENEWED_LINEAGE; certbot.service again with `--all` (it also finishes what
was left undone, and tries a failed hook again), and with `--report` after a failed run. Nothing that fails here
touches the mail server or its certificate. What is not as it should be stands in /var/lib/mailroom/certificates.json,
which scripts/status.py shows, and the postmaster hears of it by way of the sender policy's notices.
"""

from __future__ import annotations

import fcntl
import grp
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from components.host import hostlib
else:
    import hostlib

MAILROOM = Path("/etc/mailroom")
LETSENCRYPT = Path("/etc/letsencrypt")
STATE = Path("/var/lib/mailroom/certificates.json")
RECORD_LOCK = Path("/var/lib/mailroom/certificates.lock")  # beside it: all of /run is read-only for the report
POLICY = Path("/run/mailroom-policy/socket")
TRUSTED = Path("/")  # up to here everything above the copies has to be root's
RENEWAL = "certbot.service"
FILES = ("fullchain.pem", "privkey.pem")
MARK = ".mailroom"  # a folder that holds it is ours
LIMIT, GRACE = 60, 15  # seconds for a reload hook, and for systemd to end it
RETRY = 3600  # seconds until a hook that failed is tried again
REMINDER = 86400  # seconds between two notices about the same
SHOWN_LINES, SHOWN_WIDTH = 4, 300


class CopyError(Exception):
    """Why the copies cannot be where they should, in one line."""


def main(arguments: list[str]) -> None:
    """Hand on the lineage certbot has just renewed, or all; or report."""
    if arguments == ["--report"]:
        report()
        return
    everything = arguments == ["--all"]
    done, failed = hand_on(None if everything else Path(os.environ["RENEWED_LINEAGE"]).name)
    if everything:
        failed = note_run()  # also what failed in an earlier run: certbot.service is well when all is
    print(f"changed: {', '.join(done)}" if done else "ok: nothing to do")
    if failed:
        sys.exit("\n".join(f"error: {problem}" for problem in failed))


def hand_on(only: str | None = None) -> tuple[list[str], list[str]]:
    """Refresh copies and run the hooks that are due, of one certificate or all; what was done, what failed."""
    with alone():
        wanted, state = read(MAILROOM / "certificates.json"), read(STATE)
        certificates = wanted.get("certificates", {})
        done, failed = [], []
        state["copies"] = None
        try:
            if refresh_copies(wanted.get("copies"), certificates):
                done.append("refreshed the copies")
        except (CopyError, OSError, KeyError) as error:
            state["copies"] = f"copies of the certificates: {error}"
            failed.append(state["copies"])
        hooks = state.setdefault("hooks", {})
        for name in [name for name in hooks if not certificates.get(name, {}).get("hooks")]:
            del hooks[name]
        write(state)
        for name, certificate in certificates.items():
            if only in {None, name} and is_due(name, certificate, hooks.get(name)):
                hooks[name] = run_hooks(name, certificate)
                write(state)
                failed += hooks[name]["failed"]
                done.append(f"ran the reload hooks of {name}")
    return done, failed


@contextmanager
def alone() -> Iterator[None]:
    """One run at a time reads the record, acts and notes: else two would lose what the other has noted."""
    hostlib.make_directory(STATE.parent)
    lock = os.open(RECORD_LOCK, os.O_RDWR | os.O_CREAT, 0o600)  # nobody else may hold it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def read(path: Path) -> dict[str, Any]:
    """A JSON object, empty without its file."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def write(state: dict[str, Any]) -> None:
    """Note what is not as it should be, for root alone: hooks and certbot may have said anything."""
    hostlib.write_file(STATE, json.dumps(state, indent=1, sort_keys=True) + "\n", 0o600)


# --- copies -------------------------------------------------------------------------------------------------


def make_folder(copies: dict[str, str] | None) -> list[str]:
    """The folder for copies and its group. Raises `CopyError` for one that others can write to, or that is not ours."""
    if copies is None:
        return []
    folder, group = Path(copies["folder"]), copies["group"]
    for parent in folder.parents:
        if parent.exists() and (parent.stat().st_uid or parent.stat().st_mode & 0o022 or parent.is_symlink()):
            raise CopyError(f"{parent} above {folder} is not root's alone, so keys would not be safe there")
        if parent == TRUSTED:
            break
    mark = folder / MARK
    if folder.is_symlink() or (folder.exists() and not mark.exists() and any(folder.iterdir())):
        raise CopyError(f"{folder} holds something that is not ours")
    changes = []
    if group not in {each.gr_name for each in grp.getgrall()}:
        hostlib.must(["groupadd", "--system", group])
        changes.append(f"added group {group}")
    if not mark.exists():
        changes.append(f"made {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(0o750, exist_ok=True)
    hostlib.make_directory(folder, 0o750, group=group)
    hostlib.write_file(mark, "Copies of certificates, kept by Mailroom. Put nothing else here.\n")
    return changes


def refresh_copies(copies: dict[str, str] | None, certificates: dict[str, Any]) -> bool:
    """Every deployed pair as files of root, readable for the group; says whether one changed."""
    if copies is None:
        return False
    make_folder(copies)
    folder, changed = Path(copies["folder"]), False
    for name, certificate in certificates.items():
        hostlib.make_directory(folder / name, 0o750, group=copies["group"])
        for file in FILES:
            data = (MAILROOM / "certs" / certificate["directory"] / file).read_bytes()
            changed |= hostlib.write_file(folder / name / file, data, 0o640, group=copies["group"])
    for old in folder.iterdir():
        if old.is_dir() and not old.is_symlink() and old.name not in certificates:
            shutil.rmtree(old)
            changed = True
    return changed


def remove_folder(path: str) -> bool:
    """Take the copies away when nobody wants them there any more; what else somebody put there stays."""
    folder = Path(path)
    if not (folder / MARK).exists():
        return False
    for file in folder.glob("*/*.pem"):
        file.unlink()
    for each in [*folder.iterdir()]:
        if each.is_dir() and not each.is_symlink() and not any(each.iterdir()):
            each.rmdir()
    (folder / MARK).unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
    return True


# --- reload hooks -------------------------------------------------------------------------------------------


def programs(name: str) -> list[Path]:
    """The reload hooks of a certificate, in order."""
    return sorted((LETSENCRYPT / "mailroom" / "hooks").glob(f"{name}:*"))


def digest(name: str, certificate: dict[str, Any]) -> str:
    """Changes with the deployed certificate and with its hooks."""
    content = [(MAILROOM / "certs" / certificate["directory"] / FILES[0]).read_bytes()]
    content += [program.read_bytes() for program in programs(name)]
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:16]


def is_due(name: str, certificate: dict[str, Any], last: dict[str, Any] | None) -> bool:
    """Whether the hooks were not run for this certificate yet, or failed a while ago."""
    if not certificate["hooks"] or not (MAILROOM / "certs" / certificate["directory"]).exists():
        return False
    if last is None or last["digest"] != digest(name, certificate):
        return True
    return bool(last["failed"]) and not 0 <= time.time() - last["at"] < RETRY


def run_hooks(name: str, certificate: dict[str, Any]) -> dict[str, Any]:
    """Run all hooks of a certificate, also after one that failed."""
    failed = []
    for number, program in enumerate(programs(name), 1):
        if problem := run_hook(program, name, certificate["names"]):
            failed.append(f"reload hook {number} of {name} {problem}")
    return {"digest": digest(name, certificate), "at": int(time.time()), "failed": failed}


def run_hook(program: Path, name: str, names: Sequence[str]) -> str | None:
    """Run one outside certbot's sandbox, with a time limit; how it failed, or None."""
    started = time.monotonic()
    argv = [
        *("systemd-run", "--quiet", "--wait", "--collect", "--pipe", f"--description=reload hook of {name}"),
        *(f"--property=RuntimeMaxSec={LIMIT}", "--property=TimeoutStopSec=5"),
        *(f"--setenv=RENEWED_LINEAGE={LETSENCRYPT}/live/{name}", f"--setenv=RENEWED_DOMAINS={' '.join(names)}"),
        str(program),
    ]
    try:
        answer = hostlib.run(argv, input="", timeout=LIMIT + GRACE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"could not be run: {error}"
    if answer.returncode == 0:
        return None
    how = f"was stopped after {LIMIT} s" if time.monotonic() - started >= LIMIT else f"ended with {answer.returncode}"
    return f"{how}: {shown(answer.stdout + answer.stderr) or 'it said nothing'}"


def shown(text: str) -> str:
    """The last lines of an output, on one line."""
    lines = [line.strip()[:SHOWN_WIDTH] for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-SHOWN_LINES:])


# --- report -------------------------------------------------------------------------------------------------


def note_run() -> list[str]:
    """Note which run of certbot.service came this far, forget an earlier failure of it; what is still wrong."""
    with alone():
        state = read(STATE)
        state["run"] = os.environ.get("INVOCATION_ID")
        if os.environ.get("SERVICE_RESULT") == "success":
            state["renewal"] = None
        write(state)
    return [problem for key, problem in problems(state).items() if key != "renewal"]


def problems(state: dict[str, Any]) -> dict[str, str]:
    """What is not as it should be: a key for each thing, and what to read about it."""
    found = {
        f"hooks of {name} {entry['digest']}": "; ".join(entry["failed"])
        for name, entry in state.get("hooks", {}).items()
        if entry["failed"]
    }
    return found | {key: state[key] for key in ("renewal", "copies") if state.get(key)}


def report() -> None:
    """After a failed run: note why, and tell the postmaster what is new, or again after a day."""
    with alone():
        state = read(STATE)
        if reason := failure_of_renewal(state.get("run")):
            state["renewal"] = reason
        found, told = problems(state), state.get("told", {})
        is_news = not found.keys() <= set(told.get("keys", ())) or time.time() - told.get("at", 0) > REMINDER
        if found and is_news and tell(found):
            state["told"] = {"keys": sorted(found), "at": int(time.time())}
        write(state)
    print("\n".join(found.values()) or "ok: nothing to report")


def failure_of_renewal(complete_run: str | None) -> str | None:
    """Why the last run of certbot.service failed; None if it was a reload hook or a copy, which is noted already."""
    answer = hostlib.run(["systemctl", "show", RENEWAL, "-p", "Result,ExecMainStatus,InvocationID"])
    facts = dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
    run = facts.get("InvocationID", "")
    if facts.get("Result", "success") == "success" or (facts.get("ExecMainStatus") == "0" and run == complete_run):
        return None
    said = hostlib.run(["journalctl", "-q", "-o", "cat", "--no-pager", "-n", "20", f"_SYSTEMD_INVOCATION_ID={run}"])
    return f"certificates were not renewed: {shown(said.stdout) or facts['Result']}"


def tell(found: dict[str, str]) -> bool:
    """Hand a notice for the postmaster to the sender policy, which delivers it; says whether it took it."""
    text = (
        "\n\n".join(found.values())
        + "\n\nMail is served as before. `journalctl -u certbot` on this host says more; scripts/status.py shows "
        "whether this still holds. A reload hook that failed is tried again at the next renewal run.\n"
    )
    message = f"Subject: Certificates of this host need attention\n\n{text}"
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(POLICY))
            connection.sendall(b"notice" + b"\0" * 7 + message.encode())
            connection.shutdown(socket.SHUT_WR)
            return connection.makefile("rb").read().endswith(b"verdict 0\n")
    except OSError as error:
        print(f"the postmaster could not be told: {error}", file=sys.stderr)
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
