"""Fetches the MTA-STS policy of a domain as senders do (RFC 8461 section 3.3); the judging is standards'."""

from __future__ import annotations

import urllib.error
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Final

from operations import web
from operations.dns import CouldNotTell
from standards import mta_sts
from standards.finding import Invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from operations.dns import Resolver
    from standards.finding import Finding

SECONDS: Final = 10
LARGEST: Final = 64 * 1024  # what RFC 8461 section 3.3 has senders read


def review(domain: str, hosts: Sequence[str], resolver: Resolver) -> list[Finding]:
    """What keeps senders from `hosts`, the MX hosts of a domain; nothing where it has no policy."""
    try:
        if not mta_sts.is_announced(resolver.resolve(mta_sts.record_name(domain), "TXT")):
            return []
        return mta_sts.review(domain, mta_sts.parse(fetch(mta_sts.address(domain))), hosts)
    except CouldNotTell as reason:
        return [mta_sts.unread(domain, str(reason))]
    except Invalid as error:
        return [mta_sts.unread(domain, error.found)]


def fetch(address: str) -> str:
    """The policy's text, asked for once; raises `CouldNotTell` for all that senders do not take for one."""
    response: HTTPResponse
    try:
        with web.opener(direct=False).open(address, timeout=SECONDS) as response:
            kind, text = response.headers.get_content_type(), response.read(LARGEST + 1)
            left = response.length
    except urllib.error.HTTPError as error:
        with error:
            raise CouldNotTell(f"the answer {error.code} ({error.reason})") from None
    except (OSError, HTTPException) as error:
        raise CouldNotTell(f"no answer ({web.told(error)})") from None
    if kind != "text/plain":
        raise CouldNotTell(f"an answer of type {kind}, not text/plain")
    if len(text) > LARGEST:
        raise CouldNotTell(f"more than {LARGEST} bytes")
    if left:
        raise CouldNotTell(f"an answer that breaks off {left} bytes before its end")
    return text.decode("utf-8", "replace")
