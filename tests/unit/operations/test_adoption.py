"""Taking records over: what is asked of the engine, what is written, and that nothing is where it should not be."""

from __future__ import annotations

import copy
import io
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from rich.console import Console

from operations import adoption, recovery, report, stacks
from scripts import adopt
from standards.finding import Finding, Problems, error_about
from standards.records import wanted_records
from tests.unit.standards.example_stack import CONFIG, ZONE, load

if TYPE_CHECKING:
    from collections.abc import Callable

APEX, HOST = "example.com", "smtp.example.com"
MAIL = "mailroom:index:MailDns"


def identifier(number: int) -> str:
    return f"{number:032x}"


def record(number: int, kind: str, name: str, content: str, **more: Any) -> dict[str, Any]:
    made = {"id": identifier(number), "type": kind, "name": name, "content": content, "ttl": 300, "comment": None}
    return made | more


SPF = record(1, "TXT", APEX, '"v=spf1 include:_spf.google.com -all"')
ADDRESS = record(2, "A", HOST, "192.0.2.10")
LOST = record(3, "TXT", f"_spf.{APEX}", '"v=spf1 ip4:192.0.2.10 -all"', comment="why mailroom:prod")
FOREIGN_MX = record(4, "MX", APEX, "mx.example.net", priority=10)
VERIFIED = record(5, "TXT", APEX, '"abc=1"')


class World:
    """A zone, a state, a stack file, and an engine that imports what it is told."""

    def __init__(self, checkout: Path) -> None:
        self.zone: list[dict[str, Any]] = [SPF, ADDRESS, LOST, FOREIGN_MX, VERIFIED]
        self.resources: list[dict[str, Any]] = []
        self.file = checkout / "Pulumi.prod.yaml"
        self.file.write_text("# mine\n" + yaml.safe_dump({"config": copy.deepcopy(CONFIG)}))
        self.calls: list[str] = []
        self.read = 0  # how often the settings were, each time by the engine
        self.imported: dict[str, Any] = {}
        self.refusal = ""
        self.refused: list[Finding] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def change(self, one: dict[str, Any], **to: Any) -> dict[str, Any]:
        """A record of the zone, found by its id, as somebody else writes it."""
        changed = {**one, **to}
        self.zone = [changed if each["id"] == one["id"] else each for each in self.zone]
        return changed

    def forget(self, one: dict[str, Any]) -> None:
        """A record leaves the state."""
        self.resources = [item for item in self.resources if item["id"] != one["id"]]

    @property
    def config(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.file.read_text())["config"])

    def settings(self, stack: str) -> dict[str, Any]:
        assert stack == "prod"
        self.read += 1
        return self.config

    def pulumi(self, stack: str, *arguments: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
        assert (stack, capture) == ("prod", True)
        self.calls.append(arguments[0])
        if arguments[0] == self.refusal:
            return subprocess.CompletedProcess([], 1, "  error: a reason\n", "")
        if arguments[:2] == ("preview", "--import-file"):
            Path(arguments[2]).write_text(json.dumps(self.declared()))
        if arguments[0] == "import":
            self.meanwhile()
            assert {"--yes", "--protect=false", "--skip-preview"} <= set(arguments)
            self.imported = json.loads(Path(arguments[2]).read_text())
            self.resources += [
                {"type": recovery.DNS_RECORD, "id": item["id"].partition("/")[2], "inputs": {"zoneId": ZONE},
                 "urn": f"urn:pulumi:prod::mailroom::x::{item.get('logicalName') or item['name']}"}
                for item in self.imported["resources"] if "id" in item
            ]  # fmt: skip
        return subprocess.CompletedProcess([], 0, json.dumps({"deployment": {"resources": self.resources}}), "")

    def declared(self) -> dict[str, Any]:
        """As `pulumi preview --import-file` writes it: a name that two resources share gets a suffix."""
        known = {item["urn"].rpartition("::")[2] for item in self.resources}
        keys = [one.key for one in wanted_records(load()) if one.key not in known]
        return {
            "nameTable": {"mailroom": "urn:pulumi:prod::mailroom::mailroom:index:MailServer::mailroom"},
            "resources": [
                {"type": "mailroom:index:Other", "name": "other", "component": True, "parent": "mailroom"},
                {"type": MAIL, "name": f"{APEX}/dns", "component": True, "parent": "mailroom"},
                {"type": "x:index:Users", "name": f"{APEX}/spfUsers", "logicalName": f"{APEX}/spf", "id": "-"},
                *({"type": recovery.DNS_RECORD, "name": f"{key}DnsRecord", "logicalName": key, "id": "-",
                   "parent": f"{APEX}/dns", "version": "6.23.1"} for key in keys),
            ],
        }  # fmt: skip


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)

    class Zone:
        name = APEX

        def __init__(self, *arguments: Any) -> None:
            assert arguments == ("a" * 40, ZONE, None)

        def verify(self, *owners: str) -> list[Finding]:
            assert owners == (APEX, HOST)
            return made.refused

        def records(self) -> list[dict[str, Any]]:
            return made.zone

    monkeypatch.setattr(adoption, "Zone", Zone)
    monkeypatch.setattr(recovery, "pulumi", made.pulumi)
    monkeypatch.setattr(stacks, "CHECKOUT", tmp_path)
    monkeypatch.setattr(stacks, "config", made.settings)
    return made


def test_a_zone_that_is_another_one_is_told_as_at_the_gate(world: World) -> None:
    world.refused = [error_about("zone", "cloudflare.other-zone", expected="a", found="b", why="", fix="")]
    with pytest.raises(Problems) as stopped:
        adoption.look("prod")
    assert list(stopped.value.findings) == world.refused


def test_an_mx_that_an_external_domain_does_not_say_is_told_as_at_the_gate(world: World) -> None:
    text = world.file.read_text().replace(
        "name: example.com", "name: example.com\n    mail: external\n    mx: [b.test]"
    )
    world.file.write_text(re.sub(r"aliases:\n.*\n.*\n", "aliases: {}\n", text))
    world.zone = [FOREIGN_MX]
    (finding,) = adoption.look("prod").findings()
    assert (finding.severity, finding.id) == ("error", "external-mx-differs")


def test_a_key_of_the_state_is_known_where_its_record_was_lost(world: World) -> None:
    public = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A" + "B" * 360
    world.resources = [
        {"type": adoption.DKIM_KEY, "urn": f"urn:pulumi:prod::mailroom::x::{APEX}/dkim/m1/key", "inputs": {},
         "outputs": {"domain": APEX, "selector": "m1", "public": public, "private": {"ciphertext": "x"}}},
    ]  # fmt: skip
    ours = next(one for one in wanted_records(load(), {(APEX, "m1"): public}) if one.dkim)
    assert ours.content
    world.zone = [record(1, "TXT", ours.name, ours.content, comment=ours.comment("prod"))]
    (one,) = adoption.look("prod").judged
    assert (one.verdict, one.key, one.changes) == ("import", f"{APEX}/dkim/m1", ())


def test_a_look_changes_nothing(world: World) -> None:
    before = world.file.read_bytes()
    plan = adoption.look("prod")
    assert (world.calls, world.file.read_bytes()) == (["stack"], before)
    assert plan.imports == {
        f"{APEX}/spf": f"{ZONE}/{identifier(1)}",
        f"{HOST}/a": f"{ZONE}/{identifier(2)}",
        f"{APEX}/spf-hosts": f"{ZONE}/{identifier(3)}",
    }
    assert [(finding.severity, finding.id) for finding in plan.findings()] == [
        ("error", "adopt.conflict"),
        ("warning", "adopt.waiting"),
    ]


def test_a_look_reads_the_settings_once_however_many_domains_have_a_merge(world: World) -> None:
    assert adoption.look("prod").spf
    assert world.read == 1


def test_what_is_taken_over_is_in_the_state_below_its_parents_and_in_the_settings_and_a_second_look_finds_it_done(
    world: World,
) -> None:
    adoption.carry_out(adoption.look("prod"))
    items = world.imported["resources"]
    assert [item["name"] for item in items] == [
        f"{APEX}/dns", *(f"{key}DnsRecord" for key in (f"{HOST}/a", f"{APEX}/spf-hosts", f"{APEX}/spf"))
    ]  # fmt: skip
    assert {item["parent"] for item in items[1:]} == {f"{APEX}/dns"}
    assert items[0]["parent"] in world.imported["nameTable"]
    assert "id" not in items[0]
    assert world.config["mailroom:domains"][0]["spf"] == {"includes": ["_spf.google.com"], "all": "-all"}
    assert world.config["mailroom:adopted"] == [identifier(1), identifier(2)]  # what a run made has its mark
    assert world.file.read_text().startswith("# mine\n")
    again = adoption.look("prod")
    assert (again.has_work, again.imports) == (False, {})


SPENT: dict[str, Callable[[World], None]] = {
    "a run has marked its record": lambda world: world.change(ADDRESS, comment="why mailroom:prod"),
    "another stack has marked it": lambda world: world.change(ADDRESS, comment="why mailroom:other"),
    "its record is gone": lambda world: world.zone.pop(),
    "its record left the state": lambda world: world.forget(ADDRESS),
}


@pytest.mark.parametrize("spend", SPENT.values(), ids=SPENT)
def test_an_id_that_nothing_needs_is_told_and_taken_out_without_an_import(
    world: World, spend: Callable[[World], None]
) -> None:
    world.zone = [SPF, world.change(ADDRESS, content="203.0.113.1")]
    adoption.carry_out(adoption.look("prod", [identifier(2)]))
    assert world.config["mailroom:adopted"] == [identifier(1), identifier(2)]
    spend(world)
    world.calls.clear()
    plan = adoption.look("prod")
    (told,) = (finding for finding in plan.findings() if finding.severity == "warning")
    assert (told.id, told.found) == ("adopt.spent", identifier(2))
    adoption.carry_out(plan)
    assert world.calls == ["stack"]
    assert world.config["mailroom:adopted"] == [identifier(1)]
    assert adoption.look("prod").has_work is False


def test_the_last_id_leaves_an_empty_list(world: World) -> None:
    world.zone = [ADDRESS]
    adoption.carry_out(adoption.look("prod"))
    world.change(ADDRESS, comment="why mailroom:prod")
    adoption.carry_out(adoption.look("prod"))
    assert world.config["mailroom:adopted"] == []


def test_an_mx_that_is_taken_becomes_ours(world: World) -> None:
    plan = adoption.look("prod", [identifier(4)])
    assert plan.imports[f"{APEX}/mx/{HOST}"] == f"{ZONE}/{identifier(4)}"
    assert identifier(4) in plan.adopted


def test_an_id_that_is_not_there_is_told_before_anything_is_done(world: World) -> None:
    with pytest.raises(Problems, match="--take zzz"):
        adoption.look("prod", ["zzz"])
    assert "import" not in world.calls


@pytest.mark.parametrize("command", ["preview", "import"])
def test_the_settings_stay_when_the_engine_refuses(world: World, command: str) -> None:
    before, world.refusal = world.file.read_bytes(), command
    with pytest.raises(Problems, match="a reason"):
        adoption.carry_out(adoption.look("prod"))
    assert world.file.read_bytes() == before


def lists_of_spf_are(world: World, layout: str) -> None:
    world.file.write_text(world.file.read_text().replace("    name: example.com", f"    name: example.com\n{layout}"))
    assert "spf" in world.config["mailroom:domains"][0]


@pytest.mark.parametrize(
    ("terms", "layout", "reason", "way"),
    [
        (
            " ".join(f"include:s{n}.example.net" for n in range(12)),
            "",
            "13 terms that cost a DNS query",
            "drop senders",
        ),
        ("ipv4:192.0.2.7", "", "there is no mechanism 'ipv4'", "correct the term"),
        ("mx", "    spf: {mechanisms: &shared [], includes: *shared}", "an anchor, an alias", "mechanisms: [mx]"),
    ],
    ids=["too many look-ups", "no mechanism", "a file that cannot be edited"],
)
def test_what_the_settings_cannot_hold_is_a_conflict_with_the_reason_and_can_be_taken(
    world: World, terms: str, layout: str, reason: str, way: str
) -> None:
    world.zone = [record(1, "TXT", APEX, f'"v=spf1 {terms} ~all"'), ADDRESS]
    if layout:
        lists_of_spf_are(world, layout)
    plan = adoption.look("prod")
    (conflict,) = (finding for finding in plan.findings() if finding.severity == "error")
    assert reason in conflict.found
    assert way in conflict.fix
    assert f"--take {identifier(1)}" in conflict.fix
    assert (list(plan.imports), plan.adopted, plan.spf) == ([f"{HOST}/a"], (identifier(2),), {})
    adoption.carry_out(adoption.look("prod", [identifier(1)]))
    assert world.config["mailroom:adopted"] == [identifier(1), identifier(2)]
    assert adoption.look("prod").has_work is False


def test_macros_are_merged_into_a_list_in_brackets(world: World) -> None:
    lists_of_spf_are(world, "    spf: {mechanisms: [], includes: [], all: '~all'}")
    terms = "exists:%{i}._spf.mta.example.net include:%{ir}.%{v}.%{d}.spf.has.pphosted.com"
    world.zone = [record(1, "TXT", APEX, f'"v=spf1 ?a:x.example {terms} ~all"')]
    assert adoption.look("prod").findings()[0].id == "adopt.waiting"
    world.zone = [record(1, "TXT", APEX, f'"v=spf1 {terms} -all"')]
    adoption.carry_out(adoption.look("prod"))
    assert world.config["mailroom:domains"][0]["spf"] == {
        "mechanisms": ["exists:%{i}._spf.mta.example.net"],
        "includes": ["%{ir}.%{v}.%{d}.spf.has.pphosted.com"],
        "all": "-all",
    }


def test_what_a_person_saves_while_the_engine_imports_stays(world: World) -> None:
    def save() -> None:
        world.file.write_text(world.file.read_text().replace("ipv4: 192.0.2.10", "ipv4: 192.0.2.10 # checked"))

    world.meanwhile = save
    adoption.carry_out(adoption.look("prod"))
    assert "# checked" in world.file.read_text()
    assert world.config["mailroom:adopted"] == [identifier(1), identifier(2)]


def test_a_name_that_the_program_does_not_create_is_told() -> None:
    with pytest.raises(Problems, match="example.com/spf: the preview creates no such record"):
        adoption.import_file({"resources": []}, {"example.com/spf": "z/1"})


def shown(plan: adoption.Plan, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    adoption.show(console, plan)
    return console.export_text()


def test_every_record_is_shown_with_its_verdict_and_the_whole_id(world: World) -> None:
    text = shown(adoption.look("prod"))
    for verdict, one in zip(("merge", "import", "import", "conflict", "keep"), world.zone, strict=True):
        head = f"{verdict:<8}  {one['type']:<5}  {one['name']}"
        assert f"{head}\n  {one['id']}  {one['content']}\n" in text
    assert "the next run changes content" in text
    assert 'settings of example.com: spf: {includes: ["_spf.google.com"], all: "-all"}' in text


def test_at_80_columns_what_stays_takes_two_lines_and_a_conflict_is_there_whole(world: World) -> None:
    long = f'"{"long-" * 100}"'
    stays = record(6, "TXT", APEX, long)
    contradicts = {**FOREIGN_MX, "content": f"mx.{'a' * 60}.example.net"}
    becomes = {**LOST, "content": f'"v=spf1 {"ip4:192.0.2.10 " * 20}-all"'}
    world.zone = [stays, contradicts, becomes]
    plan = adoption.look("prod")
    rows = shown(plan).splitlines()[2:]
    assert rows[:6] == [
        f"import    TXT    {becomes['name']}",
        f"  {becomes['id']}  {becomes['content'][:37]}...",
        f"keep      TXT    {APEX}",
        f"  {stays['id']}  {long[:37]}...",
        f"conflict  MX     {APEX}",
        f"  {contradicts['id']}  {contradicts['content']}",
    ]
    assert max(map(len, rows[:5])) <= 80
    assert any("the next run changes content" in row and becomes["content"] in row for row in rows[6:])
    assert {one["content"] for one in plan.as_json()["records"]} == {one["content"] for one in world.zone}


def test_the_ids_of_the_settings_are_shown_only_where_they_change(world: World) -> None:
    world.zone = [LOST]
    plan = adoption.look("prod")
    assert "mailroom:adopted" not in shown(replace(plan, spf={APEX: {"all": "-all"}}))
    assert f'settings: mailroom:adopted: ["{SPF["id"]}"]' in shown(replace(plan, adopted=(SPF["id"],)))
    assert "settings: mailroom:adopted: []" in shown(replace(plan, named=(SPF["id"],)))


def test_a_record_of_others_writes_no_control_sequence_to_the_terminal(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.zone = [record(4, "MX", APEX, "mx.example.net\x1b]0;gotcha\x07"), {**SPF, "comment": "\x1b[2J"}]
    plan = adoption.look("prod")
    adoption.show(Console(), plan)
    report.show(Console(), plan.findings())
    said = capsys.readouterr().out
    assert "gotcha" in said
    assert not {"\x1b", "\x07"} & set(said)


@pytest.mark.parametrize(
    ("arguments", "zone", "status", "imports"),
    [
        ([], [VERIFIED], 0, False),
        ([], [SPF], 1, False),
        (["--yes"], [SPF, ADDRESS], 0, True),
        (["--yes"], [SPF, FOREIGN_MX], 2, True),
        (["--yes", "--take", identifier(4)], [FOREIGN_MX], 0, True),
        ([], [FOREIGN_MX], 2, False),
    ],
)
def test_the_exit_status_says_what_is_left_to_do(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    zone: list[dict[str, Any]],
    status: int,
    *,
    imports: bool,
) -> None:
    world.zone = zone
    monkeypatch.setattr("sys.argv", ["adopt.py", "--stack", "prod", "--json", *arguments])
    assert adopt.main() == status
    said = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in said["records"]] == [one["id"] for one in zone]
    assert ("import" in world.calls) == imports


@pytest.mark.parametrize(
    ("answer", "status", "is_done"),
    [("y", 0, True), ("n", 1, False), ("", 1, False), (None, 1, False)],
    ids=["yes", "no", "only the return key", "nobody is there"],
)
def test_a_person_sees_the_records_and_says_whether_they_are_taken_over(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    answer: str | None, status: int, *, is_done: bool,
) -> None:  # fmt: skip
    world.zone = [SPF, ADDRESS]
    before, shown = world.file.read_bytes(), []

    def say(question: str) -> str:
        shown.append(capsys.readouterr().out)
        assert "import these and write the settings?" in question
        return answer or ""

    monkeypatch.setattr("sys.argv", ["adopt.py", "--stack", "prod"])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: answer is not None))
    monkeypatch.setattr("builtins.input", say)
    assert adopt.main() == status
    assert [identifier(1) in text and identifier(2) in text for text in shown] == [True] * (answer is not None)
    assert world.calls == ["stack", *(["preview", "import", "stack"] if is_done else [])]
    assert (world.file.read_bytes() != before) is is_done
