"""What becomes of the records that stand at our names before a stack's first run, or after a run whose answer was lost.

Only judged here: nothing is read, and nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from standards import dkim, dmarc, ownership, spf_merge
from standards.finding import Finding, Invalid
from standards.names import dns_name, shown
from standards.records import quoted, unquoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from standards.ownership import Claim, Existing
    from standards.records import Record

Verdict = Literal["keep", "merge", "import", "conflict"]
# A name has one of these, so that ours is what theirs becomes; of A, AAAA and MX it may have many.
_ONE_OF_A_KIND: Final = frozenset({"CNAME", "SPF", "DMARC", "DKIM"})
_HOST_NAMES: Final = frozenset({"CNAME", "MX"})
_AUTOMATIC_TTL: Final = 1  # as the API writes it


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One record at a name of ours and what becomes of it.

    `key` is the logical name it has, or gets, in the stack; `known` says that it has it already. `changes` are what
    the next run then changes in the record. `fix` is what a person does about a conflict.
    """

    record: Existing
    verdict: Verdict
    reason: str
    key: str | None = None
    known: bool = False
    changes: tuple[str, ...] = ()
    fix: str = ""

    @property
    def id(self) -> str:
        """The record's id at the API."""
        return str(self.record["id"])

    @property
    def is_imported(self) -> bool:
        """Whether it has to be brought into the state."""
        return self.key is not None and not self.known and self.verdict in {"import", "merge"}


def judge(
    existing: Sequence[Existing],
    wanted: Sequence[Record],
    claims: Sequence[Claim],
    stack: str,
    known: Mapping[str, str],
    taken: Collection[str] = (),
    *,
    zone: str,
) -> list[Judgement]:
    """Every record at the names of `claims`, judged; `wanted` and `known` are those of the same `zone`, by its name.

    `known` has the ids of the records in the stack's state by their logical names, `taken` those of conflicting ones
    that shall become ours all the same, each in place of one that is wanted and not there yet.
    """
    judged = []
    for claim in (ownership.in_zone(claim, existing) for claim in claims):
        name = claim["name"]
        here = [record for record in existing if _canonical(str(record["name"])) == name]
        ours = [one for one in wanted if one.name == name]
        judged += _Name(ours, here, claim, stack, known, taken, zone).judge()
    return judged


def spf_settings(judged: Sequence[Judgement], claims: Iterable[Claim]) -> dict[str, dict[str, Any]]:
    """By domain what its `spf` has to say so that nothing of the records to merge is lost."""
    found = {}
    for claim in (ownership.in_zone(claim, [one.record for one in judged]) for claim in claims):
        here = [
            one for one in judged if one.verdict == "merge" and _canonical(str(one.record["name"])) == claim["name"]
        ]
        has_second = any(one.key is None for one in here)
        if any(ownership.lacking_spf(one.record, claim) for one in here) or (has_second and not claim["adopt"]):
            found[claim["name"]] = ownership.merged_spf([one.record for one in here], claim)
            if has_second:
                found[claim["name"]]["adopt"] = True  # lets the run remove it
    return found


def without_merge(judged: Iterable[Judgement], domain: str, reasons: Sequence[Finding], stack: str) -> list[Judgement]:
    """The same where the settings cannot hold what is to be merged at a domain: that is in conflict, for `reasons`."""
    why = "; ".join(finding.found for finding in reasons)
    fix = "; ".join(dict.fromkeys(finding.fix for finding in reasons if finding.fix))
    return [
        replace(
            one,
            verdict="conflict",
            reason=f"{one.reason}: {why}",
            key=one.key if one.known else None,
            changes=(),
            fix=f"{fix}{_taking(one.record, stack) if one.key else ''}",
        )
        if one.verdict == "merge" and _canonical(str(one.record["name"])) == domain
        else one
        for one in judged
    ]


def adopted(judged: Iterable[Judgement]) -> list[str]:
    """The ids that the stack's settings have to name so that the gate lets the next run change these records.

    No other belongs there: the gate has no state, and would let a run change whoever's record has that id.
    """
    ours = [one for one in judged if one.verdict != "conflict" and (one.known or one.is_imported)]
    return sorted(one.id for one in ours if ownership.owner(one.record) is None)


@dataclass(frozen=True)
class _Name:
    """One name of ours: what we want there, what stands there, and what is known of it."""

    wanted: Sequence[Record]
    here: Sequence[Existing]
    claim: Claim
    stack: str
    known: Mapping[str, str]
    taken: Collection[str]
    zone: str

    def judge(self) -> list[Judgement]:
        """In the order of the zone; each of ours is given to the record that is most like it."""
        keys = {identifier: key for key, identifier in self.known.items()}
        free = {record.key: record for record in self.wanted if record.key not in self.known}
        found: dict[int, Judgement] = {}
        for place in sorted(range(len(self.here)), key=lambda place: self._likeness(self.here[place])):
            record = self.here[place]
            if key := keys.get(str(record["id"])):
                found[place] = self._of_ours(record, key)
                continue
            of_us = ownership.owner(record) == self.stack
            found[place] = self._lost(record, free) if of_us else self._of_others(record, free)
            free.pop(found[place].key or "", None)
        return [found[place] for place in range(len(self.here))]

    def _likeness(self, record: Existing) -> tuple[bool, bool]:
        same = any(_same(record, one) for one in self.wanted)
        return ownership.owner(record) != self.stack, not same

    def _of_ours(self, record: Existing, key: str) -> Judgement:
        """A record in the state: one that was imported may still need settings before a run may change it."""
        ours = next((one for one in self.wanted if one.key == key), None)
        changes = _changes(record, ours, self.stack) if ours else ()
        done = Judgement(record=record, verdict="keep", reason="it is in the stack's state", key=key, known=True)
        marked = ownership.owner(record)
        if marked == self.stack:
            return done
        if marked is not None:
            reason, fix = ownership.explained(record, self.claim)
            return replace(done, verdict="conflict", reason=reason, fix=fix)
        if ownership.is_adopted(record, self.claim):
            return replace(done, reason="it was taken over; the next run makes it what ours says", changes=changes)
        if ours and ownership.is_others_spf(record, self.claim) and not self._is_taken(record):
            return replace(self._spf(record, {key: ours}), key=key, known=True)
        return replace(done, verdict="import", reason="it is in the state, the settings do not say so", changes=changes)

    def _of_others(self, record: Existing, free: Mapping[str, Record]) -> Judgement:
        if not ownership.stands_in_the_way(record, self.claim, self.zone):
            return Judgement(record=record, verdict="keep", reason="it is not ours and contradicts nothing of ours")
        reason, fix = ownership.explained(record, self.claim)
        is_held = ownership.owner(record) is not None or ownership.is_email_routing(record)
        if record["type"] == "MX" and not is_held:
            reason = f"{reason}; beside ours it would split the mail between both"
        conflict = Judgement(record=record, verdict="conflict", reason=reason, fix=fix)
        if is_held:
            return conflict
        if ownership.is_others_spf(record, self.claim) and not self._is_taken(record):
            return self._spf(record, free)
        return self._alike(record, free, conflict)

    def _alike(self, record: Existing, free: Mapping[str, Record], conflict: Judgement) -> Judgement:
        """A record of a kind that we write: ours if nothing is lost by it, or if a person says so."""
        key = self._match(record, free, loose=self._is_taken(record))
        if key is None and self._is_taken(record) and (has := self._known_of_kind(record)):
            return replace(
                conflict,
                reason=f"it cannot be taken: the state has {has} already",
                fix=f"if that one is gone from DNS, `pulumi refresh -s {self.stack}` and then this again; "
                f"{conflict.fix}",
            )
        if key is None:
            return replace(conflict, fix=f"{conflict.fix}{self._taking(record, free)}")
        ours = free[key]
        if not self._is_taken(record) and (lost := self._lost_by(record, ours)):
            return replace(conflict, reason=lost, fix=f"{conflict.fix}{self._taking(record, free)}")
        return Judgement(
            record=record,
            verdict="import",
            reason="it becomes ours" if _same(record, ours) else f"it becomes ours: {shown(ours.answer)}",
            key=key,
            changes=_changes(record, ours, self.stack),
        )

    def _is_taken(self, record: Existing) -> bool:
        return str(record["id"]) in self.taken

    def _known_of_kind(self, record: Existing) -> str:
        """The logical name of a record of ours that has the place which this one would take."""
        kind = _kind(record, self.claim["name"])
        return next((ours.key for ours in self.wanted if ours.key in self.known and _kind_of(ours) == kind), "")

    def _lost(self, record: Existing, free: Mapping[str, Record]) -> Judgement:
        """A record with our mark that the state does not know."""
        key = self._match(record, free, loose=True)
        if key is None:
            return Judgement(
                record=record,
                verdict="conflict",
                reason="a run of this stack made it, and neither its state nor its settings know it",
                fix=f"`scripts/recover.py --stack {self.stack}` removes it",
            )
        reason = "a run of this stack made it, and its answer was lost"
        changes = _changes(record, free[key], self.stack)
        return Judgement(record=record, verdict="import", reason=reason, key=key, changes=changes)

    def _spf(self, record: Existing, free: Mapping[str, Record]) -> Judgement:
        """An SPF record at a domain of ours: nothing that it allows is lost, and it does not become a second one."""
        key = self._match(record, free, loose=False)
        left_out = ownership.left_out(record, self.claim, self._merged)
        theirs, ours = ownership.others_spf(record, self.claim), self.claim["spf"]
        if refusing := spf_merge.out_of_order(theirs, ours, self._merged, self.claim["name"]):
            reason = f"{', '.join(refusing)} refuses whom a later term may let in: order matters, and a merge loses it"
            fix = f"{ownership.explained(record, self.claim)[1]}{self._taking(record, free)}"
            return Judgement(record=record, verdict="conflict", reason=reason, fix=fix)
        lacking = ownership.lacking_spf(record, self.claim)
        told = f"{ownership.lacking(lacking, record, self.claim)}, which goes into `spf` of the settings"
        if key is None:
            also = f"; {told}" if lacking else ""
            reason = f"a second SPF record: the next run removes it, as receivers refuse two{also}{left_out}"
            return Judgement(record=record, verdict="merge", reason=reason)
        changes = _changes(record, replace(free[key], content=quoted(self._merged)), self.stack)
        if lacking:
            reason = f"{told}{left_out}"
            return Judgement(record=record, verdict="merge", reason=reason, key=key, changes=changes)
        reason = (
            f"ours takes its place{left_out}" if left_out else "ours allows all that it allows, and takes its place"
        )
        return Judgement(record=record, verdict="import", reason=reason, key=key, changes=changes)

    @property
    def _merged(self) -> str:
        """Our SPF record with all that the others at the name allow."""
        others = [record for record in self.here if ownership.is_others_spf(record, self.claim)]
        return ownership.merged_text(others, self.claim)

    def _match(self, record: Existing, free: Mapping[str, Record], *, loose: bool) -> str | None:
        """The logical name a record gets: that of the one with the same content, else of the only or first one."""
        kind = _kind(record, self.claim["name"])
        alike = {key: one for key, one in free.items() if _kind_of(one) == kind}
        same = [key for key, one in alike.items() if _same(record, one)]
        if same or loose or kind in _ONE_OF_A_KIND - {"CNAME"}:
            return next(iter([*same, *alike]), None)
        return None

    def _lost_by(self, record: Existing, ours: Record) -> str:
        """What would be lost if it became ours; empty for nothing."""
        if _same(record, ours):
            return ""
        theirs = unquoted(str(record.get("content") or ""))
        match _kind(record, ours.name):
            case "DKIM":
                return "it holds another key: what is signed with that one could not be checked any more"
            case "DMARC":
                return "; ".join(_lost_of_dmarc(unquoted(ours.shown), theirs))
            case "SPF" if lacking := spf_merge.missing([theirs], unquoted(ours.shown), ours.name):
                return f"ours lacks {', '.join(lacking)}"
        return ""

    def _taking(self, record: Existing, free: Mapping[str, Record]) -> str:
        if self._match(record, free, loose=True) is None:
            return ""
        return _taking(record, self.stack, ownership.conjunction(record, self.claim))


def _lost_of_dmarc(ours: str, theirs: str) -> Iterator[str]:
    if weaker := dmarc.weaker(ours, theirs):
        yield f"ours is weaker: {weaker}"
    for tag in dmarc.REPORTS:
        if lost := dmarc.lost_reports(ours, theirs, tag):
            yield f"{', '.join(lost)} would get no reports any more: write them into `dmarc.{tag}`"


def _taking(record: Existing, stack: str, conjunction: str = "or") -> str:
    return (
        f"; {conjunction} let the next run change it to ours: `scripts/adopt.py --stack {stack} --take {record['id']}`"
    )


def _kind(record: Existing, name: str) -> str:
    return ownership.kind(str(record["type"]), name, str(record.get("content") or ""))


def _kind_of(record: Record) -> str:
    return "DKIM" if record.dkim else ownership.kind(record.type, record.name, record.content or "")


def _canonical(name: str) -> str:
    """A name as our records write theirs; one that is no name is compared as it stands."""
    try:
        return dns_name(name)
    except Invalid:
        return name.rstrip(".").lower()


def _value(record_type: str, content: str) -> str:
    """A content in the spelling in which two are compared."""
    if record_type == "TXT":
        return unquoted(content)
    return _canonical(content) if record_type in _HOST_NAMES else content.lower()


def _same(record: Existing, ours: Record) -> bool:
    if record["type"] != ours.type or ours.content is None:
        return False
    theirs, wanted = _value(ours.type, str(record.get("content") or "")), _value(ours.type, ours.content)
    return theirs == wanted or (ours.dkim is not None and dkim.published(theirs) == dkim.published(wanted))


def _changes(record: Existing, ours: Record, stack: str) -> tuple[str, ...]:
    """What a run changes in a record that has become ours, one line each."""
    ttl = record.get("ttl")
    pairs = [
        ("content", str(record.get("content") or ""), ours.shown if ours.content is None else ours.content),
        ("ttl", "automatic" if ttl == _AUTOMATIC_TTL else ttl, ours.ttl),
        ("priority", record.get("priority"), ours.priority),
        ("proxied", bool(record.get("proxied")), False),
        ("comment", record.get("comment") or "", ours.comment(stack)),
    ]
    return tuple(f"{name} {_told(before)} -> {_told(after)}" for name, before, after in pairs if before != after)


def _told(value: object) -> str:
    return repr(value) if isinstance(value, str) and value != "automatic" else str(value).lower()
