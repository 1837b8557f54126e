"""What the hosts of a stack say about themselves, as findings and as a page for people."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from components.chasquid import build
from operations import hosts, report
from standards.finding import Finding, error_about, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import Console

    from components.settings import Settings

FORM = 2  # of the pictures, see components/chasquid/status.py
NOTABLE = 0.8  # of a limit: from here on the postmaster was told, too
ROOM = 5000  # messages that wait at most, `max_queue_items` of chasquid.conf
STUCK = 4 * 3600  # seconds a message may wait before it deserves a word
LOOP_RESTARTS, LOOP_SECONDS = 3, 3600  # so many restarts, the last one so recent, are a loop
SKEW = 5.0  # seconds between two clocks that follow time servers; TLS and DKIM bear minutes
UNRENEWED = 0.25  # of a certificate's life: certbot should have renewed it at a third
SHOWN = 5  # users, messages and names in one line or table
Picture = dict[str, Any]


def read(settings: Settings) -> tuple[dict[str, Picture], list[Finding]]:
    """The picture of every host by its name, and why others have none."""
    asked = time.time()
    answers, findings = hosts.ask_each(settings, "status.py", {})
    pictures: dict[str, Picture] = {}
    for host in settings.hosts:
        if host.name not in answers:
            continue
        picture = json.loads(answers[host.name])
        if picture.get("form") != FORM:
            findings.append(_other_version(host.name))
            continue
        pictures[host.name] = picture
        release, now = build.release(host.arch), picture["clock"]["now"]
        picture["pinned"] = {"directory": release.directory_name, "version": release.version}
        # It answered between the question and now.
        picture["clock"]["offset"] = round(min(0.0, now - asked) + max(0.0, now - time.time()), 1)
    return pictures, findings


def findings(pictures: Mapping[str, Picture]) -> list[Finding]:
    """What deserves a word, host by host."""
    return [finding for host, picture in pictures.items() for see in _SEEN for finding in see(f"host {host}", picture)]


# --- findings -------------------------------------------------------------------------------------------------


def _warning(subject: str, name: str, *, expected: str, found: str, why: str, fix: str) -> Finding:
    return Finding(
        severity="warning", id=f"status.{name}", subject=subject, expected=expected, found=found, why=why, fix=fix
    )


def _other_version(host: str) -> Finding:
    return error_about(
        f"host {host}", "status.version", expected="the scripts of this version there", found="another answer",
        why="what it says cannot be read", fix="`pulumi up`, or look at it with the checkout that it was deployed from",
    )  # fmt: skip


def _services(host: str, picture: Picture) -> Iterator[Finding]:
    now = picture["clock"]["now"]
    for unit, fact in (picture["services"] or {}).items():
        if fact["state"] != "active":
            yield error_about(
                host, "status.service", expected=f"{unit} active",
                found=f"{unit} {fact['state']}" + (f" since {_age(now, fact['since'])}" if fact["since"] else ""),
                why="mail waits, or is not guarded, or a certificate runs out without it",
                fix=f"see `journalctl -u {unit}` there; `pulumi up`",
            )  # fmt: skip
        elif fact["restarts"] >= LOOP_RESTARTS and now - (fact["since"] or 0) < LOOP_SECONDS:
            yield _warning(
                host, "restarts", expected="a service that keeps running",
                found=f"{unit} was restarted {fact['restarts']} times, last {_age(now, fact['since'])} ago",
                why="something ends it again and again", fix=f"see `journalctl -u {unit}` there",
            )  # fmt: skip
    if picture["firewall"] is False:
        yield error_about(
            host, "status.firewall", expected="nftables' table inet mailroom in the kernel", found="it is not there",
            why="every port is open", fix="`systemctl restart mailroom-firewall` there",
        )  # fmt: skip


def _program(host: str, picture: Picture) -> Iterator[Finding]:
    running, pinned = picture["chasquid"] or {}, picture["pinned"]
    if running.get("directory") and running["directory"] != pinned["directory"]:
        yield _warning(
            host, "program", expected=f"chasquid {pinned['version']} ({pinned['directory']}), which is pinned here",
            found=f"chasquid {running['version']} ({running['directory']}) runs",
            why="the settings and the tests are made for the pinned one", fix="`pulumi up`",
        )  # fmt: skip


def _probe(host: str, picture: Picture) -> Iterator[Finding]:
    for problem in picture["problems"]:
        yield error_about(
            host, "status.probe", expected="clients to be served safely", found=problem,
            why="this is what every client sees now", fix="see `journalctl -u chasquid -u mailroom-policy` there",
        )  # fmt: skip


def _damage(host: str, picture: Picture) -> Iterator[Finding]:
    for entry in picture["damaged"]:
        yield _warning(
            host, "damaged", expected=f"{entry['what']} to be readable", found=f"{entry['what']}: {entry['found']}",
            why="what it would show is unknown", fix="look at it there; `pulumi up` restores what Mailroom wrote",
        )  # fmt: skip


def _queue(host: str, picture: Picture) -> Iterator[Finding]:
    queue, now = picture["queue"] or {"length": 0, "oldest": None, "unreadable": 0}, picture["clock"]["now"]
    if queue["length"] >= NOTABLE * ROOM:
        yield error_about(
            host, "status.queue-full", expected=f"far fewer than {ROOM} waiting messages",
            found=f"{queue['length']} wait", why=f"at {ROOM} the server takes no mail any more",
            fix="see the reason of the last failure; stop a user that floods it with scripts/suspend.py",
        )  # fmt: skip
    if queue["oldest"] and now - queue["oldest"] > STUCK:
        yield _warning(
            host, "queue-old", expected=f"mail to leave within {STUCK // 3600} hours",
            found=f"a message waits for {_age(now, queue['oldest'])}: {queue['failure'] or 'no reason known'}",
            why="it is tried for five days, then it bounces to its sender",
            fix="the reason is the receiver's, or this host's network; see `journalctl -u chasquid` there",
        )  # fmt: skip
    if queue["unreadable"]:
        yield _warning(
            host, "queue-damaged", expected="every file of the queue to be readable",
            found=f"{queue['unreadable']} of {queue['length']} are not, or left while they were read",
            why="chasquid does not send what it cannot read", fix="run again; look into /var/lib/chasquid/queue there",
        )  # fmt: skip


def _certificates(host: str, picture: Picture) -> Iterator[Finding]:
    now = picture["clock"]["now"]
    for one in picture["certificates"] or ():
        left = one["notAfter"] - now
        if left > UNRENEWED * (one["notAfter"] - one["notBefore"]):
            continue
        found = f"certificate {one['name']} " + (
            f"has {_age(one['notAfter'], now)} left" if left > 0 else f"expired {_age(now, one['notAfter'])} ago"
        )
        yield Finding(
            severity="warning" if left > 0 else "error", id="status.certificate", subject=host,
            expected="a renewal when a third of its life is left", found=found,
            why="mail programs refuse to log in with an expired certificate",
            fix="see `journalctl -u certbot` and /var/log/letsencrypt/letsencrypt.log there; then `pulumi up`",
        )  # fmt: skip
    unit, record = picture["renewal"]["unit"] or {}, picture["renewal"]["record"]
    if unit.get("ended") and unit["result"] not in {"", "success"}:
        yield _warning(
            host, "renewal", expected="certbot's last run to end without an error",
            found=f"it failed {_age(now, unit['ended'])} ago ({unit['result']})",
            why="the certificates will run out", fix="see `journalctl -u certbot` there; `certbot renew` tries again",
        )  # fmt: skip
    for key, problem in failures(record).items():
        yield Finding(
            severity="error" if key == "renewal" else "warning", id="status.certificates", subject=host,
            expected="certificates renewed in time and handed on to other services", found=problem,
            why="mail stops when the certificate ends" if key == "renewal" else "other services show the old one",
            fix="see `journalctl -u certbot` there; `systemctl start certbot` there tries again",
        )  # fmt: skip


def failures(record: Any) -> dict[str, str]:
    """What the record of renewals says that went wrong: `renewal`, `copies` and `hooks` by name; lenient about form."""
    if not isinstance(record, dict):
        return {}
    found = {key: _flat(record[key]) for key in ("renewal", "copies") if record.get(key)}
    hooks = record.get("hooks")
    for name, entry in hooks.items() if isinstance(hooks, dict) else ():
        failed = entry.get("failed") if isinstance(entry, dict) else None
        if failed:
            found[f"hooks of {_flat(name)}"] = "; ".join(map(_flat, failed if isinstance(failed, list) else [failed]))
    return found


def _flat(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return printable(text).replace("\n", " ")[:300]


def _host(host: str, picture: Picture) -> Iterator[Finding]:
    if pending := (picture["updates"] or {}).get("security"):
        yield Finding(
            severity="note", id="status.updates", subject=host, expected="no pending security update",
            found=f"{len(pending)} pending: {', '.join(pending[:SHOWN])}{', ...' * (len(pending) > SHOWN)}",
            why="they are installed daily; one that stays for days is stuck",
            fix="wait a day, or `unattended-upgrade` there",
        )  # fmt: skip
    if picture["reboot"]:
        yield _warning(
            host, "reboot", expected="no update that waits for a reboot", found="an update waits for a reboot",
            why="the old kernel or library runs on until then", fix="reboot it at a quiet hour: mail waits meanwhile",
        )  # fmt: skip
    if abs(picture["clock"]["offset"]) > SKEW:
        yield _warning(
            host, "clock", expected=f"a clock within {SKEW:.0f} s of this machine's",
            found=f"{abs(picture['clock']['offset']):.0f} s {'ahead' if picture['clock']['offset'] > 0 else 'behind'}",
            why="signatures, certificates and limits go by it", fix="see `timedatectl` there, and on this machine",
        )  # fmt: skip


def _suspended(host: str, picture: Picture) -> Iterator[Finding]:
    for entry in picture["suspended"] or ():
        yield Finding(
            severity="warning", id="status.suspended", subject=entry["user"], expected="every user may send",
            found=f"suspended on {host.removeprefix('host ')} since {entry['since']}"
            + (f": {entry['reason']}" if entry["reason"] else ""),
            why="somebody stopped this user with scripts/suspend.py",
            fix=f"when it is over: `scripts/suspend.py --stack STACK {entry['user']} --lift`",
        )  # fmt: skip


_SEEN = (_services, _program, _probe, _damage, _queue, _certificates, _host, _suspended)


# --- a page for people ----------------------------------------------------------------------------------------


def show(console: Console, pictures: Mapping[str, Picture]) -> None:
    """One page a host, then what each user sent against the limits."""
    for host, picture in pictures.items():
        page = Table.grid(padding=(0, 2))
        page.add_column(style="bold", no_wrap=True)
        page.add_column(overflow="fold")
        for label, text in _lines(picture, picture["clock"]["now"]):
            page.add_row(label, report.said(text))
        console.print(Text(host, style="bold underline"))
        console.print(page)
        _show_usage(console, picture)


def _show_usage(console: Console, picture: Picture) -> None:
    table = Table("user", "minute", "hour", "day", "new recipients", box=None)
    for user, usage in (picture["usage"] or {}).items():
        cells = (_cell(*usage[window]) for window in ("minute", "hour", "day", "newRecipients"))
        table.add_row(report.said(user), *cells)
    if table.row_count:
        console.print(table)


def _lines(picture: Picture, now: float) -> Iterator[tuple[str, str]]:
    for number, (unit, fact) in enumerate((picture["services"] or {}).items()):
        since = f" for {_age(now, fact['since'])}" if fact["since"] else ""
        restarts = f", {fact['restarts']} restarts" if fact["restarts"] else ""
        yield "" if number else "services", f"{unit} {fact['state']}{since}{restarts}"
    running, pinned = picture["chasquid"] or {}, picture["pinned"]
    pin = "as pinned" if running.get("directory") == pinned["directory"] else f"pinned is {pinned['version']}"
    yield "chasquid", f"{running.get('version') or 'not running'} ({pin})"
    yield from _queue_lines(picture["queue"], now)
    for one in picture["certificates"] or ():
        left = one["notAfter"] - now
        life = f"{_age(one['notAfter'], now)} left" if left > 0 else "expired"
        yield (
            "certificate",
            f"{', '.join(one['names'])}: {life}, until {_date(one['notAfter'])}, renewed from {_date(one['renewal'])}",
        )
    timer, last = (picture["services"] or {}).get("certbot.timer") or {}, picture["renewal"]["unit"] or {}
    ran = f"last {last['result']} {_age(now, last['ended'])} ago" if last.get("ended") else "not run since boot"
    yield "renewal", ran + (f", next in {_age(timer['next'], now)}" if timer.get("next") else "")
    if updates := picture["updates"]:
        looked = f", looked {_age(now, updates['looked'])} ago" if updates["looked"] else ""
        reboot = ", reboot needed" if picture["reboot"] else ""
        yield "updates", f"{len(updates['security'])} security updates pending{looked}{reboot}"
    wall = {True: "loaded", False: "missing", None: "unknown"}[picture["firewall"]]
    banned = ", ".join(f"{jail} {count}" for jail, count in (picture["bans"] or {}).items()) or "unknown"
    yield "firewall", f"{wall}; banned addresses: {banned}"
    clock = picture["clock"]
    yield "clock", f"{'follows' if clock['synchronized'] else 'follows no'} time server, {clock['offset']:+.1f} s"
    for number, entry in enumerate(picture["errors"] or ()):
        yield "" if number else "last errors", f"{_age(now, entry['time'])} ago {entry['unit']}: {entry['text']}"


def _queue_lines(queue: Picture | None, now: float) -> Iterator[tuple[str, str]]:
    if queue is None:
        yield "queue", "unknown"
        return
    oldest = f", oldest {_age(now, queue['oldest'])}" if queue["oldest"] else ""
    again = f", next try within {_age(max(queue['next'], now), now)}" if queue["next"] else ""
    yield "queue", f"{queue['length']} waiting{oldest}{again}"
    if queue["failure"]:
        yield "", f"last failure: {queue['failure']}"
    for one in queue["messages"][:SHOWN]:
        to = ", ".join(recipient["address"] for recipient in one["to"][:SHOWN])
        yield "", f"{one['id']} {_age(now, one['created'])}: {one['from']} to {to}: {one['failure'] or 'first try'}"
    if queue["length"] > SHOWN:
        yield "", f"... {queue['length'] - SHOWN} more; --json shows up to 20"


def _cell(used: int, limit: int) -> str:
    text = f"{used}/{limit}"
    return f"[yellow]{text}[/yellow]" if used >= NOTABLE * limit else text


def _age(later: float, earlier: float) -> str:
    """The time between two moments in the largest fitting unit."""
    seconds = max(0, round(later - earlier))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))
