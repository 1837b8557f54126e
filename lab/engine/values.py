"""Property values as they travel between engine and plugins: their codec, their marks, their differences.

Secrets, assets and archives travel as structs with a signature under SIG, unknown values (in previews) as the
string UNKNOWN.  Nothing here knows a resource.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from google.protobuf import struct_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

SIG = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105  (a mark, not a secret)
ASSET = "c44067f5952c0a294b673a41bacd8c17"
ARCHIVE = "0def7320c3a5731c473e5ecbe6d01bc7"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

Props = dict[str, Any]


def plain(value: Any) -> Any:
    """A protobuf Struct or Value as Python data, signatures left in place."""
    if hasattr(value, "fields"):
        return {key: plain(item) for key, item in value.fields.items()}
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return plain(value.struct_value)
    if kind == "list_value":
        return [plain(item) for item in value.list_value.values]
    if kind in (None, "null_value"):
        return None
    found = getattr(value, kind)
    return int(found) if kind == "number_value" and found.is_integer() else found


def struct(data: Props) -> Any:
    """Python data as a protobuf Struct."""
    result = struct_pb2.Struct()
    for key, value in data.items():
        _fill(result.fields[key], value)
    return result


def _fill(slot: Any, value: Any) -> None:
    match value:
        case None:
            slot.null_value = 0
        case bool():
            slot.bool_value = value
        case int() | float():
            slot.number_value = value
        case str():
            slot.string_value = value
        case dict():
            slot.struct_value.SetInParent()
            for key, item in value.items():
                _fill(slot.struct_value.fields[key], item)
        case _:
            slot.list_value.SetInParent()
            for item in value:
                _fill(slot.list_value.values.add(), item)


def secret(value: Any) -> Any:
    """The value marked secret."""
    return value if is_secret(value) else {SIG: SECRET, "value": value}


def is_secret(value: Any) -> bool:
    """Whether the value is marked secret."""
    return isinstance(value, dict) and value.get(SIG) == SECRET


def reveal(value: Any) -> Any:
    """The same data with every secret opened."""
    if is_secret(value):
        return reveal(value["value"])
    if isinstance(value, dict):
        return {key: reveal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [reveal(item) for item in value]
    return value


def has_unknown(value: Any) -> bool:
    """Whether any part is not known yet."""
    if isinstance(value, dict):
        return any(has_unknown(item) for item in value.values())
    if isinstance(value, list):
        return any(has_unknown(item) for item in value)
    return bool(value == UNKNOWN)


def changes(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each (path, "ADD" | "DELETE" | "UPDATE") that leads from old to new.

    A secret, an asset or an archive is one value: nobody is to see its inside in a diff.
    """
    if isinstance(old, list) and isinstance(new, list):
        old, new = ({f"[{index}]": item for index, item in enumerate(items)} for items in (old, new))
    elif isinstance(old, dict) and isinstance(new, dict) and SIG not in old and SIG not in new:
        dot = "." if path else ""
        old, new = ({f"{dot}{key}": item for key, item in items.items()} for items in (old, new))
    else:
        if old != new:
            yield path, "UPDATE"
        return
    for step in sorted(old.keys() | new.keys()):
        if step not in new:
            yield path + step, "DELETE"
        elif step not in old:
            yield path + step, "ADD"
        else:
            yield from changes(old[step], new[step], path + step)


def root(path: str) -> str:
    """The property a path of `changes` begins with."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]
