"""A stack's file: its hosts by address, and values written into it; every other character of it stays."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from operations import files, stacks
from standards.finding import Finding, Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

HOSTS = "mailroom:hosts"
KEY = "hostKey"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 @._:/+=-]*[A-Za-z0-9=]|[A-Za-z0-9]")


@dataclass(frozen=True)
class StackFile:
    """One `Pulumi.<stack>.yaml` as text and as what it says."""

    stack: str
    path: Path
    text: str
    config: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> StackFile:
        """Read a stack's file; raises `Problems` when it is missing or no YAML."""
        stack = path.name.removeprefix("Pulumi.").removesuffix(".yaml")
        try:
            text = path.read_text(encoding="utf-8")
            parsed = yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise Problems(f"stack {stack} cannot be read", [_unreadable(path, error)]) from None
        config = parsed.get("config") if isinstance(parsed, dict) else None
        return cls(stack, path, text, config if isinstance(config, dict) else {})

    @property
    def hosts(self) -> list[dict[str, Any]]:
        """The entries of mailroom:hosts that have any shape at all."""
        found = self.config.get(HOSTS)
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    def entry(self, address: str) -> dict[str, Any] | None:
        """The host with this address."""
        return next((host for host in self.hosts if _has(host, address)), None)

    def pin(self, address: str, host_key: str) -> None:
        """Write the host's key into the file, in one rename; raises `Problems` where its layout is beyond us."""
        text = with_host_key(self.text, address, host_key)
        if text is None:
            found = _by_hand(self.path, f"host {address}", f"{KEY}: {host_key}")
            raise Problems(f"{self.path.name} was not changed", [found])
        self.write(text)

    def with_values(self, changes: Iterable[tuple[Sequence[str | int], Any]]) -> str:
        """The file's text with each value at its path below `config`; raises `Problems` where that is beyond us."""
        text = self.text
        for path, value in changes:
            changed = with_value(text, path, value)
            if changed is None:
                name = ".".join(f"[{key}]" if isinstance(key, int) else key for key in path).replace(".[", "[")
                found = _by_hand(self.path, name, f"{path[-1]}: {flow(value)}")
                raise Problems(f"{self.path.name} was not changed", [found])
            text = changed
        return text

    def write(self, text: str) -> None:
        """Replace the file in one rename."""
        files.write(self.path, text)


def _has(host: Mapping[str, Any], address: str) -> bool:
    return address in {host.get("ipv4"), host.get("ipv6")}


def of_stack(stack: str, checkout: Path) -> StackFile:
    """The file of a stack by its name, with or without the organization in front."""
    return StackFile.read(stacks.file_of(stack, checkout))


def listing(address: str, checkout: Path) -> list[StackFile]:
    """The files of all stacks that list a host with this address; those that cannot be read are left out."""
    found = []
    for path in sorted(checkout.glob("Pulumi.*.yaml")):
        try:
            file = StackFile.read(path)
        except Problems:
            continue
        if file.entry(address) is not None:
            found.append(file)
    return found


def with_host_key(text: str, address: str, host_key: str) -> str | None:
    """The file's text with that key pinned for the host; None when it cannot be done without changing more.

    The text is edited where the parser says the value is, then parsed again: nothing but the one key may differ.
    """
    node = _host_node(text, address)
    if node is None:
        return None
    changed = _edited(text, node, host_key)
    before, after = yaml.safe_load(text), None
    try:
        after = yaml.safe_load(changed)
    except yaml.YAMLError:
        return None
    # Copies: what an alias shares would change along with it, unseen.
    hosts = [dict(host) if isinstance(host, dict) else host for host in before["config"][HOSTS]]
    next(host for host in hosts if isinstance(host, dict) and _has(host, address))[KEY] = host_key
    before["config"][HOSTS] = hosts
    return changed if before == after else None


def _host_node(text: str, address: str) -> yaml.MappingNode | None:
    config = _value(yaml.compose(text, Loader=yaml.SafeLoader), "config")
    hosts = _value(config, HOSTS)
    if not isinstance(hosts, yaml.SequenceNode):
        return None
    for host in hosts.value:
        for key in ("ipv4", "ipv6"):
            value = _value(host, key)
            if isinstance(value, yaml.ScalarNode) and value.value == address:
                return host if isinstance(host, yaml.MappingNode) else None
    return None


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)


def _edited(text: str, host: yaml.MappingNode, host_key: str) -> str:
    present = _value(host, KEY)
    if present is not None:
        start, end = present.start_mark.index, present.end_mark.index
        space = "" if text[start - 1 : start].isspace() else " "  # a key without any value
        return text[:start] + space + host_key + ("\n" if text[start:end].endswith("\n") else "") + text[end:]
    last = max(
        (value for name, value in host.value if name.value in {"ipv4", "ipv6"}), key=lambda value: value.end_mark.index
    )
    if host.flow_style:
        place = last.end_mark.index
        return f"{text[:place]}, {KEY}: {host_key}{text[place:]}"
    line_end = text.find("\n", last.end_mark.index)  # after a comment on that line
    place = len(text) if line_end < 0 else line_end
    indent = " " * host.value[0][0].start_mark.column
    return f"{text[:place]}\n{indent}{KEY}: {host_key}{text[place:]}"


class Quoted(str):
    """A text that is written in quotes, as one that another reader of YAML may take for a number or for nothing."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"')
)


def flow(value: Any) -> str:
    """One value on one line of YAML."""
    if type(value) is str and _PLAIN.fullmatch(value) and yaml.safe_load(value) == value and ": " not in value:
        return value
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def with_value(text: str, path: Sequence[str | int], value: Any) -> str | None:
    """The file's text with `value` at `path` below `config`; None when it cannot be done without changing more.

    Items of a list stay as they stand or go with their line, new ones come last. As with a key, the result is parsed
    again and compared.
    """
    node, rest = _deepest(yaml.compose(text, Loader=yaml.SafeLoader), ["config", *path])
    if node is None:
        return None
    changed = _inserted(text, node, rest, value) if rest else _replaced(text, node, value)
    if changed is None:
        return None
    try:
        after = yaml.safe_load(changed)
    except yaml.YAMLError:
        return None
    return changed if after == _expected(yaml.safe_load(text), ["config", *path], value) else None


def _expected(data: Any, path: Sequence[str | int], value: Any) -> Any:
    """A copy of the data with one value set; what an alias shares is not shared in it."""
    if not path:
        return value
    first, *rest = path
    if isinstance(first, int):
        return [_expected(item, rest, value) if place == first else item for place, item in enumerate(data)]
    return {**(data or {}), first: _expected((data or {}).get(first), rest, value)}


def _deepest(node: yaml.Node | None, path: Sequence[str | int]) -> tuple[yaml.Node | None, list[str | int]]:
    """The last node of a path that is there, and what remains of the path."""
    for place, key in enumerate(path):
        if isinstance(key, int):
            inner = node.value[key] if isinstance(node, yaml.SequenceNode) and key < len(node.value) else None
        else:
            inner = _value(node, key)
        if inner is None:
            return node, list(path[place:])
        node = inner
    return node, []


def _replaced(text: str, node: yaml.Node, value: Any) -> str | None:
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.SequenceNode):
        old = yaml.safe_load(text[start:end]) if node.flow_style else [item.value for item in node.value]
        kept = [item for item in old if item in value]
        more = value[len(kept) :]
        return _longer(text, node, more) if kept == old else _shorter(text, node, [item in kept for item in old], more)
    if not isinstance(node, yaml.ScalarNode):
        return None
    space = "" if text[start - 1 : start].isspace() else " "  # a key without any value
    return text[:start] + space + flow(value) + ("\n" if text[start:end].endswith("\n") else "") + text[end:]


def _longer(text: str, node: yaml.SequenceNode, more: Sequence[Any]) -> str:
    """A list with more items at its end, in brackets or below each other as it is."""
    if node.flow_style:
        items, place = flow(more)[1:-1], node.end_mark.index - 1
        return f"{text[:place]}{', ' if node.value and items else ''}{items}{text[place:]}"
    line_end = text.find("\n", node.value[-1].end_mark.index)
    place = len(text) if line_end < 0 else line_end
    indent = " " * node.start_mark.column
    return text[:place] + "".join(f"\n{indent}- {flow(item)}" for item in more) + text[place:]


def _shorter(text: str, node: yaml.SequenceNode, stays: Sequence[bool], more: Sequence[Any]) -> str | None:
    """A list without some of its items, which go with their comma or their line, and with more at its end."""
    start, end = node.start_mark.index, node.end_mark.index
    has_comments = node.flow_style and "#" in text[start:end]
    if has_comments or not all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return None
    if node.flow_style:
        kept = [text[item.start_mark.index : item.end_mark.index] for item in itertools.compress(node.value, stays)]
        return f"{text[:start]}[{', '.join(filter(None, [*kept, flow(more)[1:-1]]))}]{text[end:]}"
    text = _longer(text, node, more)
    for item, is_kept in zip(reversed(node.value), reversed(stays), strict=True):
        if not is_kept:
            begin, line_end = text.rfind("\n", 0, item.start_mark.index) + 1, text.find("\n", item.end_mark.index)
            text = text[:begin] + (text[line_end + 1 :] if line_end >= 0 else "")
    if any(stays) or more:
        return text
    begin = text.rfind("\n", 0, start) + 1
    return f"{text[:begin]}{' ' * node.start_mark.column}  []\n{text[begin:]}"


def _inserted(text: str, node: yaml.Node, rest: Sequence[str | int], value: Any) -> str | None:
    """A new key in a mapping: in braces before their end, else below its first line that stands alone, or above all."""
    if any(isinstance(key, int) for key in rest):
        return None
    for key in reversed(rest[1:]):
        value = {key: value}
    entry = f"{flow(rest[0])}: {flow(value)}"
    if isinstance(node, yaml.ScalarNode):
        return _replaced(text, node, {rest[0]: value}) if node.tag == "tag:yaml.org,2002:null" else None
    if not isinstance(node, yaml.MappingNode) or not node.value:
        return None
    if node.flow_style:
        place = node.value[-1][1].end_mark.index
        return f"{text[:place]}, {entry}{text[place:]}"
    first = node.value[0][0].start_mark
    indent = " " * first.column
    for key, content in node.value:
        if key.start_mark.line == content.start_mark.line == content.end_mark.line:
            line_end = text.find("\n", content.end_mark.index)
            place = len(text) if line_end < 0 else line_end
            return f"{text[:place]}\n{indent}{entry}{text[place:]}"
    start = first.index - first.column
    return f"{text[:start]}{indent}{entry}\n{text[start:]}" if not text[start : first.index].strip() else None


def _unreadable(path: Path, error: Exception) -> Finding:
    missing = isinstance(error, FileNotFoundError)
    return error_about(
        path.name,
        "stack.file",
        expected="a stack file in YAML beside Pulumi.yaml",
        found="there is none" if missing else " ".join(str(error).split())[:200],
        why="the host's settings and its pinned key are in there",
        fix="scripts/new_stack.py makes one; or copy Pulumi.prod.yaml" if missing else "correct the file, run again",
    )


def _by_hand(path: Path, place: str, line: str) -> Finding:
    return error_about(
        f"{path.name}: {place}",
        "stack-file.not-written",
        expected="an entry that can be changed without touching anything else",
        found="an anchor, an alias or a layout that cannot be edited safely",
        why="the rest of the file must stay as it is",
        fix=f"write it yourself: {line}",
    )
