"""SPF records of others merged into ours (RFC 7208): what the settings have to say, what is lost, what order decides.

Whose records they are is `ownership`'s.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from standards import spf

if TYPE_CHECKING:
    from collections.abc import Iterable


def as_settings(texts: Iterable[str], domain: str) -> dict[str, Any]:
    """What `spf` of a domain has to say so that all that these records let pass still passes; our own include aside.

    A redirect becomes an include, and of several ends the strictest stays. What `left_out` names is not in it. Nothing
    is said of order: where `out_of_order` names terms, these lists decide otherwise than the records.
    """
    texts = list(texts)
    terms = [term for text in texts for term in _passing(text, domain)]
    includes = [spf.target_of(term) for term in terms if term.startswith("include:")]
    refused = [] if includes else [term for text in texts for term in _refused(text, domain)]
    found: dict[str, Any] = {
        "mechanisms": list(dict.fromkeys(term for term in [*terms, *refused] if spf.name_of(term) != "include")),
        "includes": list(dict.fromkeys(includes)),
        "all": min(filter(None, map(_end, texts)), key=spf.ENDS.index, default="~all"),
    }
    return {key: value for key, value in found.items() if value}


def left_out(text: str, ours: str, domain: str) -> list[str]:
    """What `dropped` names, and terms that let nobody pass and cannot stand in ours: its includes stand at its end."""
    return [*dropped(text), *_unheld(text, ours, domain)]


def missing(texts: Iterable[str], ours: str, domain: str) -> list[str]:
    """Terms of other records of the domain that ours lacks and can have, with a qualifier too; not how they end."""
    found: dict[str, None] = {}
    for text in texts:
        known = {*_carried(ours, domain), *_unheld(text, ours, domain)}
        found |= dict.fromkeys(term for term in _carried(text, domain) if term not in known)
    return list(found)


def stricter_end(text: str, ours: str) -> str:
    """The end of a record where it refuses more than ours; else empty."""
    end = _end(text)
    return end if end and spf.ENDS.index(end) < spf.ENDS.index(_end(ours)) else ""


def out_of_order(text: str, ours: str, merged: str, domain: str) -> list[str]:
    """Terms by which a record refuses whom a later one may let in, where `merged` (with `ours`) decides otherwise.

    Receivers take the first term that matches (RFC 7208 section 4.6.2): what refuses and all that follows, up to the
    last term that lets somebody pass, has to end what passes by our record as well, and nothing of ours may come to
    stand behind it. What refuses behind that must not come to stand before a term that lets pass.
    """
    kept = _from_first_refusal(text, domain)
    own, terms = _passing(ours, domain), _passing(merged, domain)
    misplaced = [term for term in _refused(text, domain) if term in terms]
    is_added = kept == terms[-len(kept) :] and not set(kept) & set(own)
    if not kept or is_added or kept == own[-len(kept) :]:
        return misplaced
    return [*filter(spf.refuses, kept), *misplaced]


def can_be_held(text: str, ours: str, domain: str) -> bool:
    """Whether our record, its mechanisms before its includes, can end with the terms that `out_of_order` names."""
    kept = _from_first_refusal(text, domain)
    rest = [term for term in [*_passing(ours, domain), *_passing(text, domain)] if term not in kept]
    arranged = sorted([*rest, *kept], key=lambda term: spf.name_of(term) == "include")
    is_refused = any(spf.refuses(term) and spf.name_of(term) == "include" for term in kept)
    return arranged[len(rest) :] == kept and not is_refused


def dropped(text: str) -> list[str]:
    """Terms in force that ours never has: `+all`, `ptr`, which nobody should use, and modifiers such as `exp`."""
    return [
        term
        for term in spf.in_force(text)
        if (name := spf.name_of(term)) == "ptr" or (name == "all" and not _end(text)) or spf.is_unheeded(term)
    ]


def _carried(text: str, domain: str) -> list[str]:
    """The terms in force in our spelling, each once, without `all`, what `dropped` names and our own include."""
    out = {*dropped(text), f"include:_spf.{domain}"}
    terms = [term for term in spf.in_force(text) if spf.name_of(term) != "all" and term not in out]
    terms.sort(key=lambda term: spf.name_of(term) == "redirect")  # heeded last, wherever it stands (section 6.1)
    return [term for term in dict.fromkeys(map(spf.spelled, terms)) if term not in out]


def _passing(text: str, domain: str) -> list[str]:
    """What is carried, up to the last term that lets somebody pass."""
    terms = _carried(text, domain)
    return terms[: len(terms) - len(_refused(text, domain))]


def _refused(text: str, domain: str) -> list[str]:
    """What is carried behind that: whom it matches does not pass, whether it is there or not."""
    return list(itertools.takewhile(spf.refuses, reversed(_carried(text, domain))))[::-1]


def _unheld(text: str, ours: str, domain: str) -> list[str]:
    terms = [*_passing(text, domain), *_carried(ours, domain)]
    has_includes = any(spf.name_of(term) == "include" for term in terms)
    have = set(_carried(ours, domain))
    refused = (term for term in _refused(text, domain) if term not in have)
    return [term for term in refused if has_includes or spf.name_of(term) == "include"]


def _from_first_refusal(text: str, domain: str) -> list[str]:
    return list(itertools.dropwhile(lambda term: not spf.refuses(term), _passing(text, domain)))


def _end(text: str) -> str:
    """How the record ends, in lower case; empty where it lets all pass, or does not say."""
    return next((term.lower() for term in spf.in_force(text) if term.lower() in spf.ENDS), "")
