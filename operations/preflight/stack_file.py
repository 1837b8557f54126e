"""The hosts in a stack's file, found by address, and a pinned key written there; everything else in it stays."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from standards.finding import Finding, Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Mapping

HOSTS = "mailroom:hosts"
KEY = "hostKey"


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
            raise Problems(f"{self.path.name} was not changed", [_by_hand(self.path, address, host_key)])
        path = self.path.resolve()
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".pin-", delete=False) as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        shutil.copymode(path, new.name)
        Path(new.name).replace(path)


def _has(host: Mapping[str, Any], address: str) -> bool:
    return address in {host.get("ipv4"), host.get("ipv6")}


def of_stack(stack: str, checkout: Path) -> StackFile:
    """The file of a stack by its name, with or without the organization in front."""
    return StackFile.read(checkout / f"Pulumi.{stack.rpartition('/')[2]}.yaml")


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


def _by_hand(path: Path, address: str, host_key: str) -> Finding:
    return error_about(
        f"{path.name}: host {address}",
        "preflight.not-written",
        expected="a host entry that can be changed without touching anything else",
        found="an anchor, an alias or a layout that cannot be edited safely",
        why="the rest of the file must stay as it is",
        fix=f"write it yourself: {KEY}: {host_key}",
    )
