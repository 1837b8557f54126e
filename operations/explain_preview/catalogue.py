"""The risks a preview may have, by their ids; what makes one is not decided here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# Every risk by its id, the worst first: the order in which they are shown.
RISKS: Final[Mapping[str, str]] = {
    "secret-in-clear": "a secret would be stored or exported in clear",
    "stack-destroyed": "the whole stack is taken down",
    "mail-stops": "mail for a domain stops arriving at our hosts",
    "last-mx-deleted": "the last host that receives a domain's mail goes",
    "host-removed": "a host is no longer ours",
    "host-key-changed": "another host key is trusted",
    "host-replaced": "everything on a host is made anew",
    "unprotected": "a resource is no longer protected from being deleted",
    "spf-taken-over": "an SPF record of others is replaced",
    "address-changed": "a host's address changes or goes",
    "dkim-removed": "a DKIM key goes while mail is signed with it",
    "dkim-replaced": "a DKIM key pair is made anew under the same selector",
    "unsigned": "no DKIM key signs a domain's mail any more",
    "dmarc-weakened": "DMARC asks receivers for less",
    "spf-weakened": "SPF lets strangers through",
    "spf-narrowed": "SPF no longer allows who was allowed to send",
    "proxied": "a record answers with Cloudflare's edge, which speaks no SMTP",
    "gate-off": "forged mail is forwarded instead of refused",
    "rspamd-off": "incoming mail is no longer judged by rspamd",
    "password-exported": "a password becomes readable for who can read the stack's outputs",
    "may-send-as": "a user may send under more addresses",
    "limits-raised": "a user may send far more than before",
    "firewall-opened": "more is let in from outside",
    "ssh-moved": "SSH moves to another port",
    "user-removed": "a user can no longer log in",
    "alias-removed": "mail to an address is refused from now on",
}
ANY: Final = "any"


@dataclass(frozen=True, order=True)
class Risk:
    """`id` is one of RISKS, `subject` the domain, host or address it is about, `sentence` Markdown."""

    rank: int
    id: str
    subject: str
    sentence: str


def risk(name: str, subject: str, sentence: str) -> Risk:
    """A risk with its place in the order."""
    return Risk(list(RISKS).index(name), name, subject, sentence)


def listed() -> str:
    """All risks, one a line, for a person to choose from."""
    return "\n".join(f"  {name:17} {sentence}" for name, sentence in RISKS.items())
