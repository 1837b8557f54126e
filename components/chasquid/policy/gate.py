"""Mail from outside: what is forwarded to where aliases lead, what is marked, and what never leaves in our name.

One rule after the other; the first that objects decides. DMARC itself is in `dmarc`, what chasquid found out in
`results`.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import dmarc, limits, notices, results, rspamd
from .message import ACCEPT, Malformed, Verdict, addresses, domain_of, plain, to_ascii
from .sender import PROBE_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping, Sequence

    from .message import Headers, Request

DNS = dmarc.Dns()
SECONDS = 10.0  # for all look-ups of a message
LOCAL_PART = 64  # octets, RFC 5321 section 4.5.3.1.1
ALIAS_DEPTH = 10  # internal/aliases recursionLimit

Book = dict[str, dict[str, "Sequence[str]"]]  # domain -> local part or `*` -> destinations


@dataclass
class Case:
    """A message with what is found out about it, each fact once and only when a rule asks."""

    request: Request
    headers: Headers
    settings: Mapping[str, Any]
    state: limits.Store
    lookup: dmarc.Lookup
    marks: list[str] = field(default_factory=list)  # header fields that tell the reader what we doubt

    @cached_property
    def sender(self) -> str:
        """The domain of MAIL FROM as chasquid splits it (internal/envelope Split), empty for the null sender."""
        return to_ascii(self.request.sender.partition("@")[2])

    @cached_property
    def recipients(self) -> dict[str, str]:
        """Recipient -> its domain."""
        return {recipient: to_ascii(recipient.partition("@")[2]) for recipient in self.request.recipients}

    @cached_property
    def author(self) -> str | Malformed:
        """The one domain of the From field (RFC 9989 section 5.3.1), or why there is none that all readers see."""
        fields = self.headers.all("From")
        if len(fields) != 1:
            return Malformed(f"there are {len(fields)} From fields, expected one")
        try:
            domains = {domain_of(address) for address in addresses(fields[0])}
        except Malformed as reason:
            return reason
        return domains.pop() if len(domains) == 1 else Malformed(f"the From field has {len(domains)} domains")

    @cached_property
    def proofs(self) -> tuple[dmarc.Proof, dmarc.Proof]:
        """What is proven, and what would be if all checks that DNS left undecided had passed."""
        found = results.trusted(self.request.message)
        sender = self.sender or None
        spf = self.request.spf_pass
        return (
            dmarc.Proof(sender if spf else None, found.dkim),
            dmarc.Proof(sender if spf or found.spf_undecided else None, found.dkim | found.dkim_undecided),
        )

    @cached_property
    def outcome(self) -> dmarc.Outcome | None:
        """The DMARC evaluation; None without an author to evaluate."""
        if isinstance(self.author, Malformed):
            return None
        proven, possible = self.proofs
        outcome = dmarc.evaluate(self.author, proven, self.lookup)
        undecided = not outcome.aligned and possible != proven
        if undecided and dmarc.evaluate(self.author, possible, self.lookup).aligned:
            return dataclasses.replace(outcome, result="temperror")
        return outcome

    @cached_property
    def targets(self) -> dict[str, frozenset[str]]:
        """Recipient -> the addresses elsewhere it is forwarded to."""
        book, users = book_of(self.settings), self.settings["users"]
        return {recipient: targets(recipient, book, users) for recipient in self.request.recipients}

    def fields(self) -> Iterator[str]:
        """Our own Authentication-Results (RFC 8601), on top of everybody's, and our marks."""
        result = "none"
        if self.outcome:
            result = f"dmarc={self.outcome.result} header.from={self.author}"
            if self.outcome.result != "none":
                result += f" policy.dmarc={self.outcome.policy}"
        yield f"Authentication-Results: {self.settings['hostname']};\n\t{result}"
        yield from self.marks


def judge(
    request: Request,
    headers: Headers,
    settings: Mapping[str, Any],
    state: limits.Store,
    resolver: dmarc.Resolver = DNS,
) -> Verdict:
    """What becomes of a message that came without authentication."""
    case = Case(request, headers, settings, state, dmarc.within(resolver, SECONDS))
    if verdict := to_probe(case):
        return verdict
    if notices.is_own("".join(headers.all("Message-ID")), request.remote):
        return Verdict.accept()
    try:
        for rule, of_gate in RULES:
            if (settings["gate"] or not of_gate) and (verdict := rule(case)):
                return verdict
        return Verdict.accept(list(case.fields()))
    except dmarc.Unanswered as error:
        return Verdict.defer(f"4.4.3 {error}; try again later")


def to_probe(case: Case) -> Verdict | None:
    """The host's own test user gets no mail."""
    if PROBE_DOMAIN in case.recipients.values():
        return Verdict.refuse(f"5.7.1 {PROBE_DOMAIN} is a test domain of this server and takes no mail")
    return None


def to_external(case: Case) -> Verdict | None:
    """A domain whose mailboxes are elsewhere only sends through us."""
    for domain in case.recipients.values():
        entry = case.settings["domains"].get(domain, {})
        if entry.get("mail") == "external":
            servers = "".join(entry["aliases"].get("*", ())).partition(" via ")[2].replace("/", " or ")
            return Verdict.refuse(f"5.7.1 Mail for {domain} is received by {servers}, not here; follow its MX records")
    return None


def from_nobody(case: Case) -> Verdict | None:
    """A sender that chasquid would write otherwise when it forwards: quoted, or no UTF-8."""
    try:
        if case.request.sender:
            plain(case.request.sender)
    except Malformed as reason:
        return Verdict.refuse(f"5.1.7 Not forwarded: the sender {reason}; use one that needs no quotes")
    return None


def without_author(case: Case) -> Verdict | None:
    """Nobody could say whose policy holds."""
    if isinstance(case.author, Malformed):
        return Verdict.refuse(f"5.7.1 Mail needs one From field with one author's address: {case.author}")
    return None


def against_dmarc(case: Case) -> Verdict | None:
    """The owner of the author's domain wants it refused; what DNS left open waits (RFC 9989 section 5.3.6)."""
    if case.outcome is None or case.outcome.policy != "reject" or case.outcome.aligned:
        return None
    if case.outcome.result == "temperror":
        raise dmarc.Unanswered(f"DNS did not answer all that DMARC of {case.author} asks")
    return Verdict.refuse(
        f"5.7.26 {case.author} wants mail refused that SPF or DKIM do not prove to be its own (DMARC); "
        f"sign as d={case.author}, or pass SPF with a sender of that domain"
    )


def from_ourselves(case: Case) -> Verdict | None:
    """Somebody outside writes as one of our domains: a forger, but also mailing lists and calendars."""
    if case.outcome is None or case.outcome.aligned or not (policy := own_policy(case)):
        return None
    if policy != "reject":
        case.marks.append(f"X-Mailroom-Warning: nothing proves that this message is from {case.author}")
        return None
    if case.outcome.result == "temperror":
        raise dmarc.Unanswered(f"DNS did not answer all that DMARC of {case.author} asks")
    return Verdict.refuse(
        f"5.7.26 Mail from {case.author} is sent by this server's users alone, or needs its DKIM signature; "
        "log in to send, or let the mailing list put its own address into From"
    )


def own_policy(case: Case) -> str | None:
    """Our policy if the author's domain is ours; a subdomain may have one of its own in DNS."""
    author, outcome = str(case.author), case.outcome
    domains: Mapping[str, Mapping[str, str]] = case.settings["domains"]
    if author in domains:
        return domains[author]["policy"]
    parents = [name for name in domains if dmarc.is_within(author, name)]
    if not parents or outcome is None:
        return None
    return outcome.policy if outcome.result in {"pass", "fail"} else domains[max(parents, key=len)]["sp"]


def from_unproven(case: Case) -> Verdict | None:
    """Were it forwarded and refused there, the bounce would go to somebody who may never have written."""
    proven, possible = case.proofs
    if not case.sender or proven.spf or dmarc.related(case.sender, proven.dkim, case.lookup):
        return None
    if possible.spf or dmarc.related(case.sender, possible.dkim, case.lookup):
        raise dmarc.Unanswered(f"DNS did not answer all that SPF and DKIM of {case.sender} ask")
    return Verdict.refuse(
        f"5.7.26 Not forwarded: neither SPF nor a DKIM signature proves the sender's domain {case.sender}; "
        "put this server's address into its SPF record, or sign as that domain"
    )


def too_long(case: Case) -> Verdict | None:
    """Forwarded mail gets a sender of ours (internal/queue rewriteSender), which strict receivers would refuse."""
    if not case.request.sender or case.sender in {*case.settings["domains"], PROBE_DOMAIN}:
        return None  # internal/queue deliver: chasquid rewrites neither
    for recipient in (recipient for recipient, elsewhere in case.targets.items() if elsewhere):
        rewritten = f"{recipient.partition('@')[0]}+fwd_from={case.request.sender.replace('@', '=')}"
        if (octets := len(rewritten.encode())) > LOCAL_PART:
            return Verdict.refuse(
                f"5.7.1 The sender address is too long to be forwarded: for {recipient} it becomes {octets} octets "
                f"before the @, {LOCAL_PART} are allowed; send from one that is {octets - LOCAL_PART} shorter"
            )
    return None


def like_spam(case: Case) -> Verdict | None:
    """What rspamd says, where the operator runs it."""
    if not case.settings["rspamd"]:
        return None
    verdict = rspamd.judge(case.request)
    if verdict.status != ACCEPT:
        return verdict
    case.marks += [verdict.text] if verdict.text else []
    return None


def too_many(case: Case) -> Verdict | None:
    """A receiver holds us to account for all we forward, whoever wrote it.

    Anybody may use the null sender, which nothing proves: it has a tenth of the rate for itself and takes none of it.
    """
    rate, kind = int(case.settings["forwardRate"]), "messages"
    if not case.request.sender:
        rate, kind = max(1, rate // 10), "bounces"
    # chasquid sends a copy for each recipient, however often they lead to the same address.
    copies = Counter(target.lower() for recipient in case.request.recipients for target in case.targets[recipient])
    amounts = {f"forward:{kind}:{target}": number for target, number in sorted(copies.items())}
    wait = case.state.take_all(amounts, limits.HOUR, rate)
    if wait == math.inf:
        return Verdict.refuse(f"5.5.3 More than {rate} copies would be forwarded to one address; send to fewer of ours")
    if wait:
        return Verdict.defer(f"4.7.1 More than {rate} {kind} an hour would be forwarded to one address; try later")
    return None


# In this order; whether a rule belongs to the gate and falls with it. What counts comes last.
RULES: Sequence[tuple[Callable[[Case], Verdict | None], bool]] = (
    (to_external, False),
    (from_nobody, False),
    (without_author, True),
    (against_dmarc, True),
    (from_ourselves, False),
    (from_unproven, True),
    (too_long, False),
    (like_spam, True),
    (too_many, False),
)


def book_of(settings: Mapping[str, Any]) -> Book:
    """The aliases of all domains, by the names chasquid looks up."""
    return {
        domain: {without_dots(name): line for name, line in entry["aliases"].items()}
        for domain, entry in settings["domains"].items()
    }


def targets(address: str, book: Book, users: Container[str], depth: int = 0) -> frozenset[str]:
    """The addresses elsewhere that mail to `address` ends at, by the way of chasquid's resolver (internal/aliases)."""
    local, _, domain = address.partition("@")
    lines = book.get(to_ascii(domain))
    if lines is None:
        return frozenset({address})
    if depth >= ALIAS_DEPTH:
        return frozenset()
    found: frozenset[str] = frozenset()
    for line in destinations(local, lines, is_user=f"{local}@{to_ascii(domain)}" in users):
        destination, via, _ = line.partition(" via ")
        name, at, other = destination.partition("@")
        following = f"{local if name == '*' else name}@{other if at else domain}"
        found |= {following} if via else targets(following, book, users, depth + 1)
    return found


def destinations(local: str, lines: Mapping[str, Sequence[str]], *, is_user: bool) -> Sequence[str]:
    """The right side of a local part: its own, then that without its suffix, then the catch-all unless it is a user."""
    whole = without_dots(local)
    for name in (whole, whole.partition("+")[0]):
        if name in lines:
            return lines[name]
    return () if is_user else lines.get("*", ())


def without_dots(local: str) -> str:
    """A local part as chasquid looks it up (`drop_characters`): dots before a suffix do not count."""
    user, plus, suffix = local.partition("+")
    return f"{user.replace('.', '')}{plus}{suffix}"
