"""Whose record is it: what we claim in a zone, and which records there stand in the way of it.

Reading the zone is done elsewhere; nothing here changes or takes over a record.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, TypedDict

from standards import dmarc, spf, spf_merge
from standards.finding import Finding
from standards.names import shown
from standards.records import domain_spf, unquoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from components.settings import Settings
    from standards.records import Record

_MARK: Final = re.compile(r"(?:^|\s)mailroom:(\S+)\s*$")
_ROUTING: Final = re.compile(r"(^|\.)mx\.cloudflare\.net\.?$", re.IGNORECASE)
_LISTS: Final = ("mechanisms", "includes")  # of spf in the settings
_HOST_KINDS: Final = {"A", "AAAA"}  # a foreign address of either family would make a host's name ambiguous
_FLATTENED: Final = {"CNAME", *_HOST_KINDS}  # at a zone's own name the API answers for an alias with addresses

Existing = dict[str, Any]


class Claim(TypedDict):
    """One name of ours in a zone, the kinds of records that are ours there, the MX it must already have.

    `spf` is the text of a domain's own SPF record, and `adopt` whether it may replace one of others. `adopted` are the
    ids of records that nobody's stack made and that belong to this one's state now.
    """

    name: str
    kinds: list[str]
    zone_id: str
    mx: list[str]
    spf: str
    adopt: bool
    adopted: list[str]


def kind(record_type: str, name: str, content: str) -> str:
    """A (type, name, content) as the kind that excludes others of its kind: SPF is not any TXT."""
    if record_type != "TXT":
        return record_type
    if "._domainkey." in name:
        return "DKIM"
    text = unquoted(content)
    if name.startswith("_dmarc.") and (dmarc.is_record(text) or text.lower().startswith("v=dmarc")):
        return "DMARC"
    return "SPF" if spf.is_record(text) else "TXT"


def ours_at(records: Iterable[Record]) -> dict[str, set[str]]:
    """The names we write to and the kinds of records that are ours there."""
    claimed: dict[str, set[str]] = {}
    for record in records:
        kinds = claimed.setdefault(record.name, set())
        kinds.add("DKIM" if record.dkim else kind(record.type, record.name, record.content or ""))
        if kinds & _HOST_KINDS:
            kinds |= _HOST_KINDS
    return claimed


def claims(settings: Settings, records: Sequence[Record], zone_id: str) -> list[Claim]:
    """What the stack claims in one zone, as plain data for the gate."""
    external = {domain.name: list(domain.mx) for domain in settings.domains if domain.mail == "external"}
    senders = {domain.name: domain for domain in settings.domains if domain.mail != "none"}
    in_zone = [record for record in records if record.zone_id == zone_id]
    return [
        Claim(
            name=name,
            kinds=sorted(kinds),
            zone_id=zone_id,
            mx=external.get(name, []),
            spf=domain_spf(senders[name]) if name in senders else "",
            adopt=name in senders and senders[name].spf.adopt,
            adopted=list(settings.adopted),
        )
        for name, kinds in sorted(ours_at(in_zone).items())
    ]


def owners(settings: Settings, records: Iterable[Record]) -> dict[str, list[str]]:
    """By zone the hosts and domains that have records there, or will."""
    found: dict[str, set[str]] = {}
    for record in records:
        found.setdefault(record.zone_id, set()).add(record.owner)
    for domain in settings.domains:
        found.setdefault(domain.zone_id, set()).add(domain.name)
    return {zone_id: sorted(names) for zone_id, names in found.items()}


def owner(record: Mapping[str, Any]) -> str | None:
    """The stack that a record's comment names, None for a record of somebody else."""
    match = _MARK.search(record.get("comment") or "")
    return match[1] if match else None


def conflicts(existing: Sequence[Existing], wanted: Sequence[Claim], stack: str, zone: str) -> list[Finding]:
    """Every record that stands in the way of ours, and every MX that is not what an external domain says.

    `zone` is the zone's own name.
    """
    findings = [
        _conflict(record, claim, stack)
        for claim in (in_zone(claim, existing) for claim in wanted)
        for record in existing
        if _name(record) == claim["name"]
        and owner(record) != stack
        and not is_adopted(record, claim)
        and stands_in_the_way(record, claim, zone)
        and not _replaceable(record, claim)
    ]
    return [*findings, *external_mx(existing, wanted, stack)]


def in_zone(claim: Claim, existing: Iterable[Existing]) -> Claim:
    """The claim, where it names no MX with those of others that stand at its name: their SPF means these by `mx`."""
    mx = (record for record in existing if record["type"] == "MX" and _name(record) == claim["name"])
    hosts = (str(record["content"]).rstrip(".").lower() for record in mx if owner(record) is None)
    return {**claim, "mx": claim["mx"] or [host for host in hosts if host]}


def external_mx(existing: Sequence[Existing], wanted: Sequence[Claim], stack: str) -> list[Finding]:
    """Every domain whose mail others receive and whose MX is not what its `mx` says; ours go with the next run."""
    return [
        finding
        for claim in wanted
        if claim["mx"]
        for finding in _other_mx(
            [record for record in existing if _name(record) == claim["name"] and owner(record) != stack], claim
        )
    ]


def replaceable(existing: Sequence[Existing], claim: Claim) -> list[Existing]:
    """The SPF records of others at a name that ours may replace: it allows all that they allow."""
    there = in_zone(claim, existing)
    return [record for record in existing if _name(record) == claim["name"] and _replaceable(record, there)]


def _replaceable(record: Mapping[str, Any], claim: Claim) -> bool:
    if not claim["adopt"] or is_adopted(record, claim):
        return False
    if not is_others_spf(record, claim) or missing_spf(record, claim):
        return False
    return not spf_merge.out_of_order(others_spf(record, claim), claim["spf"], claim["spf"], claim["name"])


def is_adopted(record: Mapping[str, Any], claim: Claim) -> bool:
    """Whether the settings give it to the stack; what a stack has marked since is that stack's."""
    return owner(record) is None and record.get("id") in claim["adopted"]


def is_others_spf(record: Mapping[str, Any], claim: Claim) -> bool:
    """Whether it is an SPF record at a domain of ours that nobody's stack or service holds."""
    found = kind(str(record["type"]), claim["name"], str(record.get("content") or ""))
    return bool(claim["spf"]) and found == "SPF" and owner(record) is None and not is_email_routing(record)


def others_spf(record: Mapping[str, Any], claim: Claim) -> str:
    """The text of an SPF record at the name, where `mx` says the hosts that it names today, if they are not ours."""
    return spf.with_hosts(unquoted(str(record["content"])), claim["name"], claim["mx"])


def missing_spf(record: Mapping[str, Any], claim: Claim) -> list[str]:
    """Terms of an SPF record at the name that ours lacks."""
    return spf_merge.missing([others_spf(record, claim)], claim["spf"], claim["name"])


def lacking_spf(record: Mapping[str, Any], claim: Claim) -> list[str]:
    """Terms that ours lacks, and the end where that of the record is stricter."""
    end = spf_merge.stricter_end(others_spf(record, claim), claim["spf"])
    return [*missing_spf(record, claim), *([end] if end else [])]


def lacking(terms: Iterable[str], record: Mapping[str, Any], claim: Claim) -> str:
    """That ours lacks terms of an SPF record, and why, where both say `mx`."""
    texts = (unquoted(str(record["content"])), claim["spf"])
    moves = all(spf.with_hosts(text, claim["name"], claim["mx"]) != text for text in texts)
    why = " (`mx` of ours will name our own hosts once the mail moves here)" if moves else ""
    return f"ours lacks {', '.join(terms)}{why}"


def _name(record: Mapping[str, Any]) -> str:
    return str(record["name"]).rstrip(".").lower()


def stands_in_the_way(record: Mapping[str, Any], claim: Claim, zone: str) -> bool:
    """Whether a record at our name contradicts ours; `zone` is the zone's own name.

    A CNAME excludes all other records (RFC 1034 section 3.6.2), at the zone's own name addresses alone.
    """
    found, ours = kind(str(record["type"]), claim["name"], str(record.get("content") or "")), set(claim["kinds"])
    if found in ours or "CNAME" not in {found, *ours}:
        return found in ours
    return claim["name"] != zone or (found in _FLATTENED and not _FLATTENED.isdisjoint(ours))


def described(record: Mapping[str, Any]) -> str:
    """One record on one line."""
    priority = f"{record['priority']} " if record.get("priority") is not None else ""
    value = priority + str(record.get("content") or "")
    return f"{record['type']} {_name(record)} {shown(value)} (id {record.get('id', 'unknown')})"


def is_email_routing(record: Mapping[str, Any]) -> bool:
    """Whether Cloudflare Email Routing made the record, and holds it."""
    meta = record.get("meta") or {}
    if meta.get("email_routing") is True:
        return True
    content = str(record.get("content") or "")
    return bool(_ROUTING.search(content)) or "include:_spf.mx.cloudflare.net" in content.lower()


def _conflict(record: Mapping[str, Any], claim: Claim, stack: str) -> Finding:
    reason, fix = explained(record, claim)
    if owner(record) is None and not is_email_routing(record) and _is_like_ours(record, claim):
        take = f" --take {record.get('id', 'ID')}" if is_others_spf(record, claim) and _refusing(record, claim) else ""
        fix = f"{fix}; {conjunction(record, claim)} take it over: `scripts/adopt.py --stack {stack}{take}`"
    return Finding(
        severity="error",
        id="record-not-ours",
        subject=claim["name"],
        expected=f"no {_clashing(record, claim)} there but our own (comment ending with 'mailroom:{stack}')",
        found=f"{described(record)}: {reason}",
        why="two of them contradict each other, and records of others are never changed or deleted",
        fix=fix,
    )


def conjunction(record: Mapping[str, Any], claim: Claim) -> str:
    """Whether a record is taken over after what `explained` says, or instead of it."""
    return "then" if _is_included(record, claim) else "or"


def _is_included(record: Mapping[str, Any], claim: Claim) -> bool:
    """Whether it is an SPF record where a domain's own may include it: its senders may not send without it."""
    found = kind(str(record["type"]), claim["name"], str(record.get("content") or ""))
    return found == "SPF" and claim["name"].startswith("_spf.")


def explained(record: Mapping[str, Any], claim: Claim) -> tuple[str, str]:
    """Whose a record is that stands in the way, and the ways on."""
    other = owner(record)
    if other is not None:
        return f"it belongs to the stack {shown(other)}", _other_stack_fix(other)
    if is_email_routing(record):
        return "it belongs to Cloudflare Email Routing", (
            "in the Cloudflare dashboard open Email > Email Routing > Settings, disable it and delete its "
            "records; or keep it and set `mail: external` with its hosts in `mx`, and put "
            "_spf.mx.cloudflare.net into `spf.includes`"
        )
    return "it was not made by this stack", _foreign_fix(record, claim)


def _clashing(record: Mapping[str, Any], claim: Claim) -> str:
    return f"{kind(str(record['type']), claim['name'], str(record.get('content') or ''))} record"


def _other_stack_fix(other: str) -> str:
    return (
        f"use other names in this stack, or take them out of {shown(other)} and run `pulumi up` there first; "
        "environments use different domains"
    )


def _foreign_fix(record: Mapping[str, Any], claim: Claim) -> str:
    name, content = claim["name"], str(record.get("content") or "")
    ways = ["delete it in the Cloudflare dashboard if nothing needs it"]
    match kind(str(record["type"]), name, content):
        case "SPF" if is_others_spf(record, claim):
            return _merge_fix(record, claim)
        case "SPF" if _is_included(record, claim):
            return "copy its include: terms to `spf.includes` of the domain and its others to `spf.mechanisms`"
        case "SPF":
            ways.append("copy its include: terms to `spf.includes` and others to `spf.mechanisms` before that")
        case _ if "DMARC" in claim["kinds"]:
            ways.append("and set `dmarc` to what it says, so that the policy does not get weaker")
        case "MX":
            ways.append("or set `mail: external` and list its hosts in `mx` if mail shall go on arriving there")
        case _ if "DKIM" in claim["kinds"]:
            ways.append("or choose another selector in `dkim`")
        case _ if _HOST_KINDS & set(claim["kinds"]):
            ways.append("or choose another host name")
    return "; ".join(ways)


def _merge_fix(record: Mapping[str, Any], claim: Claim) -> str:
    """The very line of settings that merges an SPF record of others into ours."""
    if refusing := _refusing(record, claim):
        way = "`spf` cannot hold that order, as its includes come last;"
        if spf_merge.can_be_held(others_spf(record, claim), claim["spf"], claim["name"]):
            way = "write `spf` by hand so that our record ends with these terms in their order; or"
        return (
            f"{', '.join(refusing)} refuses whom a later term may let in: {way} delete it in the Cloudflare dashboard "
            "if nothing needs it"
        )
    wanted = merged_spf([record], claim)
    quoted = {name: ", ".join(map(_in_brackets, wanted.get(name, ()))) for name in _LISTS}
    parts = [f"{name}: [{terms}]" for name, terms in quoted.items() if terms]
    end = f'all: "{wanted["all"]}"'
    line = f"spf: {{{', '.join([*parts, end, 'adopt: true'])}}}"
    lacks = f"{lacking(missing_spf(record, claim), record, claim)}; " if claim["adopt"] else ""
    out = left_out(record, claim, merged_text([record], claim))
    return (
        f"{lacks}to merge it into ours, write `{line}` for {claim['name']}: the run then replaces it by one record "
        f"that allows both{out}; or delete it in the Cloudflare dashboard if nothing needs it"
    )


def _refusing(record: Mapping[str, Any], claim: Claim) -> list[str]:
    """Terms of an SPF record whose order a merge into ours loses."""
    merged = merged_text([record], claim)
    return spf_merge.out_of_order(others_spf(record, claim), claim["spf"], merged, claim["name"])


def _in_brackets(term: str) -> str:
    """A term in a list of YAML, which would read a macro's braces and a qualifier as its own."""
    return json.dumps(term) if "{" in term or spf.refuses(term) else term


def left_out(record: Mapping[str, Any], claim: Claim, merged: str) -> str:
    """In parentheses what a merge does not take from an SPF record; empty for nothing."""
    terms = spf_merge.left_out(others_spf(record, claim), merged, claim["name"])
    return f" (left out: {', '.join(terms)})" if terms else ""


def merged_spf(records: Sequence[Mapping[str, Any]], claim: Claim) -> dict[str, Any]:
    """What `spf` of the domain has to say to allow all that ours and these records do, ending as the strictest."""
    return spf_merge.as_settings([claim["spf"], *(others_spf(record, claim) for record in records)], claim["name"])


def merged_text(records: Sequence[Mapping[str, Any]], claim: Claim) -> str:
    """Our SPF record once the settings say that."""
    said = merged_spf(records, claim)
    return spf.domain_record(claim["name"], said.get("mechanisms", ()), said.get("includes", ()), ending=said["all"])


def _is_like_ours(record: Mapping[str, Any], claim: Claim) -> bool:
    """Whether it is of a kind that we write at the name, so that it could become ours."""
    return kind(str(record["type"]), claim["name"], str(record.get("content") or "")) in claim["kinds"]


def _other_mx(here: Sequence[Mapping[str, Any]], claim: Claim) -> list[Finding]:
    found = sorted(str(record["content"]).rstrip(".").lower() for record in here if record["type"] == "MX")
    if found == sorted(claim["mx"]):
        return []
    return [
        Finding(
            severity="error",
            id="external-mx-differs",
            subject=claim["name"],
            expected=f"MX {', '.join(sorted(claim['mx']))}, as `mx` of this domain says",
            found=f"MX {', '.join(found)}" if found else "no MX record but our own, if any",
            why="mail from our own users to this domain is sent to the hosts in `mx`, not to those in DNS",
            fix="write the hosts of the zone's MX records into `mx`, or correct the records there; ours are the run's",
        )
    ]
