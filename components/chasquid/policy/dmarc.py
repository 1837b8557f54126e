"""DMARC (RFC 9989): which policy holds for the author's domain, and whether SPF or DKIM prove that domain.

What is done with a message that fails is not decided here.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import dns.exception
import dns.name
import dns.resolver

POLICIES = ("none", "quarantine", "reject")
LABELS = 7  # of the longest parent asked, RFC 9989 section 4.10: at most eight queries a domain
_VERSION = re.compile(r"v\s*=\s*DMARC1\s*(;|$)")
_URI = re.compile(r"[a-z][a-z0-9+.-]*:[^\s,!;]+", re.IGNORECASE)

# The TXT values of a name, empty if it has none, None if there is no such name; raises Unanswered.
Lookup = Callable[[str], Sequence[str] | None]
Resolver = Callable[[str, float], Sequence[str] | None]  # the same, within so many seconds
Tags = dict[str, str]


class Unanswered(Exception):  # noqa: N818  (not an error of ours: DNS is silent for now)
    """DNS gave no answer; a later attempt may get one."""


@dataclass(frozen=True)
class Proof:
    """The domains that authentication speaks for: of MAIL FROM if SPF passed, of each valid DKIM signature."""

    spf: str | None = None
    dkim: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Outcome:
    """What RFC 8601 calls the result, the policy for mail that fails, and whether the domain is proven.

    Without a policy record the result is `none` even of a domain that is proven.
    """

    result: Literal["pass", "fail", "none", "temperror"]
    policy: str = "none"
    aligned: bool = False


def evaluate(author: str, proof: Proof, lookup: Lookup) -> Outcome:
    """Section 5.3. A `temperror` comes with the strictest policy the domain may have."""
    exact = author in {proof.spf, *proof.dkim}
    try:
        found = policy_record(author, lookup)
        policy = "none" if found is None else effective_policy(author, *found, lookup)
    except Unanswered:
        return Outcome("temperror", "none" if exact else "reject", exact)
    tags = found[1] if found else {}
    relaxed = {
        *([proof.spf] if proof.spf and tags.get("aspf") != "s" else []),
        *(proof.dkim if tags.get("adkim") != "s" else []),
    }
    try:
        aligned = exact or related(author, relaxed, lookup)
    except Unanswered:
        return Outcome("temperror", policy)
    return Outcome(("pass" if aligned else "fail") if found else "none", policy, aligned)


def policy_record(author: str, lookup: Lookup) -> tuple[str, Tags] | None:
    """Section 4.10.1: the record of the domain itself, else of its organizational domain, else of the public suffix."""
    records = walk(author, lookup)
    for name in (author, organizational_domain(author, records)):
        if name in records:
            return _applicable(name, records[name])
    return _applicable(*list(records.items())[-1]) if records else None


def _applicable(name: str, tags: Tags) -> tuple[str, Tags] | None:
    """Without valid policies the record only asks for reports, or for nothing."""
    if tags.get("p") in POLICIES and all(tags.get(tag, "none") in POLICIES for tag in ("sp", "np")):
        return name, tags
    if any(_URI.fullmatch(uri.strip()) for uri in tags.get("rua", "").split(",")):
        return name, {**{tag: value for tag, value in tags.items() if tag not in {"sp", "np"}}, "p": "none"}
    return None


def effective_policy(author: str, name: str, tags: Tags, lookup: Lookup) -> str:
    """Sections 4.7 and 4.10.1: `p` of the domain's own record, else `np` or `sp`; `t=y` takes it one step down."""
    applicable = ["p"]
    if name != author:
        applicable.insert(0, "sp")
        if "np" in tags and lookup(author) is None:  # section 3.2.13: NXDOMAIN
            applicable.insert(0, "np")
    policy = next(tags[tag] for tag in applicable if tag in tags)
    return POLICIES[max(0, POLICIES.index(policy) - 1)] if tags.get("t") == "y" else policy


def related(domain: str, others: Collection[str], lookup: Lookup) -> bool:
    """Relaxed alignment, section 4.10.2: whether one of these has the organizational domain of `domain`."""
    if domain in others:
        return True
    if not others:
        return False
    organization = organizational_domain(domain, walk(domain, lookup))
    unanswered: Unanswered | None = None
    for other in sorted(others):
        try:
            if is_within(other, organization) and organizational_domain(other, walk(other, lookup)) == organization:
                return True
        except Unanswered as error:
            unanswered = error
    if unanswered:
        raise unanswered
    return False


def organizational_domain(domain: str, records: dict[str, Tags]) -> str:
    """Section 4.10.2, from the records of a walk that started at `domain`."""
    for name, tags in records.items():
        if tags.get("psd") == "n":
            return name
        if tags.get("psd") == "y" and name != domain:
            return f"{domain.removesuffix(f'.{name}').rpartition('.')[2]}.{name}"
    return next(reversed(records), domain)


def walk(domain: str, lookup: Lookup) -> dict[str, Tags]:
    """The DNS tree walk of section 4.10: the record of each name from `domain` up, until one settles the question."""
    labels = domain.split(".")
    first_parent = max(1, len(labels) - LABELS)
    records: dict[str, Tags] = {}
    for start in (0, *range(first_parent, len(labels))):
        name = ".".join(labels[start:])
        texts = [text for text in lookup(f"_dmarc.{name}") or () if _VERSION.match(text)]
        if len(texts) == 1:
            records[name] = tags_of(texts[0])
            if records[name].get("psd") in {"y", "n"}:
                break
    return records


def tags_of(text: str) -> Tags:
    """The tags of a record, of a repeated one the first; all of their values here are case-insensitive."""
    tags: Tags = {}
    for part in text.split(";"):
        name, equals, value = part.partition("=")
        if equals:
            tags.setdefault(name.strip().lower(), value.strip().lower())
    return tags


def is_within(domain: str, parent: str) -> bool:
    """Whether a domain is `parent` or below it."""
    return domain == parent or domain.endswith(f".{parent}")


def within(resolver: Resolver, seconds: float) -> Lookup:
    """Look-ups for one message: each name once, all of them in `seconds`."""
    end = time.monotonic() + seconds

    @functools.cache
    def lookup(name: str) -> Sequence[str] | None:
        left = end - time.monotonic()
        if left <= 0:
            raise Unanswered(f"DNS took longer than {seconds:g} s")
        return resolver(name, left)

    return lookup


class Dns:
    """The host's resolver, for all threads; keeps up to `size` answers as long as their TTL says."""

    def __init__(self, size: int = 2000) -> None:
        self._cache = dns.resolver.LRUCache(size)

    def __call__(self, name: str, seconds: float) -> Sequence[str] | None:
        """A `Resolver`."""
        try:
            # Read again each time, as programs in C and Go do: /etc/resolv.conf may change while this service runs.
            resolver = dns.resolver.Resolver()
            resolver.cache = self._cache
            resolver.use_edns(0, 0, 1232)
            answer = resolver.resolve(dns.name.from_text(name), "TXT", lifetime=seconds, search=False)
            return [b"".join(record.strings).decode("ascii", "replace") for record in answer]
        except (dns.resolver.NXDOMAIN, dns.name.NameTooLong, dns.name.LabelTooLong, dns.name.EmptyLabel):
            return None
        except dns.resolver.NoAnswer:
            return []
        except (dns.exception.DNSException, OSError) as error:
            raise Unanswered(f"DNS does not answer for {name}") from error
