"""Explains a received message from its own headers: the way it took, what its receiver found, and what to do."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, dataclass, field, replace
from email import message_from_bytes, policy
from email.utils import getaddresses
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from operations import report
from operations.dns import CouldNotTell
from operations.explain_judge import duration, first, judge
from standards import trace
from standards.finding import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console

    from standards.finding import Finding
    from standards.trace import Hop, Result

JUNK_SCL: Final = 5
JUNK_BCL: Final = 7
_OUTLOOK: Final = (".outlook.com", ".office365.com", ".office365.us")
_SFV: Final = frozenset({"SPM", "SKB", "SKS"})
_HOW_TO_GET_IT: Final = (
    "save the message as its receiver keeps it: in Gmail the three dots, Show original, Download original; in Outlook "
    "View, View message source; in Yahoo View raw message"
)


@dataclass(frozen=True)
class Leg:
    """One hand-over, oldest first; `delay` in seconds since the one before, None where a clock is unreadable."""

    kind: str
    hop: Hop
    delay: float | None

    def as_json(self) -> dict[str, Any]:
        """The leg for programs."""
        fields = asdict(self.hop) | {"at": self.hop.at.isoformat() if self.hop.at else None}
        return {"kind": self.kind, **fields, "delay_seconds": self.delay}


@dataclass(frozen=True)
class Signature:
    """One DKIM result; `aligned` is whether its domain may speak for the author's."""

    domain: str
    selector: str
    result: str
    aligned: bool
    comment: str = ""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Everything the headers tell; empty text for what they do not."""

    headers: Mapping[str, str]
    receiver: str
    legs: Sequence[Leg]
    delivery: Leg | None
    spf: Mapping[str, Any]
    dkim: Sequence[Signature]
    dmarc: Mapping[str, str]
    arc: Mapping[str, str]
    unsubscribe: Mapping[str, Any]
    junk: Sequence[str]
    ignored: Sequence[str] = ()
    findings: Sequence[Finding] = field(default=(), repr=False)

    @property
    def padlock(self) -> str:
        """`closed` when every leg over a network was encrypted, else `open`; `unknown` without such a leg."""
        crossing = [leg.hop.tls for leg in self.legs if leg.kind != "inside"]
        if not crossing:
            return "unknown"
        return "open" if None in crossing else "closed"

    def as_json(self) -> dict[str, Any]:
        """The explanation for programs."""
        address = self.delivery.hop.address if self.delivery else None
        return {
            "result": ("pass", "warn", "fail")[report.exit_code(self.findings)],
            **self.headers,
            "receiver": self.receiver,
            "padlock": self.padlock,
            "address": address,
            "family": f"IPv{ip_address(address).version}" if address else None,
            "reverse": self.delivery.hop.reverse if self.delivery else None,
            "greeting": self.delivery.hop.greeting if self.delivery else None,
            "spf": dict(self.spf),
            "dkim": [asdict(signature) for signature in self.dkim],
            "dmarc": dict(self.dmarc),
            "arc": dict(self.arc),
            "unsubscribe": dict(self.unsubscribe),
            "junk": list(self.junk),
            "ignored": list(self.ignored),
            "legs": [leg.as_json() for leg in self.legs],
            "findings": [asdict(finding) for finding in self.findings],
        }


def read(file: str) -> Explanation:
    """Explain the message in a file, `-` for standard input; raises `CouldNotTell`."""
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise CouldNotTell(f"{file} cannot be read: {error.strerror}; {_HOW_TO_GET_IT}") from None
    return explain(raw)


def explain(raw: bytes) -> Explanation:
    """Read a raw message; raises `CouldNotTell` when it carries no trace of any server."""
    # editors put a byte order mark in front; mbox and "Show original" copies begin with lines that are no header
    message = message_from_bytes(
        re.sub(rb"\A(?:\xef\xbb\xbf|\s+|>?From [^\r\n]*[\r\n]+)+", b"", raw), policy=policy.compat32
    )
    fields = [(name.lower(), printable(" ".join(str(value).split()))) for name, value in message.items()]
    places = [place for place, (name, _) in enumerate(fields) if name == "received"]
    if not places:
        raise CouldNotTell(f"the text has no Received header, so it is no message that was received; {_HOW_TO_GET_IT}")
    hops = [trace.hop(fields[place][1]) for place in places]
    address = _judged_address(fields)
    border = _border(hops, address)
    top = fields[: places[border + 1]] if border is not None and border + 1 < len(places) else fields
    by = hops[border].by if border is not None else hops[0].by
    results, receiver, ignored = _results(top, by)
    ignored += [text for name, text in fields[len(top) :] if name == "authentication-results"]
    author = _author(fields)
    if border is not None and _is_outlook(by) and (name := _forefront(fields).get("PTR")):
        # a name always has a dot; Microsoft writes InfoDomainNonexistent where there is none
        hops[border] = replace(hops[border], reverse=name.lower() if "." in name else "")
    legs = _legs(hops, border, trace.moment(first(fields, "date")))
    made = Explanation(
        headers={
            name.replace("-", "_"): _shown(fields, name) for name in ("from", "to", "subject", "date", "message-id")
        },
        receiver=receiver or by,
        legs=legs,
        delivery=next((leg for leg in legs if leg.kind == "delivery"), None),
        spf=_spf(results, author, address, fields),
        dkim=_dkim(results, author, fields),
        dmarc=_dmarc(results, author),
        arc=_arc(results, fields),
        unsubscribe=_unsubscribe(fields),
        junk=_junk(top, fields if _is_outlook(by) else top, results),
        ignored=ignored,
    )
    return replace(made, findings=judge(made, fields))


Fields = list[tuple[str, str]]


def _shown(fields: Fields, name: str) -> str:
    from email.errors import HeaderParseError
    from email.header import decode_header, make_header

    text = first(fields, name)
    try:
        return printable(str(make_header(decode_header(text))))
    except (ValueError, LookupError, HeaderParseError):
        return text


def _author(fields: Fields) -> str:
    addresses = getaddresses([value for name, value in fields if name == "from"])
    return trace.domain(addresses[0][1]) if addresses else ""


def _judged_address(fields: Fields) -> str | None:
    """The address that the receiver's own SPF result is about: the one that handed over at its border."""
    for name, value in fields:
        if name in {"authentication-results", "received-spf"} and (found := trace.sender(value)):
            return found
        if name == "x-forefront-antispam-report" and (match := re.search(r"\bCIP:([0-9A-Fa-f:.]+)", value)):
            return trace.sender(f"client-ip={match[1]}")
    return None


def _border(hops: Sequence[Hop], address: str | None) -> int | None:
    """The newest hand-over from outside to the receiver, newest first."""
    for place, hop in enumerate(hops):
        if address and hop.address == address:
            return place
    for place, hop in enumerate(hops):
        if not hop.internal and not hop.logged_in and _organisation(hop.greeting) != _organisation(hop.by):
            return place
    return None


def _organisation(name: str) -> str:
    """Roughly the registered part of a host's name; enough to tell two operators apart."""
    labels = name.lower().rstrip(".").split(".")
    short = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3  # noqa: PLR2004  (co.uk)
    return ".".join(labels[-3 if short else -2 :])


def _results(top: Fields, by: str) -> tuple[list[Result], str, list[str]]:
    """What the receiver itself found, its name, and fields of others (which anybody may have written)."""
    found: list[Result] = []
    ignored: list[str] = []
    receiver: str | None = None
    for text in (value for name, value in top if name == "authentication-results"):
        one = trace.results(text)
        if _is_receivers(one.by, by) and (not found or one.by == receiver):
            receiver, found = one.by, [*found, *one.results]
        else:
            ignored.append(text)
    if not found:
        chain = [value for name, value in top if name == "arc-authentication-results"]
        if chain and _is_receivers((one := trace.results(chain[0].partition(";")[2])).by, by):
            receiver, found = one.by, list(one.results)
    return found, receiver or "", ignored


def _is_receivers(name: str | None, by: str) -> bool:
    if name is None:  # Microsoft leaves its name out
        return _is_outlook(by)
    if "." not in by or re.fullmatch(r"[0-9.]+|[0-9a-f:.]+", by):  # Yahoo's servers go by their address
        return True
    return _organisation(name) == _organisation(by)


def _legs(hops: Sequence[Hop], border: int | None, sent: Any) -> list[Leg]:
    legs, before = [], sent
    for place, hop in reversed(list(enumerate(hops))):
        if place == border:
            kind = "delivery"
        elif hop.logged_in:
            kind = "submission"
        else:
            # behind the border everything is the receiver's own business
            kind = "inside" if hop.internal or (border is not None and place < border) else "relay"
        legs.append(Leg(kind, hop, (hop.at - before).total_seconds() if hop.at and before else None))
        before = hop.at or before
    return legs


def _aligned(domain: str, author: str) -> bool:
    """Relaxed alignment (RFC 9989 section 4.5) as far as it can be told without DNS."""
    if not domain or not author:
        return False
    near = domain == author or domain.endswith(f".{author}") or author.endswith(f".{domain}")
    return near or _organisation(domain) == _organisation(author)


def _of(results: Sequence[Result], method: str) -> list[Result]:
    return [result for result in results if result.method == method]


def _spf(results: Sequence[Result], author: str, address: str | None, fields: Fields) -> dict[str, Any]:
    for one in _of(results, "spf"):
        domain = trace.domain(one.properties.get("smtp.mailfrom") or one.properties.get("smtp.helo", ""))
        domain = domain or trace.domain(first(fields, "return-path").strip("<> "))
        return {"result": one.result, "domain": domain, "address": trace.sender(one.comment) or address,
                "aligned": _aligned(domain, author), "comment": one.comment}  # fmt: skip
    return {"result": "", "domain": "", "address": address, "aligned": False, "comment": ""}


def _signatures(fields: Fields) -> list[dict[str, str]]:
    return [
        {
            key.strip().lower(): re.sub(r"\s", "", value)
            for key, _, value in (tag.partition("=") for tag in text.split(";"))
        }
        for name, text in fields
        if name == "dkim-signature"
    ]


def _dkim(results: Sequence[Result], author: str, fields: Fields) -> list[Signature]:
    written = _signatures(fields)
    found = []
    for one in _of(results, "dkim"):
        domain = trace.domain(one.properties.get("header.d") or one.properties.get("header.i", ""))
        selector = one.properties.get("header.s", "")
        begin = one.properties.get("header.b", "")
        matching = [tags for tags in written if tags.get("d", "").lower() == domain
                    and (not begin or tags.get("b", "").startswith(begin))]  # fmt: skip
        if not selector and len(matching) == 1:  # Microsoft and chasquid do not name it
            selector = matching[0].get("s", "")
        if one.result != "none":
            comment = one.properties.get("reason", "") or one.comment
            found.append(Signature(domain, selector, one.result, _aligned(domain, author), comment))
    return found


def _dmarc(results: Sequence[Result], author: str) -> dict[str, str]:
    for one in _of(results, "dmarc"):
        published = re.search(r"\bp=(\w+)", one.comment)
        policy_ = published[1] if published else one.properties.get("policy.dmarc", "")
        taken = re.search(r"\bdis=(\w+)", one.comment)
        done = one.properties.get("action", "") or (taken[1] if taken else "")
        domain = trace.domain(one.properties.get("header.from", "")) or author
        return {"result": one.result, "policy": policy_.lower(), "action": done.lower(), "domain": domain}
    return {"result": "", "policy": "", "action": "", "domain": author}


def _arc(results: Sequence[Result], fields: Fields) -> dict[str, str]:
    seals = [re.search(r"\bcv=(\w+)", value) for name, value in fields if name == "arc-seal"]
    said = next((one.result for one in _of(results, "arc")), "")
    chain = seals[0][1].lower() if seals and seals[0] else ""
    return {"result": said, "chain": chain, "sets": str(len(seals))}


def _unsubscribe(fields: Fields) -> dict[str, Any]:
    ways = re.findall(r"<([^<>]+)>", first(fields, "list-unsubscribe"))
    post = first(fields, "list-unsubscribe-post").lower() == "list-unsubscribe=one-click"
    signed = any("list-unsubscribe" in tags.get("h", "").lower().split(":") for tags in _signatures(fields))
    https = any(way.lower().startswith("https://") for way in ways)
    return {"ways": ways, "one_click": post and https, "signed": bool(ways) and signed}


def _junk(top: Fields, microsoft: Fields, results: Sequence[Result]) -> list[str]:
    """What says that the receiver took the message for spam; Gmail does not tell. Microsoft writes below From."""
    found = []
    marks = _forefront(microsoft)
    if marks.get("SFV") in _SFV or _number(marks.get("SCL", "")) >= JUNK_SCL:
        found.append(
            f"Microsoft: spam confidence SCL {marks.get('SCL', '?')} ({JUNK_SCL} and more is junk), "
            f"filter {marks.get('SFV', '?')}, category {marks.get('CAT', 'NONE')}"
        )
    bulk = re.search(r"\bBCL:(\d+)", first(microsoft, "x-microsoft-antispam"))
    if bulk and _number(bulk[1]) >= JUNK_BCL:
        found.append(f"Microsoft: bulk mail that people complain about, BCL {bulk[1]} of 9")
    if first(top, "x-yahoofilteredbulk"):
        found.append("Yahoo: filtered as bulk (X-YahooFilteredBulk)")
    if "yes" in {first(top, "x-spam-flag").lower(), first(top, "x-spam-status").lower()[:3]}:
        found.append(f"a spam filter: {first(top, 'x-spam-status') or 'X-Spam-Flag: YES'}")
    return found + [
        f"Microsoft: composite authentication {one.result}, reason {one.properties.get('reason', '?')}"
        for one in _of(results, "compauth")
        if one.result == "fail"
    ]


def _is_outlook(by: str) -> bool:
    return f".{by}".endswith(_OUTLOOK)


def _forefront(fields: Fields) -> dict[str, str]:
    return dict(re.findall(r"\b([A-Z]{1,6}):([^;\s]+)", first(fields, "x-forefront-antispam-report")))


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else -1


def show(console: Console, made: Explanation) -> None:
    """Print the explanation for people."""
    wrong = {finding.id.removeprefix("explain.") for finding in made.findings if finding.severity != "note"}
    head = made.headers
    line = f"{head['subject'] or '(no subject)'}: from {head['from']} to {head['to']}"
    console.print(report.said(line), soft_wrap=True)
    verdicts = Table("check", title="the verdict", title_justify="left")
    verdicts.add_column(report.said(f"what {made.receiver or 'the receiver'} saw"))
    for check, seen, ids in _rows(made):
        verdicts.add_row(report.said(check), report.said(seen), style="bold red" if ids & wrong else "green")
    console.print(verdicts)
    way = Table("from", "to", "how", "after", title="the way, oldest first", title_justify="left")
    for leg in made.legs:
        hop = leg.hop
        came = hop.address or hop.greeting or "(itself)"
        lock = "not encrypted" if hop.tls is None else f"TLS {hop.tls} {hop.cipher}".strip()
        how = f"{leg.kind}: {'' if leg.kind == 'inside' and hop.tls is None else lock}".rstrip(": ")
        delay = "?" if leg.delay is None else duration(leg.delay)
        way.add_row(
            *map(report.said, (came, hop.by, how, delay)),
            style="" if leg.kind == "inside" or hop.tls is not None else "bold red",
        )
    console.print(way)
    report.show(console, made.findings)


def _rows(made: Explanation) -> Iterator[tuple[str, str, set[str]]]:
    delivery = made.delivery.hop if made.delivery else None
    yield (
        "padlock",
        {"closed": "closed: every leg encrypted", "open": "open: a leg was not encrypted"}.get(
            made.padlock, "cannot be told"
        ),
        {"tls", "tls-old"},
    )
    spf, dmarc = made.spf, made.dmarc
    if spf["result"]:
        yield "SPF", f"{spf['result']} for {spf['domain']} from {spf['address']}, {_words(spf['aligned'])}", {"spf"}
    for one in made.dkim:
        yield (
            f"DKIM {one.selector}".strip(),
            f"{one.result} for {one.domain}, {_words(one.aligned)}",
            ({"dkim"} if one.result != "pass" else set()),
        )
    if dmarc["result"]:
        policy_ = f", policy {dmarc['policy']}" if dmarc["policy"] else ""
        yield "DMARC", f"{dmarc['result']} for {dmarc['domain']}{policy_}", {"dmarc", "dmarc-missing"}
    if made.arc["sets"] != "0":
        yield (
            "ARC",
            f"{made.arc['sets']} set(s), chain {made.arc['result'] or made.arc['chain'] or 'not judged'}",
            set(),
        )
    if delivery and delivery.address:
        yield "address", f"{delivery.address} (IPv{ip_address(delivery.address).version})", set()
        reverse = {None: "not told", "": "none"}.get(delivery.reverse, delivery.reverse or "")
        yield "reverse name", reverse, {"reverse", "reverse-differs"}
        yield "greeting (EHLO)", delivery.greeting, {"greeting"}
    ways = made.unsubscribe["ways"]
    click = "one click" if made.unsubscribe["one_click"] else "not with one click"
    yield (
        "List-Unsubscribe",
        f"{', '.join(ways)} ({click})" if ways else "none (only lists and newsletters need it)",
        ({"unsubscribe", "unsubscribe-click"}),
    )
    yield "spam filter", "; ".join(made.junk) or "says nothing against it", {"junk"}


def _words(aligned: bool) -> str:
    return "aligned with From" if aligned else "not aligned with From"
