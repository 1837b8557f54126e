#!/usr/bin/python3
"""Puts a host's backup back where it is missing; what the host has in a newer state stays.

Standard input: the payload as one line of JSON, then the tar that backup.py wrote. Payload: {"host": ...,
"sha256": of the tar, "queue": "new machine" | "always" | "never", "replaceCertificates": false}. Standard output: one
JSON object {"done": [...], "kept": [...]}.

Works before the first `pulumi up` of a bare machine, which then finds its certificates and sends the queue, and after
it. The whole tar is there and verified before anything changes. A message, and a suspension, is put back once only:
/var/lib/mailroom-restored remembers them, so that no later run sends twice what has left meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from components.certificates import certificate, deploy_hook
    from components.chasquid import backup
    from components.chasquid.policy import limits
    from components.host import hostlib, prepare
else:
    import backup
    import certificate
    import deploy_hook
    import hostlib
    import prepare
    from policy import limits

MEMORY = Path("/var/lib/mailroom-restored")
STAGING = Path("/var/lib/mailroom-restore")
UNSERVED = Path("/var/lib/mailroom-unserved")  # there until the server has loaded what was put back
CURRENT = Path("/etc/mailroom/current")
LETSENCRYPT = Path("/etc/letsencrypt")
CHASQUID = Path("/var/lib/chasquid")
POLICY = Path("/var/lib/mailroom-policy")
USER, POLICY_USER = "chasquid", backup.POLICY_USER
LEARNT = ("domaininfo", "sts-cache")
ACCOUNT = re.compile(r"^account\s*=\s*(\S+)", re.MULTILINE)
LIVE_DEPTH = 4  # letsencrypt/live/NAME/cert.pem
START_LIMIT = 30  # seconds until a restarted server must serve its certificates
CHUNK = 1 << 20
# What a renewal file may say after a restore (certbot's storage.relevant_values): nothing that runs a program, or
# writes elsewhere, as root. Its own hooks and paths are in `ours`.
WORDS = (
    *("version", "account", "authenticator", "installer", "key_type", "elliptic_curve", "rsa_key_size", "reuse_key"),
    *("must_staple", "allow_subset_of_names", "autorenew", "http01_port", "preferred_profile", "required_profile"),
    *("ari_retry_after",),
)
OPTIONS = {
    **dict.fromkeys(WORDS, r"[\w.:+-]+"),
    "server": r"https://[!-~]+",
    "preferred_chain": r"[\w .()-]+",
    "pref_challs": r"[\w, -]+",
    "renew_before_expiry": r"\d+ \w+",
    "dns_credentials": r"/[\w./-]+",
    "dns_propagation_seconds": r"\d+",
}
SECTIONS = ("[renewalparams]", "[acme_renewal_info]")


def main() -> None:
    """Receive, verify, unpack, put back, serve."""
    payload = json.loads(sys.stdin.buffer.readline())
    clear()
    hostlib.make_directory(STAGING, 0o711)
    try:
        facts = unpack(receive(sys.stdin.buffer, payload["sha256"]))
        print(json.dumps(put_back(payload, facts)))
    finally:
        clear()


def clear() -> None:
    """Leave no plain copy behind, one of a run that was killed neither."""
    shutil.rmtree(STAGING, ignore_errors=True)


# --- unpacking --------------------------------------------------------------------------------------------------


def receive(stream: BinaryIO, expected: str) -> Path:
    """The tar, whole and as it was taken: what it is made of is not looked at before."""
    path, digest = STAGING / "received", hashlib.sha256()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != expected:
        hostlib.fail("the backup did not arrive as it was taken", "expected its digest", "nothing changed; run again")
    return path


def unpack(path: Path) -> dict[str, Any]:
    """What is in the tar, below STAGING, and its facts."""
    for name in ("letsencrypt", "chasquid", "policy"):
        hostlib.make_directory(STAGING / name, 0o700)
    try:
        with tarfile.open(path, mode="r|gz") as tar:
            for member in tar:
                lay_out(tar, member)
        facts: dict[str, Any] = json.loads((STAGING / "facts.json").read_text(encoding="utf-8"))
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        hostlib.fail(f"the backup does not unpack ({error})", "expected what backup.py wrote", "nothing was changed")
    path.unlink()
    if facts["format"] != backup.FORMAT:
        hostlib.fail(
            f"the backup has format {facts['format']}", f"expected {backup.FORMAT}", "use the version that made it"
        )
    return facts


def lay_out(tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """One member, if it is one that backup.py writes: a file in one of its folders, or a link inside `live`."""
    path = PurePosixPath(member.name)
    folder = str(PurePosixPath(*path.parts[:2]))
    known = backup.folders()
    expected = member.name in {"facts.json", backup.COUNTERS} or (
        folder in known
        and len(path.parts) > len(PurePosixPath(folder).parts)
        and path.name.startswith(known[folder][1])
    )
    if path.is_absolute() or ".." in path.parts or not expected:
        raise OSError(f"unexpected {member.name}")
    target = STAGING / path
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if member.issym() and folder == "letsencrypt/live":
        kind = re.escape(path.name.removesuffix(".pem"))
        name = re.escape(path.parent.name)
        if len(path.parts) != LIVE_DEPTH or not re.fullmatch(
            rf"\.\./\.\./archive/{name}/{kind}\d+\.pem", member.linkname
        ):
            raise OSError(f"unexpected link {member.name}")
        target.symlink_to(member.linkname)
    elif member.isreg() and (content := tar.extractfile(member)):
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            shutil.copyfileobj(content, file)
        target.chmod(member.mode & 0o700)
        os.utime(target, (member.mtime, member.mtime))
    else:
        raise OSError(f"unexpected kind of {member.name}")


# --- putting back -----------------------------------------------------------------------------------------------


class Report:
    """What was put back, and what was not and why."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.kept: list[str] = []

    def as_dict(self) -> dict[str, list[str]]:
        """For the operator's side."""
        return {"done": self.done, "kept": self.kept}


def put_back(payload: dict[str, Any], facts: dict[str, Any]) -> dict[str, list[str]]:
    """Everything; each part finds out by itself what is there already."""
    report = Report()
    for user, home in prepare.HOMES.items():  # before the first `up` there is nobody to own it
        prepare.service_user(user, home)
        prepare.data_directory(user, home)
    killed = UNSERVED.exists()
    hostlib.write_file(UNSERVED, "", 0o600)
    with backup.certbot_waits():
        renewed = certificates(report, replace=payload["replaceCertificates"])
    lived_on = bool(facts["machine"]) and facts["machine"] == backup.machine()
    again = payload["queue"] == "always" or (payload["queue"] == "new machine" and not lived_on)
    before = read_memory()
    give(STAGING / "policy", POLICY_USER)
    said = backup.as_user(POLICY_USER, lambda: policy(before, again=not lived_on))
    remember(before | set(said["remember"]))
    report.done += said["done"]
    report.kept += said["kept"]
    give(STAGING / "chasquid", USER)
    said = backup.as_user(USER, lambda: spool(before, again=again))
    remember(read_memory() | set(said["remember"]))
    report.done += said["done"]
    report.kept += said["kept"]
    if (killed or renewed or said["queued"]) and CURRENT.exists():
        serve(report)
    UNSERVED.unlink()
    return report.as_dict()


def give(folder: Path, user: str) -> None:
    """Hand unpacked files to the service that is to put them in place: it alone writes to its own folder.

    The folder goes last: until then the service cannot reach what is in it, and put a link where root is about to look.
    """
    account = pwd.getpwnam(user)
    for path in (*folder.rglob("*"), folder):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def read_memory() -> set[str]:
    """What earlier runs have put back."""
    return set(MEMORY.read_text(encoding="utf-8").splitlines()) if MEMORY.exists() else set()


def remember(names: set[str]) -> None:
    """Note what must not be put back a second time."""
    hostlib.write_file(MEMORY, "".join(f"{name}\n" for name in sorted(names)), 0o600)


# --- certificates -----------------------------------------------------------------------------------------------


def certificates(report: Report, *, replace: bool) -> bool:
    """ACME accounts and lineages that are missing, damaged or older here; says whether a lineage was put back."""
    source = STAGING / "letsencrypt"
    names = sorted(path.name.removesuffix(".conf") for path in (source / "renewal").glob("*.conf"))
    for name in names:
        if not certificate.is_sound(source / "live" / name, source / "renewal" / f"{name}.conf"):
            hostlib.fail(f"the backup's certificate {name} is damaged", "expected a key and its chain", "take another")
    usable = accounts(source / "accounts", report, replace=replace)
    changed = False
    for name in names:
        account = ACCOUNT.search((source / "renewal" / f"{name}.conf").read_text(encoding="utf-8"))
        if account and account.group(1) not in usable:
            report.kept.append(f"certificate {name}: it is renewed by another ACME account here")
        elif why_not := reason_to_keep(name, source, replace=replace):
            report.kept += [f"certificate {name}: {why_not}"] * (why_not != "same")
        else:
            left_out = put_lineage(name, source)
            report.done.append(f"certificate {name}")
            report.kept += [f"certificate {name}: no {option} comes from a backup" for option in left_out]
            changed = True
    return changed


def accounts(source: Path, report: Report, *, replace: bool) -> set[str]:
    """Put back accounts at CAs where this host has none: certbot must find one each. Those of the backup in place."""
    usable = set()
    for folder in sorted(path.parent for path in source.rglob("private_key.json")):
        server = folder.parent.relative_to(source)
        place = LETSENCRYPT / "accounts" / server
        known = {path.name for path in folder.parent.iterdir()}
        others = [path for path in sorted(place.glob("*/private_key.json")) if path.parent.name not in known]
        if (place / folder.name / "private_key.json").exists():
            usable.add(folder.name)
            continue
        if others and not replace:
            continue
        aside = LETSENCRYPT / "mailroom" / "replaced" / f"account-{int(time.time())}"
        for other in others:
            hostlib.make_directory(aside, 0o700)
            other.parent.rename(aside / other.parent.name)
        copy(folder, place / folder.name)
        usable.add(folder.name)
        report.done.append(f"ACME account at {server.parts[0] if server.parts else server}")
    return usable


def reason_to_keep(name: str, source: Path, *, replace: bool) -> str | None:
    """Why the certificate of this host stays: `same`, or a newer one."""
    live, renewal = LETSENCRYPT / "live" / name, LETSENCRYPT / "renewal" / f"{name}.conf"
    if not certificate.is_sound(live, renewal):
        return None
    if (live / "fullchain.pem").read_bytes() == (source / "live" / name / "fullchain.pem").read_bytes():
        return "same"
    here, there = (deploy_hook.validity(folder / name / "cert.pem")[0] for folder in (live.parent, source / "live"))
    return "this host has a newer one" if here >= there and not replace else None


def put_lineage(name: str, source: Path) -> list[str]:
    """Put a whole lineage in place, its renewal file last: without it the rest counts as damaged and is replaced.

    Returns the options that its renewal file has lost.
    """
    if any(path.exists() for path in certificate.parts(name)):
        certificate.set_aside(name, "replaced")
    for kind in ("archive", "live"):
        copy(source / kind / name, LETSENCRYPT / kind / name)
    hostlib.make_directory(LETSENCRYPT / "renewal")
    text, left_out = renewal_file(name, (source / "renewal" / f"{name}.conf").read_text(encoding="utf-8"))
    hostlib.write_file(LETSENCRYPT / "renewal" / f"{name}.conf", text, 0o600)
    return left_out


def renewal_file(name: str, text: str) -> tuple[str, list[str]]:
    """A renewal file without hooks of others, foreign paths and options we do not know; the options left out."""
    program, live = certificate.challenge_program(), LETSENCRYPT / "live" / name
    ours = {
        "manual_auth_hook": f"{program} auth", "manual_cleanup_hook": f"{program} cleanup",
        "archive_dir": str(LETSENCRYPT / "archive" / name),
        **{kind: str(live / f"{kind}.pem") for kind in ("cert", "chain", "fullchain", "privkey")},
    }  # fmt: skip
    lines, left_out = [], []
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition("="))
        option = re.sub(r"^dns_\w+_(credentials|propagation_seconds)$", r"dns_\1", key)
        allowed = ours.get(key) == value or re.fullmatch(OPTIONS.get(option, "(?!)"), value, re.ASCII)
        if allowed or not key or key.startswith("#") or line in SECTIONS:
            lines.append(line)
        else:
            left_out.append(key)
    return "\n".join([*lines, ""]), left_out


def copy(source: Path, target: Path) -> None:
    """A folder of root's, its links as they are; beside its place first."""
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    for parent in made:
        parent.chmod(0o700 if parent != LETSENCRYPT else 0o755)
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(source, fresh, symlinks=True)
    fresh.rename(target)


# --- what the services have ---------------------------------------------------------------------------------------


def spool(before: set[str], *, again: bool) -> dict[str, Any]:
    """Run as chasquid: queued messages and what was learnt about domains, where they are missing."""
    source, done, kept, remembered = STAGING / "chasquid", [], [], []
    messages = sorted((source / "queue").glob("m:*")) if (source / "queue").is_dir() else []
    fresh = [path for path in messages if not (CHASQUID / "queue" / path.name).exists()]
    waiting = [path for path in fresh if again and f"queue/{path.name}" not in before]
    for path in waiting:
        install(path, CHASQUID / "queue" / path.name)
    remembered = [f"queue/{path.name}" for path in messages if path in waiting or path not in fresh]
    if waiting:
        done.append(f"{len(waiting)} queued message{'s' * (len(waiting) != 1)}")
    if left := len(fresh) - len(waiting):
        kept.append(f"{left} message{'s' * (left != 1)} of the backup's queue: not put back, so that none leaves twice")
    for name in LEARNT:
        missing = [path for path in files(source / name) if not (CHASQUID / name / path.name).exists()]
        for path in missing:
            install(path, CHASQUID / name / path.name)
        if missing:
            done.append(f"{len(missing)} of {name}")
    return {"done": done, "kept": kept, "remember": remembered, "queued": len(waiting)}


def files(folder: Path) -> Iterator[Path]:
    """The files of a folder that may be missing."""
    return (path for path in sorted(folder.glob("*")) if path.is_file())


def install(source: Path, target: Path) -> None:
    """One file in a service's folder, whole; a name that chasquid does not read until it is."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    fresh.unlink(missing_ok=True)
    shutil.copy2(source, fresh)
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.rename(target)


def policy(before: set[str], *, again: bool) -> dict[str, Any]:
    """Run as the sender policy: what was counted is added to what is counted, suspensions are put back."""
    source, done, kept = STAGING / "policy", [], []
    marks = list(files(source / "suspended"))
    fresh = [path for path in marks if not (POLICY / "suspended" / path.name).exists()]
    wanted = [path for path in fresh if again and f"suspended/{path.name}" not in before]
    for path in wanted:
        install(path, POLICY / "suspended" / path.name)
        done.append(f"suspension of {path.name}")
    kept += [f"suspension of {path.name}: it was lifted since the backup" for path in fresh if path not in wanted]
    counters = STAGING / backup.COUNTERS
    if counters.exists():
        store = limits.Store(POLICY)
        store.merge(counters)
        store.close()
    return {
        "done": done,
        "kept": kept,
        "remember": [f"suspended/{path.name}" for path in marks if path in wanted or path not in fresh],
    }


# --- serving ------------------------------------------------------------------------------------------------------


def serve(report: Report) -> None:
    """Show restored certificates and load the queue, which chasquid reads when it starts: one restart."""
    state = certificate.read_state()
    deployed = [name for name in state.get("names", []) if (LETSENCRYPT / "live" / name).is_dir()]
    for name in deployed:
        deploy_hook.deploy(LETSENCRYPT / "live" / name, state["host"])
    if not deploy_hook.is_running():  # somebody stopped it
        return
    hostlib.must(["systemctl", "restart", deploy_hook.SERVICE])
    directories = [deploy_hook.directory_of(name, state["host"]) for name in deployed]
    end = time.monotonic() + START_LIMIT
    while problems := deploy_hook.unserved(directories, state["host"]):
        if time.monotonic() > end:
            hostlib.fail(
                f"chasquid does not serve after the restore ({problems[0]})", "expected its certificates on all ports",
                "see `journalctl -u chasquid`, then run `pulumi up`",
            )  # fmt: skip
        time.sleep(0.3)
    report.done.append("chasquid restarted once")


if __name__ == "__main__":
    try:
        main()
    except (
        OSError,
        ValueError,
        KeyError,
        sqlite3.Error,
        deploy_hook.DeployError,
        subprocess.SubprocessError,
    ) as reason:
        print(f"error: the restore stopped ({reason}), expected a host of ours, run it again", file=sys.stderr)
        sys.exit(1)
