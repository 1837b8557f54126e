"""What the engine says it would do, in each form it says it: `preview --json`, its stream of events, a saved plan."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from operations.dns import CouldNotTell
from operations.explain_preview.markdown import visible
from operations.explain_preview.secrecy import (
    Scrubber,
    Secret,
    holds_secret,
    in_clear,
    loads,
    marked,
    parsed,
    plaintexts,
    secret_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Kind = Literal["same", "create", "update", "replace", "delete"]
Source = Literal["preview", "plan"]
# How the engine's steps of one resource add up to what happens to it (pkg/resource/deploy/step.go).
_KINDS: Final[Mapping[str, Kind]] = {
    "create": "create",
    "import": "create",
    "update": "update",
    "delete": "delete",
    "replace": "replace",
    "create-replacement": "replace",
    "delete-replaced": "replace",
    "import-replacement": "replace",
    "same": "same",
}
# Why the engine refuses to delete or replace something (pkg/resource/deploy/step.go, step_generator.go), and what of
# its ways out is on the same line: they speak of the program, where the settings say it.
_PROTECTED: Final = re.compile(
    r"\s(because it is protected|as it is currently marked for protection)\. To unprotect .*"
)
UNPROTECT: Final = "set `mailroom:protect: off`, `pulumi up`, then make the change"
STACK: Final = "pulumi:pulumi:Stack"
FIRST, LAST = "before its outputs", "with its outputs"  # of the events of one resource
OUTPUTS: Final = "the stack's outputs"  # a place, as `Preview.clear` names it


@dataclass(frozen=True)
class Output:
    """One output of the stack that is new, changed or removed; `secret` tells of its value to come."""

    how: Literal["new", "changed", "removed"]
    name: str
    secret: bool = False


@dataclass(frozen=True)
class Change:
    """What happens to one resource. `before` and `after` are its inputs, of the stack and components their outputs.

    `before` is None also where the engine does not say it (a plan): then `before_known` is False. `changed` names
    the properties that differ, as far as the engine tells.
    """

    kind: Kind
    urn: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    changed: frozenset[str] = frozenset()
    before_known: bool = True
    secret_outputs: frozenset[str] | None = None
    triggers: tuple[Any, Any] = (None, None)  # replacement triggers before and after
    protected: tuple[bool, bool] = (False, False)  # from being deleted, before and after
    outputs: tuple[Output, ...] = ()  # of the stack, those that differ

    @property
    def type(self) -> str:
        """The type token, without the parents' ones."""
        return self.urn.split("::")[2].rpartition("$")[2]

    @property
    def name(self) -> str:
        """The logical name."""
        return self.urn.split("::", 3)[3]

    def was(self, key: str) -> Any:
        """A property before."""
        return (self.before or {}).get(key)

    def will_be(self, key: str) -> Any:
        """A property after."""
        return (self.after or {}).get(key)


@dataclass(frozen=True)
class Preview:
    """Everything a preview or plan says, its secrets marked; `changes` by URN, those of plans with what stays."""

    source: Source
    stack: str
    changes: tuple[Change, ...]
    config: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    unchanged: int = 0
    clear: tuple[tuple[str, str], ...] = ()  # (place, key) of what is secret and not marked
    shows_secrets: bool = False  # marked, but in clear in this file
    outputs_told: bool = True  # whether it says what the stack will export
    scrub: Scrubber = field(default_factory=Scrubber, repr=False)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The stack's outputs that differ, as far as the engine tells."""
        return tuple(output for change in self.changes for output in change.outputs)

    @property
    def destroys(self) -> bool:
        """Whether the stack goes as a whole."""
        return any(change.type == STACK and change.kind == "delete" for change in self.changes)


def read(text: str, plan: str | None = None) -> Preview:
    """A preview from the text of `pulumi preview --json` or of a saved plan; raises `CouldNotTell`.

    `plan` is the one that the same run saved: the engine prints its digest without the outputs of the stack, as it
    takes each resource down before they are there (pkg/backend/display/json.go), and hides how long secrets are.
    """
    if not text.strip():
        raise CouldNotTell("there is nothing to explain: expected the output of `pulumi preview --json`, found no text")
    document = _document(text)
    if _is_plan(document):
        return _of_plan(document)
    if "changeSummary" in document or "steps" in document or "diagnostics" in document:
        return _of_digest(document, None if plan is None else _planned(plan))
    raise _not_a_preview()


def _document(text: str) -> dict[str, Any]:
    try:
        document = loads(text)
    except (ValueError, RecursionError):
        document = _events(text)
    if not isinstance(document, dict):
        raise _not_a_preview()
    return _digest([document]) if _is_event(document) else document


def _is_plan(document: Mapping[str, Any]) -> bool:
    return isinstance(document.get("resourcePlans"), dict)


def _planned(plan: str) -> dict[str, Change]:
    """What a saved plan says, by URN: of the stack, what it will export."""
    document = _document(plan)
    if not _is_plan(document):
        raise CouldNotTell("what was named as the plan is none: expected a file of `pulumi preview --save-plan`")
    return {change.urn: change for change in _of_plan(document).changes}


def _not_a_preview() -> CouldNotTell:
    return CouldNotTell(
        "this is not JSON of `pulumi preview --json`, nor a plan of `pulumi preview --save-plan`: "
        "pipe one in, or name the file; 2>&1 and text before the JSON spoil it"
    )


def _of_digest(document: Mapping[str, Any], planned: Mapping[str, Change] | None) -> Preview:
    """`planned` is what the plan of the same run says, by URN."""
    scrub = Scrubber()
    diagnostics = document.get("diagnostics") or []
    steps = document.get("steps") or []
    summary = document.get("changeSummary") or {}
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for step in steps:
        if step["op"] in _KINDS:
            grouped.setdefault(step["urn"], []).append(step)
    states = {urn: _of_steps(urn, found) for urn, found in grouped.items()}
    stack = next((change for change in states.values() if change.type == STACK and change.kind != "delete"), None)
    if stack and planned is not None:
        if stack.urn not in planned:
            raise CouldNotTell(f"the plan is of another stack than {stack.urn.split('::')[0]}")
        states = {urn: _completed(change, planned.get(urn)) for urn, change in states.items()}
    preview = _checked("preview", states, _config(document), scrub, steps)
    if errors := [item["message"] for item in diagnostics if item.get("severity") == "error"]:
        said = [visible(scrub(line)) for message in errors for line in _told(message)]
        told = sorted(dict.fromkeys(said), key=UNPROTECT.__eq__)  # the way out once, after all it is for
        raise CouldNotTell("\n".join(["the preview itself failed:", *told]))
    if "changeSummary" not in document or _lacks(steps, summary):
        raise CouldNotTell("the preview ended before it said all that would change; run it by itself to see why")
    warnings = [scrub(_first_line(item["message"])) for item in diagnostics if item.get("severity") == "warning"]
    return Preview(
        **{**preview, "warnings": tuple(dict.fromkeys(warnings)), "unchanged": int(summary.get("same", 0))},
        outputs_told=not stack or planned is not None or any("event" in (step.get("newState") or {}) for step in steps),
    )


def _completed(change: Change, planned: Change | None) -> Change:
    """A change with what the plan says of it beyond the digest: a stack's outputs, the sizes of secrets."""
    if planned is None or change.kind == "delete":
        return change
    said = planned.after or {}
    if change.type == STACK or change.after is None:
        return replace(change, after=said, outputs=planned.outputs)
    sized = {
        key: value for key, value in said.items() if isinstance(value, Secret) and change.after.get(key) == Secret()
    }
    return replace(change, after={**change.after, **sized})


def _lacks(steps: Iterable[Mapping[str, Any]], summary: Mapping[str, int]) -> bool:
    """Whether the summary counts steps that are not there; what stays is counted, not told."""
    there = Counter(step["op"] for step in steps)  # `pulumi refresh` counts a refresh as what it found
    return any(there[op] + there["refresh"] < count for op, count in summary.items() if op in _KINDS and op != "same")


def _told(message: str) -> list[str]:
    """What a diagnostic says, the details of findings left to the run itself."""
    text = _PROTECTED.sub(r" \1.", message.strip())  # the one message whose first sentence goes on in the next line
    lines = text.splitlines()
    told = [line for line in lines if line.startswith("error: ")] or lines[:1]
    return [*told, UNPROTECT] if text != message.strip() else told


def _first_line(message: str) -> str:
    lines = message.strip().splitlines() or [""]
    return lines[0].removeprefix("warning: ").removeprefix("error: ")


def _of_steps(urn: str, steps: Iterable[Mapping[str, Any]]) -> Change:
    found = list(steps)
    kinds = {_KINDS[step["op"]] for step in found}
    kind: Kind = "replace" if "replace" in kinds else _KINDS[found[-1]["op"]]
    old = next((step["oldState"] for step in found if step.get("oldState")), None) if kind != "create" else None
    new = next((step["newState"] for step in found if step.get("newState")), None) if kind != "delete" else None
    diffs = [key for step in found for key in [*(step.get("detailedDiff") or {}), *(step.get("diffReasons") or [])]]
    told = new is not None and new.get("event") == LAST
    return Change(
        kind,
        urn,
        _values(old),
        _values(new),
        changed=frozenset(key.partition(".")[0].partition("[")[0] for key in diffs),
        secret_outputs=None if new is None or new.get("event") else frozenset(new.get("additionalSecretOutputs") or ()),
        triggers=((old or {}).get("replacementTrigger"), (new or {}).get("replacementTrigger")),
        protected=(_protected(old), _protected(new)) if old and new else (False, False),
        outputs=_outputs(*_differing(_values(old) or {}, _values(new) or {})) if told else (),
    )


def _protected(state: Mapping[str, Any]) -> bool:
    return state.get("protect") is True


def _differing(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any], Iterable[str]]:
    """What is new, what changes and what goes; that of two secrets nobody sees whether they are the same."""
    adds = {key: value for key, value in after.items() if key not in before}
    updates = {key: value for key, value in after.items() if key in before and before[key] != value}
    return adds, updates, before.keys() - after.keys()


def _outputs(adds: Mapping[str, Any], updates: Mapping[str, Any], deletes: Iterable[str]) -> tuple[Output, ...]:
    return (
        *(Output("new", name, holds_secret(adds[name])) for name in sorted(adds)),
        *(Output("changed", name, holds_secret(updates[name])) for name in sorted(updates)),
        *(Output("removed", name) for name in sorted(deletes)),
    )


def _values(state: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if state is None:
        return None
    values: Mapping[str, Any] = marked((state.get("inputs") if state.get("custom") else state.get("outputs")) or {})
    return values


def _of_plan(document: Mapping[str, Any]) -> Preview:
    changes = {}
    for urn, plan in document["resourcePlans"].items():
        kinds = {_KINDS[op] for op in plan.get("steps") or [] if op in _KINDS}
        if not kinds or "::pulumi:providers:" in urn:
            continue
        goal = plan.get("goal") or {}
        is_stack = goal.get("type") == STACK
        diff = (goal.get("inputDiff") if goal.get("custom") else goal.get("outputDiff")) or {}
        adds, updates, deletes = diff.get("adds") or {}, diff.get("updates") or {}, diff.get("deletes") or ()
        new = {**adds, **updates}
        kind = next(kind for kind in ("replace", "delete", "create", "update", "same") if kind in kinds)
        changes[urn] = Change(
            kind,
            urn,
            None,
            None if kind == "delete" else marked({**(plan.get("state") or {}), **new}),
            changed=frozenset([*new, *deletes]),
            before_known=kind == "create",
            secret_outputs=frozenset(goal.get("additionalSecretOutputs") or ()) if goal else None,
            outputs=_outputs(marked(adds), marked(updates), deletes) if is_stack else (),
        )
    found = _checked("plan", changes, _config(document), Scrubber(), document["resourcePlans"])
    return Preview(**{**found, "unchanged": sum(change.kind == "same" for change in changes.values())})


def _config(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: parsed(marked(value)) for key, value in (document.get("config") or {}).items()}


def _checked(
    source: Source, changes: Mapping[str, Change], config: Mapping[str, Any], scrub: Scrubber, raw: Any
) -> dict[str, Any]:
    """The fields of a Preview, with every secret in it known to the scrubber."""
    clear: set[tuple[str, str]] = set()
    for place, text in in_clear(dict(config)):
        clear.add(("configuration", place))
        scrub.add(text)
    for change in changes.values():
        # what the program wants is a risk; what stood there before must not be seen either
        for key, text in _open(change.after):
            clear.add((OUTPUTS if change.type == STACK else change.name, key))
            scrub.add(text)
        scrub.add(*(text for _, text in _open(change.before)))
    shown = list(plaintexts(marked(raw)))
    scrub.add(*shown)
    urn = next(iter(changes), "urn:pulumi:?::?")
    ordered = sorted(
        (replace(change, before=_without(scrub, change.before), after=_without(scrub, change.after))
         for change in changes.values()),
        key=lambda change: (change.name, change.urn),
    )  # fmt: skip
    return {
        "source": source,
        "stack": urn.split("::")[0].removeprefix("urn:pulumi:"),
        "changes": tuple(ordered),
        "config": config,
        "clear": tuple(sorted(clear)),
        "shows_secrets": bool(shown),
        "scrub": scrub,
    }


def _open(values: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Each secret of a resource that nobody marked."""
    yield from in_clear(dict(values or {}))
    yield from ((f"stdin: {place}", text) for place, text in secret_files(parsed((values or {}).get("stdin"))))


def _without(scrub: Scrubber, values: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The values without secrets; a payload of secret files is left for its sizes, and never shown."""
    if values is None or any(secret_files(parsed(values.get("stdin")))):
        return values
    found: Mapping[str, Any] = scrub.values(dict(values))
    return found


# --- PULUMI_ENABLE_STREAMING_JSON_PREVIEW: one event a line ---------------------------------------------------


def _is_event(document: Mapping[str, Any]) -> bool:
    return "sequence" in document and "timestamp" in document


def _events(text: str) -> dict[str, Any] | None:
    try:
        events = [loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        return None
    return _digest(events) if all(isinstance(event, dict) and _is_event(event) for event in events) else None


def _digest(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The same as one document, as `preview --json` prints it without that variable."""
    document: dict[str, Any] = {"steps": [], "diagnostics": []}
    for event in events:
        if "preludeEvent" in event:
            document["config"] = event["preludeEvent"].get("config")
        elif "summaryEvent" in event:
            document["changeSummary"] = event["summaryEvent"].get("resourceChanges") or {}
        elif "diagnosticEvent" in event:
            document["diagnostics"].append(event["diagnosticEvent"])
        elif "resourcePreEvent" in event or "resOutputsEvent" in event:
            step = (event.get("resourcePreEvent") or event["resOutputsEvent"])["metadata"]
            last = "resOutputsEvent" in event
            if last:
                if step["type"] != STACK:  # its outputs come last, and here alone
                    continue
                document["steps"] = [one for one in document["steps"] if one["urn"] != step["urn"]]
            document["steps"].append(
                {
                    "op": step["op"],
                    "urn": step["urn"],
                    "oldState": _event_state(step.get("old")),
                    "newState": _event_state(step.get("new"), LAST if last else FIRST),
                    "diffReasons": step.get("diffs") or [],
                    "detailedDiff": step.get("detailedDiff"),
                }
            )
    return document


def _event_state(state: Mapping[str, Any] | None, event: str = FIRST) -> dict[str, Any] | None:
    """One that does not say which outputs are secret; the stack's own are there in its last event."""
    return {**state, "event": event} if state else None
