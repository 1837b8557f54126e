"""DMARC policy records (RFC 9989) and leave for reports to other domains (RFC 9990): building ours, reviewing any.

Whether a domain is ready for a stricter policy is not decided here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal, get_args
from urllib.parse import unquote

from standards import dkim
from standards.finding import Finding, Invalid
from standards.names import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

Policy = Literal["none", "quarantine", "reject"]
Alignment = Literal["r", "s"]
Report = Literal["rua", "ruf"]
REPORTS: Final[tuple[Report, ...]] = get_args(Report)
POLICIES: Final[tuple[Policy, ...]] = get_args(Policy)
# RFC 9989 took these out of RFC 7489; receivers ignore them now.
REMOVED_TAGS: Final = {
    "pct": "use the test mode t=y, or go to the next policy for all mail",
    "rf": "take it out, there is one report format",
    "ri": "take it out, reports come daily",
}
LEAVE: Final = "v=DMARC1"
_HELD: Final = {"v", "p", "sp", "np", "adkim", "aspf", "rua", "ruf", "fo"}  # by the settings
_ORDER: Final = {"t": ("y", "n"), "adkim": ("r", "s"), "aspf": ("r", "s")}  # the milder first
_PERCENT: Final = re.compile("[0-9]{1,2}")
_FAILURE_OPTIONS: Final = re.compile(r"[01ds](:[01ds])*")


def record_name(domain: str) -> str:
    """Where receivers look for the policy."""
    return f"_dmarc.{domain}"


def report_name(domain: str, receiver: str) -> str:
    """Where the domain `receiver` says that it takes reports about `domain` (RFC 9990 section 4)."""
    return f"{domain}._report._dmarc.{receiver}"


def needs_leave(domain: str, receiver: str) -> bool:
    """Whether reports about `domain` go to somebody else's domain, as far as the names tell."""
    return not (f".{domain}".endswith(f".{receiver}") or receiver.endswith(f".{domain}"))


def failure_options(text: str) -> str:
    """The value of `fo`."""
    value = text.strip().lower()
    if not _FAILURE_OPTIONS.fullmatch(value):
        raise Invalid(
            f"{shown(text)} is not a list of failure options",
            id="dmarc-fo-invalid",
            expected='0, 1, d, s, or several with colons such as "1:d:s"',
            fix='write "1" to hear about every failure',
        )
    return value


def record(
    policy: Policy,
    *,
    subdomains: Policy | None = None,
    nonexistent: Policy | None = None,
    adkim: Alignment | None = None,
    aspf: Alignment | None = None,
    rua: Iterable[str] = (),
    ruf: Iterable[str] = (),
    fo: str | None = None,
) -> str:
    """The TXT value: `p` right after `v`, as readers of RFC 7489 want it, and only what is not the default."""
    tags = {
        "v": "DMARC1",
        "p": policy,
        "sp": subdomains,
        "np": nonexistent,
        "adkim": adkim,
        "aspf": aspf,
        "rua": ",".join(map(_report_uri, rua)),
        "ruf": ",".join(map(_report_uri, ruf)),
        "fo": fo,
    }
    return "; ".join(f"{tag}={value}" for tag, value in tags.items() if value)


def _report_uri(address: str) -> str:
    # RFC 9989 section 4.7: ',' and '!' separate, ';' ends the tag; '%' starts an escape
    escaped = "".join(f"%{ord(char):02X}" if char in "%!,;?#&" else char for char in address)
    return f"mailto:{escaped}"


def is_record(text: str) -> bool:
    """Whether a receiver takes this TXT value for a DMARC policy."""
    return re.match(r"v\s*=\s*DMARC1\s*(;|$)", text) is not None


def tags(text: str) -> dict[str, str]:
    """The tags of a record, which is written as DKIM's are, with names in lower case; of a repeated tag the first."""
    found: dict[str, str] = {}
    for name, value in dkim.tags(text).items():
        found.setdefault(name.lower(), value)
    return found


def as_settings(text: str) -> dict[str, Any]:
    """What `dmarc` of a domain has to say for the record of others to stay as it is; tags of no use aside."""
    found = {tag: value.lower() for tag, value in tags(text).items()}
    said: dict[str, Any] = {"policy": _effective(found)["p"]}
    said |= {tag: found[tag] for tag in ("sp", "np") if found.get(tag) in POLICIES}
    said |= {tag: found[tag] for tag in ("adkim", "aspf") if found.get(tag) in get_args(Alignment)}
    said |= {tag: reports for tag in REPORTS if (reports := report_addresses(text, tag))}
    if _FAILURE_OPTIONS.fullmatch(found.get("fo", "")):
        said["fo"] = found["fo"]
    return said


def left_out(text: str) -> list[str]:
    """The tags of a record that the settings do not have, such as `t=y`."""
    return [f"{tag}={value}" for tag, value in tags(text).items() if tag not in _HELD]


def weaker(ours: str, theirs: str) -> str:
    """Where the first record asks receivers for less than the second, as `p=none, not reject`; empty where nowhere."""
    return ", ".join(f"{tag}={now}, not {before}" for tag, (before, now) in weakened(theirs, ours).items())


def weakened(before: str, after: str) -> dict[str, tuple[str, str]]:
    """By tag what a record asked receivers for, where it now asks for less; a text that is no record for `nothing`."""
    if not is_record(before):
        return {}
    old, new = wishes(before), wishes(after)
    return {tag: (old[tag], new[tag]) for tag in new if _strength(tag, new[tag]) < _strength(tag, old[tag])}


def wishes(text: str) -> dict[str, str]:
    """The tags as receivers take them (RFC 9989 section 4.7); of a text that is no record the policies alone."""
    if not is_record(text):
        return dict.fromkeys(("p", "sp", "np"), "nothing")
    found = {tag: value.lower() for tag, value in tags(text).items()}
    percent = found.get("pct", "")
    return {
        **_effective(found),
        "t": "y" if found.get("t") == "y" else "n",
        **{tag: "s" if found.get(tag) == "s" else "r" for tag in ("adkim", "aspf")},
        "pct": percent if _PERCENT.fullmatch(percent) else "100",
    }


def _strength(tag: str, wish: str) -> int:
    return int(wish) if tag == "pct" else _ORDER.get(tag, ("nothing", *POLICIES)).index(wish)


def report_addresses(text: str, tag: Report) -> list[str]:
    """The mail addresses that a record sends reports to, without the limits of size that RFC 7489 let them have."""
    uris = (uri.strip() for uri in tags(text).get(tag, "").split(","))
    addresses = (unquote(uri[7:].partition("!")[0].partition("?")[0]) for uri in uris if uri[:7].lower() == "mailto:")
    return [address for address in addresses if "@" in address]


def lost_reports(ours: str, theirs: str, tag: Report) -> list[str]:
    """The addresses that the second record sends reports to and the first does not."""
    kept = {address.lower() for address in report_addresses(ours, tag)}
    return [address for address in report_addresses(theirs, tag) if address.lower() not in kept]


def _effective(found: dict[str, str]) -> dict[str, Policy]:
    """The policies of a record, those that are left out or no policy as receivers take them (RFC 9989 section 4.7)."""
    policies: dict[str, Policy] = {}
    default: Policy = "none"
    for tag in ("p", "sp", "np"):
        default = next((policy for policy in POLICIES if policy == found.get(tag, "").lower()), default)
        policies[tag] = default
    return policies


def review(text: str, subject: str) -> list[Finding]:
    """What a receiver would stumble over in a record, ours or one found in DNS."""
    found = tags(text)
    problems = [
        _finding(subject, "dmarc-removed-tag", f"the tag {tag}", "a record without it (RFC 9989)", fix, "warning")
        for tag, fix in REMOVED_TAGS.items()
        if tag in found
    ]
    problems += [
        _finding(
            subject,
            "dmarc-policy-word",
            f"{tag}={shown(found[tag])}",
            f"{tag}={' | '.join(POLICIES)}",
            "write one of the three words",
            "error",
        )
        for tag in ("p", "sp", "np")
        if tag in found and found[tag].lower() not in POLICIES
    ]
    if "p" not in found:
        problems.append(
            _finding(
                subject,
                "dmarc-no-policy",
                "no p tag",
                "v=DMARC1; p=none | quarantine | reject",
                "add p=; receivers take a missing one for none",
                "warning",
            )
        )
    return problems


def _finding(
    subject: str, identifier: str, found: str, expected: str, fix: str, severity: Literal["error", "warning"]
) -> Finding:
    return Finding(severity=severity, id=identifier, subject=subject, expected=expected, found=found, why="", fix=fix)
