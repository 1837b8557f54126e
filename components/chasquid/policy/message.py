"""What chasquid (post_data.go) hands over, read strictly: the envelope, header fields, and the addresses in them.

Where two readers may read a message differently, one of them is fooled: such a message is `Malformed`.
"""

from __future__ import annotations

import binascii
import codecs
import quopri
import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ACCEPT, REFUSE, DEFER = 0, 20, 75  # as a hook's exit statuses (docs/hooks.md of chasquid)
FIELDS = 7
FIELD = 8000  # characters of a field with addresses: nobody's From is longer
ADDRESS = 320  # characters: 64 before the @ and 255 after it (RFC 5321 section 4.5.3.1)
HEADER = 2**18  # bytes; no honest header is longer, and many readers stop earlier
REPLY = 480  # characters; RFC 5321 section 4.5.3.1.5 allows 512 with the code and the line's end
_END = re.compile(rb"\r?\n\r?\n")
_CONTROL = re.compile(rb"[\0-\x08\x0b\x0c\x10-\x1a\x1c-\x1f]|\r(?!\n)")  # all but those that ISO-2022-JP needs
_NAME = re.compile(r"[!-9;-~]+")  # RFC 5322 section 2.2, without obsolete space before the colon
_LOCAL = re.compile(r"[^\s\"(),:;<>@\[\\\]\x00-\x20\x7f]+")
_DOMAIN = re.compile(r"[\w-]+(\.[\w-]+)*")
_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}  # controls, bytes that are no UTF-8 (RFC 6532 section 3.1), other line ends
_FIELD = re.compile(r"[!-9;-~]+:[^\n]*(\n[ \t]+[^\s][^\n]*)*")
_NO_CHARSETS = {"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}  # codecs of Python alone
_ENCODED = re.compile(r"=\?([^?]*)\?([bq])\?([^?]*)\?=", re.IGNORECASE)  # RFC 2047 section 2


class Malformed(Exception):  # noqa: N818  (a judgement on a message, not a failure of ours)
    """Why a message cannot be read in one way only."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a message: `text` is one line for the client, or header fields when it is accepted."""

    status: int
    text: str = ""

    def reply(self) -> bytes:
        """What chasquid reads; the status comes last, so that a reply that is cut short accepts nothing."""
        text = f"{self.text}\n" if self.text else ""
        return f"{text}verdict {self.status}\n".encode(errors="surrogateescape")

    @classmethod
    def accept(cls, headers: Sequence[str] = ()) -> Verdict:
        """Take it, with these header fields on top; chasquid leaves out what is not a header, without a word."""
        if not all(_FIELD.fullmatch(header) for header in headers):
            raise ValueError("a header field to put on top has not the form of one")
        return cls(ACCEPT, "\n".join(headers))

    @classmethod
    def refuse(cls, text: str) -> Verdict:
        """554: the same message will never be taken."""
        return cls(REFUSE, _reply(text))

    @classmethod
    def defer(cls, text: str) -> Verdict:
        """451: the client keeps it and tries again."""
        return cls(DEFER, _reply(text))


@dataclass(frozen=True)
class Request:
    """One message as chasquid has it: `sender` is empty for the null sender, `user` without authentication.

    `login` is what the client authenticated as; an application token, `i+shop@example.com`, belongs to the user
    before the `+`, which no user's name holds.
    """

    remote: str
    ehlo: str
    sender: str
    recipients: tuple[str, ...]
    user: str
    tls: bool
    spf_pass: bool
    message: bytes
    login: str = field(init=False)

    def __post_init__(self) -> None:
        """chasquid names a user's domain in U-labels; settings, counters and suspensions have A-labels."""
        local, at, domain = self.user.lower().rpartition("@")
        domain = to_ascii(domain)
        object.__setattr__(self, "login", f"{local}{at}{domain}")
        object.__setattr__(self, "user", f"{local.partition('+')[0]}{at}{domain}")

    @classmethod
    def parse(cls, data: bytes) -> Request:
        """What chasquid sends: seven fields, each ended by NUL, then the message. Raises `Malformed`."""
        parts = data.split(b"\0", FIELDS)
        if len(parts) <= FIELDS:
            raise Malformed("the request is cut short")
        remote, ehlo, sender, recipients, user, tls, spf = (part.decode(errors="replace") for part in parts[:-1])
        sender = "" if sender == "<>" else sender
        return cls(remote, ehlo, sender, tuple(recipients.split()), user, tls == "1", spf == "1", parts[-1])


@dataclass(frozen=True)
class Headers:
    """The header fields of a message in order, as (name, value with its folding)."""

    fields: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, message: bytes) -> Headers:
        """RFC 5322 section 2.2; raises `Malformed` where readers differ about where a field or the header ends."""
        fields: list[tuple[str, list[str]]] = []
        for line in _header(message).decode(errors="surrogateescape").replace("\r\n", "\n").split("\n"):
            if line[:1] in {" ", "\t"}:
                if not fields or not line.strip():
                    raise Malformed("a header line holds nothing but space, or continues no field")
                fields[-1][1].append(line)
                continue
            name, colon, value = line.partition(":")
            if not colon or not _NAME.fullmatch(name):
                raise Malformed(f"{one_line(line)[:40]!r} is no header field")
            fields.append((name, [value]))
        return cls(tuple((name, "\n".join(lines)) for name, lines in fields))

    def all(self, name: str) -> list[str]:
        """The values of every field of that name, in order."""
        return [value for found, value in self.fields if found.lower() == name.lower()]

    def address(self, name: str) -> str | None:
        """The one address of a field that may stand once; None without the field. Raises `Malformed`."""
        values = self.all(name)
        if not values:
            return None
        if len(values) > 1:
            raise Malformed(f"there are {len(values)} {name} fields, expected one")
        found = addresses(values[0])
        if len(found) != 1:
            raise Malformed(f"the {name} field holds {len(found)} addresses, expected one")
        return found[0]


def _header(message: bytes) -> bytes:
    """The message up to its first empty line."""
    end = _END.search(message, 0, HEADER)
    if end is None and len(message) > HEADER:
        raise Malformed(f"the header is longer than {HEADER // 1024} KiB")
    header = message[: end.start()] if end else message.removesuffix(b"\n").removesuffix(b"\r")
    if _CONTROL.search(header):
        raise Malformed("the header holds a control character such as NUL or a bare CR")
    return header


def addresses(value: str) -> tuple[str, ...]:
    """The addresses of a field (RFC 5322 section 3.4), each as local@domain. Raises `Malformed`.

    Groups, routes, quoted local parts and addresses hidden in comments or encoded words are refused: readers differ
    about them.
    """
    text = value.replace("\n", "")
    if len(text) > FIELD:
        raise Malformed(f"an address field has {len(text)} characters, {FIELD} are allowed")
    if any(unicodedata.category(character) in _UNSEEN for character in text.replace("\t", " ")):
        raise Malformed("an address field holds control characters or is not UTF-8")
    found = tuple(_mailbox(part) for part in _split(text))
    shown = {address.lower() for address in found}
    for hidden in _hidden(text):
        if hidden.strip().lower() not in shown:
            raise Malformed("an encoded word holds an address")
    return found


def _hidden(text: str) -> Iterator[str]:
    """What encoded words (RFC 2047) show to a reader that decodes before it looks for addresses, where that matters."""
    for charset, encoding, encoded in _ENCODED.findall(text):
        try:
            data = (
                binascii.a2b_base64(encoded.encode() + b"===")
                if encoding in "bB"
                else quopri.decodestring(encoded.encode(), header=True)
            )
            codec = codecs.lookup(charset.partition("*")[0]).name  # RFC 2231 section 5: *language
            shown = data.decode("latin-1" if codec in _NO_CHARSETS else codec, errors="replace")
        except LookupError:  # no charset in use hides these three characters
            shown = data.decode("latin-1")
        except ValueError as error:
            raise Malformed("an encoded word cannot be decoded") from error
        if re.search("[@<>]", shown):
            yield shown


def _split(value: str) -> Iterator[list[tuple[str, str]]]:
    """Mailboxes as lists of (kind, text): `quoted`, `angle` or `text`; comments are left out."""
    part: list[tuple[str, str]] = []
    for kind, text in _tokens(value):
        if kind == "comma":
            yield part
            part = []
        else:
            part.append((kind, text))
    yield part


_TOKEN = re.compile(
    r'(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<angle><[^<>"]*>)|(?P<comma>,)|(?P<open>\()|(?P<text>[^"<>(),:;\\]+)', re.DOTALL
)


def _tokens(value: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(value):
        match = _TOKEN.match(value, position)
        if match is None:
            raise Malformed(f"{value[position]!r} stands where no address has it")
        kind, text = str(match.lastgroup), match.group()
        position = match.end()
        if kind == "open":
            position = _end_of_comment(value, position)
            continue
        if kind == "quoted" and re.search(r"[<>]", text):
            raise Malformed("a quoted name holds < or >")
        yield kind, text


def _end_of_comment(value: str, position: int) -> int:
    depth = 1
    while position < len(value) and depth:
        character = value[position]
        if character in "@<>":
            raise Malformed("a comment holds an address")
        depth += (character == "(") - (character == ")")
        position += 2 if character == "\\" else 1
    if depth:
        raise Malformed("a comment does not end")
    return position


def _mailbox(part: list[tuple[str, str]]) -> str:
    angles = [text for kind, text in part if kind == "angle"]
    names = [text.strip(" \t") for kind, text in part if kind == "text" and text.strip(" \t")]
    quoted = any(kind == "quoted" for kind, _ in part)
    if not angles:
        if len(names) != 1 or quoted:
            raise Malformed("a mailbox without < > is not one plain address")
        return plain(names[0])
    after = part[[kind for kind, _ in part].index("angle") + 1 :]
    if any(text.strip() for _, text in after):
        raise Malformed("something follows the address in < >")
    if any("@" in name for name in names):
        raise Malformed("the name before < > looks like an address")
    return plain(angles[0][1:-1].strip(" \t"))


def plain(address: str) -> str:
    """`address` if it is a dot-atom at a domain, the same to readers that decode or normalize. Raises `Malformed`."""
    if len(address) > ADDRESS:  # first: what follows takes more than linear time
        raise Malformed(f"an address has {len(address)} characters, {ADDRESS} are allowed")
    local, at, domain = address.rpartition("@")
    same = address.isprintable() and unicodedata.normalize("NFKC", address) == address and "=?" not in local
    same = same and "\ufffd" not in address  # was no UTF-8
    if not at or not same or not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain):
        raise Malformed(f"{one_line(address)[:80]!r} is no plain address")
    return address


def canonical(address: str) -> str:
    """An address as chasquid compares: lower case, without suffix and dots (`suffix_separators`, `drop_characters`)."""
    local, _, domain = address.rpartition("@")
    return f"{local.partition('+')[0].replace('.', '').lower()}@{to_ascii(domain)}"


def domain_of(address: str) -> str:
    """The domain in the form DNS has it."""
    return to_ascii(address.rpartition("@")[2])


def to_ascii(domain: str) -> str:
    """A domain in lower-case A-labels (RFC 3492), without mapping: Python's `idna` takes straße for strasse."""
    labels = unicodedata.normalize("NFC", domain.lower()).split(".")
    return ".".join(label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in labels)


def one_line(text: str) -> str:
    """`text` without anything that could end a log line or an SMTP reply."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _reply(text: str) -> str:
    """`text` as one line of an SMTP reply (RFC 5321 section 4.2): ASCII, not too long."""
    return one_line(text).encode("ascii", "replace").decode()[:REPLY]
