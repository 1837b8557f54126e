"""Mail domains and mail servers of other people, played from the operator's machine: records, signatures, sessions.

What they send may be genuine or forged; `receiver` is where answers and bounces to them arrive.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from lab.internet.names import COLLEAGUES_MX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lab.addresses import Pair
    from lab.internet.client import Dns

SELECTOR: Final = "outside"
SECONDS: Final = 60
"""One session's whole time; a server that stops answering must not stop a test for longer."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A mail domain that is none of ours; what is sent to it, bounces too, the colleagues' server keeps."""

    name: str
    servers: Pair | None = None
    """Whose mail its SPF record confirms; without, it has no SPF record."""
    spf: str = "-all"
    """What the record says of everybody else."""
    policy: str | None = None
    """Its DMARC policy; without, it has no DMARC record."""
    selector: str = SELECTOR
    """Under which its one key is published."""

    @property
    def key_record(self) -> str:
        """The TXT value of its key."""
        return f"v=DKIM1; k=rsa; p={self._public}"

    def publish(self, dns: Dns) -> None:
        """Its MX, SPF, DKIM and DMARC records, at once at every name server."""
        for (name, kind), value in self._records().items():
            dns.set(name, kind, [value])

    def withdraw(self, dns: Dns) -> None:
        """Take them away again."""
        for name, kind in self._records():
            dns.delete(name, kind)

    def sign(self, message: bytes) -> bytes:
        """The message with this domain's signature on top, in the form that breaks at one changed octet."""
        fields = [b"from", b"to", b"subject", b"date", b"message-id", b"mime-version", b"content-type"]
        canonical = (b"simple", b"simple")
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        signature: bytes = dkim.sign(
            message, self.selector.encode(), self.name.encode(), pem, canonicalize=canonical, include_headers=fields
        )
        return signature + message

    def _records(self) -> dict[tuple[str, str], str]:
        records = {(self.name, "MX"): f"10 {COLLEAGUES_MX}."}
        if self.servers:
            records[self.name, "TXT"] = f"v=spf1 ip4:{self.servers.ipv4} ip6:{self.servers.ipv6} {self.spf}"
        if self.policy:
            records[f"_dmarc.{self.name}", "TXT"] = f"v=DMARC1; p={self.policy}"
        records[f"{self.selector}._domainkey.{self.name}", "TXT"] = self.key_record
        return records

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @cached_property
    def _public(self) -> str:
        der = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return base64.b64encode(der).decode()


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One message and its envelope."""

    mail_from: str
    rcpt_to: str
    data: bytes
    kind: str = field(default="", compare=False)
    """What the sender calls it."""


def deliver(server: str, mails: Sequence[Mail], *, connections: int = 8) -> list[str]:
    """Bring each message in a session of its own, several at a time; the server's last word on each, in order."""

    async def all_of_them() -> list[str]:
        replies = [""] * len(mails)
        waiting = iter(enumerate(mails))

        async def courier(waiting: Iterable[tuple[int, Mail]]) -> None:
            for index, mail in waiting:
                replies[index] = await asyncio.wait_for(_session(server, mail), SECONDS)

        await asyncio.gather(*(courier(waiting) for _ in range(min(connections, len(mails)))))
        return replies

    return asyncio.run(all_of_them())


async def _session(server: str, mail: Mail) -> str:
    """The reply that decides: the first refusal, or that to the message."""
    reader, writer = await asyncio.open_connection(server, 25)
    text = b"\r\n".join(b"." + line if line.startswith(b".") else line for line in mail.data.split(b"\r\n"))
    steps = (
        (b"", "220"),
        (b"EHLO mail.outside.test\r\n", "250"),
        (f"MAIL FROM:<{mail.mail_from}>\r\n".encode(), "250"),
        (f"RCPT TO:<{mail.rcpt_to}>\r\n".encode(), "250"),
        (b"DATA\r\n", "354"),
        (text + (b"" if text.endswith(b"\r\n") else b"\r\n") + b".\r\n", "250"),
    )
    try:
        for words, expected in steps:
            writer.write(words)
            reply = await _reply(reader)
            if not reply.startswith(expected):
                break
        writer.write(b"QUIT\r\n")
        await _reply(reader)
    finally:
        writer.close()
    return reply


async def _reply(reader: asyncio.StreamReader) -> str:
    """The last line of a reply."""
    while (line := await reader.readline())[3:4] == b"-":
        pass
    return line.decode(errors="replace").rstrip()
