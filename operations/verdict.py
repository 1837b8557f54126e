"""What the lab's receiver made of a test message, and whether that is good enough; sends nothing itself."""

from __future__ import annotations

import json
import re
import time
import urllib.parse
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from rich.table import Table

from operations import ssh
from operations.dns import CouldNotTell, plain
from operations.report import said
from standards.finding import Finding, Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from operations.submission import Accepted

POLL_SECONDS = 0.2
PROGRESS_SECONDS = 5.0
DOMAIN_INFO = "/var/lib/chasquid/domaininfo"
VERIFIED = "TLS_SECURE"
GOOD_TLS = frozenset({"TLSv1.2", "TLSv1.3"})

Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the receiver must have seen: the sending host, all its sending addresses, every active DKIM key."""

    host: str
    addresses: tuple[str, ...]
    domain: str
    selectors: tuple[str, ...]


def wait_for_verdict(
    mail_dir: Path, message_id: str, timeout: float, log: Callable[[str], None]
) -> tuple[Report, Path]:
    """The receiver's verdict on a message and the message itself; raises `CouldNotTell` after `timeout` seconds."""
    started = said = time.monotonic()
    known: set[Path] = set()
    while True:
        for path in sorted(set(mail_dir.glob("*.json")) - known):
            known.add(path)
            seen: Report = json.loads(path.read_text(encoding="utf-8"))
            if seen["message_id"].strip() == message_id:
                return seen, path.with_suffix(".eml")
        now = time.monotonic()
        if now - started >= timeout:
            raise CouldNotTell(
                f"the message did not arrive within {timeout:.0f} s (nothing with Message-ID {message_id} in "
                f"{mail_dir}); on the host `journalctl -u chasquid` says what became of it"
            )
        if now - said >= PROGRESS_SECONDS:
            said = now
            log(f"waiting for the receiver's verdict ({now - started:.0f} s)")
        time.sleep(POLL_SECONDS)


def delivery_level(target: ssh.Target, domain: str) -> str:
    """How well encrypted the sending host recorded its deliveries to `domain`: `TLS_SECURE` is verified.

    chasquid never goes below the level it recorded, so it holds for every delivery since.
    """
    # chasquid names the file like this (internal/protoio, idToFname).
    path = f"{DOMAIN_INFO}/s:{urllib.parse.quote_plus(domain)}"
    try:
        done = ssh.run(target, f"cat '{path}'")
    except Problems as problems:
        return f"not known: {problems.findings[0].found}"
    if done.exit_status:
        return f"nothing recorded ({done.stderr.strip()})"
    found = re.search(r"^outgoing_sec_level:\s*(\w+)", done.stdout, re.MULTILINE)
    return found[1] if found else "PLAIN"  # a default is not written


def build_report(seen: Report, message: Path, accepted: Accepted, level: str) -> Report:
    """The verdict as `--json` shows it: what the receiver saw, how it was submitted, how it was delivered."""
    # A submission whose certificate is not verified by name never gets as far as a report.
    verified = level == VERIFIED
    return {
        "spf": seen["spf"],
        "dkim": [
            {"selector": one["selector"], "domain": one["domain"], "result": one["result"]} for one in seen["dkim"]
        ],
        "dmarc": seen["dmarc"],
        "dmarc_policy": seen["dmarc_policy"],
        "tls": {**(seen["tls"] or {"version": "none", "cipher": "none"}), "verified": verified},
        "verified": verified,
        "client_ip": seen["client_ip"],
        "ptr": ", ".join(map(plain, seen["ptr"])),
        "ehlo": seen["ehlo"],
        "message_path": str(message),
        "message_id": accepted.message_id,
        "received_at": seen["received_at"],
        "submission": asdict(accepted),
        "delivery_level": level,
    }


def judge(report: Report, expected: Expected, reverse: Mapping[str, Sequence[Finding]]) -> list[Finding]:
    """What keeps the message from counting as trusted; `reverse` is what is wrong with each address's names."""
    return [
        *_authentication(report, expected),
        *_encryption(report),
        *_identity(report, expected),
        *_reverse(expected, reverse),
    ]


def _authentication(report: Report, expected: Expected) -> Iterable[Finding]:
    if report["spf"] != "pass":
        why = "receivers see a host that may not send for the domain"
        fix = f"compare the SPF record of {expected.domain} (and what it includes) with {report['client_ip']}"
        yield _finding("verdict.spf", f"SPF of {expected.domain}", "pass", report["spf"], why, fix)
    results = {(one["selector"], plain(one["domain"])): one["result"] for one in report["dkim"]}
    for selector in expected.selectors:
        result = results.get((selector, expected.domain), "no signature")
        if result != "pass":
            why = "every active key signs; one that fails is missing on the host or wrong in the DNS"
            fix = f"compare {selector}._domainkey.{expected.domain} TXT with the stack output `dkim`; `pulumi up`"
            subject = f"DKIM {selector} of {expected.domain}"
            yield _finding("verdict.dkim", subject, "pass", result, why, fix)
    if report["dmarc"] != "pass":
        why = "receivers treat the message as forged"
        fix = "SPF or DKIM must pass for the domain in From; see the findings above"
        yield _finding("verdict.dmarc", f"DMARC of {expected.domain}", "pass", report["dmarc"], why, fix)


def _encryption(report: Report) -> Iterable[Finding]:
    wanted = "TLS 1.2 or newer"
    why = "big receivers ask for TLS, and a password or a message in clear text can be read on the way"
    submitted, delivered = report["submission"]["tls_version"], report["tls"]["version"]
    if submitted not in GOOD_TLS:
        fix = "look at the certificate and the ports of the host"
        yield _finding("verdict.submission-tls", "TLS of the submission", wanted, submitted, why, fix)
    if delivered not in GOOD_TLS:
        fix = "does the receiver offer STARTTLS, and nothing in between takes it away?"
        yield _finding("verdict.delivery-tls", "TLS of the delivery", wanted, delivered, why, fix)
    if not report["verified"]:
        level = report["delivery_level"]
        why = "an unverified certificate may be anybody's"
        fix = "does the host trust the receiver's CA (its trust store), and is the certificate for the MX's name?"
        yield _finding("verdict.unverified", "the host's record of the delivery", VERIFIED, level, why, fix)


def _identity(report: Report, expected: Expected) -> Iterable[Finding]:
    client = report["client_ip"]
    why = "receivers compare address, reverse name and greeting, and distrust a host that contradicts itself"
    if client not in map(_compressed, expected.addresses):
        wanted = " or ".join(expected.addresses)
        fix = "does the host send through another address (NAT, a second interface)? Then list that one"
        yield _finding("verdict.address", "the sending address", wanted, client, why, fix)
    if plain(report["ptr"]) != expected.host:
        fix = f"set the reverse DNS of {client} to {expected.host} at the hosting provider"
        yield _finding("verdict.ptr", f"the reverse name of {client}", expected.host, report["ptr"], why, fix)
    if plain(report["ehlo"]) != expected.host:
        fix = "`hostname` in /etc/mailroom/current/chasquid.conf must be the host's name; `pulumi up`"
        yield _finding("verdict.ehlo", "the greeting (EHLO)", expected.host, report["ehlo"], why, fix)
    if any(":" in address for address in expected.addresses) and ":" not in client:
        fix = "does IPv6 work on the host (`ping -6`)? Its provider must route it before mail can use it"
        why = "the host has IPv6, so part of its mail leaves through it, seen or not"
        yield _finding("verdict.no-ipv6", "the sending address", "IPv6", f"IPv4 ({client})", why, fix)


def _reverse(expected: Expected, reverse: Mapping[str, Sequence[Finding]]) -> Iterable[Finding]:
    for address in expected.addresses:
        if address in reverse:
            yield from reverse[address]
        else:
            why = "mail may leave through any of the host's addresses"
            yield _finding("verdict.unchecked", address, "reverse DNS checked", "not checked", why, "run again")


def _compressed(address: str) -> str:
    return ip_address(address).compressed


def _finding(finding_id: str, subject: str, expected: str, found: str, why: str, fix: str) -> Finding:
    return Finding(
        severity="error",
        id=finding_id,
        subject=subject,
        expected=expected,
        found=found or "nothing",
        why=why,
        fix=fix,
    )


def table(report: Report, findings: Sequence[Finding]) -> Table:
    """The verdict for people; what is not as it should be is red, its finding tells the rest."""
    wrong = {finding.id for finding in findings}
    rows = [
        ("SPF", report["spf"], {"verdict.spf"}),
        *((f"DKIM {one['selector']}", one["result"], {"verdict.dkim"}) for one in report["dkim"]),
        ("DMARC", f"{report['dmarc']} (policy {report['dmarc_policy']})", {"verdict.dmarc"}),
        ("TLS, submission", _tls(report["submission"], "tls_version"), {"verdict.submission-tls"}),
        ("TLS, delivery", _tls(report["tls"], "version"), {"verdict.delivery-tls"}),
        ("certificates", "verified" if report["verified"] else report["delivery_level"], {"verdict.unverified"}),
        ("address", report["client_ip"], {"verdict.address", "verdict.no-ipv6"}),
        ("reverse name", report["ptr"] or "none", {"verdict.ptr"}),
        ("greeting (EHLO)", report["ehlo"], {"verdict.ehlo"}),
    ]
    made = Table("check", "what the receiver saw", title="the receiver's verdict", title_justify="left")
    for check, seen, ids in rows:
        made.add_row(said(check), said(seen), style="bold red" if ids & wrong else "green")
    return made


def _tls(leg: Mapping[str, Any], version: str) -> str:
    return f"{leg[version]} {leg['cipher']}"
