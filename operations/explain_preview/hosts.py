"""What a preview says about hosts: files, users, aliases, the firewall, and what restarts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from operations.explain_preview.markdown import code
from operations.explain_preview.secrecy import SECRET_PATH, UNKNOWN, Secret, parsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from operations.explain_preview.engine import Change, Kind, Preview

COMMAND: Final = "command:remote:Command"
ACCESS: Final = "mailroom:Access"
GATE: Final = "mailroom:HostGate"
POLICY: Final = "policy.json"
# What chasquid and the sender policy read again by themselves (components/chasquid/activate.py, NOT_CHASQUIDS).
RELOADED: Final = re.compile(r"domains/[^/]+/aliases|policy\.json|mailroom-policy\.(service|socket)")
ALIASES: Final = re.compile(r"domains/([^/]+)/aliases")
NAMED: Final = 5  # files that make chasquid restart


@dataclass(frozen=True)
class FileChange:
    """One plain file; the texts are None where it is not there, `readable` is False where one is not in the preview."""

    host: str
    path: str
    before: str | None
    after: str | None
    readable: bool = True
    modes: tuple[str, str] | None = None  # where they differ


@dataclass(frozen=True)
class SecretFile:
    """One secret file, or all of them together where the preview hides them; `size` in bytes of what comes."""

    host: str
    path: str
    what: str
    size: int | None


@dataclass
class HostChange:
    """All that happens on one host."""

    name: str
    kind: Kind = "update"
    files: list[FileChange] = field(default_factory=list)
    secret_files: list[SecretFile] = field(default_factory=list)
    steps: dict[str, Change] = field(default_factory=dict)  # by role: prepare, access, guard, plain, activate, ...
    key_changed: tuple[str, str] | None = None
    settings: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})
    access: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
    policy: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None  # policy.json before and after, where it changes
    policies: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {})  # the same where it stays, too
    planned: Mapping[str, Any] | None = None  # policy.json of a plan, which does not say what it was

    @property
    def plain_known(self) -> bool:
        """Whether the preview says what the plain files were and will be."""
        return all(one.readable for one in self.files)


def changes(preview: Preview) -> list[HostChange]:
    """Every host that something happens on, by name."""
    hosts: dict[str, HostChange] = {}
    for change in preview.changes:
        if change.kind == "same" or not _is_on_host(change):
            if change.type == "mailroom:index:Host" and change.kind in {"create", "delete"}:
                hosts.setdefault(change.name, HostChange(change.name)).kind = change.kind
            continue
        name, _, role = change.name.rpartition("/")
        host = hosts.setdefault(name, HostChange(name))
        host.steps[role] = change
        if change.type == COMMAND:
            _read_command(host, role, change)
        else:
            _read_settings(host, change)
    for host in hosts.values():
        if host.kind == "update" and any(change.kind == "replace" for change in host.steps.values()):
            host.kind = "replace"
        _trigger(host)
        _finish(host)
    return [hosts[name] for name in sorted(hosts)]


def _is_on_host(change: Change) -> bool:
    return change.type == COMMAND or change.type.endswith((ACCESS, GATE))


def _trigger(host: HostChange) -> None:
    before, after = host.settings[0].get("host_key"), host.settings[1].get("host_key")
    found = [(before, after), *(change.triggers for change in host.steps.values())]
    pairs = [(old, new) for old, new in found if isinstance(old, str) and isinstance(new, str) and old != new]
    host.key_changed = pairs[0] if pairs else None


def _finish(host: HostChange) -> None:
    if any(one.path == POLICY for one in host.files):
        host.policy = host.policies
    if host.kind == "delete":  # its files go with it: that is one line, not a hundred
        host.files, host.secret_files = [], []


def _read_settings(host: HostChange, change: Change) -> None:
    pair = _mapping(change.was("settings")), _mapping(change.will_be("settings"))
    if change.type.endswith(GATE) or not any(host.settings):
        host.settings = pair
    if change.type.endswith(ACCESS):
        host.access = _mapping(change.was("payload")), _mapping(change.will_be("payload"))
        _add_files(host, change, "/etc/systemd/system/", host.access[0].get("units"), host.access[1].get("units"))


def _mapping(value: Any) -> Mapping[str, Any]:
    found = parsed(value)
    return found if isinstance(found, dict) else {}


def _read_command(host: HostChange, role: str, change: Change) -> None:
    stdin = change.was("stdin"), change.will_be("stdin")
    before, after = (_mapping(value) for value in stdin)
    kinds = {before.get("kind"), after.get("kind")}
    if role == "secret" or "secret" in kinds:
        host.secret_files += _secret_files(host.name, change)
    elif role == "plain" or "plain" in kinds:
        hidden = any(value is UNKNOWN or isinstance(value, Secret) for value in stdin)
        _add_files(host, change, "", before.get("files"), after.get("files"), hidden=hidden)
        host.policies = _policy(before), _policy(after)
        if not change.before_known and "stdin" in change.changed:
            host.planned = host.policies[1]
    elif role == "guard":
        _add_files(host, change, "/etc/fail2ban/", before.get("fail2ban"), after.get("fail2ban"))


def _add_files(host: HostChange, change: Change, folder: str, old: Any, new: Any, *, hidden: bool = False) -> None:
    before, after = _texts(old), _texts(new)
    if hidden or not change.before_known:
        if change.kind != "update" or {"stdin", "payload"} & change.changed or hidden:
            host.files.append(FileChange(host.name, f"{folder}*", None, None, readable=False))
        return
    for path in sorted({*before, *after}):
        sides, modes = (before.get(path), after.get(path)), (_mode(old, path), _mode(new, path))
        moded = modes if all(modes) and modes[0] != modes[1] else None
        if sides[0] == sides[1] and not moded:
            continue
        if SECRET_PATH.fullmatch(path):
            host.secret_files.append(_secret_file(host.name, folder + path, *sides))
        else:
            host.files.append(FileChange(host.name, folder + path, *sides, modes=moded))


def _policy(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(_texts(payload.get("files")).get(POLICY))


def _mode(files: Any, path: str) -> str:
    return str(_mapping(_mapping(files).get(path)).get("mode", ""))


def _texts(files: Any) -> dict[str, str]:
    """path -> text of a set of files, whose entries are texts or {"mode": ..., "lines": [...]}."""
    found = {}
    for path, file in files.items() if isinstance(files, dict) else ():
        if isinstance(file, dict) and isinstance(file.get("lines"), list):
            found[str(path)] = "".join(f"{line}\n" for line in file["lines"])
        elif isinstance(file, str):
            found[str(path)] = file
    return found


def _secret_file(host: str, path: str, before: str | None, after: str | None) -> SecretFile:
    if after is None:
        return SecretFile(host, path, "removed", None)
    return SecretFile(host, path, "new" if before is None else "changed", len(after.encode("utf-8", "replace")))


def _secret_files(host: str, change: Change) -> Iterator[SecretFile]:
    """Each file where the payload came in clear, else one for all: never what stands in them."""
    old, new = (_clear(value) for value in (change.was("stdin"), change.will_be("stdin")))
    if new is not None and (old is not None or change.kind == "create"):
        before, after = _texts((old or {}).get("files")), _texts(new.get("files"))
        for path in sorted({*before, *after}):
            if before.get(path) != after.get(path):
                yield _secret_file(host, path, before.get(path), after.get(path))
    elif change.kind == "delete":
        yield SecretFile(host, "", "removed", None)
    elif change.kind != "update" or "stdin" in change.changed or not change.changed:
        sent = change.will_be("stdin")
        what = {"update": "changed", "create": "new"}.get(change.kind, "sent again")
        yield SecretFile(host, "", what, sent.size if isinstance(sent, Secret) else None)


def _clear(stdin: Any) -> Mapping[str, Any] | None:
    found = parsed(stdin.value) if isinstance(stdin, Secret) else parsed(stdin)
    return found if isinstance(found, dict) else None


# --- what the files say ---------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Entry:
    """A user, or an alias with its destinations: `before` and `after` are empty where it is not there."""

    what: str
    name: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def entries(host: HostChange) -> list[Entry]:
    """Users and aliases that come, go or change on a host."""
    found = []
    if host.policy and host.kind != "delete":
        old, new = (_mapping(side.get("users")) for side in host.policy)
        found += [Entry("user", name, *_there(name, old, new)) for name in set(old) ^ set(new)]
    for one in host.files:
        if one.readable and (match := ALIASES.fullmatch(one.path)):
            before, after = aliases(one.before), aliases(one.after)
            for name in {*before, *after}:
                if before.get(name) != after.get(name):
                    address = f"{name}@{match[1]}"
                    found.append(Entry("alias", address, before.get(name, ()), after.get(name, ())))
    return sorted(found)


def _there(name: str, old: Iterable[str], new: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (("yes",) if name in old else ()), (("yes",) if name in new else ())


def aliases(text: str | None) -> dict[str, tuple[str, ...]]:
    """name -> destinations of an aliases file."""
    lines = (line.partition(":") for line in (text or "").splitlines() if ":" in line and not line.startswith("#"))
    return {name.strip(): tuple(part.strip() for part in targets.split(",")) for name, _, targets in lines}


def restarts(host: HostChange) -> list[str]:
    """What is interrupted on a host, as far as the preview tells; Markdown."""
    steps = host.steps
    if host.kind == "delete":
        return ["the services of this project are taken down"]
    if host.kind in {"create", "replace"}:
        return ["everything is set up on this machine, and chasquid starts at the end"]
    found = []
    if "activate" in steps:
        reasons = _chasquid(host)
        found.append(f"chasquid restarts once ({'; '.join(reasons)})" if reasons else
                     "chasquid keeps running and reads users, aliases and limits again")  # fmt: skip
    if host.access and host.access[0] != host.access[1]:
        found.append("the packet filter is loaded again; a new login confirms it")
    if any(one.path.startswith("/etc/fail2ban/") for one in host.files):
        found.append("fail2ban restarts; its bans stay")
    if "certificate" in steps and "stdin" in steps["certificate"].changed:
        found.append("the certificate is looked at again; chasquid restarts if another one comes of it")
    return found


def _chasquid(host: HostChange) -> list[str]:
    """Why chasquid cannot go on as it runs; what only may be is said so."""
    reasons = []
    binary = host.steps.get("install")
    if binary and binary.was("stdin") != binary.will_be("stdin"):
        versions = [str(_mapping(side).get("version", "?")) for side in (binary.was("stdin"), binary.will_be("stdin"))]
        reasons.append(
            f"another program, {code(versions[0])} -> {code(versions[1])}" if binary.before else "another program"
        )
    outside = [one.path for one in host.files if not one.path.startswith("/") and not RELOADED.fullmatch(one.path)]
    if not host.plain_known:
        reasons.append("perhaps: what its files were is not in the preview")
    elif outside:
        more = f" and {len(outside) - NAMED} more" if len(outside) > NAMED else ""
        reasons.append(f"{', '.join(map(code, outside[:NAMED]))}{more} changed")
    if host.policy:
        old, new = (selectors(side) for side in host.policy)
        if old != new:
            reasons.append("other DKIM keys sign")
        if set(_mapping(host.policy[0].get("domains"))) != set(_mapping(host.policy[1].get("domains"))):
            reasons.append("other domains")
    return reasons


def selectors(policy: Mapping[str, Any]) -> set[tuple[str, str]]:
    """(domain, selector) of every key that signs, by a policy.json."""
    domains = _mapping(policy.get("domains"))
    return {(name, str(one)) for name, domain in domains.items() for one in _mapping(domain).get("selectors") or ()}


def bundle(change: Change) -> list[str]:
    """The host scripts that differ, by name."""
    old, new = (_mapping(side) for side in (change.was("stdin"), change.will_be("stdin")))
    return (
        sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        if change.kind == "update" and old
        else []
    )


def dumped(value: Any) -> str:
    """A value for comparing and showing: sorted JSON."""
    return json.dumps(value, sort_keys=True, default=str)
