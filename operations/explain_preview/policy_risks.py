"""The risks that changed SPF and DMARC records bring: strangers that pass, mail of ours that does not."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from operations.explain_preview.catalogue import Risk, risk
from operations.explain_preview.markdown import code
from operations.explain_preview.records import LATER
from operations.explain_preview.secrecy import HIDDEN
from standards import dmarc, spf

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from operations.explain_preview.hosts import HostChange
    from operations.explain_preview.records import RecordChange

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_OF: Final = {"p": "", "sp": " for subdomains", "np": " for names that do not exist"}
_BY: Final = {"adkim": "signed", "aspf": "sent"}
_ENDS: Final = (*spf.ENDS, "+all")


def find(
    records: Sequence[RecordChange],
    hosts: Sequence[HostChange],
    elsewhere: Mapping[str, Sequence[str]],
    included: str = "",
) -> Iterator[Risk]:
    """Every risk of SPF and DMARC records; of a host that goes nobody says EHLO with its name any more.

    `elsewhere` are the MX hosts of domains whose mail others receive, `included` what the settings add to SPF.
    """
    leaving = {host.name for host in hosts if host.kind == "delete"}
    going = {record.before for record in records if record.role in {"a", "aaaa"} and record.moves}
    unused = {
        f"{record.owner}/spf-hosts"
        for record in records
        if _leaves_out_hosts(record) and f"_spf.{record.owner}" not in included
    }
    for record in records:
        if record.kind not in {"update", "replace", "delete"} or record.owner in leaving or record.key in unused:
            continue
        if record.role == "dmarc":
            yield from _dmarc(record)
        elif record.role in {"spf", "spf-hosts"}:
            yield from _spf(record, going, elsewhere.get(record.name, ()))


def _dmarc(record: RecordChange) -> Iterator[Risk]:
    if record.after == LATER:
        return
    name, after = code(record.owner), record.after or ""
    if not record.before_known:
        if (policy := dmarc.wishes(after)["p"]) in {"none", "nothing"}:
            yield risk("dmarc-weakened", record.owner, f"DMARC of {name} becomes {policy}; a plan has not what it was")
        return
    weakened = dmarc.weakened(record.before or "", after)
    for tag, (old, new) in weakened.items():
        if tag in _OF and (tag == "p" or weakened.get("p") != (old, new)):
            yield risk("dmarc-weakened", record.owner, f"DMARC weakened from {old} to {new}{_OF[tag]} at {name}")
        elif tag == "t":
            yield risk("dmarc-weakened", record.owner,
                       f"DMARC at {name} only tests: receivers act one step milder")  # fmt: skip
        elif tag in _BY:
            yield risk("dmarc-weakened", record.owner,
                       f"DMARC at {name} takes mail {_BY[tag]} by its subdomains for its own")  # fmt: skip
        elif tag == "pct":
            yield risk("dmarc-weakened", record.owner,
                       f"DMARC at {name} holds for {new} % of mail instead of {old} %, where receivers still read "
                       "`pct`")  # fmt: skip


def _leaves_out_hosts(record: RecordChange) -> bool:
    """Whether it is a domain's own SPF record, and has the one with our addresses in it no more."""
    if record.role != "spf" or record.kind not in {"update", "replace", "delete"}:
        return False
    left = "" if record.kind == "delete" else record.after
    return left not in {None, LATER, HIDDEN} and f"_spf.{record.owner}" not in str(left).lower()


def _spf(record: RecordChange, going: Collection[str | None], mx: Sequence[str]) -> Iterator[Risk]:
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
        yield from _strangers(record, record.before, record.after)
        old, new = (spf.with_hosts(text, record.name, mx) for text in (record.before, record.after))
        yield from _lost(record, old, new, going)


def _ending(record: RecordChange, after: str) -> Iterator[Risk]:
    """What the rest is told by `all`."""
    name, new = code(record.name), _end(after)
    if not record.before_known:
        if new in {"?all", "+all"}:
            yield risk("spf-weakened", record.key, f"SPF of {name} ends with {code(new)}")
        return
    old = _end(record.before or "")
    if _ENDS.index(new) > _ENDS.index(old):
        yield risk("spf-weakened", record.key, f"SPF of {name} weakened from {code(old)} to {code(new)}")


def _end(text: str) -> str:
    """What `all` says; without one the answer is neutral (RFC 7208 section 4.7)."""
    end = next((term.lower() for term in spf.in_force(text) if spf.name_of(term) == "all"), "?all")
    return end if end in spf.ENDS else "+all"


def _strangers(record: RecordChange, before: str, after: str) -> Iterator[Risk]:
    there = before.split()
    for term in spf.in_force(after):
        if spf.authorises_strangers(term) and term not in there and spf.name_of(term) != "all":
            yield risk("spf-weakened", record.key, f"SPF of {code(record.name)} lets strangers send: {code(term)}")


def _lost(record: RecordChange, before: str, after: str, going: Collection[str | None]) -> Iterator[Risk]:
    """Each term that let senders pass and does so no longer."""
    old, left = (spf.senders(text) if spf.is_record(text) else [] for text in (before, after))
    networks = [network for term in left if (network := _network(term))]
    for term in old if _end(after) != "+all" else ():
        network = _network(term)
        within = network is not None and any(_holds(one, network) for one in networks)
        if term in left or within or term.partition(":")[2] in going:
            continue
        hosts = [code(one) for one in left if one.startswith("a:") and one not in old]
        unless = f", where {' and '.join(hosts)} are not its hosts" if spf.name_of(term) == "mx" and hosts else ""
        yield risk("spf-narrowed", f"{record.key} {term}",
                   f"mail from {code(term)} is no longer allowed by SPF of {code(record.name)}{unless}")  # fmt: skip


def _holds(wide: Network, narrow: Network) -> bool:
    return wide.version == narrow.version and wide.supernet_of(narrow)  # type: ignore[arg-type]


def _network(term: str) -> Network | None:
    kind, _, text = term.partition(":")
    try:
        return ipaddress.ip_network(text, strict=False) if kind in {"ip4", "ip6"} else None
    except ValueError:
        return None
