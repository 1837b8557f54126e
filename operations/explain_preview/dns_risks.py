"""The risks that changed DNS records bring: mail that stops, addresses that move, signatures that fail."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from operations.explain_preview import hosts as on_hosts
from operations.explain_preview import policy_risks
from operations.explain_preview import records as in_dns
from operations.explain_preview.catalogue import Risk, risk
from operations.explain_preview.markdown import code
from standards import dkim, names, ownership, spf
from standards.finding import Invalid
from standards.records import unquoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from operations.explain_preview.engine import Change, Preview
    from operations.explain_preview.hosts import HostChange
    from operations.explain_preview.records import RecordChange


def find(preview: Preview, records: Sequence[RecordChange], hosts: Sequence[HostChange]) -> Iterator[Risk]:
    """Every risk of the records of a preview; `hosts` tell which keys sign."""
    yield from _mail(preview, records)
    yield from _addresses(records, hosts)
    yield from _dkim(preview, records, hosts)
    yield from policy_risks.find(records, hosts, _mx_elsewhere(preview), _spf_terms(preview))


# --- receiving ------------------------------------------------------------------------------------------------


def _mail(preview: Preview, records: Sequence[RecordChange]) -> Iterator[Risk]:
    mx = [record for record in records if record.role == "mx"]
    gone = _hosts_gone(preview, records)
    lost: defaultdict[str, set[str]] = defaultdict(set)
    for record in mx:
        if record.kind not in {"same", "create"} and (host := _lost_mx(record)):
            lost[record.owner].add(host)
    there = _kept_mx(preview, mx) | {(record.owner, host) for record in mx if (host := _mx_host(record.after))}
    left = {domain for domain, host in there if host not in gone}
    stranded = {(domain, host) for domain, host in there if host in gone}
    for domain in sorted({*lost, *(domain for domain, _ in stranded)} - left):
        name, hosts = code(domain), " and ".join(map(code, sorted(lost[domain])))
        if hosts:
            yield risk("mail-stops", domain, f"mail for {name} stops arriving here: no MX leads to {hosts} any more")
        for host in sorted(host for at, host in stranded if at == domain):
            yield risk("mail-stops", domain,
                       f"mail for {name} stops arriving here: its MX leads to {code(host)}, which has no address "
                       "any more")  # fmt: skip
        if hosts and lost[domain] <= gone:
            yield risk("last-mx-deleted", domain, f"the last MX host of {name} is deleted: {hosts}")


def _hosts_gone(preview: Preview, records: Sequence[RecordChange]) -> set[str]:
    """Hosts that are taken down or lose their last address: without IPv6 a host goes on."""
    gone = {change.name for change in preview.changes if _is_host(change) and change.kind == "delete"}
    addresses = [record for record in records if record.role in {"a", "aaaa"}]
    deleted = {record.key for record in addresses if record.kind == "delete"}
    kept = {record.owner for record in addresses if record.kind != "delete"}
    settings = {_name(host.get("name")): host for host in _listed(preview, "mailroom:hosts")}
    for owner in {record.owner for record in addresses if record.key in deleted} - kept:
        named = settings.get(owner, {})
        wanted = {kind for kind, key in (("a", "ipv4"), ("aaaa", "ipv6")) if named.get(key)} or {"a"}
        if all(f"{owner}/{kind}" in deleted for kind in wanted):
            gone.add(owner)
    return gone


def _lost_mx(record: RecordChange) -> str | None:
    """The host that an MX led to."""
    if record.kind == "delete" and not record.before_known:
        return record.last or None  # a plan says no more than the key of what it deletes
    return _mx_host(record.before)


def _kept_mx(preview: Preview, mx: Iterable[RecordChange]) -> set[tuple[str, str]]:
    """(domain, host) of each MX that is wanted and nobody deletes: records that stay are not in a preview."""
    gone = {record.key for record in mx if record.kind == "delete"}
    return {(domain, host) for domain, host in _wanted_mx(preview) if f"{domain}/mx/{host}" not in gone}


def _is_host(change: Any) -> bool:
    return bool(change.type == "mailroom:index:Host")


def _mx_host(value: str | None) -> str | None:
    """The host an MX leads to; None for none and for the null MX."""
    host = (value or "").rpartition(" ")[2]
    return _name(host) if host.strip(".") else None


def _name(text: object) -> str:
    """A name as records have it, however somebody wrote it; what is no name stays as it is."""
    try:
        return names.dns_name(str(text))
    except Invalid:
        return str(text)


def _wanted_mx(preview: Preview) -> Iterator[tuple[str, str]]:
    """(domain, host) of every MX the configuration wants."""
    for domain in () if preview.destroys else _listed(preview, "mailroom:domains"):
        if domain.get("mail", "forward") == "forward":
            for host in _listed(preview, "mailroom:hosts"):
                yield _name(domain.get("name")), _name(host.get("name"))


def _mx_elsewhere(preview: Preview) -> dict[str, list[str]]:
    """By domain the MX hosts of others that the configuration names."""
    return {
        _name(domain.get("name")): [_name(host) for host in hosts]
        for domain in _listed(preview, "mailroom:domains")
        if domain.get("mail") == "external" and isinstance(hosts := domain.get("mx"), list)
    }


def _spf_terms(preview: Preview) -> str:
    """All that the configuration adds to SPF records, in lower case."""
    domains = () if preview.destroys else _listed(preview, "mailroom:domains")
    return str([domain.get("spf") for domain in domains]).lower()


def _listed(preview: Preview, key: str) -> list[dict[str, Any]]:
    """The entries of a list in the configuration."""
    found = preview.config.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _addresses(records: Sequence[RecordChange], hosts: Sequence[HostChange]) -> Iterator[Risk]:
    removed = {host.name for host in hosts if host.kind == "delete"}
    for record in records:
        name = code(record.name)
        if record.role in {"a", "aaaa"} and record.moves:
            what = f"loses its address {code(record.before or record.type)}"
            if record.kind != "delete":
                what = f"moves to {code(record.after or '?')}"
            more = (
                "" if record.owner in removed else ": its PTR, its reputation and every allow list are of the old one"
            )
            yield risk("address-changed", record.key, f"{name} {what}{more}")
        if record.proxied:
            yield risk("proxied", record.key, f"{name} would answer with Cloudflare's edge, which speaks no SMTP")


def was_others_spf(change: Change) -> bool:
    """Whether a domain's SPF record becomes ours in place: it was there without our mark."""
    before = change.before or {}
    return (
        change.type == in_dns.TYPE
        and change.name.endswith("/spf")
        and change.kind == "update"
        and spf.is_record(unquoted(str(before.get("content"))))
        and ownership.owner(before) is None
    )


# --- signing ---------------------------------------------------------------------------------------------------


def _dkim(preview: Preview, records: Sequence[RecordChange], hosts: Sequence[HostChange]) -> Iterator[Risk]:
    before, after, told = _signing(hosts)
    for record in records:
        if record.role != "dkim" or not (how := _ends(record)):
            continue
        selector = f"selector {code(record.last)} of {code(record.owner)} is {how}"
        if (record.owner, record.last) in before:
            yield risk("dkim-removed", record.key,
                       f"{selector} while active: mail it signed that is still on its way fails DKIM")  # fmt: skip
        elif record.owner not in told and _untold(preview, hosts):
            yield risk("dkim-removed", record.key,
                       f"{selector}; whether it is still active is not in this {preview.source}")  # fmt: skip
    for change in preview.changes:
        if change.type.endswith("mailroom:DkimKey") and change.kind == "replace":
            domain, _, selector = change.name.split("/")
            yield risk("dkim-replaced", change.name,
                       f"the key pair of selector {code(selector)} of {code(domain)} is made anew: "
                       "mail signed with the old one fails DKIM")  # fmt: skip
    for domain in sorted({domain for domain, _ in before} - {domain for domain, _ in after}):
        yield risk("unsigned", domain, f"mail of {code(domain)} leaves without a DKIM signature")


def resting_keys(preview: Preview) -> set[str]:
    """The resources of each DKIM key whose stage, by the configuration, is not the one that protects it."""
    return {
        f"{_name(domain.get('name'))}/{kind}/{str(key.get('selector')).lower()}"
        for domain in _listed(preview, "mailroom:domains")
        if isinstance(keys := domain.get("dkim"), list)
        for key in keys
        if isinstance(key, dict) and key.get("stage", "active") != "active"
        for kind in ("dkim", "dkim-key")
    }


def _ends(record: RecordChange) -> str:
    """How a DKIM record stops proving signatures, if it does."""
    if _is_revoked(record.before):
        return ""
    if record.kind == "delete":
        return "removed"
    return "taken back" if record.kind in {"update", "replace"} and _is_revoked(record.after) else ""


def _is_revoked(text: str | None) -> bool:
    """Whether an empty `p=` takes the key back (RFC 6376 section 3.6.1)."""
    return text is not None and dkim.published(text) == ""


def _untold(preview: Preview, hosts: Iterable[HostChange]) -> bool:
    """Whether nothing says which keys sign: a preview has policy.json where that changes, if it can be read."""
    return preview.source == "plan" or not all(host.plain_known for host in hosts)


def _signing(hosts: Iterable[HostChange]) -> tuple[set[tuple[str, str]], set[tuple[str, str]], set[str]]:
    """(domain, selector) that sign before and after, and the domains the preview tells it of (served before)."""
    before: set[tuple[str, str]] = set()
    after: set[tuple[str, str]] = set()
    told: set[str] = set()
    served: set[str] = set()
    for host in hosts:
        if policy := host.policy:
            before |= on_hosts.selectors(policy[0])
            after |= on_hosts.selectors(policy[1])
            told |= set(policy[0].get("domains") or ())
            served |= set(policy[1].get("domains") or ())
    # A domain that is served no more sends nothing: only its records tell.
    return before, after | {(domain, "") for domain in told - served}, told
