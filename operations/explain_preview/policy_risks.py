"""The risks that changed SPF and DMARC records bring: strangers that pass, mail of ours that does not."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from operations.explain_preview.catalogue import Risk, risk
from operations.explain_preview.markdown import code
from operations.explain_preview.records import LATER
from operations.explain_preview.secrecy import HIDDEN
from standards import dmarc, spf

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from operations.explain_preview.hosts import HostChange
    from operations.explain_preview.records import RecordChange

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_QUALIFIERS: Final = {"+": 0, "?": 1, "~": 2, "-": 3}


def find(records: Sequence[RecordChange], hosts: Sequence[HostChange]) -> Iterator[Risk]:
    """Every risk of SPF and DMARC records; of a host that goes nobody says EHLO with its name any more."""
    leaving = {host.name for host in hosts if host.kind == "delete"}
    going = {record.before for record in records if record.role in {"a", "aaaa"} and record.moves}
    for record in records:
        if record.kind not in {"update", "replace", "delete"} or record.owner in leaving:
            continue
        if record.role == "dmarc":
            yield from _dmarc(record)
        elif record.role in {"spf", "spf-hosts"}:
            yield from _spf(record, going)


def _dmarc(record: RecordChange) -> Iterator[Risk]:
    if record.after == LATER:
        return
    new = _wishes(record.after)
    if not record.before_known:
        if new["p"] in {"none", "nothing"}:
            yield risk("dmarc-weakened", record.owner,
                       f"DMARC of {code(record.owner)} becomes {new['p']}; a plan has not what it was")  # fmt: skip
        return
    old = _wishes(record.before)
    for tag, of in (("p", ""), ("sp", " for subdomains"), ("np", " for names that do not exist")):
        if _strength(new[tag]) < _strength(old[tag]) and (tag == "p" or (old[tag], new[tag]) != (old["p"], new["p"])):
            yield risk("dmarc-weakened", record.owner,
                       f"DMARC weakened from {old[tag]} to {new[tag]}{of} at {code(record.owner)}")  # fmt: skip
    if new["t"] == "y" != old["t"]:
        yield risk("dmarc-weakened", record.owner,
                   f"DMARC at {code(record.owner)} only tests: receivers act one step milder")  # fmt: skip
    for tag, of in (("adkim", "signed"), ("aspf", "sent")):
        if old[tag] == "s" != new[tag] and new["p"] != "nothing":
            yield risk("dmarc-weakened", record.owner,
                       f"DMARC at {code(record.owner)} takes mail {of} by its subdomains for its own")  # fmt: skip
    if int(new["pct"]) < int(old["pct"]) and new["p"] != "nothing":
        yield risk("dmarc-weakened", record.owner,
                   f"DMARC at {code(record.owner)} holds for {new['pct']} % of mail instead of {old['pct']} %, "
                   "where receivers still read `pct`")  # fmt: skip


def _wishes(text: str | None) -> dict[str, str]:
    """The tags as a receiver takes them (RFC 9989 section 4.7: sp follows p, np follows sp)."""
    there = text is not None and dmarc.is_record(text)
    tags = dmarc.tags(text) if text and there else {}
    policy = _word(tags.get("p"), "none") if there else "nothing"
    sub, percent = _word(tags.get("sp"), policy), tags.get("pct", "")
    return {
        "p": policy,
        "sp": sub,
        "np": _word(tags.get("np"), sub),
        **{tag: tags.get(tag, default).lower() for tag, default in (("t", "n"), ("adkim", "r"), ("aspf", "r"))},
        "pct": percent if re.fullmatch("[0-9]{1,2}", percent) else "100",
    }


def _word(word: str | None, default: str) -> str:
    word = (word or default).lower()
    return word if word in dmarc.POLICIES else default


def _strength(word: str) -> int:
    return ("nothing", *dmarc.POLICIES).index(word)


def _spf(record: RecordChange, going: Collection[str | None]) -> Iterator[Risk]:
    """`going` are the addresses of hosts that go or move: what they sent is sent no more."""
    name = code(record.name)
    if record.kind == "delete":
        yield risk("spf-weakened", record.key, f"SPF of {name} is deleted")
        return
    if record.after in {None, LATER, HIDDEN}:
        return
    if not spf.is_record(record.after):
        if not record.before_known or spf.is_record(record.before or ""):
            yield risk("spf-weakened", record.key, f"SPF of {name} becomes a text that is no SPF record")
        return
    yield from _ending(record, record.after)
    if record.before_known and record.before is not None:
        yield from _terms(record, record.before, record.after, going)


def _ending(record: RecordChange, after: str) -> Iterator[Risk]:
    """What the rest is told by `all`."""
    name, new = code(record.name), _all(after)
    if not record.before_known:
        if _QUALIFIERS[new] < _QUALIFIERS["~"]:
            yield risk("spf-weakened", record.key, f"SPF of {name} ends with {code(new + 'all')}")
        return
    old = _all(record.before or "")
    if _QUALIFIERS[new] < _QUALIFIERS[old]:
        yield risk("spf-weakened", record.key,
                   f"SPF of {name} weakened from {code(old + 'all')} to {code(new + 'all')}")  # fmt: skip


def _terms(record: RecordChange, before: str, after: str, going: Collection[str | None]) -> Iterator[Risk]:
    name = code(record.name)
    for term in after.split()[1:]:
        if spf.authorises_strangers(term) and term not in before.split() and not term.lower().endswith("all"):
            yield risk("spf-weakened", record.key, f"SPF of {name} lets strangers send: {code(term)}")
    for term in _lost(before, after):
        if term.partition(":")[2] not in going:
            yield risk("spf-narrowed", f"{record.key} {term}",
                       f"mail from {code(term)} is no longer allowed by SPF of {name}")  # fmt: skip


def _lost(before: str, after: str) -> Iterator[str]:
    """Each term that allowed senders and does so no longer."""
    left = _allowing(after)
    networks = [network for term in left if (network := _network(term))]
    for term in _allowing(before):
        network = _network(term)
        within = network is not None and any(_holds(one, network) for one in networks)
        if term not in {*left, "all"} and "all" not in left and not within:
            yield term


def _allowing(text: str) -> list[str]:
    """The terms of a record that allow senders, as they compare."""
    plain = [term.lower().removeprefix("+") for term in text.split()[1:]] if spf.is_record(text) else []
    return [term for term in plain if term and term[0] not in "-~?" and spf.name_of(term) != "exp"]


def _holds(wide: Network, narrow: Network) -> bool:
    return wide.version == narrow.version and wide.supernet_of(narrow)  # type: ignore[arg-type]


def _network(term: str) -> Network | None:
    kind, _, text = term.partition(":")
    try:
        return ipaddress.ip_network(text, strict=False) if kind in {"ip4", "ip6"} else None
    except ValueError:
        return None


def _all(text: str) -> str:
    """The qualifier of `all`; without one the answer is neutral (RFC 7208 section 4.7)."""
    for term in text.lower().split():
        if term.lstrip("+-~?") == "all":
            return term[0] if term[0] in _QUALIFIERS else "+"
    return "?"
