"""What a command prints: its two streams, their mixture for errors, and the live log with its trap."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lab.engine.values import Props

LONGEST_LINE = 64 * 1024
"""The official provider reads lines with Go's bufio.Scanner, which gives up at this length; the command's next write
then blocks for ever, and the operation with it.  That is a trap to be met here too, not one to be mended here."""

SHOWN = {"stdout": (True, False), "stderr": (False, True), "none": (False, False)}  # logging -> (stdout, stderr)


class Log(Protocol):
    """Sends one message about the resource to the engine."""

    async def __call__(self, text: str, severity: str = "INFO") -> None:
        """Send it."""


class Output:
    """The output of one run of a command."""

    def __init__(self, logging: str | None, log: Log) -> None:
        self.log = log
        self.streams = {False: bytearray(), True: bytearray()}  # is it stderr?
        self.mixture = bytearray()
        shown = SHOWN.get(logging or "stdoutAndStderr", (True, True))
        self.lines = {is_stderr: _Lines() for is_stderr in (False, True) if shown[is_stderr]}
        self.messages: asyncio.Queue[str | None] = asyncio.Queue()
        self.teller: asyncio.Task[None] | None = None

    def add(self, data: bytes, *, is_stderr: bool) -> None:
        """Take a piece of output."""
        self.streams[is_stderr] += data
        self.mixture += data
        if is_stderr in self.lines:
            for line in self.lines[is_stderr].add(data):
                self._say(line)

    async def close(self) -> None:
        """Wait until all lines are told; for ever, when one was too long."""
        if any(lines.stuck for lines in self.lines.values()):
            await asyncio.Event().wait()
        for lines in self.lines.values():
            if lines.rest:
                self._say(lines.rest.decode(errors="replace"))
        if self.teller:
            self.messages.put_nowait(None)
            await self.teller

    def texts(self) -> Props:
        """The outputs of the resource; one final newline is cut off each, no mark of secrecy is put on them."""
        out, err = (self.streams[key].decode(errors="replace").removesuffix("\n") for key in (False, True))
        return {"stdout": out, "stderr": err}

    def error(self, what: str, script: str) -> str:
        """The message of a failure; it shows the whole script, as the official one does."""
        return f"{what}: running {go_quoted(script)}:\n{self.mixture.decode(errors='replace')}"

    def _say(self, line: str) -> None:
        self.messages.put_nowait(line)
        self.teller = self.teller or asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        while (line := await self.messages.get()) is not None:
            await self.log(line)


class _Lines:
    """Cuts one stream into lines, until one is too long."""

    def __init__(self) -> None:
        self.rest = bytearray()
        self.stuck = False

    def add(self, data: bytes) -> list[str]:
        """The lines that are now complete."""
        *complete, rest = (self.rest + data).split(b"\n")
        for index, line in enumerate(complete):
            if len(line) >= LONGEST_LINE:
                self.stuck, complete, rest = True, complete[:index], bytearray()
                break
        self.stuck = self.stuck or len(rest) > LONGEST_LINE
        self.rest = rest
        return [line.decode(errors="replace").removesuffix("\r") for line in complete]


def go_quoted(text: str) -> str:
    """The text as Go's %q prints it."""
    escapes = {"\\": "\\\\", '"': '\\"', "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r",
               "\t": "\\t", "\v": "\\v"}  # fmt: skip
    return '"' + "".join(escapes.get(char) or (char if char.isprintable() else _escape(char)) for char in text) + '"'


def _escape(char: str) -> str:
    number = ord(char)
    if number < 0x80:  # noqa: PLR2004  (the end of ASCII)
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004  (16 bits)
