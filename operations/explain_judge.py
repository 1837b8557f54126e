"""What is wrong with a received message, judged from what its headers tell, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from standards import trace
from standards.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from operations.explain import Explanation, Fields
    from standards.finding import Severity

SLOW_SECONDS: Final = 300
WEAK_TLS: Final = frozenset({"1", "1.0", "1.1"})


def judge(made: Explanation, fields: Fields) -> list[Finding]:
    """Every finding, the gravest kinds first."""
    return [*_form(fields), *_proofs(made), *_way(made), *_rest(made, fields)]


def _say(
    identifier: str, subject: str, found: str, expected: str, *, why: str, fix: str, severity: Severity = "error"
) -> Finding:
    return Finding(severity=severity, id=f"explain.{identifier}", subject=subject, expected=expected, found=found,
                   why=why, fix=fix)  # fmt: skip


def _form(fields: Fields) -> Iterator[Finding]:
    for name in ("from", "date", "message-id"):
        count = sum(field_name == name for field_name, _ in fields)
        if count != 1:
            yield _say(
                "form",
                name.title(),
                f"{count} headers of this name",
                "exactly one (RFC 5322 section 3.6)",
                why="Gmail refuses such messages, and two readers may read different ones",
                fix="repair the program that wrote the message",
                severity="warning" if name == "message-id" and not count else "error",
            )


def _proofs(made: Explanation) -> Iterator[Finding]:
    author, trusted = made.dmarc["domain"], made.dmarc["result"] == "pass"
    soft: Severity = "warning" if trusted else "error"
    if not (made.spf["result"] or made.dkim or made.dmarc["result"]):
        yield _say(
            "no-results",
            "Authentication-Results",
            f"none written by {made.receiver or 'the receiver'}",
            "spf=, dkim= and dmarc= of the server that received the message",
            why="SPF, DKIM and DMARC cannot be judged afterwards: records and keys change",
            fix="send to a mailbox at Gmail, Outlook or Yahoo and explain the copy there",
            severity="warning",
        )
        return
    spf = made.spf
    if spf["result"] != "pass":
        yield _say(
            "spf",
            f"SPF of {spf['domain'] or 'the envelope sender'}",
            f"{spf['result'] or 'no result'} for {spf['address'] or 'an unknown address'}",
            "pass",
            why="the domain does not say that this address may send for it",
            fix=f"if {spf['address'] or 'the address'} is your host or service, add it to the domain's "
            "`spf.mechanisms` or `spf.includes` and run `pulumi up`; if not, send through your host",
            severity=soft,
        )
    elif not spf["aligned"]:
        yield _say(
            "spf-alignment",
            f"SPF of {spf['domain']}",
            f"pass, but for another domain than {author} in From",
            f"{author} or a part of it",
            why="DMARC counts SPF only for the domain that the reader sees; on forwarded mail this is normal",
            fix="nothing if DKIM is aligned; else send with an envelope sender (Return-Path) in the From domain",
            severity="note" if trusted else "warning",
        )
    yield from _keys(made, soft)
    yield from _policy(made, author)


def _keys(made: Explanation, soft: Severity) -> Iterator[Finding]:
    author = made.dmarc["domain"]
    good = any(one.result == "pass" and one.aligned for one in made.dkim)
    for one in made.dkim:
        if one.result != "pass":
            yield _say(
                "dkim",
                f"DKIM {one.selector or '(selector not told)'} of {one.domain}",
                f"{one.result}{f' ({one.comment})' if one.comment else ''}",
                "pass",
                why="the key is not in DNS, or the message was changed after it was signed",
                fix=f"compare {one.selector or '<selector>'}._domainkey.{one.domain} TXT with the stack output `dkim`; "
                "a body hash that differs means that a list, a footer or a virus scanner changed the text",
                severity="warning" if good else soft,
            )
    if not any(one.aligned for one in made.dkim):
        others = ", ".join(one.domain for one in made.dkim)
        yield _say(
            "dkim-alignment",
            f"DKIM of {author}",
            f"signed by {others} only" if others else "no signature",
            f"a signature with d={author}",
            why="only a signature of the From domain survives forwarding and counts for DMARC",
            fix=f"send through the host that has {author} in mailroom:domains, or give the service that sent it a "
            "key of this domain",
            severity=soft,
        )


def _policy(made: Explanation, author: str) -> Iterator[Finding]:
    result, policy_ = made.dmarc["result"], made.dmarc["policy"]
    if result not in {"pass", "", "none", "bestguesspass"}:
        yield _say(
            "dmarc",
            f"DMARC of {author}",
            f"{result}, receiver did: {made.dmarc['action'] or 'not told'}",
            "pass: SPF or DKIM passes for the domain in From",
            why="receivers treat the message as forged",
            fix="repair SPF or DKIM as said above; the first that passes and is aligned is enough",
        )
    elif result in {"none", "bestguesspass"}:
        yield _say(
            "dmarc-missing",
            f"DMARC of {author}",
            "no policy published",
            f"_dmarc.{author} TXT such as v=DMARC1; p=none",
            why="Gmail and Yahoo want one from everybody who sends much",
            fix="list the domain in mailroom:domains and run `pulumi up`",
            severity="warning",
        )
    elif policy_ == "none":
        yield _say(
            "dmarc-none",
            f"DMARC of {author}",
            "pass, but the policy is none",
            "quarantine or reject",
            why="forged mail in this name is delivered all the same",
            fix="when the reports show no sender you forgot, set `dmarc: {policy: quarantine}`",
            severity="note",
        )
    for mark in made.junk:
        yield _say(
            "junk",
            f"the spam filter of {made.receiver}",
            mark,
            "the inbox",
            why="it lands in the junk folder, and people do not see it",
            fix="mend what is wrong above first; then mark it as not junk, answer it, and send little and steadily "
            "from a new address",
        )


def _way(made: Explanation) -> Iterator[Finding]:
    for leg in made.legs:
        if leg.kind == "inside":
            continue
        where = f"{leg.kind} to {leg.hop.by}"
        if leg.hop.tls is None:
            yield _say(
                "tls",
                where,
                "not encrypted",
                "TLS 1.2 or newer",
                why="Gmail shows a broken padlock, and everybody on the way can read the message",
                fix="look whether the receiving server offers STARTTLS and nothing in between takes it away"
                if leg.kind == "delivery"
                else "hand the message in on port 465, or on 587 with STARTTLS",
            )
        elif leg.hop.tls in WEAK_TLS:
            yield _say(
                "tls-old",
                where,
                f"TLS {leg.hop.tls}",
                "TLS 1.2 or newer",
                why="older ones are broken (RFC 8996)",
                fix="upgrade the older of the two servers",
                severity="warning",
            )
    for leg in made.legs:
        if leg.delay is not None and leg.delay > SLOW_SECONDS:
            yield _say(
                "slow",
                f"{leg.kind} to {leg.hop.by}",
                f"took {duration(leg.delay)}",
                f"less than {duration(SLOW_SECONDS)}",
                why="it waited at the server before: greylisting, a refused first attempt, or a wrong clock",
                fix="`journalctl -u chasquid` on the sending host says what the receiver answered first",
                severity="warning",
            )
    yield from _identity(made)


def _identity(made: Explanation) -> Iterator[Finding]:
    hop = made.delivery.hop if made.delivery else None
    if hop is None or hop.address is None:
        return
    if hop.reverse == "":
        yield _say(
            "reverse",
            f"the reverse name of {hop.address}",
            "none, or it does not lead back",
            "the name the host greets with",
            why="Gmail and others refuse mail from addresses without a confirmed name, over IPv6 above all",
            fix=f"set the reverse DNS of {hop.address} to the host's name at the hosting provider",
        )
    elif "." not in hop.greeting or trace.hop(f"from {hop.greeting}").address:
        yield _say(
            "greeting",
            f"the greeting of {hop.address}",
            hop.greeting or "none",
            "the host's full name",
            why="real mail servers greet with their name (RFC 5321 section 4.1.1.1)",
            fix="send through the host, not straight from a computer at home",
            severity="warning",
        )
    elif hop.reverse and hop.reverse != hop.greeting.lower().rstrip("."):
        yield _say(
            "reverse-differs",
            f"the reverse name of {hop.address}",
            hop.reverse,
            f"{hop.greeting}, as the host greets",
            why="a host with two names is trusted less",
            fix=f"set the reverse DNS of {hop.address} to {hop.greeting} at the hosting provider",
            severity="warning",
        )


def _rest(made: Explanation, fields: Fields) -> Iterator[Finding]:
    ways, bulk = made.unsubscribe["ways"], first(fields, "list-id") or first(fields, "precedence").lower() == "bulk"
    if bulk and not ways:
        yield _say(
            "unsubscribe",
            "List-Unsubscribe",
            "none, though the message says it is bulk mail",
            "List-Unsubscribe with an https address, and List-Unsubscribe-Post (RFC 8058)",
            why="Gmail and Yahoo want one click to leave from who sends much; else people press Spam",
            fix="let the program that sends the list add both headers",
            severity="warning",
        )
    elif ways and not (made.unsubscribe["one_click"] and made.unsubscribe["signed"]):
        lacks = (
            "is not covered by the DKIM signature" if made.unsubscribe["one_click"] else "does not work with one click"
        )
        yield _say(
            "unsubscribe-click",
            "List-Unsubscribe",
            f"it {lacks}",
            "an https address, `List-Unsubscribe-Post: List-Unsubscribe=One-Click`, both signed (RFC 8058)",
            why="receivers show their button only then",
            fix="let the program that sends the list add the headers before the message is signed",
            severity="warning" if bulk else "note",
        )
    if made.arc["result"] == "fail" or made.arc["chain"] == "fail":
        yield _say(
            "arc",
            "ARC",
            "the chain is broken",
            "pass",
            why="a forwarder's word about the original checks counts only with an unbroken chain",
            fix="ask the forwarder; mail straight from your host needs no ARC",
            severity="note",
        )
    if made.ignored:
        yield _say(
            "ignored-results",
            "Authentication-Results",
            f"{len(made.ignored)} written by somebody else than {made.receiver}",
            "only the receiver's own count",
            why="anybody can write such a header before sending",
            fix="nothing; they were not counted",
            severity="note",
        )


def first(fields: Fields, wanted: str) -> str:
    """The first header of a name, empty without one."""
    return next((value for name, value in fields if name == wanted), "")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as people say them."""
    minutes, rest = divmod(round(abs(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes else "", f"{rest} s" if rest else ""]
    text = " ".join(part for part in parts if part) or "0 s"
    return f"{'-' if seconds < 0 else ''}{text}"
