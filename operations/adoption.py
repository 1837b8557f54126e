"""Takes records that stand at a stack's names into its state, and the SPF of others into its settings; DNS stays.

What the program declares, and below which parents, is asked of the program itself by a preview.
"""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.settings import Settings
from operations import recovery, report, stack_file, stacks
from operations.cloudflare import Zone
from standards import adoption, dkim, names, ownership
from standards.finding import Finding, Problems, error_about, printable
from standards.records import wanted_records

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from rich.console import Console

    from standards.adoption import Judgement
    from standards.records import Record

STYLES = {"keep": "dim", "merge": "yellow", "import": "cyan", "conflict": "bold red"}
DKIM_KEY = "pulumi-python:dynamic/mailroom:DkimKey"
ID_WIDTH, CONTENT_WIDTH = 32, 40
DOMAINS, ADOPTED = "mailroom:domains", "mailroom:adopted"


@dataclass(frozen=True)
class Plan:
    """What a look at the zones gave: every record at our names, and what the settings have to say afterwards."""

    stack: str
    judged: tuple[Judgement, ...]
    zones: Mapping[str, str]  # by the record's id
    spf: Mapping[str, Mapping[str, Any]]  # by domain
    adopted: tuple[str, ...]  # ids that the settings shall name
    named: tuple[str, ...]  # ids that they name now
    elsewhere: tuple[Finding, ...] = ()  # about mail that others receive

    @property
    def imports(self) -> dict[str, str]:
        """Import ids by logical name."""
        return {one.key: f"{self.zones[one.id]}/{one.id}" for one in self.judged if one.is_imported and one.key}

    @property
    def spent(self) -> list[str]:
        """Ids that the settings name and nothing needs any more."""
        return [identifier for identifier in self.named if identifier not in self.adopted]

    @property
    def settings_differ(self) -> bool:
        """Whether anything is to be written."""
        return bool(self.spf) or self.adopted != self.named

    @property
    def has_work(self) -> bool:
        """Whether anything is to be imported or written."""
        return self.settings_differ or bool(self.imports)

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        records = [
            {
                **{name: one.record.get(name) for name in ("id", "type", "name", "content", "ttl", "priority")},
                **{name: value for name, value in asdict(one).items() if name != "record"},
            }
            for one in self.judged
        ]
        return {"stack": self.stack, "records": records, "spf": dict(self.spf), "adopted": list(self.adopted)}

    def findings(self) -> list[Finding]:
        """Conflicts are errors, as at the gate, and what waits for a yes is a warning."""
        found = [_conflict(one, self.stack) for one in self.judged if one.verdict == "conflict"]
        found += self.elsewhere
        if self.imports or self.spf or set(self.adopted) - set(self.named):
            found.append(_waiting(self.stack))
        if self.spent:
            found.append(_spent(self.spent, self.stack))
        return found


def look(stack: str, take: Collection[str] = ()) -> Plan:
    """Read settings, state and zones, and judge. Raises `Problems`; changes nothing."""
    config = stacks.config(stack)
    settings = Settings.load(config.get, stack, config)
    resources = [item for item in recovery.state(stack).get("resources") or [] if not item.get("delete")]
    wanted = wanted_records(settings, _public_halves(settings, resources))
    known = {
        str(item["urn"]).rpartition("::")[2]: (str(item["inputs"]["zoneId"]), str(item["id"]))
        for item in resources
        if item["type"] == recovery.DNS_RECORD and item.get("id")
    }
    judged: list[Judgement] = []
    zones: dict[str, str] = {}
    spf: dict[str, dict[str, Any]] = {}
    elsewhere: list[Finding] = []
    for zone_id, zone in _verified(settings, wanted).items():
        existing = zone.records()
        ours = [record for record in wanted if record.zone_id == zone_id]
        claims = ownership.claims(settings, wanted, zone_id)
        ids = {key: identifier for key, (where, identifier) in known.items() if where == zone_id}
        here = adoption.judge(existing, ours, claims, stack, ids, take, zone=zone.name)
        judged += here
        zones |= {one.id: zone_id for one in here}
        spf |= adoption.spf_settings(here, claims)
        elsewhere += ownership.external_mx(existing, claims, stack)
    if strangers := sorted(set(take) - set(zones)):
        raise Problems("nothing was taken over", [_no_such_record(identifier, stack) for identifier in strangers])
    for domain, wanted_spf in list(spf.items()):
        try:
            _settings_text(stack, config, {domain: wanted_spf}, settings.adopted)
        except Problems as problems:
            del spf[domain]
            judged = adoption.without_merge(judged, domain, problems.findings, stack)
    needed = adoption.adopted(judged)
    adopted = tuple(dict.fromkeys([*(one for one in settings.adopted if one in needed), *needed]))
    return Plan(stack, tuple(judged), zones, spf, adopted, settings.adopted, tuple(elsewhere))


def _public_halves(settings: Settings, resources: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """The public halves of the DKIM keys that the state or the settings have, by domain and selector."""
    made = (item.get("outputs") or {} for item in resources if item["type"] == DKIM_KEY)
    return {
        **{(one["domain"], one["selector"]): one["public"] for one in made if isinstance(one.get("public"), str)},
        **{
            record.dkim: dkim.public_half(key.get_secret_value())[1]
            for record in wanted_records(settings)
            if record.dkim and (key := settings.dkim_keys.get(record.name))
        },
    }


def _verified(settings: Settings, wanted: Sequence[Record]) -> dict[str, Zone]:
    """The zones that we write to, by id. Raises `Problems` as the gate does, where one is not what the settings say."""
    api = settings.cloudflare
    owners = ownership.owners(settings, wanted)
    zones = {zone_id: Zone(api.api_token.get_secret_value(), zone_id, api.base_url) for zone_id in owners}
    if findings := [finding for zone_id, zone in zones.items() for finding in zone.verify(*owners[zone_id])]:
        raise Problems("nothing was looked at", list(dict.fromkeys(findings)))
    return zones


def carry_out(plan: Plan, say: Callable[[str], None] = lambda _: None) -> None:
    """Import first, then write the settings: a run in between stops at the gate. Raises `Problems`."""
    _settings_text(plan.stack, stacks.config(plan.stack), plan.spf, plan.adopted, plan.spent)
    if plan.imports:
        say(f"asking the program where {len(plan.imports)} records belong")
        with tempfile.TemporaryDirectory(prefix="mailroom-adopt-") as folder:
            path = Path(folder) / "import.json"
            _pulumi(plan.stack, "preview", "--import-file", str(path))
            path.write_text(json.dumps(import_file(json.loads(path.read_text("utf-8")), plan.imports)), "utf-8")
            say("importing them into the state")
            flags = ("--yes", "--skip-preview", "--protect=false", "--generate-code=false")
            _pulumi(plan.stack, "import", "--file", str(path), *flags)
    if plan.settings_differ:
        # computed again: while the engine was at work a person may have saved the file
        text, file = _settings_text(plan.stack, stacks.config(plan.stack), plan.spf, plan.adopted, plan.spent)
        file.write(text)
        say(f"{file.path.name} is written")


def import_file(declared: Mapping[str, Any], imports: Mapping[str, str]) -> dict[str, Any]:
    """Of all that a preview would create, the records to import with their ids, and the components around them."""
    resources = {str(item["name"]): item for item in declared.get("resources") or []}
    chosen: dict[str, dict[str, Any]] = {}
    for name, item in resources.items():
        identifier = imports.get(str(item.get("logicalName") or name))
        if item["type"] == recovery.DNS_RECORD and identifier:
            around = list(_around(item, resources))
            chosen |= {parent: resources[parent] for parent in reversed(around)}
            chosen[name] = {**item, "id": identifier}
    found = {str(item.get("logicalName") or name) for name, item in chosen.items()}
    if lost := sorted(set(imports) - found):
        raise Problems("nothing was imported", [_not_declared(key) for key in lost])
    return {"nameTable": declared.get("nameTable") or {}, "resources": list(chosen.values())}


def _around(item: Mapping[str, Any], resources: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The names of a resource's parents that the same run would create, from the inside."""
    while (parent := item.get("parent")) in resources:
        yield str(parent)
        item = resources[str(parent)]


def _settings_text(
    stack: str,
    said: Mapping[str, Any],
    spf: Mapping[str, Mapping[str, Any]],
    adopted: Collection[str],
    spent: Collection[str] = (),
) -> tuple[str, stack_file.StackFile]:
    """The stack's file, which says `said` now, as it shall be, judged as `up` judges it. Raises `Problems`."""
    config = copy.deepcopy(dict(said))
    changes: list[tuple[tuple[str | int, ...], Any]] = []
    for name, wanted in spf.items():
        place = next(place for place, entry in enumerate(config[DOMAINS]) if names.fqdn(entry["name"]) == name)
        have = config[DOMAINS][place].get("spf") or {}
        merged = {key: _more(have.get(key), value) for key, value in wanted.items()}
        config[DOMAINS][place]["spf"] = have | merged
        changes += [
            ((DOMAINS, place, "spf", key), stack_file.Quoted(value) if isinstance(value, str) else value)
            for key, value in merged.items()
            if value != have.get(key)
        ]
    have = config.get(ADOPTED) or []
    ids = list(dict.fromkeys([*(one for one in have if one not in spent), *adopted]))
    if ids != have:
        config[ADOPTED] = ids
        changes.append(((ADOPTED,), [stack_file.Quoted(identifier) for identifier in ids]))
    Settings.load(config.get, stack, config)
    file = stack_file.of_stack(stack, stacks.CHECKOUT)
    return file.with_values(changes), file


def _more(have: Any, wanted: Any) -> Any:
    """A list with what it lacks at its end; anything else is what is wanted."""
    if not isinstance(wanted, list):
        return wanted
    kept = list(have or [])
    return [*kept, *(item for item in wanted if item not in kept)]


def show(console: Console, plan: Plan) -> None:
    """The records, two lines each, then what changes in each, and in the settings."""
    if plan.judged:
        _show_row(console, ("verdict", "type", "name", "id", "content"), "")
    else:
        console.print(f"nothing stands at the names of stack {plan.stack}")
    for one in plan.judged:
        kind, name, content = (str(one.record.get(field) or "") for field in ("type", "name", "content"))
        # of what stays, or becomes ours with its changes told below, the beginning is enough to know it by
        brief = _beginning(content) if one.verdict in {"keep", "import"} else content
        _show_row(console, (one.verdict, kind, name, one.id, brief), STYLES[one.verdict])
    for one in plan.judged:
        if one.verdict in {"merge", "import"} or (one.known and one.changes):
            said = f"{one.verdict} {one.record['type']} {one.record['name']}: {one.reason}"
            console.print(report.said(said), soft_wrap=True)
            for change in one.changes:
                console.print(report.said(f"  the next run changes {change}"), soft_wrap=True)
    for name, wanted in plan.spf.items():
        said = ", ".join(f"{key}: {json.dumps(value)}" for key, value in wanted.items())
        console.print(report.said(f"settings of {name}: spf: {{{said}}}"), soft_wrap=True)
    if plan.adopted != plan.named:
        console.print(report.said(f"settings: {ADOPTED}: {json.dumps(plan.adopted)}"), soft_wrap=True)


def _show_row(console: Console, row: tuple[str, str, str, str, str], style: str) -> None:
    """A record in two lines: an id has 32 characters, and beside all the others no terminal has room for it."""
    verdict, kind, name, identifier, content = (text.replace("\n", " ") for text in row)
    head = report.said(f"{verdict:<8}  {kind:<5}  {name}")
    head.stylize(style, 0, len(verdict))
    console.print(head, soft_wrap=True)
    console.print(report.said(f"  {identifier:<{ID_WIDTH}}  {content}"), soft_wrap=True)


def _beginning(content: str) -> str:
    """Its first characters, as many as the line of an id has room for at 80 columns."""
    text = printable(content)
    return text if len(text) <= CONTENT_WIDTH else f"{text[: CONTENT_WIDTH - 3]}..."


def told(plan: Plan) -> str:
    """What was done, and what comes next."""
    return f"taken over; DNS is as it was. `pulumi preview -s {plan.stack}` shows what the next run changes"


def _pulumi(stack: str, *arguments: str) -> None:
    done = recovery.pulumi(stack, *arguments, "--color=never", capture=True)
    if done.returncode:
        finding = error_about(
            f"stack {stack}",
            "adopt.refused",
            expected=f"`pulumi {arguments[0]}` to succeed",
            found=stacks.error(done),
            why="the state and the program alone say where a record belongs",
            fix=f"`pulumi preview -s {stack}` shows what is wrong; then run this again",
        )
        raise Problems("DNS and settings are as they were", [finding])


def _conflict(one: Judgement, stack: str) -> Finding:
    return error_about(
        str(one.record["name"]),
        "adopt.conflict",
        expected=f"no other record of its kind beside those of stack {stack}",
        found=f"{ownership.described(one.record)}: {one.reason}",
        why="`pulumi up` stops before it writes anything",
        fix=one.fix,
    )


def _waiting(stack: str) -> Finding:
    return Finding(
        severity="warning",
        id="adopt.waiting",
        subject=f"stack {stack}",
        expected="every record of ours in the state",
        found="records and settings above are not taken over yet",
        why="`pulumi up` would stop at them, or the API would refuse a second record",
        fix=f"`scripts/adopt.py --stack {stack} --yes` takes them over; DNS stays as it is until `pulumi up`",
    )


def _spent(identifiers: Collection[str], stack: str) -> Finding:
    return Finding(
        severity="warning",
        id="adopt.spent",
        subject=f"stack {stack}",
        expected=f"in {ADOPTED} only records of others that a run has yet to change",
        found=", ".join(identifiers),
        why="an id lets a run pass the gate whatever others have written into its record by then",
        fix=f"`scripts/adopt.py --stack {stack} --yes` takes them out",
    )


def _no_such_record(identifier: str, stack: str) -> Finding:
    return error_about(
        f"--take {identifier}",
        "adopt.no-such-record",
        expected="the id of a record at one of our names",
        found="there is none",
        why="only what was shown as a conflict can be taken",
        fix=f"`scripts/adopt.py --stack {stack}` shows the ids",
    )


def _not_declared(key: str) -> Finding:
    return error_about(
        key,
        "adopt.not-declared",
        expected="a record that the program would create",
        found="the preview creates no such record",
        why="the state has another record under this name, which a run has to replace first",
        fix="`pulumi refresh`, then run this again",
    )
