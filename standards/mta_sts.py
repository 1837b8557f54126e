"""MTA-STS policies of others (RFC 8461): reading one, and whether senders that keep to it reach our MX hosts.

Mailroom publishes none. Fetching one is done elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from standards.finding import Finding, Invalid
from standards.names import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Mode = Literal["enforce", "testing", "none"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
_RECORD: Final = re.compile(r"v=STSv1[ \t]*(;|$)")
_ID: Final = re.compile(r";[ \t]*id=[A-Za-z0-9]{1,32}[ \t]*(;|$)")
_MAX_AGE: Final = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What senders keep to for `max_age` seconds; `mx` are names, or `*.` with all but the leftmost label of some."""

    mode: Mode
    max_age: int
    mx: tuple[str, ...]

    def allows(self, host: str) -> bool:
        """Whether mail may go to this MX host; a wildcard stands for one label (RFC 8461 section 4.1)."""
        name = host.lower().rstrip(".")
        return name in self.mx or f"*.{name.partition('.')[2]}" in self.mx


def record_name(domain: str) -> str:
    """Where senders see that a domain has a policy (RFC 8461 section 3.1)."""
    return f"_mta-sts.{domain}"


def is_announced(texts: Iterable[str]) -> bool:
    """Whether the TXT records there say so: one of this version, with an id; senders heed no other, and no two."""
    records = list(filter(_RECORD.match, texts))
    return len(records) == 1 and _ID.search(records[0]) is not None


def address(domain: str) -> str:
    """Where senders fetch it (RFC 8461 section 3.3)."""
    return f"https://mta-sts.{domain}/.well-known/mta-sts.txt"


def parse(text: str) -> Policy:
    """The policy in a file (RFC 8461 section 3.2); raises `Invalid` for one that senders ignore."""
    fields: dict[str, list[str]] = {}
    for line in text.split("\n"):
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), []).append(value.strip())
    mx = tuple(value.lower() for value in fields.get("mx", []))
    # Of a key that stands there twice the first counts.
    version, said_mode, max_age = (fields.get(key, [""])[0] for key in ("version", "mode", "max_age"))
    mode = next((mode for mode in MODES if mode == said_mode), None)
    if version != "STSv1":
        raise _invalid(f"version {shown(version)}")
    if mode is None:
        raise _invalid(f"mode {shown(said_mode)}")
    if not _MAX_AGE.fullmatch(max_age):
        raise _invalid(f"max_age {shown(max_age)}")
    if not mx and mode != "none":
        raise _invalid("no mx")
    return Policy(mode=mode, max_age=int(max_age), mx=mx)


def _invalid(found: str) -> Invalid:
    return Invalid(
        f"a policy with {found}",
        id="mta-sts-invalid",
        expected="lines such as `version: STSv1`, `mode: enforce`, `mx: smtp.example.com`, `max_age: 604800`",
        fix="correct the file; until then senders ignore it",
    )


def review(domain: str, policy: Policy, hosts: Sequence[str]) -> list[Finding]:
    """What keeps senders from the MX hosts of a domain: an error where they must not deliver to any.

    They go on to the next host where the policy does not list one (RFC 8461 section 5).
    """
    missing = [host for host in hosts if not policy.allows(host)]
    if not missing or policy.mode == "none":
        return []
    lines = " and ".join(f"`mx: {host}`" for host in missing)
    allowed = [host for host in hosts if host not in missing]
    why = "senders report each message to such a host now, and deliver none once the mode is enforce"
    if policy.mode == "enforce":
        why = "senders that keep to it, such as Gmail and Outlook, must not deliver to a host that it does not list"
        why += f", and use {', '.join(allowed)} alone" if allowed else ""
    return [
        Finding(
            severity="error" if policy.mode == "enforce" and not allowed else "warning",
            id="mta-sts-mx",
            subject=_subject(domain),
            expected=f"{lines} in {address(domain)}",
            found=f"mode: {policy.mode}, mx: {shown(', '.join(policy.mx))}",
            why=why,
            fix=f"add {lines} to the policy, change the id in the TXT record {record_name(domain)}, and wait "
            f"{policy.max_age} s, its max_age; or say `mode: none` there first, in the same way",
        )
    ]


def unread(domain: str, found: str) -> Finding:
    """A warning: nobody can tell whether the policy lists our MX hosts."""
    return Finding(
        severity="warning",
        id="mta-sts-unread",
        subject=_subject(domain),
        expected=f"a policy at {address(domain)}, or no TXT record {record_name(domain)}",
        found=found,
        why="senders that still know one must not deliver to a host that it does not list (RFC 8461 section 5)",
        fix="see that the policy can be read and lists our MX hosts; one that nobody needs says `mode: none` until its "
        "old max_age has passed",
    )


def _subject(domain: str) -> str:
    return f"MTA-STS policy of {domain}"
