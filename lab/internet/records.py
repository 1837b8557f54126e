"""What the Cloudflare API accepts as a DNS record and how it spells it; pure, no storage, no HTTP."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Final

from lab.internet.authoritative import RecordSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PROXIABLE: Final = frozenset({"A", "AAAA", "CNAME"})
HOST_TYPES: Final = frozenset({"CNAME", "MX", "NS", "PTR"})
AUTOMATIC_TTL: Final = 1
TTL_RANGE: Final = range(60, 86401)
LONGEST_COMMENT: Final = 100
LONGEST_STRING: Final = 255
EDGE: Final = {"A": "198.19.255.80", "AAAA": "2001:db8:ffff::80"}
"""What the world sees instead of a proxied address: the provider's web proxy, which carries no mail."""

_HOST_NAME = re.compile(
    r"(?=.{1,253}$)([a-z0-9_*]([a-z0-9_-]{0,61}[a-z0-9_])?)(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')

# Fields of `data`, in the order in which `content` (and the zone file) names them.
_DATA_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "CAA": ("flags", "tag", "value"),
    "SRV": ("priority", "weight", "port", "target"),
    "SSHFP": ("algorithm", "type", "fingerprint"),
    "TLSA": ("usage", "selector", "matching_type", "certificate"),
}


class ApiError(Exception):
    """An answer that is not a success: HTTP status and the entry of `errors`."""

    def __init__(self, status: int, code: int, message: str) -> None:
        self.status = status
        self.code = code
        self.message = message
        super().__init__(f"{status} {code} {message}")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record as the account holds it (canonical spelling); the API adds id, zone and times around it."""

    type: str
    name: str
    content: str
    ttl: int
    proxied: bool = False
    priority: int | None = None
    data: str = ""
    """JSON of `data` for the types made of fields, so that a record stays hashable."""
    comment: str | None = None

    @property
    def value(self) -> tuple[str, str, str, int | None]:
        """What two records must not have in common."""
        content = unquoted(self.content) if self.type == "TXT" else self.content
        return (self.type, self.name, content, self.priority)

    @property
    def zone_file(self) -> tuple[str, str]:
        """Type and content in zone file form, as the world sees them."""
        if self.proxied:
            kind = "A" if self.type == "CNAME" else self.type
            return kind, EDGE[kind]
        if self.type == "MX":
            return "MX", f"{self.priority} {_absolute(self.content)}"
        if self.type == "SRV":
            head, _, target = self.content.rpartition(" ")
            return "SRV", f"{head} {_absolute(target)}"
        if self.type in HOST_TYPES:
            return self.type, _absolute(self.content)
        if self.type == "TXT" and not self.content.startswith('"'):
            return "TXT", quoted(self.content)
        return self.type, self.content


def record(body: Mapping[str, Any], zone: str) -> Record:
    """The record a request body asks for; what cannot be one raises ApiError with the API's own code."""
    kind = str(body.get("type") or "").upper()
    if kind in _DATA_FIELDS:
        content, data = _from_data(kind, body.get("data"))
    elif kind in _CONTENTS:
        content, data = _CONTENTS[kind](str(body.get("content") or "")), ""
    else:
        raise ApiError(400, 1004, f"DNS Validation Error: type {kind!r} is not supported")
    proxied = bool(body.get("proxied"))
    if proxied and kind not in PROXIABLE:
        raise ApiError(400, 9004, "This record type cannot be proxied.")
    return Record(
        type=kind,
        name=full_name(str(body.get("name") or ""), zone),
        content=content,
        ttl=AUTOMATIC_TTL if proxied else _ttl(body.get("ttl")),
        proxied=proxied,
        priority=_priority(kind, body, data),
        data=data,
        comment=_comment(body),
    )


def full_name(name: str, zone: str) -> str:
    """The name as the API answers it: complete, lower-case, A-labels, no final dot."""
    try:
        plain = name.strip().rstrip(".").encode("ascii").decode().lower()
    except UnicodeEncodeError:
        plain = name.strip().rstrip(".").lower().encode("idna").decode()
    if plain in {"@", zone}:
        return zone
    full = plain if plain.endswith(f".{zone}") else f"{plain}.{zone}"
    if not _HOST_NAME.fullmatch(full):
        raise ApiError(400, 9000, "DNS name is invalid.")
    return full


def quoted(text: str) -> str:
    """Plain text as character strings of at most 255 bytes."""
    data = text.encode()
    parts = [data[at : at + LONGEST_STRING] for at in range(0, len(data), LONGEST_STRING)] or [b""]
    return " ".join(f'"{_escaped(part)}"' for part in parts)


def unquoted(content: str) -> str:
    """The text of TXT content, joined over its character strings."""
    parts = _QUOTED.findall(content)
    return re.sub(r"\\(.)", r"\1", "".join(parts)) if parts else content


def record_sets(records: Iterable[Record], owners: Iterable[tuple[str, str]]) -> list[RecordSet]:
    """The record sets of some names and types (as the world sees them), empty where nothing is left."""
    found: dict[tuple[str, str], list[str]] = {owner: [] for owner in owners}
    for each in records:
        kind, content = each.zone_file
        contents = found.get((each.name, kind))
        if contents is not None and content not in contents:
            contents.append(content)
    # A CNAME may stand alone only: what leaves must leave before what comes.
    return sorted((RecordSet(name, kind, tuple(found[name, kind])) for name, kind in found), key=_removals_first)


def _removals_first(record_set: RecordSet) -> bool:
    return bool(record_set.contents)


def _escaped(part: bytes) -> str:
    text = part.decode("latin-1").replace("\\", "\\\\").replace('"', '\\"')
    return "".join(char if " " <= char <= "~" else f"\\{ord(char):03d}" for char in text)


def _absolute(host: str) -> str:
    return f"{host.rstrip('.')}."


def _ttl(value: object) -> int:
    ttl = AUTOMATIC_TTL if value is None else value
    if isinstance(ttl, float) and ttl.is_integer():
        ttl = int(ttl)
    if not isinstance(ttl, int) or (ttl != AUTOMATIC_TTL and ttl not in TTL_RANGE):
        raise ApiError(400, 9021, "Invalid TTL. Must be between 60 and 86400 seconds, or 1 for Automatic.")
    return ttl


def _priority(kind: str, body: Mapping[str, Any], data: str) -> int | None:
    if kind == "SRV":
        return int(json.loads(data)["priority"])
    if kind != "MX":
        return None
    value = body.get("priority")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or not 0 <= value <= 0xFFFF:  # noqa: PLR2004  (16 bits)
        raise ApiError(400, 9100, "priority is a required field. Must be between 0 and 65535.")
    return value


def _comment(body: Mapping[str, Any]) -> str | None:
    if body.get("tags"):
        raise ApiError(400, 9300, f"DNS record has {len(body['tags'])} tags, exceeding the quota of 0.")
    comment = body.get("comment") or None
    if comment is not None and (len(comment) > LONGEST_COMMENT or "\n" in comment):
        raise ApiError(400, 9313, f"DNS record comment must be one line of at most {LONGEST_COMMENT} characters.")
    return comment


def _ipv4(content: str) -> str:
    try:
        return str(IPv4Address(content))
    except AddressValueError:
        raise ApiError(400, 9005, "Content for A record must be a valid IPv4 address.") from None


def _ipv6(content: str) -> str:
    try:
        return IPv6Address(content).compressed
    except AddressValueError:
        raise ApiError(400, 9006, "Content for AAAA record must be a valid IPv6 address.") from None


def _host(content: str) -> str:
    host = content.rstrip(".").lower()
    if content == ".":  # null MX, RFC 7505
        return "."
    if not _HOST_NAME.fullmatch(host) or _is_address(host):
        raise ApiError(400, 1004, "DNS Validation Error: content must be a host name.")
    return host


def _is_address(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def _text(content: str) -> str:
    """Quoted content comes back as sent; plain content too, unless it is too long for one character string."""
    if not content:
        raise ApiError(400, 1004, "DNS Validation Error: content is empty.")
    if content.startswith('"'):
        strings = _QUOTED.findall(content)
        rest = _QUOTED.sub("", content).strip()
        if rest or any(len(unquoted(f'"{each}"').encode()) > LONGEST_STRING for each in strings):
            raise ApiError(400, 1004, "DNS Validation Error: TXT content is no list of quoted strings of 255 bytes.")
        return content
    return content if len(content.encode()) <= LONGEST_STRING else quoted(content)


def _from_data(kind: str, data: object) -> tuple[str, str]:
    fields = _DATA_FIELDS[kind]
    if not isinstance(data, dict) or any(data.get(name) in {None, ""} for name in fields):
        raise ApiError(400, 1004, f"DNS Validation Error: data of {kind} needs {', '.join(fields)}.")
    values = {name: data[name] for name in fields}
    last = str(values[fields[-1]])
    last = last.upper() if kind == "TLSA" else last.rstrip(".").lower() if kind == "SRV" else last
    values = {name: _number(values[name]) for name in fields} | {fields[-1]: last}
    shown = f'"{last}"' if kind == "CAA" else last
    return " ".join([*(str(values[name]) for name in fields[:-1]), shown]), json.dumps(values)


def _number(value: object) -> object:
    """Numbers arrive as numbers, floats or digits and are answered as numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.isdigit() else value


_CONTENTS: Final[Mapping[str, Callable[[str], str]]] = {
    "A": _ipv4,
    "AAAA": _ipv6,
    "TXT": _text,
    **dict.fromkeys(sorted(HOST_TYPES), _host),
}
