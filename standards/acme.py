"""DNS-01 challenges (RFC 8555 section 8.4): which certbot plugin answers them, with what, and at which name."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import TYPE_CHECKING, Final

from standards import limits
from standards.finding import Invalid
from standards.names import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

CLOUDFLARE: Final = "cloudflare"
RFC2136: Final = "rfc2136"
TOKEN_KEY: Final = "dns_cloudflare_api_token"  # noqa: S105  (a key of a file)
WRITERS: Final = (CLOUDFLARE, RFC2136)
"""The ways our own challenge hook can write a record."""
TSIG_ALGORITHMS: Final = ("HMAC-SHA256", "HMAC-SHA384", "HMAC-SHA512", "HMAC-SHA224", "HMAC-SHA1", "HMAC-MD5")
_NO_FILE: Final = {
    "google": "it wants a JSON file",
    "route53": "it reads no file of its own",
    "standalone": "it answers DNS itself",
}
_PLUGIN: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_FOLDER: Final = re.compile(r"/(etc|opt|srv|var)(/[A-Za-z0-9][A-Za-z0-9._-]*)+")
_TAKEN: Final = re.compile(
    r"/(etc/(letsencrypt|mailroom)|var/tmp)(/.*)?|/var/(lib|log|cache)|/var/lib/(chasquid|mailroom).*"
)


def plugin(name: str) -> str:
    """A DNS plugin of certbot that reads an ini file of credentials."""
    text = name.removeprefix("dns-")
    if _PLUGIN.fullmatch(text) and text not in _NO_FILE:
        return text
    why = _NO_FILE.get(text, "it is no name of a plugin")
    raise Invalid(
        f"{shown(name)} cannot be used: {why}",
        id="dns-plugin-unusable",
        expected="cloudflare, rfc2136 or another one that `apt-cache search python3-certbot-dns-` names, such as ovh",
        fix="choose one, or set challengeZone to a zone at Cloudflare or at a server that takes RFC 2136 updates",
    )


def package(name: str) -> str:
    """The Debian package of a plugin."""
    return f"python3-certbot-dns-{name}"


def prefix(name: str) -> str:
    """What each key of a plugin's credentials begins with."""
    return f"dns_{name.replace('-', '_')}_"


def credential(text: str) -> str:
    """A value for a line of an ini file, as certbot's reader (ConfigObj) takes it."""
    if text and text.isprintable() and text == text.strip() and not ('"' in text and "'" in text) and "%(" not in text:
        return text
    raise Invalid(
        "the value does not fit on a line of certbot's credentials file (it is not shown here)",
        id="acme-credential-invalid",
        expected="printable text without space around it, without both kinds of quotes, without %(",
        fix="copy it again, without a line end: `printf %s VALUE | pulumi config set --secret --path ...`",
    )


def missing_keys(name: str, credentials: Collection[str]) -> list[str]:
    """Keys that a plugin we know cannot do without."""
    wanted = [f"{prefix(name)}{key}" for key in ("server", "name", "secret", "algorithm")] if name == RFC2136 else []
    return [key for key in wanted if key not in credentials]


def rfc2136_problems(credentials: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Key and expectation of each value that RFC 2136 updates signed with TSIG (RFC 8945) cannot use."""
    start = prefix(RFC2136)
    server, secret = credentials.get(f"{start}server"), credentials.get(f"{start}secret")
    if server is not None and not _is_address(server):
        yield f"{start}server", "the address of the primary name server, such as 192.0.2.53"
    if secret is not None and not _is_base64(secret):
        yield f"{start}secret", "the TSIG key in base64, as tsig-keygen prints it"
    algorithm, port = credentials.get(f"{start}algorithm"), credentials.get(f"{start}port", "53")
    if algorithm is not None and algorithm not in TSIG_ALGORITHMS:
        yield f"{start}algorithm", f"one of {', '.join(TSIG_ALGORITHMS)}"
    if not re.fullmatch(r"[0-9]{1,5}", port):
        yield f"{start}port", "a port number such as 53"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return False


def challenge_name(name: str) -> str:
    """Where a CA looks for the challenge of `name`; a wildcard's is that of the name below it."""
    return f"_acme-challenge.{name.removeprefix('*.')}"


def challenge_target(name: str, zone: str) -> str:
    """The name in a zone for challenges that stands for the challenge name of `name`."""
    return f"{challenge_name(name)}.{zone}"


def fits(name: str, zone: str) -> bool:
    """Whether that name is one DNS can have."""
    return len(challenge_target(name, zone)) <= limits.DOMAIN


def folder(text: str) -> str:
    """A folder of the host that can hold copies of certificates and nothing else."""
    path = text.rstrip("/")
    if _FOLDER.fullmatch(path) and ".." not in path and not _TAKEN.fullmatch(path):
        return path
    raise Invalid(
        f"{shown(text)} is no folder for copies of certificates",
        id="copies-folder-invalid",
        expected="a folder of its own below /etc, /opt, /srv or /var, such as /srv/certificates",
        why="what is there is given to the group, and the folder goes when the setting goes",
        fix="name a folder that does not exist yet",
    )
