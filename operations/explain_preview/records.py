"""The DNS records a preview changes, as receivers would read them before and after."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from operations.explain_preview.secrecy import UNKNOWN, Secret
from standards import dkim
from standards.records import unquoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from operations.explain_preview.engine import Change, Kind, Preview

TYPE: Final = "cloudflare:index/dnsRecord:DnsRecord"
LATER: Final = "(known after the run)"
_MARK: Final = re.compile(r" ?mailroom:\S+$")
_ANNOUNCED: Final = ("ttl", "proxied", "name", "type")


@dataclass(frozen=True, kw_only=True)
class RecordChange:
    """One record; `before` and `after` are its values as text, None where there is none or nobody knows it.

    `key` is its logical name, such as `example.com/dkim/m1`: owner, kind, and what tells several apart.
    """

    kind: Kind
    key: str
    name: str
    type: str
    before: str | None
    after: str | None
    reason: str
    also: tuple[str, ...]  # other properties that change, as text
    before_known: bool
    proxied: bool = False

    @property
    def owner(self) -> str:
        """The host or domain it belongs to."""
        return self.key.partition("/")[0]

    @property
    def role(self) -> str:
        """What it is for: a, aaaa, spf, spf-hosts, dkim, mx, dmarc, and what the project adds."""
        return self.key.split("/")[1] if "/" in self.key else ""

    @property
    def last(self) -> str:
        """The selector of a DKIM record, the host of an MX."""
        return self.key.split("/", 2)[2] if self.key.count("/") > 1 else ""

    @property
    def moves(self) -> bool:
        """Whether what it said is there no longer."""
        stays = self.before_known and self.before == self.after
        return self.kind == "delete" or (self.kind in {"update", "replace"} and not stays)


def changes(preview: Preview) -> list[RecordChange]:
    """Every record of a preview, of a plan also those that stay, in the order of their owners and names."""
    found = [_change(change) for change in preview.changes if change.type == TYPE]
    return sorted(found, key=lambda record: (record.owner, record.name, record.type, record.key))


def _change(change: Change) -> RecordChange:
    values = change.after if change.after is not None else change.before or {}
    key = change.name
    return RecordChange(
        kind=change.kind,
        key=key,
        name=str(values.get("name") or key),
        type=str(values.get("type") or "record"),
        before=None if change.before is None else _value(change.before, key),
        after=None if change.after is None else _value(change.after, key),
        reason=reason(values),
        also=tuple(_also(change)),
        before_known=change.before_known,
        proxied=change.will_be("proxied") is True and change.was("proxied") is not True,
    )


def reason(values: Mapping[str, Any]) -> str:
    """Why the record exists, as its comment says it, without the mark that makes it ours."""
    comment = values.get("comment")
    return _MARK.sub("", comment) if isinstance(comment, str) else ""


def _value(values: Mapping[str, Any], key: str) -> str:
    content = values.get("content")
    if content is UNKNOWN:
        return dkim.NEW_KEY if "/dkim/" in key else LATER
    if isinstance(content, Secret):
        return "[secret]"
    if content is None and isinstance(values.get("data"), dict):
        data = values["data"]
        return " ".join(f"{name}={_shown(data[name])}" for name in sorted(data) if data[name] is not None)
    text = str(content if content is not None else "")
    if values.get("type") == "TXT":
        return unquoted(text)
    priority = values.get("priority")
    return text if priority is None else f"{_shown(priority)} {text}"


def _shown(value: Any) -> str:
    if value is UNKNOWN:
        return LATER
    if isinstance(value, Secret):
        return "[secret]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _also(change: Change) -> Iterator[str]:
    if change.before is None or change.after is None:
        return
    for key in _ANNOUNCED:
        before, after = change.before.get(key), change.after.get(key)
        if _shown(before) != _shown(after):
            yield f"{key} {_shown(before)} -> {_shown(after)}"
    if reason(change.before) != reason(change.after):
        yield "its note"
