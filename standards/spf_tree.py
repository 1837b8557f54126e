"""What an SPF record costs a receiver together with all it includes (RFC 7208 sections 4.6.4 and 5.2).

Nothing is looked up here: the caller gives a function that knows DNS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from standards import limits, spf
from standards.finding import Finding, error_about

# The values of a name and type, in presentation form and TXT joined; empty for none, None where nobody answers.
Lookup = Callable[[str, str], Sequence[str] | None]

_FAMILIES: Final = ("A", "AAAA")  # a receiver asks for addresses of its client's family alone
_ARROW: Final = " > "


@dataclass
class _Walk:
    """One evaluation that no term ends early: what a stranger's message costs."""

    subject: str
    lookup: Lookup
    count: int = 0
    voids: dict[str, list[str]] = field(default_factory=lambda: {family: [] for family in _FAMILIES})
    costs: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)

    def record(self, text: str, path: tuple[str, ...]) -> None:
        """All terms of one record."""
        for term in spf.in_force(text):
            if spf.costs_lookup(name := spf.name_of(term)):
                self._term(term.lstrip(spf.QUALIFIERS), name, path)

    def _term(self, term: str, name: str, path: tuple[str, ...]) -> None:
        self.count += 1
        where = _ARROW.join((*path, term))
        self.costs.append(where)
        target = spf.target_of(term) or path[-1]
        if "%" in target or self.count > limits.SPF_LOOKUPS:
            return  # depends on the message; or a receiver has given up here
        if name in {"include", "redirect"}:
            self._other(target, (*path, target), where)
        elif name == "mx":
            self._exchangers(target, where)
        elif name == "a":
            for family in _FAMILIES:
                self._is_void(target, family, f"{where} {family}", (family,))
        elif name == "exists":
            self._is_void(target, "A", where, _FAMILIES)

    def _ask(self, name: str, kind: str, where: str) -> Sequence[str]:
        found = self.lookup(name, kind)
        if found is None:
            self.unanswered.append(f"{where}: {name} {kind}")
            return ("",)  # no answer is not a void one
        return found

    def _is_void(self, name: str, kind: str, where: str, families: Sequence[str]) -> bool:
        if self._ask(name, kind, where):
            return False
        for family in families:
            self.voids[family].append(where)
        return True

    def _other(self, target: str, path: tuple[str, ...], where: str) -> None:
        if target in path[:-1]:
            self._wrong("spf-loop", where, "it leads back to itself", "includes that end", "take the include out")
            return
        values = self._ask(target, "TXT", where)
        if values == ("",):
            return
        if not values:
            for family in _FAMILIES:
                self.voids[family].append(where)
        records = [value for value in values if spf.is_record(value)]
        if len(records) != 1:
            found = "no SPF record is there" if not records else f"{len(records)} SPF records are there"
            fix = "correct the name or take the include out; ask the service for the one it uses now"
            self._wrong("spf-include", where, found, "exactly one SPF record", fix)
            return
        self.record(records[0], path)

    def _exchangers(self, target: str, where: str) -> None:
        if self._is_void(target, "MX", where, _FAMILIES):
            return
        hosts = [value.split()[-1].rstrip(".") for value in self._ask(target, "MX", where) if value]
        if len(hosts) > limits.SPF_LOOKUPS:
            found = f"{len(hosts)} MX records"
            self._wrong("spf-mx", where, found, f"at most {limits.SPF_LOOKUPS}", "name the hosts with ip4 and ip6")
            return
        for host in hosts:
            for family in _FAMILIES:
                self._is_void(host, family, f"{where} > {host} {family}", (family,))

    def _wrong(self, identifier: str, where: str, found: str, expected: str, fix: str) -> None:
        why = "receivers stop there with a permanent error, and SPF never passes"
        found = f"{where}: {found}"
        finding = error_about(self.subject, identifier, expected=expected, found=found, why=why, fix=fix)
        self.findings.append(finding)

    def judge(self) -> list[Finding]:
        """Everything that makes receivers give up."""
        if self.count > limits.SPF_LOOKUPS:
            self._wrong(
                "spf-lookups",
                self.costs[limits.SPF_LOOKUPS],
                f"this is the {limits.SPF_LOOKUPS + 1}th term that costs a DNS query; before it: "
                + "; ".join(self.costs[: limits.SPF_LOOKUPS]),
                f"at most {limits.SPF_LOOKUPS} in the record and all it includes (RFC 7208 section 4.6.4)",
                "drop includes of services no longer used, or write their addresses as ip4 and ip6 in spf.mechanisms",
            )
        voids = max(self.voids.values(), key=len)
        if len(voids) > limits.SPF_VOID_LOOKUPS:
            self._wrong(
                "spf-void",
                voids[limits.SPF_VOID_LOOKUPS],
                f"{len(voids)} questions find nothing: {'; '.join(voids)}",
                f"at most {limits.SPF_VOID_LOOKUPS} (RFC 7208 section 4.6.4)",
                "take the terms out that lead nowhere",
            )
        return self.findings


def review(domain: str, text: str, lookup: Lookup) -> tuple[list[Finding], list[str]]:
    """What makes receivers give up on the record of `domain`, each with the path to it; and what nobody answered."""
    walk = _Walk(f"SPF of {domain}", lookup)
    walk.record(text, (domain,))
    return walk.judge(), walk.unanswered
