#!/usr/bin/python3
"""Tells how the mail server of this host is, as one JSON object; changes nothing.

Each part is seen by itself: what is damaged or does not answer is null and stands in `damaged` with its reason. What a
service's own account may write is read with the rights of that account: root could be led elsewhere by a link in it.
Times are seconds since 1970.
"""

from __future__ import annotations

import calendar
import json
import re
import ssl
import sys
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from sqlite3 import Error as DatabaseError
from subprocess import SubprocessError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

    from components.chasquid import probe, suspend
    from components.chasquid.policy import limits
    from components.host import firewall, guard, hostlib
else:
    import firewall
    import guard
    import hostlib
    import probe
    import suspend
    from policy import limits

FORM = 2  # of the answer; raised when its readers must know
SERVICES = (
    "chasquid.service", "mailroom-policy.service", "mailroom-policy.socket", "fail2ban.service",
    "mailroom-firewall.service", "certbot.timer",
)  # fmt: skip
RENEWAL = "certbot.service"
PROPERTIES = "Id,ActiveState,StateChangeTimestamp,NRestarts,Result,ExecMainExitTimestamp,NextElapseUSecRealtime"
QUEUE = Path("/var/lib/chasquid/queue")
STATE = Path("/var/lib/mailroom-policy")
CURRENT = Path("/etc/mailroom/current")
CERTIFICATES = Path("/etc/mailroom/certs")
RECORD = Path("/var/lib/mailroom/certificates.json")  # what a renewal and its hooks note of failures
RECORD_SIZE = 10_000  # bytes of it that are read
REBOOT = Path("/run/reboot-required")
LISTS = Path("/var/lib/apt/lists")
HEAD, TAIL = 2**16, 2**10  # bytes of a queued message that hold its envelope and its date
SHOWN = 20  # queued messages
ERRORS = 10  # lines of the journal
PATIENCE = 20  # seconds for one command
TEXT = 300  # characters of a text that others wrote
# internal/queue nextDelay of chasquid: (younger than, seconds until the next try), each up to PERTURBED longer
DELAYS = ((60, 60), (300, 300), (600, 600), (float("inf"), 1200))
PERTURBED = 60
CAUGHT = (OSError, ValueError, LookupError, TypeError, AttributeError, DatabaseError, SubprocessError, BrokenExecutor)
_STRING = r'"((?:[^"\\]|\\.)*)"'
_FIELD = rf"(?m)^ *{{}}: +{_STRING}"
_RECIPIENT = re.compile(r"(?ms)^rcpt:? +\{\n(.*?)^\}")
_CREATED = re.compile(r"\ncreated_at_ts:?\s*\{\s*seconds:\s*(\d+)")
_INSTALLABLE = re.compile(r"(?m)^Inst (\S+) [^\n]*(?:Debian-Security:|-security\b)")


def main() -> None:
    """Print the whole picture."""
    print(json.dumps(picture(), indent=1, sort_keys=True))
    sys.exit(0)


def picture() -> dict[str, Any]:
    """Everything that a person asks about first."""
    damaged: list[dict[str, str]] = []

    def part(what: str, see: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return see(*arguments)
        except CAUGHT as error:
            damaged.append({"what": what, "found": shown(f"{type(error).__name__}: {error}")})
            return None

    policy = part(f"the sender policy's settings ({CURRENT}/policy.json)", read_json, CURRENT / "policy.json")
    return {
        "form": FORM,
        "services": part("the services", units, SERVICES),
        "chasquid": part("the running program", program),
        "queue": part(f"the queue ({QUEUE})", as_account, "chasquid", queue, QUEUE),
        "errors": part("the journal", errors),
        "certificates": part(f"the certificates ({CERTIFICATES})", certificates),
        "renewal": {
            "unit": part(RENEWAL, lambda: units((RENEWAL,))[RENEWAL]),
            "record": part(f"the record of renewals ({RECORD})", record),
        },
        "updates": part("the pending updates", updates),
        "reboot": REBOOT.exists(),
        "suspended": part(
            f"who is suspended ({STATE}/suspended)", as_account, suspend.ACCOUNT, limits.suspended, STATE
        ),
        "usage": part(
            f"the counters of the limits ({STATE}/{limits.FILE})", as_account, suspend.ACCOUNT, usage, policy
        ),
        "bans": part("fail2ban", bans),
        "firewall": part("the packet filter", packet_filter),
        "problems": part("what clients see", probe.seen, CURRENT) or [],
        "clock": {"synchronized": part("the clock's service", synchronized), "now": time.time()},
        "damaged": damaged,
    }


def as_account(account: str, see: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of `see`, given in a process with the rights of `account` alone."""
    context = get_context("fork")
    with ProcessPoolExecutor(1, mp_context=context, initializer=suspend.become, initargs=(account,)) as process:
        return process.submit(see, *arguments).result(timeout=60)


def run(argv: list[str]) -> CompletedProcess[str]:
    """A command that may be slow on a busy host, but not for long."""
    return hostlib.run(argv, timeout=PATIENCE)


def read_json(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def shown(text: str) -> str:
    """Text that others wrote, in one short line: a terminal would obey its control characters."""
    return "".join(char if char.isprintable() else " " for char in text).strip()[:TEXT]


# --- services -------------------------------------------------------------------------------------------------


def units(names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Each unit's state, since when, automatic restarts since it was started, its last result and next elapse."""
    answer = run(["env", "TZ=UTC", "systemctl", "show", "--timestamp=unix", "-p", PROPERTIES, *names])
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
              for block in answer.stdout.split("\n\n")]  # fmt: skip
    facts = {name: next((block for block in blocks if block.get("Id") == name), {}) for name in names}
    return {
        name: {
            "state": fact.get("ActiveState", "unknown"),
            "since": unix(fact.get("StateChangeTimestamp", "")),
            "restarts": int(fact.get("NRestarts") or 0),
            "result": fact.get("Result", ""),
            "ended": unix(fact.get("ExecMainExitTimestamp", "")),
            "next": unix(fact.get("NextElapseUSecRealtime", "")),
        }
        for name, fact in facts.items()
    }


def unix(timestamp: str) -> int | None:
    """`@1764000000` or, as a timer's next elapse is written, `Wed 2026-11-25 09:26:07 UTC`; None for what never was."""
    if found := re.fullmatch(r"@([1-9]\d*)(?:\.\d+)?", timestamp):
        return int(found[1])
    try:
        return calendar.timegm(time.strptime(timestamp, "%a %Y-%m-%d %H:%M:%S UTC"))
    except ValueError:
        return None


def program() -> dict[str, str | None]:
    """The chasquid that runs, by the directory that is named after its content."""
    pid = hostlib.main_pid("chasquid.service")
    if not pid:
        return {"directory": None, "version": None}
    place = (hostlib.PROC / str(pid) / "exe").readlink()
    said = run([str(place).removesuffix(" (deleted)"), "--version"]).stdout.split()
    return {"directory": place.parent.name, "version": said[1] if len(said) > 1 else None}


def errors() -> list[dict[str, Any]]:
    """The newest lines that services call errors, of a week; chasquid says so in its text (E, the skull), of a day."""
    ask = ["journalctl", "--quiet", "--output=json", f"--lines={ERRORS}"]
    names = [f"--unit={name}" for name in (*SERVICES, RENEWAL)]
    answers = (
        run([*ask, "--since=-7days", "--priority=warning", *names]),
        run([*ask, "--since=-1day", "--case-sensitive=yes", "--grep=^(E|\N{SKULL AND CROSSBONES}) ", names[0]]),
    )
    found = {entry["__CURSOR"]: entry for answer in answers for entry in map(json.loads, answer.stdout.splitlines())}
    entries = sorted(found.values(), key=lambda entry: int(entry["__REALTIME_TIMESTAMP"]))[-ERRORS:]
    return [
        {
            "time": int(entry["__REALTIME_TIMESTAMP"]) // 1_000_000,
            "unit": entry.get("UNIT") or entry.get("_SYSTEMD_UNIT", "?"),
            "text": shown(words(entry.get("MESSAGE"))),
        }
        for entry in entries
    ]


def words(message: Any) -> str:
    """A journal message; one with control characters comes as a list of bytes."""
    return bytes(message).decode(errors="replace") if isinstance(message, list) else str(message or "")


# --- queue ----------------------------------------------------------------------------------------------------


def queue(folder: Path) -> dict[str, Any]:
    """How many messages wait, and the oldest of them; a file that cannot be read counts, too."""
    files = sorted(folder.glob("m:*"))
    messages = sorted(filter(None, map(queued, files)), key=lambda message: float(message["created"]))
    failed = [message for message in messages if message["failure"]]
    return {
        "length": len(files),
        "unreadable": len(files) - len(messages),
        "oldest": messages[0]["created"] if messages else None,
        "next": min((message["next"] for message in messages), default=None),
        "failure": max(failed, key=lambda message: float(message["tried"]))["failure"] if failed else "",
        "messages": messages[:SHOWN],
    }


def queued(path: Path) -> dict[str, Any] | None:
    """One message (internal/queue/queue.proto in text form), read around its data; None if it left meanwhile."""
    try:
        with path.open("rb") as file:
            tried = path.stat().st_mtime  # it is written after each try
            head = file.read(HEAD).decode(errors="replace").partition("\ndata:")[0] + "\n"
            file.seek(max(0, path.stat().st_size - TAIL))
            created = _CREATED.search(file.read().decode(errors="replace"))
    except OSError:
        return None
    if created is None:
        return None
    age = tried - int(created[1])
    delay = next(delay for younger, delay in DELAYS if age < younger)
    recipients = [
        {"address": string("address", block), "status": status, "failure": string("last_failure_message", block)}
        for block in _RECIPIENT.findall(head)
        if (status := "".join(re.findall(r"(?m)^ *status: +([A-Z]+)", block)) or "PENDING") != "SENT"
    ]
    return {
        "id": path.name.removeprefix("m:"),
        "created": int(created[1]),
        "tried": int(tried),
        "next": int(tried + delay + PERTURBED),
        "from": string("from", head),
        "to": recipients[:SHOWN],
        "failure": next((one["failure"] for one in recipients if one["failure"]), ""),
    }


def string(field: str, text: str) -> str:
    """A string field of a message in protobuf's text form."""
    found = re.search(_FIELD.format(field), text)
    return shown(re.sub(r"\\(.)", lambda escape: {"n": " ", "r": " ", "t": " "}.get(escape[1], escape[1]), found[1])
                 if found else "")  # fmt: skip


# --- certificates ---------------------------------------------------------------------------------------------


def certificates() -> list[dict[str, Any]]:
    """What chasquid reads: names and life of each; certbot renews when a third of the life is left."""
    return list(map(certificate, sorted(CERTIFICATES.glob("*/fullchain.pem"))))


def certificate(file: Path) -> dict[str, Any]:
    """One certificate; raises ValueError where openssl cannot read it."""
    asked = ["-noout", "-startdate", "-enddate", "-ext", "subjectAltName"]
    answer = run(["openssl", "x509", "-in", str(file), *asked])
    dates = dict(re.findall(r"(?m)^(notBefore|notAfter)=(.+)$", answer.stdout))
    if len(dates) < 2:  # noqa: PLR2004  (begin and end)
        raise ValueError(f"openssl cannot read {file}: {answer.stderr.strip()}")
    begin, end = (ssl.cert_time_to_seconds(dates[name]) for name in ("notBefore", "notAfter"))
    return {
        "name": file.parent.name.partition("-")[2],
        "names": re.findall(r"DNS:([^,\s]+)", answer.stdout),
        "notBefore": begin,
        "notAfter": end,
        "renewal": end - (end - begin) // 3,
    }


def record() -> Any:
    """What renewals and their hooks noted; None when they noted nothing."""
    try:
        with RECORD.open("rb") as file:
            return json.loads(file.read(RECORD_SIZE))
    except FileNotFoundError:
        return None


# --- the host -------------------------------------------------------------------------------------------------


def updates() -> dict[str, Any]:
    """Security updates that apt would install now, and when it last looked for them."""
    answer = run(["apt-get", "--simulate", "-oDebug::NoLocking=1", "dist-upgrade"])
    if answer.returncode:
        raise ValueError(answer.stderr)
    looked = max((file.stat().st_mtime for file in LISTS.glob("*Release")), default=None)
    return {"security": sorted(set(_INSTALLABLE.findall(answer.stdout))), "looked": looked}


def bans() -> dict[str, int]:
    """How many addresses each jail holds."""
    return dict(banned(jail) for jail in guard.JAILS)


def banned(jail: str) -> tuple[str, int]:
    """One jail; raises ValueError where it does not run."""
    answer = run(["fail2ban-client", "status", jail])
    found = re.search(r"Currently banned:\s*(\d+)", answer.stdout)
    if found is None:
        raise ValueError(f"jail {jail} does not run: {answer.stderr.strip() or answer.stdout.strip()}")
    return jail, int(found[1])


def packet_filter() -> bool:
    """Whether the kernel has our table."""
    return run(["nft", "list", "table", "inet", firewall.TABLE]).returncode == 0


def synchronized() -> bool:
    """Whether the kernel's clock follows a time server."""
    return run(["timedatectl", "show", "-p", "NTPSynchronized"]).stdout.strip() == "NTPSynchronized=yes"


def usage(policy: dict[str, Any] | None) -> dict[str, dict[str, tuple[int, int]]]:
    """What each user of the settings sent, against the limits."""
    return {user: limits.usage(STATE, user, policy) for user in policy["users"]} if policy else {}


if __name__ == "__main__":
    main()
