#!/usr/bin/python3
"""Tries mail ports from the host itself, or listens on them for a moment; runs on the host, leaves nothing behind.

    reach.py out SERVER...            connects to port 25 of each address of each server
    reach.py listen WORD SECONDS 4 6  answers WORD on the mail ports that are free, over IPv4 and IPv6, then ends

It meets machines nobody has prepared: only what Debian's python3-minimal ships, Python 3.7. Prints one JSON document.
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sys
import threading
import time

SENDER = "chasquid"  # once our packet filter stands, the one user who may connect to port 25
MAIL_PORTS = (25, 465, 587)
SECONDS = 10  # for one server; a greeting held back on purpose (RFC 5321 section 4.5.3.2.1 allows minutes) is rare
EHLO = b"EHLO preflight.invalid\r\n"
FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}


def to_json(value: object) -> str:
    """JSON of plain values, in ASCII: python3-minimal of Debian 12 has no json module."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(to_json(str(key)) + ": " + to_json(item) for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(to_json, value)) + "]"
    plain = "".join(char if " " <= char <= "~" and char not in '"\\' else "?" for char in str(value))
    return '"' + plain + '"'


def outcome_of(error: OSError) -> str:
    """One word for a connection that did not come about; other errors in the system's own words."""
    if isinstance(error, (socket.timeout, TimeoutError)):  # two types until Python 3.10
        return "silent"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionError):
        return "reset"
    return os.strerror(error.errno) if error.errno else str(error)


def read_reply(connection: socket.socket) -> str:
    """A whole SMTP reply (RFC 5321 section 4.2.1), or what came of it before the other side hung up."""
    text = b""
    while len(text) < 4096:  # noqa: PLR2004  (more than any greeting)
        lines = text.split(b"\r\n")
        if len(lines) > 1 and lines[-2][3:4] != b"-":
            break
        more = connection.recv(1024)
        if not more:
            break
        text += more
    return text.decode("ascii", "replace").strip()


def try_server(
    name: str, family: socket.AddressFamily, address: tuple[object, ...], port: int = 25
) -> dict[str, object]:
    """Whether one address of a mail server greets, and what it says of us."""
    found: dict[str, object] = {"server": name, "address": str(address[0]), "family": FAMILIES[family]}
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(SECONDS)
        try:
            connection.connect((address[0], port, *address[2:]))
        except OSError as error:
            return {**found, "outcome": outcome_of(error), "greeting": None, "reply": None}
        try:
            greeting = read_reply(connection)
            connection.sendall(EHLO)
            reply = read_reply(connection)
            connection.sendall(b"QUIT\r\n")
        except OSError:
            return {**found, "outcome": "no greeting", "greeting": None, "reply": None}
    outcome = "ok" if greeting.startswith("220") else "no greeting"
    return {**found, "outcome": outcome, "greeting": greeting, "reply": reply}


def out(servers: list[str]) -> dict[str, object]:
    """Try every server over both families at once, as the user whose mail may leave."""
    user = become_sender()
    tries: list[dict[str, object]] = []
    unknown = []
    threads = []
    for name in servers:
        try:
            found = socket.getaddrinfo(name, 25, type=socket.SOCK_STREAM)
        except OSError:
            unknown.append(name)
            continue
        first: dict[int, tuple[object, ...]] = {}  # one address a family says enough
        for family, _, _, _, where in found:
            first.setdefault(family, where)
        for number, address in first.items():

            def one(name: str = name, number: int = number, address: tuple[object, ...] = address) -> None:
                tries.append(try_server(name, socket.AddressFamily(number), address))

            threads.append(threading.Thread(target=one, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * SECONDS)
    return {"user": user, "unresolved": unknown, "tries": sorted(tries, key=lambda each: str(each["address"]))}


def become_sender() -> str:
    """Give up root for the user chasquid where there is one; returns who we are."""
    if os.geteuid() == 0:
        try:
            sender = pwd.getpwnam(SENDER)
        except KeyError:
            return "root"
        os.setgroups([])
        os.setgid(sender.pw_gid)
        os.setuid(sender.pw_uid)
    return pwd.getpwuid(os.geteuid()).pw_name


class Listener:
    """The mail ports that are free, for a moment."""

    def __init__(self, word: str, versions: list[int]) -> None:
        self.word = word.encode()
        self.families = {family: number for family, number in FAMILIES.items() if number in versions}
        self.open: dict[tuple[int, int], socket.socket] = {}
        self.refused: dict[tuple[int, int], str] = {}
        self.served: set[tuple[int, int]] = set()

    def bind(self) -> None:
        """Take what is free; a family that the host does not have is left out."""
        for family, number in self.families.items():
            for port in MAIL_PORTS:
                try:
                    server = socket.socket(family, socket.SOCK_STREAM)
                except OSError:
                    continue
                try:
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # chasquid may start right after us
                    if family == socket.AF_INET6:
                        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    server.bind(("", port))
                    server.listen(5)
                except OSError as error:
                    server.close()
                    self.refused[number, port] = os.strerror(error.errno) if error.errno else str(error)
                else:
                    self.open[number, port] = server

    def serve(self, seconds: float) -> None:
        """Answer until everybody we wait for has been there, or time is over."""
        end = time.monotonic() + seconds
        for key, server in self.open.items():
            threading.Thread(target=self._accept, args=(key, server), daemon=True).start()
        while time.monotonic() < end and self.served != set(self.open):
            time.sleep(0.05)
        time.sleep(0.1)  # the last answer leaves before we do

    def _accept(self, key: tuple[int, int], server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(key, connection), daemon=True).start()

    def _answer(self, key: tuple[int, int], connection: socket.socket) -> None:
        """Only who knows the word is answered: a passing port scan ends nothing."""
        with connection:
            connection.settimeout(2)
            try:
                if connection.recv(len(self.word)) == self.word:
                    connection.sendall(self.word)
                    self.served.add(key)
            except OSError:
                return


def listen(word: str, seconds: int, versions: list[int]) -> dict[str, object]:
    """Listen for that long at most, whatever happens: the kernel's alarm ends us otherwise."""
    signal.alarm(seconds + 5)
    listener = Listener(word, versions)
    listener.bind()
    listener.serve(seconds)
    named = {f"{family}/{port}": why for (family, port), why in listener.refused.items()}
    return {"refused": named, "served": sorted(f"{family}/{port}" for family, port in listener.served)}


if __name__ == "__main__":
    if sys.argv[1:2] == ["out"]:
        print(to_json(out(sys.argv[2:])))
    else:
        print(to_json(listen(sys.argv[2], int(sys.argv[3]), [int(each) for each in sys.argv[4:]])))
