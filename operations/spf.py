"""Looks SPF records up as receivers do, with ours in place of what is not published yet; the judging is standards'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from operations.dns import CouldNotTell, Resolver, plain
from standards import spf_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from standards.finding import Finding


def review(
    domain: str, text: str, resolver: Resolver, ours: Iterable[Mapping[str, str]] = ()
) -> tuple[list[Finding], list[str]]:
    """What makes receivers give up on `text` at `domain`, and what nobody answered; `ours` are {name, type, value}."""
    known: dict[tuple[str, str], list[str]] = {}
    for record in ours:
        known.setdefault((record["name"], record["type"]), []).append(record["value"])

    def lookup(name: str, kind: str) -> Sequence[str] | None:
        key = plain(name), kind
        if key not in known:
            try:
                known[key] = resolver.resolve(name, kind)
            except (CouldNotTell, ValueError):  # a name too long for DNS is somebody else's mistake
                return None
        return known[key]

    return spf_tree.review(domain, text, lookup)
