"""The atoms of mail and DNS: one function a kind of value, giving its one canonical spelling or `Invalid`.

What a setting or record does with an atom does not belong here.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import Final

from standards import limits
from standards.finding import Invalid

_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_HOST_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_DOT_ATOM: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_USER: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_SELECTOR: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_ID: Final = re.compile(r"[0-9a-f]{32}")
_HTTP_URL: Final = re.compile(r"(https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~%+-]+)*)/?")
_TIMEZONE: Final = re.compile(r"[A-Z][A-Za-z0-9_+-]*(/[A-Z][A-Za-z0-9_+-]*){0,2}")
_LOCALE: Final = re.compile(r"C\.UTF-8|[a-z]{2,3}_[A-Z]{2}\.UTF-8")
_PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_API_TOKEN: Final = re.compile(r"[0-9A-Za-z_-]{40,80}")
_SHOWN: Final = 60
EXAMPLE_HOST_KEY: Final = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJpPEQfz2RN0X9sXlVJ4Ud5jzqxRkQy0sQ6yWb0mV3cT"
"""The key of the shipped example; no host has it."""
PIN: Final = "scripts/preflight.py ADDRESS --wait --pin"
"""What writes a host's key into its stack's file."""


def shown(value: str) -> str:
    """`value` in quotes, on one line and cut, fit for a message."""
    text = value if len(value) <= _SHOWN else value[: _SHOWN - 3] + "..."
    return repr(text)


def _to_ascii(text: str) -> str:
    """IDNA 2008 A-labels of a name with other letters than ASCII (Python's own codec knows only IDNA 2003)."""
    import idna

    try:
        return idna.encode(text, uts46=True, std3_rules=False).decode("ascii")
    except idna.IDNAError as error:
        raise _not_a_name(text, str(error)) from error


def _not_a_name(text: str, because: str) -> Invalid:
    return Invalid(
        f"{shown(text)} is not a host or domain name: {because}",
        id="name-invalid",
        expected="a fully qualified name such as smtp.example.com",
        fix="write the full name, without scheme, port or path",
    )


def dns_name(text: str) -> str:
    """A fully qualified DNS name in lower-case A-labels without trailing dot; underscore labels allowed."""
    name = text.strip().removesuffix(".")
    name = name.lower() if name.isascii() else _to_ascii(name)
    if not name:
        raise _not_a_name(text, "it is empty")
    if len(name) > limits.DOMAIN:
        raise _not_a_name(text, f"it has {len(name)} characters, at most {limits.DOMAIN} are possible")
    for label in name.split("."):
        if not label:
            raise _not_a_name(text, "it has an empty label (two dots in a row, or a dot in front)")
        if len(label) > limits.LABEL:
            raise _not_a_name(text, f"the label {shown(label)} has {len(label)} characters, at most {limits.LABEL}")
        if not _LABEL.fullmatch(label):
            raise _not_a_name(text, f"the label {shown(label)} is not letters, digits and inner hyphens")
    return name


def fqdn(text: str) -> str:
    """A host or mail domain name: `dns_name` with at least two labels, no underscore, no address."""
    name = dns_name(text)
    labels = name.split(".")
    if re.fullmatch(r"[0-9.]+", name):
        raise _not_a_name(text, "it is an address")
    if len(labels) == 1:
        raise _not_a_name(text, "it has no dot")
    for label in labels:
        if not _HOST_LABEL.fullmatch(label):
            raise _not_a_name(text, f"the label {shown(label)} is not letters, digits and inner hyphens")
    return name


def _not_an_address(text: str, because: str) -> Invalid:
    return Invalid(
        f"{shown(text)} is not a mail address: {because}",
        id="address-invalid",
        expected="an address such as you@example.com",
        fix="write one plain address, without a display name or angle brackets",
    )


def email_address(text: str) -> str:
    """`local@domain` with the domain canonical and the local part as written (RFC 5321 dot-string)."""
    local, at, domain = text.strip().rpartition("@")
    if not at:
        raise _not_an_address(text, "it has no @")
    if not _DOT_ATOM.fullmatch(local):
        raise _not_an_address(text, f"{shown(local)} cannot stand before the @")
    if len(local) > limits.LOCAL_PART:
        raise _not_an_address(text, f"{len(local)} characters before the @, at most {limits.LOCAL_PART} are possible")
    try:
        address = f"{local}@{fqdn(domain)}"
    except Invalid as error:
        raise _not_an_address(text, error.found) from error
    if len(address) > limits.ADDRESS:
        raise _not_an_address(text, f"it has {len(address)} characters, at most {limits.ADDRESS}")
    return address


def canonical_address(address: str) -> str:
    """The one form in which chasquid compares addresses (`RemoveDropsAndSuffix`): no suffix, no dots, lower case."""
    local, _, domain = address.lower().rpartition("@")
    return f"{local.partition('+')[0].replace('.', '')}@{domain}"


def identity(text: str) -> str:
    """An address somebody may send as, or `*@domain` for all of a domain."""
    local, at, domain = text.strip().rpartition("@")
    if at and local == "*":
        return f"*@{fqdn(domain)}"
    try:
        address = email_address(text).lower()
    except Invalid as error:
        raise _not_an_identity(error.found, "write the whole address, or *@ and a domain, in quotes") from error
    if "+" in local:
        raise _not_an_identity(
            f"{shown(text)} has a suffix", f"write {canonical_address(address)}: it holds for every suffix"
        )
    return address


def _not_an_identity(found: str, fix: str) -> Invalid:
    return Invalid(
        found,
        id="identity-invalid",
        expected='an address such as sales@example.com, or "*@lists.example.com" for all of a domain',
        fix=fix,
    )


def user(text: str) -> str:
    """The local part of a mailbox or sender account: lower-case, safe in every file it is written to."""
    name = text.strip().lower()
    if not _USER.fullmatch(name) or len(name) > limits.LOCAL_PART:
        raise Invalid(
            f"{shown(text)} is not a user name",
            id="user-invalid",
            expected="the part before the @: letters, digits, '.', '_' and '-', at most "
            f"{limits.LOCAL_PART} characters, such as i or first.last",
            why="spaces, ':' and ',' end a name in the aliases file, '+' starts a suffix",
            fix="write only the part before the @; the domain is the one it is listed in",
        )
    return name


def ipv4(text: str) -> str:
    """An IPv4 address in dotted form."""
    try:
        return str(ipaddress.IPv4Address(text.strip()))
    except ValueError as error:
        raise Invalid(
            f"{shown(text)} is not an IPv4 address",
            id="ipv4-invalid",
            expected="an address such as 192.0.2.10",
            fix="write the address alone, without prefix length; an IPv6 address belongs into ipv6",
        ) from error


def ipv6(text: str) -> str:
    """An IPv6 address as RFC 5952 writes it."""
    try:
        address = ipaddress.IPv6Address(text.strip())
    except ValueError as error:
        raise _not_ipv6(text, f"{shown(text)} is not an IPv6 address") from error
    if address.scope_id is not None or address.ipv4_mapped is not None:
        raise _not_ipv6(text, f"{shown(text)} cannot be reached from elsewhere")
    return address.compressed


def ipv6_gateway(text: str) -> str:
    """The address of a router in the host's own network; it may be link-local, as fe80::1 is."""
    address = ipv6(text)
    if ipaddress.IPv6Address(address).is_multicast or address in {"::", "::1"}:
        raise _not_ipv6(text, f"{shown(text)} is no router's address")
    return address


def _not_ipv6(text: str, found: str) -> Invalid:
    return Invalid(
        found,
        id="ipv6-invalid",
        expected="an address such as 2001:db8::10",
        fix="write the address alone, without prefix length or interface"
        + ("; an IPv4 address belongs into ipv4" if "." in text else ""),
    )


def ip_address(text: str) -> str:
    """An address of either family."""
    return ipv6(text) if ":" in text else ipv4(text)


def http_url(text: str) -> str:
    """An http or https URL: host, port and path alone, without a slash at its end."""
    if match := _HTTP_URL.fullmatch(text.strip()):
        return match.group(1)
    raise Invalid(
        f"{shown(text)} is not a plain http or https URL",
        id="url-invalid",
        expected="a URL such as https://deb.example.net/debian",
        fix="write scheme, host and path alone, without password, query or brackets",
    )


def timezone(text: str) -> str:
    """A name of the tz database by its form; whether it exists is for the host to say, which has the database."""
    return _formed(text, _TIMEZONE, "timezone", "a name such as Europe/Berlin or Etc/UTC", "timedatectl list-timezones")


def locale(text: str) -> str:
    """A UTF-8 locale by its form; whether it exists is for the host to say."""
    return _formed(text, _LOCALE, "locale", "a locale such as de_DE.UTF-8 or C.UTF-8", "cat /usr/share/i18n/SUPPORTED")


def package(text: str) -> str:
    """The name of a Debian package (Debian policy section 5.6.1), without version or architecture."""
    return _formed(text, _PACKAGE, "package", "the name of a package, such as htop", "apt-cache search WORD")


def _formed(text: str, form: re.Pattern[str], kind: str, expected: str, command: str) -> str:
    name = text.strip()
    if form.fullmatch(name):
        return name
    raise Invalid(
        f"{shown(text)} is not the name of a {kind}",
        id=f"{kind}-invalid",
        expected=expected,
        fix=f"`{command}` on the host lists what there is",
    )


def selector(text: str) -> str:
    """A DKIM selector: one label, since it is also part of a file name on the host."""
    name = text.strip().lower()
    if not _SELECTOR.fullmatch(name) or len(name) > limits.LABEL:
        raise Invalid(
            f"{shown(text)} is not a DKIM selector",
            id="selector-invalid",
            expected=f"letters, digits and inner hyphens, at most {limits.LABEL}, such as m1 or 202611",
            fix="choose a short name; a date such as 202611 tells its age",
        )
    return name


def zone_id(text: str) -> str:
    """The id of a Cloudflare zone."""
    return _id(
        text,
        "a zone id",
        id="zone-id-invalid",
        example="0123456789abcdef0123456789abcdef",
        fix="copy 'Zone ID' from the zone's overview page in the Cloudflare dashboard",
    )


def record_id(text: str) -> str:
    """The id of a record in a Cloudflare zone."""
    return _id(
        text,
        "the id of a record",
        id="record-id-invalid",
        example="372e67954025e0ba6aaa6d586b9e0b59",
        fix="scripts/adopt.py --stack STACK lists the records with their ids, and writes them itself",
    )


def _id(text: str, what: str, *, id: str, example: str, fix: str) -> str:  # noqa: A002  (a finding's field)
    value = text.strip().lower()
    if not _ID.fullmatch(value):
        expected = f'32 hexadecimal digits such as "{example}"'
        raise Invalid(f"{shown(text)} is not {what}", id=id, expected=expected, fix=fix)
    return value


def api_token(text: str) -> str:
    """A Cloudflare API token by its form; the value is never repeated."""
    value = text.strip()
    if not _API_TOKEN.fullmatch(value):
        raise Invalid(
            f"the value ({len(value)} characters) does not have the form of an API token",
            id="api-token-invalid",
            expected="40 to 80 letters, digits, '-' and '_' (an API token, not the Global API Key)",
            fix="make one under My Profile > API Tokens and store it again with `pulumi config set --secret`",
        )
    return value


def host_key(text: str) -> str:
    """An SSH host key line, `ssh-ed25519 AAAA...`, without comment."""
    words = text.split()
    kind = words[0] if words else ""
    if kind in {"ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"}:
        raise _not_a_host_key(
            "it is an RSA key",
            "the SSH client behind Pulumi would then ask for ssh-rsa with SHA-1, which OpenSSH 8.8 and later "
            "refuse: no connection would ever succeed",
        )
    if kind != "ssh-ed25519" or len(words) < 2:  # noqa: PLR2004  (kind and key)
        raise _not_a_host_key(f"it does not start with ssh-ed25519 and a key, but with {shown(kind[:24])}")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except binascii.Error:
        blob = b""
    # RFC 8709 section 4: string "ssh-ed25519", string of 32 octets
    prefix = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"
    if not blob.startswith(prefix) or len(blob) != len(prefix) + 32:
        raise _not_a_host_key("the key after ssh-ed25519 is damaged or cut")
    return f"{kind} {words[1]}"


def _not_a_host_key(because: str, why: str = "") -> Invalid:
    return Invalid(
        f"not an ed25519 host key: {because}",
        id="host-key-invalid",
        expected="one line such as ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI...",
        why=why or "no secret is sent over a connection whose other end is not proven",
        fix=f"`{PIN}` writes it; or copy two words of /etc/ssh/ssh_host_ed25519_key.pub from the host's console",
    )
