"""Conversations with a mail server as text files: parses them, plays them, says where the server left the script.

`tests/lab/smtp_corpus/README.md` describes the form. What the answers ought to be stands in the files, not here.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

Way = Literal["as it is", "over TLS", "in plain text", "after connect", "as"]

TIMEOUT: Final = 30.0
_ON: Final = re.compile(
    r"on (?P<ports>\d+(?:, \d+)*)(?: (?P<way>over TLS|in plain text|after connect|as) ?(?P<user>\S+)?)?"
)
_STEP: Final = re.compile(r"(C:|C\||S:|S\+|S-|M:) ?(.*)|(TLS|HANGUP)")
_TIMES: Final = re.compile(r"(.*?)(?: \((\d+) times\))?")
_MACRO: Final = re.compile(r"\{(?:(me|port)|plain (\S+) ?(\S*)|lines (\d+)|([^{}]+)\*(\d+))\}")
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-f]{2})|([rnt0\\]))")
_ESCAPED: Final = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


class Step(NamedTuple):
    """One line of a script; `kind` is what it begins with."""

    kind: str
    text: str
    line: int


class Start(NamedTuple):
    """Where a conversation begins: the port, how far the session has come, and the user who has logged in."""

    port: int
    way: Way = "as it is"
    user: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.port), self.way if self.way != "as it is" else "", self.user)))


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One script; it is played once for each of its starts."""

    file: str
    title: str
    starts: tuple[Start, ...]
    steps: tuple[Step, ...]

    def subjects(self, start: Start) -> Iterator[str]:
        """What arrives at the far end afterwards."""
        for step in self.steps:
            if step.kind == "M:":
                yield octets(step.text, {"port": str(start.port), "me": ""}).decode()


def parse(path: Path) -> list[Conversation]:
    """Every conversation of a file; a line that says nothing is an error, or a mistyped check would check nothing."""
    found: list[Conversation] = []
    title, starts, steps = "", list[Start](), list[Step]()

    def close() -> None:
        if title:
            assert starts, f"{path.name}: {title!r} is on no port"
            assert any(step.kind == "S:" for step in steps), f"{path.name}: {title!r} expects nothing"
            found.append(Conversation(file=path.stem, title=title, starts=tuple(starts), steps=tuple(steps)))

    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("== "):
            close()
            title, starts, steps = line[3:], [], []
        elif match := _ON.fullmatch(line):
            way: Way = match["way"] or "as it is"  # type: ignore[assignment]
            starts += [Start(int(port), way, match["user"] or "") for port in match["ports"].split(", ")]
        elif match := _STEP.fullmatch(line):
            steps.append(Step(match[1] or match[3], match[2] or "", number))
        else:
            assert not line or line.startswith("#"), f"{path.name}:{number}: {line!r} is no line of a conversation"
    close()
    return found


def octets(text: str, values: Mapping[str, str]) -> bytes:
    """What a `C` line sends: `{...}` expanded, then backslashes."""

    def macro(match: re.Match[str]) -> str:
        name, user, password, lines, piece, times = match.groups()
        if name:
            return values[name]
        if user:
            return base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        return f"{'x' * 76}\\r\\n" * int(lines) if lines else piece * int(times)

    def escape(match: re.Match[bytes]) -> bytes:
        return bytes.fromhex(match[1].decode()) if match[1] else _ESCAPED[match[2]]

    return _ESCAPE.sub(escape, _MACRO.sub(macro, text).encode())


@dataclass
class Session:
    """One connection to the server, as a client without any manners has it."""

    address: str
    start: Start
    values: Mapping[str, str]
    transcript: list[str] = field(default_factory=list)
    _buffer: bytes = b""

    def __enter__(self) -> Self:
        self.connection = socket.create_connection((self.address, self.start.port), timeout=TIMEOUT)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def start_tls(self) -> None:
        """The handshake; the certificate is another test's subject."""
        assert not self._buffer, f"more than the answer came in plain text: {self._buffer!r}"
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.connection = context.wrap_socket(self.connection)

    def send(self, data: bytes) -> None:
        """One segment as far as it can be; a connection the server closes meanwhile is seen when its answer is read."""
        self.transcript.append(f"  C: {_short(data)}")
        try:
            self.connection.sendall(data)
        except OSError as error:
            self.transcript.append(f"     ({error})")

    def reply(self) -> list[str]:
        """The lines of one reply; none when the connection is closed."""
        lines = []
        while line := self._line():
            self.transcript.append(f"  S: {_short(line)}")
            lines.append(line.decode(errors="replace"))
            if line[3:4] != b"-":
                break
        return lines

    def expect(self, pattern: str, where: str) -> list[str]:
        """The next reply, which must begin like this; the end of the connection reads `closed`."""
        reply = self.reply()
        last = reply[-1] if reply else "closed"
        assert re.match(pattern, last), f"{where}: expected {pattern!r}, got {reply or last}"
        return reply

    def ask(self, command: str, code: str) -> None:
        """One command outside the script."""
        self.send(octets(command, self.values) + b"\r\n")
        self.expect(code, command.split(maxsplit=1)[0])

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            try:
                more = self.connection.recv(65536)
            except (ConnectionError, ssl.SSLError):
                more = b""
            if not more:
                assert not self._buffer, f"the connection ends in the middle of a line: {self._buffer!r}"
                return b""
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Plays conversations; `sender` names the envelope sender `{me}` of a start, `passwords` are the users'."""

    address: str
    sender: Callable[[Start], str]
    passwords: Mapping[str, str]

    def play(self, conversation: Conversation, start: Start) -> None:
        """Raise AssertionError with the whole transcript at the first line the server does not follow."""
        values = {"me": self.sender(start), "port": str(start.port)}
        with Session(self.address, start, values) as session:
            try:
                _begin(session, self.passwords)
                _follow(session, conversation)
            except AssertionError as error:
                transcript = "\n".join(session.transcript)
                raise AssertionError(f"{conversation.file}.smtp, {error}\n{transcript}") from None


def _begin(session: Session, passwords: Mapping[str, str]) -> None:
    port, way, user = session.start
    if port == 465 and way != "in plain text":
        session.start_tls()
    if way == "after connect" or (port == 465 and way == "in plain text"):
        return
    session.expect("220 ", "the greeting")
    session.ask("EHLO client.test", "250")
    if way in {"over TLS", "as"} and port != 465:
        session.ask("STARTTLS", "220")
        session.start_tls()
        session.ask("EHLO client.test", "250")
    if user:
        session.ask(f"AUTH PLAIN {{plain {user} {passwords[user]}}}", "235")
    session.transcript.append("  (the script begins)")


def _follow(session: Session, conversation: Conversation) -> None:
    unsent, reply = b"", [""]
    for kind, text, number in conversation.steps:
        if kind in {"C:", "C|"}:
            # What stands between two answers goes out together: so a reader sees what is pipelined.
            unsent += octets(text, session.values) + (b"\r\n" if kind == "C:" else b"")
            continue
        if unsent:
            session.send(unsent)
            unsent = b""
        if kind == "TLS":
            session.start_tls()
        elif kind == "HANGUP":
            return
        elif kind == "S:":
            pattern, times = _TIMES.fullmatch(text).groups()  # type: ignore[union-attr]
            for _ in range(int(times or 1)):
                reply = session.expect(pattern, f"line {number}")
        elif kind in {"S+", "S-"}:
            offered = any(re.match(text, line[4:]) for line in reply)
            assert offered == (kind == "S+"), f"line {number}: {kind} {text!r}, got {reply}"
    if reply:
        # An answer too many or too few shows here: somebody's command was data, or the other way round.
        session.ask("QUIT", "221 ")
        session.expect("closed", "after QUIT")


def _short(data: bytes) -> str:
    shown = repr(data)[2:-1]
    return shown if len(shown) < 400 else f"{shown[:200]} ... ({len(data)} octets) ... {shown[-100:]}"
