"""Who may send as whom: the authenticated user, MAIL FROM, From and Sender must agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .message import Malformed, canonical, domain_of, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .message import Headers, Request

PROBE_DOMAIN = "probe.invalid"  # of the host's own test user (RFC 2606 section 2); nothing of it leaves the host


def is_login(request: Request, settings: Mapping[str, Any]) -> bool:
    """Whether the settings still have this login: a session outlives its user, its token and its right to send."""
    known = settings["users"].get(request.user, {"logins": [request.user] * is_probe(request.user)})
    return request.login in known.get("logins", [request.user])


def objection(request: Request, headers: Headers, settings: Mapping[str, Any]) -> str | None:
    """Why this user may not send this message, None when it may (RFC 6409 section 6.1 allows the check)."""
    if not request.sender:
        return "5.7.1 A user's message needs a sender: MAIL FROM:<> is for mail servers"
    try:
        plain(request.sender)  # chasquid splits "a@b"@c at the first @, we at the last one
        shown, sender = headers.address("From"), headers.address("Sender")
    except Malformed as reason:
        return f"5.6.0 The message cannot be read safely: {reason}"
    if shown is None:
        return f"5.6.0 The message has no From field; put From: {request.user} into it"
    return _disagreement(request.user, {"MAIL FROM": request.sender, "From": shown, "Sender": sender}, settings)


def _disagreement(user: str, claimed: dict[str, str | None], settings: Mapping[str, Any]) -> str | None:
    if foreign := _foreign(claimed, identities(user, settings)):
        return f"5.7.1 {user} may not send as {foreign}; use {user}, or ask the postmaster for this identity"
    envelope, shown = str(claimed["MAIL FROM"]), str(claimed["From"])
    if domain_of(envelope) != domain_of(shown):  # chasquid signs for the domain of MAIL FROM
        return f"5.7.1 MAIL FROM and From must be of one domain, not {envelope} and {shown}"
    return f"5.7.1 {user} is this server's test user and may not send" if is_probe(user) else None


def _foreign(claimed: Mapping[str, str | None], own: set[str]) -> str | None:
    """The first claimed address that is not the user's own, with where it stands."""
    strange = (f"{address} ({what})" for what, address in claimed.items() if address and not is_one_of(address, own))
    return next(strange, None)


def is_probe(user: str) -> bool:
    """Whether this is the host's own test user."""
    return domain_of(user) == PROBE_DOMAIN


def identities(user: str, settings: Mapping[str, Any]) -> set[str]:
    """The canonical addresses of a user; one that the settings do not know has its own alone."""
    known = settings["users"].get(user, {})
    return {canonical(user), *known.get("identities", ())}


def is_one_of(address: str, own: set[str]) -> bool:
    """Whether an address is one of these, by itself or as any address of `*@domain`."""
    return canonical(address) in own or f"*@{domain_of(address)}" in own
