"""The mail exchanger of receiver.test and colleagues.test: takes mail, lets `judge` judge it, keeps both."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiosmtpd.smtp import SMTP

from lab.addresses import GUEST_MAIL, Plan
from lab.internet.judge import Envelope, Lookup, Unanswered, Verdict, judge, system_lookup
from lab.internet.names import COLLEAGUES_MX, COLLEAGUES_OCTET, RECEIVER_MX, REFUSED

if TYPE_CHECKING:
    from aiosmtpd.smtp import Envelope as SmtpEnvelope
    from aiosmtpd.smtp import Session

PORT: Final = 25
SIZE_LIMIT: Final = 30 * 2**20
PLAN_FILE: Final = Path("/etc/mailroom-lab/plan.json")
TLS: Final = Path("/etc/mailroom-lab/tls")


@dataclass(frozen=True)
class Mailbox:
    """The handler of one mail exchanger: accepts any address of its domain and of those whose MX it is, or was."""

    host: str
    domain: str
    folder: Path
    lookup: Lookup
    hosted: set[str] = field(default_factory=set)
    """Domains it took mail for: a server does not drop its mailboxes because an MX record leads elsewhere now."""

    async def handle_RCPT(  # noqa: N802  (aiosmtpd's name)
        self, _server: SMTP, _session: Session, envelope: SmtpEnvelope, address: str, options: list[str]
    ) -> str:
        """Refuse what is not ours (an open relay would hide a wrong MX), and everything for the refused mailbox."""
        if address.lower() == REFUSED:
            return "550 5.7.1 this mailbox takes no mail"
        domain = address.rpartition("@")[2].lower()
        if domain != self.domain and not await asyncio.to_thread(self._is_hosted, domain):
            return f"550 5.7.1 no relaying, expected an address of {self.domain} or of a domain with MX {self.host}"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(  # noqa: N802  (aiosmtpd's name)
        self, server: SMTP, session: Session, envelope: SmtpEnvelope
    ) -> str:
        """Judge, keep, and refuse what the sender's own DMARC policy asks to refuse."""
        message = envelope.original_content or b""
        origin = Envelope(
            mail_from=(envelope.mail_from or "").removeprefix("<>"),  # the null sender, as aiosmtpd spells it
            ehlo=session.host_name or "",
            client_ip=str(session.peer[0]).removeprefix("::ffff:") if session.peer else "",
        )
        verdict = await asyncio.to_thread(judge, message, origin, self.lookup)
        if verdict.rejects:
            return f"550 5.7.26 rejected by the DMARC policy of the From domain (spf={verdict.spf}, dmarc=fail)"
        transport = server.transport
        tls = transport.get_extra_info("ssl_object") if transport else None
        self._keep(message, entry(origin, envelope.rcpt_tos, verdict, tls))
        return "250 2.0.0 OK"

    def _is_hosted(self, domain: str) -> bool:
        if domain in self.hosted:
            return True
        try:
            exchangers = self.lookup(domain, "MX")
        except Unanswered:
            return False
        if any(each.exchange.to_text(omit_final_dot=True).lower() == self.host for each in exchangers):
            self.hosted.add(domain)
        return domain in self.hosted

    def _keep(self, message: bytes, verdict: dict[str, Any]) -> None:
        """The verdict appears last and complete: whoever sees it finds the message."""
        path = self.folder / f"{verdict['id']}.json"
        path.with_suffix(".eml").write_bytes(message)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(verdict, indent=2) + "\n")
        unfinished.rename(path)


def entry(origin: Envelope, rcpt_to: list[str], verdict: Verdict, tls: ssl.SSLObject | None) -> dict[str, Any]:
    """The verdict as it is written beside the message."""
    now = datetime.now(UTC)
    cipher = tls.cipher() if tls else None
    return {
        "id": f"{now:%Y%m%dT%H%M%S.%f}-{os.urandom(3).hex()}",
        "received_at": now.isoformat(),
        **asdict(origin),
        "rcpt_to": list(rcpt_to),
        **asdict(verdict),
        "tls": {"version": tls.version(), "cipher": cipher[0]} if tls and cipher else None,
    }


def tls_context(name: str) -> ssl.SSLContext:
    """A server's context with the certificate of that name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / f"{name}.pem", TLS / f"{name}.key")
    return context


async def serve(plan: Plan, folder: Path) -> None:
    """Listen for both domains on all their addresses, for ever."""
    loop = asyncio.get_running_loop()
    exchangers = {RECEIVER_MX: plan.receiver, COLLEAGUES_MX: plan.address(COLLEAGUES_OCTET)}
    for name, addresses in exchangers.items():
        mailbox = Mailbox(name, name.partition(".")[2], folder, system_lookup)
        context = tls_context(name)

        def session(mailbox: Mailbox = mailbox, name: str = name, context: ssl.SSLContext = context) -> SMTP:
            return SMTP(
                mailbox, hostname=name, tls_context=context, data_size_limit=SIZE_LIMIT, enable_SMTPUTF8=True, loop=loop
            )

        for address in addresses:
            await loop.create_server(session, address, PORT)
    await asyncio.Event().wait()


def main() -> None:
    """Run in the guest."""
    saved = json.loads(PLAN_FILE.read_text())
    asyncio.run(serve(Plan(name=saved["name"], index=saved["index"]), Path(GUEST_MAIL)))


if __name__ == "__main__":
    main()
