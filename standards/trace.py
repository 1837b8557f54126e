"""What mail servers write on top of a message: Received (RFC 5321 section 4.4) and Authentication-Results (RFC 8601).

Read as big receivers really write them, not only as the RFCs say; what is unreadable is left out, never guessed.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_METHODS: Final = frozenset({"spf", "dkim", "dmarc", "arc", "iprev", "auth", "compauth", "dkim-atps", "dnswl", "bimi"})
_PAIR: Final = re.compile(r'(?<![\w.-])([A-Za-z][\w.-]*)(?:\s*/\s*\d+)?\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;]+)')
_SENDER: Final = re.compile(r"(?:designates|sender IP is|client-ip=|does not designate)\s*([0-9A-Fa-f:.]+)")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+\.?")
_FROM: Final = re.compile(r"from\s+([^\s;()]+)\s*(?:\(((?:[^()]|\([^()]*\))*)\))?", re.IGNORECASE)
_BY: Final = re.compile(r"(?:^|\s)by\s+([^\s;()]+)", re.IGNORECASE)
_WITH: Final = re.compile(r"\bwith\s+(?:Microsoft\s+)?([A-Za-z0-9]+)", re.IGNORECASE)
_TLS: Final = re.compile(r"(?<![\w.-])TLS[ v_-]*(1(?:[._][0-3])?)(?![\w.-])", re.IGNORECASE)
_CIPHER: Final = re.compile(r"(?:cipher[= ]|\btls\s+)([A-Z][A-Z0-9_-]{6,})")
# RFC 3848: S is TLS, A a login; Yahoo writes a small s.
_ENCRYPTED: Final = re.compile(r"(?:UTF8)?(?:E?SMTP|LMTP)SA?", re.IGNORECASE)
_LOGGED_IN: Final = re.compile(r"(?:UTF8)?(?:E?SMTP|LMTP)S?A", re.IGNORECASE)
_INTERNAL: Final = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "::1/128",
         "fc00::/7", "fe80::/10", "2002:a00::/24"),
    )
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One method's result with its properties (`header.d`, `smtp.mailfrom`, ...) and the comment of who wrote it."""

    method: str
    result: str
    properties: Mapping[str, str]
    comment: str = ""


@dataclass(frozen=True)
class Results:
    """One Authentication-Results field; `by` is the authserv-id, None as Microsoft writes it."""

    by: str | None
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Hop:
    """One Received field: who came (greeting, reverse name, address), to whom, how, and when.

    `reverse` is None where the server does not say, empty where it says that there is none; `tls` is the version,
    empty for TLS of an unnamed version, None without TLS.
    """

    greeting: str
    reverse: str | None
    address: str | None
    by: str
    protocol: str
    tls: str | None
    cipher: str
    logged_in: bool
    at: datetime | None

    @property
    def internal(self) -> bool:
        """Whether it never left a machine or a private network, as far as the addresses tell."""
        if self.address is None:
            return not self.logged_in
        parsed = ipaddress.ip_address(self.address)
        return any(parsed in network for network in _INTERNAL if network.version == parsed.version)


def results(text: str) -> Results:
    """The content of one Authentication-Results field (of ARC's, after its `i=`)."""
    parts = list(_parts(text))
    first = parts[0][0].split() if parts else []
    by = first[0].lower() if first and "=" not in parts[0][0] else None
    found: list[Result] = []
    for plain, comment in parts[1:] if by else parts:
        for name, raw in _PAIR.findall(plain):
            key, value = name.lower(), raw.strip('"')
            if key in _METHODS:
                found.append(Result(key, value.lower(), {}, comment))
            elif found:
                found[-1] = Result(
                    found[-1].method, found[-1].result, {**found[-1].properties, key: value}, found[-1].comment
                )
    return Results(by, tuple(found))


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """The text between semicolons, and what stood there in brackets; brackets and quotes hide semicolons."""
    plain, comment, depth, quote = "", "", 0, False
    for char in f"{' '.join(text.split())};":
        if char == '"' and not depth:
            quote = not quote
        if not quote and char == "(":
            depth += 1
            comment += " " if depth == 1 and comment else "(" if depth > 1 else ""
            plain += " "
        elif not quote and char == ")" and depth:
            depth -= 1
            comment += ")" if depth else ""
        elif depth:
            comment += char
        elif char == ";" and not quote:
            yield plain.strip(), comment
            plain, comment = "", ""
        else:
            plain += char
    if plain or comment:  # a quote or a bracket that nobody closed
        yield plain.strip('"; '), comment


def sender(text: str) -> str | None:
    """The address that an SPF result or a Received-SPF field is about."""
    match = _SENDER.search(text)
    return _address(match[1]) if match else None


def domain(value: str) -> str:
    """The domain in a property such as `smtp.mailfrom` or `header.i`: of an address, or alone."""
    return value.strip("<>").rpartition("@")[2].lower().rstrip(".")


def hop(text: str) -> Hop:
    """The content of one Received field."""
    line = " ".join(text.split())
    came, to, how = _FROM.match(line), _BY.search(line), _WITH.search(line)
    greeting, details = (came[1], came[2] or "") if came else ("", "")
    by = to[1].rstrip(".").lower() if to else ""
    tail = line[came.end(1) :] if came else line  # the greeting is whatever the client says
    protocol = how[1] if how else ""
    version = _TLS.search(tail)
    encrypted = version or _ENCRYPTED.fullmatch(protocol) or "TLS secured channel" in line
    cipher = _CIPHER.search(tail)
    address = next((found for word in re.split(r"[\s()\[\]=,]+", details) if (found := _address(word))), None)
    if words := re.match(r"(?:HELO|EHLO|helo=|ehlo=)\s*(\S+)", details):
        greeting, address = words[1], address or _address(greeting)
    return Hop(
        greeting=greeting.strip("[]"),
        reverse=_reverse(details, by),
        address=address or _address(greeting.strip("[]")),
        by=by,
        protocol=protocol,
        tls=(version[1].replace("_", ".") if version else "") if encrypted else None,
        cipher=cipher[1] if cipher else "",
        logged_in=bool(_LOGGED_IN.fullmatch(protocol)),
        at=moment(line.rpartition(";")[2]),
    )


def _reverse(details: str, by: str) -> str | None:
    first = details.partition(" ")[0]
    if first == "unknown":  # Postfix
        return ""
    if _NAME.fullmatch(first) and _address(first) is None:
        return first.rstrip(".").lower()
    # Gmail names every host that has a name.
    return "" if first.startswith("[") and f".{by}".endswith(".google.com") else None


def _address(text: str) -> str | None:
    try:
        found = ipaddress.ip_address(text.strip("[]").removeprefix("IPv6:").partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if found.version == 6 else None  # noqa: PLR2004  (IPv6)
    return (mapped or found).compressed


def moment(text: str) -> datetime | None:
    """A date as messages write it, None if it is unreadable; one without zone is UTC (RFC 5322 section 3.3)."""
    try:
        found = parsedate_to_datetime(text.strip())
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
