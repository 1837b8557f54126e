"""What chasquid itself found out about a message from outside: the Authentication-Results it put on top, and no other.

Its words are not escaped: the name comes from the client's SNI, the reason after `spf=` from DNS and `header.d` from
the message. So nothing counts unless everything chasquid wrote has exactly the form in which none of these can have
begun a line of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# internal/smtpsrv/conn.go addReceivedHeader, internal/dkim/verify.go AuthenticationResults, and envelope.AddHeader,
# which makes a tab of each line's beginning; all of chasquid 1.18.
#  - The name comes again in Received, the reason in Received-SPF, each on one line there: a line break in either shows.
#  - A value of a DKIM tag has no `;`, so it cannot begin a result; one that is no domain name is not read at all.
_WRITTEN = re.compile(
    rb"""Authentication-Results:\ (?P<name>[^\s;()]+)\r?\n
    (?:\t;spf=(?P<spf>[a-z]+)\ \([^\n]*\)\r?\n)?
    (?P<dkim>
      \t;dkim=none\r?\n
    | (?:\t;dkim=
        (?:pass | (?:fail|temperror|permerror)\ \ reason="[^\n]*"\r?\n\t)
        (?:\ \ header\.b=[A-Za-z0-9+/=]{1,12})?\ \ header\.d=[A-Za-z0-9._-]*\r?\n
      )+
    )
    (?(spf)Received-SPF:\ [^\n]*\n)
    Received:\ from\ \S+\ \(\[[0-9A-Za-z.:%]+\]\)\n
    \tby\ (?P=name)\ \(chasquid\)\ with\ E?SMTPS?\n""",
    re.VERBOSE,
)
_SIGNATURE = re.compile(
    rb'^\t;dkim=(pass|temperror)(?:  reason="[^\n]*"\r?\n\t)?[^\n]*?  header\.d=([^\s]+)', re.MULTILINE
)


@dataclass(frozen=True)
class Results:
    """The domains (RFC 6376 `d=`) whose signature is valid, and what could not be found out this time."""

    dkim: frozenset[str] = frozenset()
    dkim_undecided: frozenset[str] = frozenset()
    spf_undecided: bool = False


def trusted(message: bytes) -> Results:
    """The results on top of `message`; none at all when chasquid wrote none or they are not beyond doubt."""
    written = _WRITTEN.match(message)
    if written is None:
        return Results()
    found: dict[bytes, set[str]] = {b"pass": set(), b"temperror": set()}
    for result, domain in _SIGNATURE.findall(written["dkim"]):
        found[result].add(domain.decode("ascii").lower())
    return Results(frozenset(found[b"pass"]), frozenset(found[b"temperror"]), written["spf"] == b"temperror")
