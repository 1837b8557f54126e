"""Turns what `pulumi preview` says into short Markdown for a reviewer, with its risks; asks nothing and nobody."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from operations.dns import CouldNotTell
from operations.explain_preview import engine, records, risks
from operations.explain_preview import hosts as on_hosts
from operations.explain_preview.catalogue import ANY, RISKS, Risk, listed
from operations.explain_preview.diffs import diff
from operations.explain_preview.markdown import LIMIT, LONGEST, WHOLE, Section, code, contrast, fence, render, words
from operations.report import FAILURES, OK, WARNINGS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from operations.explain_preview.engine import Change, Kind, Preview
    from operations.explain_preview.hosts import FileChange, HostChange, SecretFile
    from operations.explain_preview.records import RecordChange

__all__ = ["ANY", "RISKS", "Explanation", "explain", "listed", "text_of"]

DONE: Final[Mapping[Kind, str]] = {
    "create": "new",
    "update": "changed",
    "replace": "replaced",
    "delete": "deleted",
}
SAME_RISK: Final = 20  # subjects shown of one kind
OUTPUTS_ELSEWHERE: Final = (
    "Not in this preview: `pulumi preview --json --save-plan=FILE | scripts/explain_preview.py --plan FILE` judges "
    "them, too."
)
KEY: Final = 160  # characters of a DKIM record that comes or goes: of a key the beginning is enough


@dataclass(frozen=True)
class Explanation:
    """What a reviewer reads (`markdown`), and what a program decides by."""

    markdown: str
    risks: tuple[Risk, ...]
    counts: Mapping[str, int]  # resources by what happens to them

    def exit_code(self, fail_on: Collection[str] = ()) -> int:
        """0 without risks, 2 when one is in `fail_on`, else 1."""
        found = {risk.id for risk in self.risks}
        if found & set(fail_on) or (found and ANY in fail_on):
            return FAILURES
        return WARNINGS if found else OK

    def as_json(self, fail_on: Collection[str] = ()) -> dict[str, Any]:
        """The same for programs."""
        return {
            "result": {OK: "ok", WARNINGS: "risks", FAILURES: "fail"}[self.exit_code(fail_on)],
            "risks": [
                {
                    "id": risk.id,
                    "subject": risk.subject,
                    "sentence": risk.sentence,
                    "fails": risk.id in fail_on or ANY in fail_on,
                }
                for risk in self.risks
            ],
            "resources": dict(self.counts),
            "markdown": self.markdown,
        }


def text_of(file: str) -> str:
    """The text of a file, of stdin for `-`; raises `CouldNotTell`."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise CouldNotTell(f"{file} cannot be read: {error}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeError:
        name = "standard input" if file == "-" else file
        raise CouldNotTell(f"{name} is no UTF-8: save it as UTF-8 (an older PowerShell's `>` writes UTF-16)") from None


def explain(text: str, plan: str | None = None, limit: int = LIMIT) -> Explanation:
    """Explain the text of a preview or plan; raises `CouldNotTell` for what is neither, and for a failed preview.

    With the `plan` that a preview saved, what the stack exports is judged, too.
    """
    try:
        return _explain(engine.read(text, plan), limit)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        raise CouldNotTell(
            f"the preview has another shape than expected ({type(error).__name__} while reading it); "
            "does it come from the engine this project pins?"
        ) from error


def _explain(preview: Preview, limit: int) -> Explanation:
    dns, hosts = records.changes(preview), on_hosts.changes(preview)
    found = risks.find(preview, dns, hosts)
    # that a resource is protected, or no longer, the engine calls the same
    guarded = [change for change in preview.changes if change.kind == "same" and len({*change.protected}) > 1]
    counts: Counter[Kind] = Counter(change.kind for change in preview.changes if change.kind != "same")
    counts["update"] += len(guarded)
    preview = replace(preview, unchanged=preview.unchanged - len(guarded))
    # what is short gets its room first, or a thousand records would leave none for one restart
    sections = [
        Section("Risks", "kinds of risk", list(_risks(found)), 0),
        Section("DNS records", "DNS records", [_record(one) for one in dns if one.kind != "same"], 5),
        Section("Users and aliases", "users and aliases", list(_entries(hosts)), 4),
        Section("Restarts", "hosts with restarts", list(_restarts(hosts)), 1),
        Section("Secret files", "secret files", list(_secret_files(hosts)), 2),
        Section("Files on the hosts", "files on the hosts", list(_files(hosts)), 6),
        Section("Further changes", "further changes", list(_others(preview)), 7),
        Section("Warnings of the program", "warnings", [f"- {words(warning)}" for warning in preview.warnings], 3),
        Section("Outputs", "outputs", list(_outputs(preview)), 3),
    ]
    markdown = preview.scrub(render(_head(preview, counts), sections, limit))
    shown = tuple(Risk(risk.rank, risk.id, preview.scrub(risk.subject), preview.scrub(risk.sentence)) for risk in found)
    return Explanation(markdown, shown, {**{kind: counts[kind] for kind in DONE}, "same": preview.unchanged})


def _head(preview: Preview, counts: Mapping[Kind, int]) -> str:
    stack = code(preview.stack)
    parts = [f"{counts[kind]} {word}" for kind, word in DONE.items() if counts.get(kind)]
    if parts and preview.unchanged:
        parts.append(f"{preview.unchanged} unchanged")
    nothing = "outputs change" if preview.outputs else "no changes"
    head = f"## {_title(preview)} of {stack}: {', '.join(parts) or nothing}"
    if preview.source == "plan" and parts:
        head += (
            "\n\nA saved plan says what will be, not what was: users, aliases and lines that go are not in it. "
            "`pulumi preview --json` of the same stack shows both."
        )
    return head


def _title(preview: Preview) -> str:
    return "Plan" if preview.source == "plan" else "Preview"


def _risks(found: Sequence[Risk]) -> Iterator[str]:
    groups: defaultdict[str, list[Risk]] = defaultdict(list)
    for risk in found:
        groups[risk.id].append(risk)
    for name, same in groups.items():
        lines = [f"- **{name}**: {risk.sentence}" for risk in same[:SAME_RISK]]
        if more := len(same) - SAME_RISK:
            lines += [f"- **{name}**: and {more} more"] if more > 0 else []
        yield "\n".join(lines)


def _record(record: RecordChange) -> str:
    lines = [f"- {DONE[record.kind]}: {code(record.type)} {code(record.name)}"]
    before, after = _sides(record)
    if record.reason:
        lines[0] += f" - {words(record.reason)}"
    if record.kind in {"update", "replace"} and record.before == record.after and record.before_known:
        lines.append(f"  - stays {after}")
    else:
        if before is not None:
            lines.append(f"  - before: {before}")
        elif not record.before_known:
            lines.append("  - before: not in a plan")
        if after is not None:
            lines.append(f"  - after: {after}")
    lines += [f"  - also {code(what, WHOLE) if '->' in what else what}" for what in record.also]
    return "\n".join(lines)


def _sides(record: RecordChange) -> tuple[str | None, str | None]:
    """The values before and after as code, what differs in them always seen."""
    if record.before is not None and record.after is not None and record.before != record.after:
        old, new = contrast(record.before, record.after)
        return code(old, WHOLE), code(new, WHOLE)
    limit = KEY if record.role == "dkim" else LONGEST
    old_one, new_one = (None if side is None else code(side, limit) for side in (record.before, record.after))
    return old_one, new_one


def _grouped(items: Iterable[tuple[Any, str]]) -> Iterator[tuple[Any, str]]:
    """Each item once, with the hosts it is about."""
    hosts: defaultdict[Any, list[str]] = defaultdict(list)
    for item, host in items:
        if host not in hosts[item]:
            hosts[item].append(host)
    for item, names in hosts.items():
        yield item, _list(names)


def _entries(hosts: Sequence[HostChange]) -> Iterator[str]:
    pairs = sorted((entry, host.name) for host in hosts for entry in on_hosts.entries(host))
    for entry, on in _grouped(pairs):
        how = "changed" if entry.before and entry.after else "added" if entry.after else "removed"
        line = f"- {entry.what} {how}: {code(entry.name)}"
        if entry.what == "alias":
            sides = [", ".join(code(target) for target in side) for side in (entry.before, entry.after) if side]
            line += f": {' -> '.join(sides)}"
        yield f"{line} (on {on})" if len(hosts) > 1 else line


def _restarts(hosts: Sequence[HostChange]) -> Iterator[str]:
    for host in hosts:
        for what in on_hosts.restarts(host):
            yield f"- {code(host.name)}: {what}"


def _secret_files(hosts: Sequence[HostChange]) -> Iterator[str]:
    def line(one: SecretFile) -> str:
        name = code(one.path) if one.path else "users and DKIM keys"
        size = "" if one.what == "removed" else f", {one.size:,} bytes" if one.size else ", size not in this preview"
        return f"- {name}: {one.what}{size}"

    yield from (f"{text} (on {on})" for text, on in _grouped((line(one), one.host) for host in hosts
                                                            for one in host.secret_files))  # fmt: skip


def _files(hosts: Sequence[HostChange]) -> Iterator[str]:
    pairs = [((one.path, _file(one)), host.name) for host in hosts for one in host.files]
    for (path, shown), on in _grouped(sorted(pairs)):
        yield f"{code(path) if path != '*' else 'Plain files'} on {on}: {shown}"


def _file(one: FileChange) -> str:
    if not one.readable:
        return "changes; what it was is not in this preview\n"
    how = "new" if one.before is None else "deleted" if one.after is None else "changed"
    if one.modes:
        how += f", mode {code(one.modes[0])} -> {code(one.modes[1])}"
    return f"{how}\n\n{fence(diff(one.path, one.before, one.after))}\n" if one.before != one.after else f"{how}\n"


def _others(preview: Preview) -> Iterator[str]:
    """What has no section of its own: by its type and name, and which properties differ, never their values."""
    groups: defaultdict[tuple[str, str, tuple[str, ...]], list[str]] = defaultdict(list)
    scripts: dict[str, list[str]] = {}
    for change in preview.changes:
        if len({*change.protected}) > 1:
            how = "protected" if change.protected[1] else "no longer protected"
            groups[how, change.type.rpartition("/")[2], ()].append(change.name)
        if change.kind == "same" or change.type in {engine.STACK, records.TYPE} or "mailroom:index:" in change.type:
            continue
        host, _, role = change.name.rpartition("/")
        if change.type.startswith("command:") or change.type.endswith((on_hosts.ACCESS, on_hosts.GATE)):
            what, name = f"on {code(host)} the steps", role
        else:
            what, name = change.type.rpartition("mailroom:")[2].rpartition("/")[2], change.name
        groups[DONE[change.kind], what, tuple(_properties(change))].append(name)
        if role == "scripts":
            scripts[host] = on_hosts.bundle(change)
    for (done, what, properties), names in sorted(groups.items()):
        how = f" ({', '.join(map(code, properties))})" if properties else ""
        yield f"- {done}{how}: {what if what.startswith('on ') else code(what)} {_list(names)}"
    for host, files in sorted(scripts.items()):
        if files:
            yield f"- host scripts of this project that differ on {code(host)}: {_list(files)}"


def _outputs(preview: Preview) -> Iterator[str]:
    """Which of the stack's outputs differ, never their values."""
    if not preview.outputs_told:
        yield OUTPUTS_ELSEWHERE
    for output in preview.outputs:
        yield f"- {output.how}: {code(output.name)}{' (secret)' if output.secret else ''}"


def _list(names: Sequence[str]) -> str:
    """Names as code, so many that a line stays readable."""
    more = f" and {len(names) - SAME_RISK} more" if len(names) > SAME_RISK else ""
    return ", ".join(map(code, sorted(names)[:SAME_RISK])) + more


def _properties(change: Change) -> list[str]:
    if change.kind != "update":
        return []
    named = set(change.changed)
    if change.before is not None and change.after is not None:
        named |= {
            key
            for key in {*change.before, *change.after}
            if key in change.after and on_hosts.dumped(change.was(key)) != on_hosts.dumped(change.will_be(key))
        }
    return sorted(key for key in named if not key.startswith("__"))
