"""The rules between settings: what each part allows alone but not together, and what deserves a warning.

Each rule is one function that yields findings; forms of single values are judged in standards/.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from components import settings_explain
from standards import acme, aliases, dkim, limits, names, passwords, spf
from standards.finding import Finding
from standards.records import domain_spf, sending_addresses, zone_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from components.settings import (
        AcmeSettings,
        CloudflareSettings,
        DomainSettings,
        HostSettings,
        LimitSettings,
        Options,
        Settings,
        UserSettings,
    )

_SENDER_ROOM: Final = 30  # most people's addresses are shorter
_STACK_MAX: Final = 60  # of the 100 characters of a record's comment, the rest tells its reason


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What of the settings could be read, each list item with its path; None for what could not.

    `listed` holds the names of all domains and `accounts` the addresses of all passwords, also of those that
    could not be read; None where not even that is known.
    """

    stack: str
    hosts: Sequence[tuple[str, HostSettings]]
    domains: Sequence[tuple[str, DomainSettings]]
    acme: AcmeSettings | None
    cloudflare: CloudflareSettings | None
    options: Options | None
    accounts: Collection[str] | None
    listed: Collection[str] | None


def errors(parts: Parts) -> list[Finding]:
    """Everything that makes the parts unusable together."""
    found = [*_stack_name(parts), *_tokens(parts), *_challenges(parts), *_duplicates(parts)]
    for path, host in parts.hosts:
        found += _host(path, host, parts)
    for path, domain in parts.domains:
        found += _domain(path, domain, parts)
    return [*found, *_passwords(parts), *_imported_keys(parts), *_all_limits(parts), *_mail_that_goes_nowhere(parts)]


def warnings(settings: Settings) -> list[Finding]:
    """What works but is rarely meant."""
    found: list[Finding] = [*_gate_warning(settings), *_unused_access(settings), *_example_keys(settings)]
    for position, domain in enumerate(settings.domains):
        found += _domain_warnings(f"mailroom:domains[{position}]", domain, settings)
    found += [
        _warning(
            _password_path(address),
            "password-short",
            f"the password has fewer than {passwords.SHORT} characters",
            "a long random one",
            why="port 465 and 587 are open to everybody who guesses",
            fix="make one with `openssl rand -base64 24`",
        )
        for address, password in settings.passwords.items()
        if len(password.get_secret_value()) < passwords.SHORT
    ]
    return found


def _example_keys(settings: Settings) -> Iterator[Finding]:
    for position, host in enumerate(settings.hosts):
        if host.host_key == names.EXAMPLE_HOST_KEY:
            pin = names.PIN.replace("ADDRESS", host.ipv4 or host.ipv6 or "ADDRESS")
            yield _warning(
                f"mailroom:hosts[{position}].hostKey",
                "host-key-example",
                "it is the key of the shipped example, which no host has",
                f"the key of {host.name}",
                why="`pulumi up` sends secrets to the machine with that key alone, so it will stop",
                fix=f"`{pin}` writes the host's own",
            )


def _gate_warning(settings: Settings) -> Iterator[Finding]:
    if not settings.gate:
        yield _warning(
            "mailroom:gate",
            "gate-off",
            "off: forged mail from outside is forwarded in your name",
            "on, which is what you get without the key",
            why="receivers such as Gmail count it against your address",
            fix="take the key out",
        )


def _error(subject: str, identifier: str, found: str, expected: str, *, fix: str, why: str = "") -> Finding:
    return _say("error", subject, identifier, found, expected, fix, why)


def _warning(subject: str, identifier: str, found: str, expected: str, *, fix: str, why: str = "") -> Finding:
    return _say("warning", subject, identifier, found, expected, fix, why)


def _say(
    severity: Literal["error", "warning"],
    subject: str,
    identifier: str,
    found: str,
    expected: str,
    fix: str,
    why: str,
) -> Finding:
    return Finding(severity=severity, id=identifier, subject=subject, expected=expected, found=found, why=why, fix=fix)


def _stack_name(parts: Parts) -> Iterator[Finding]:
    if len(parts.stack) > _STACK_MAX:
        yield _error(
            "stack",
            "stack-name-long",
            f"{names.shown(parts.stack)} has {len(parts.stack)} characters",
            f"a stack name of at most {_STACK_MAX}, such as prod",
            why="each DNS record of ours carries it in its comment",
            fix="rename the stack with `pulumi stack rename`",
        )


def _tokens(parts: Parts) -> Iterator[Finding]:
    if parts.acme and parts.cloudflare and parts.cloudflare.api_token in parts.acme.ini.values():
        yield _error(
            "mailroom:acme.token" if parts.acme.token else "mailroom:acme.credentials",
            "acme-token-shared",
            "it is the same token as cloudflare:apiToken",
            "a token of its own, restricted to DNS of the zones that need certificates",
            why="this token lies on the host; a stolen host must not own the zones",
            fix="make a second token under My Profile > API Tokens and store it with --secret",
        )


def _challenges(parts: Parts) -> Iterator[Finding]:
    """How the host answers the CA: the plugin, what it needs to log in, and the zone of its own for challenges."""
    wishes = parts.acme
    if wishes is None:
        return
    if wishes.dns == acme.CLOUDFLARE:
        if wishes.token is None:
            yield _missing_secret("token")
        if wishes.credentials:
            yield _not_with("credentials", wishes.dns, "token")
    else:
        if wishes.token is not None:
            yield _not_with("token", wishes.dns, "credentials")
        yield from _credentials(wishes)
    if wishes.challenge_zone is None:
        return
    if wishes.dns not in acme.WRITERS:
        yield _error(
            "mailroom:acme.challengeZone",
            "challenge-zone-plugin",
            f"`dns: {wishes.dns}`",
            "cloudflare or rfc2136 as `dns`, the ways our own hook writes into a zone for challenges",
            why="certbot's plugins do not follow a CNAME record",
            fix="take challengeZone out, or keep the zone for challenges at one of the two",
        )
    names_of = [*((path, host.name) for path, host in parts.hosts)]
    names_of += [(path, domain.name) for path, domain in parts.domains if domain.certificate]
    for path, name in names_of:
        if not acme.fits(name, wishes.challenge_zone):
            yield _error(
                f"{path}.name",
                "challenge-name-long",
                f"{acme.challenge_target(name, wishes.challenge_zone)} is longer than {limits.DOMAIN} characters",
                "a name for its challenge that DNS can have",
                fix="choose a shorter challengeZone",
            )


def _missing_secret(key: str) -> Finding:
    path = f"mailroom:acme.{key}"
    store = f"store it with `pulumi config set --secret --path '{path}'`"
    return _error(
        path, settings_explain.MISSING, "it is missing", f"a secret, stored with `--secret`: {key}", fix=store
    )


def _not_with(key: str, dns: str, instead: str) -> Finding:
    return _error(
        f"mailroom:acme.{key}",
        "acme-secret-unused",
        f"it stands beside `dns: {dns}`, which does not read it",
        f"{instead} with `dns: {dns}`",
        fix=f"take {key} out, or choose another `dns`",
    )


def _credentials(wishes: AcmeSettings) -> Iterator[Finding]:
    start = acme.prefix(wishes.dns)
    plain = {key: value.get_secret_value() for key, value in wishes.credentials.items()}
    if not plain and wishes.dns != acme.RFC2136:
        yield _missing_secret(f"credentials.{start}...")
    for key in acme.missing_keys(wishes.dns, plain):
        yield _missing_secret(f"credentials.{key}")
    for key in plain:
        if not key.startswith(start) or not key.replace("_", "").isalnum():
            yield _error(
                f"mailroom:acme.credentials.{key}",
                "acme-credential-unknown",
                f"the plugin {wishes.dns} reads no key {names.shown(key)}",
                f"keys that begin with {start}, as the plugin's documentation names them",
                fix="correct the key, or `dns`",
            )
    for key, expected in acme.rfc2136_problems(plain):
        yield _error(
            f"mailroom:acme.credentials.{key}",
            "acme-credential-invalid",
            "the value has another form (it is not shown here)",
            expected,
            fix=f"store it again with `pulumi config set --secret --path mailroom:acme.credentials.{key}`",
        )


def _hooks(path: str, domain: DomainSettings) -> Iterator[Finding]:
    if domain.reload_hooks and domain.certificate is None:
        yield _error(
            f"{path}.reloadHooks",
            "reload-hooks-without-certificate",
            f"{domain.name} has no certificate of its own",
            "`certificate: wildcard` beside reloadHooks",
            why="a domain without one is served with the host's certificate",
            fix="add `certificate: wildcard`, or move the commands to reloadHooks of the host",
        )


def _duplicates(parts: Parts) -> Iterator[Finding]:
    values = [
        *((f"{path}.name", host.name) for path, host in parts.hosts),
        *((f"{path}.ipv4", host.ipv4) for path, host in parts.hosts if host.ipv4),
        *((f"{path}.ipv6", host.ipv6) for path, host in parts.hosts if host.ipv6),
    ]
    yield from _repeated(values)
    yield from _repeated([(f"{path}.name", domain.name) for path, domain in parts.domains])
    for path, domain in parts.domains:
        yield from _repeated([(f"{path}.users[{n}]", user.name) for n, user in enumerate(domain.users)])
        keys = [(f"{path}.dkim[{n}].selector", key.selector) for n, key in enumerate(domain.dkim)]
        yield from _repeated(keys)
        yield from _same_without_dots(f"{path}.users", [user.name for user in domain.users])
        yield from _same_without_dots(f"{path}.aliases", domain.aliases)


def _repeated(values: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    count = Counter(value for _, value in values)
    first = {value: path for path, value in reversed(values)}
    for path, value in values:
        if count[value] > 1 and first[value] != path:
            yield _error(
                path,
                "setting-repeated",
                f"{names.shown(value)} already stands at {first[value]}",
                "each only once",
                fix="take one of the two out, or correct it",
            )


def _same_without_dots(path: str, local_parts: Iterable[str]) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name in local_parts:
        other = seen.setdefault(aliases.without_dots(name), name)
        if other != name:
            yield _error(
                path,
                "address-repeated",
                f"{names.shown(name)} and {names.shown(other)} are the same address",
                "names that differ in more than dots",
                why="the mail server ignores dots, so one would get the mail, and the name, of the other",
                fix="put both under one of the two names",
            )


def _host(path: str, host: HostSettings, parts: Parts) -> Iterator[Finding]:
    if not any(sending_addresses([host])):
        yield _error(
            f"{path}.ipv4",
            "host-without-address",
            "the host has no address to send from"
            + (" (ipv6Outbound is off, so its IPv6 address does not count)" if host.ipv6 else ""),
            "ipv4, ipv6 or both, such as `ipv4: 192.0.2.10`",
            fix="write the address that your provider shows",
        )
    yield from _network(f"{path}.network", host)
    inside = parts.listed is None or any(f".{host.name}".endswith(f".{name}") for name in parts.listed)
    if not inside and zone_of(host, ()) is None:
        yield _error(
            f"{path}.zoneId",
            "host-without-zone",
            f"it is missing, and {host.name} is in none of the listed domains",
            'the id of the zone that holds this name, such as "0123456789abcdef0123456789abcdef"',
            why="the host's addresses are published there",
            fix="add zoneId to the host, or choose a host name inside a listed domain",
        )
    yield from _reverse_dns(path, host, parts)
    for where, domain in parts.domains:
        if domain.name == host.name and domain.mail == "none":
            yield _error(
                f"{where}.mail",
                "host-name-silent",
                f"{domain.name} is also the name of a host, which sends bounces with it",
                "forward or external, or no entry for this name at all",
                fix="take the domain out, or give the host another name",
            )


_ACCESS_EXAMPLES: Final = {
    "contabo": "{clientId: INT-12345678, clientSecret: {secure: ...}, apiUser: ..., apiPassword: {secure: ...}}",
    "hetzner": "{token: {secure: ...}}",
}


def _reverse_dns(path: str, host: HostSettings, parts: Parts) -> Iterator[Finding]:
    provider = host.reverse_dns.provider
    if provider != "manual" and parts.options and getattr(parts.options, provider) is None:
        last = {"contabo": "apiPassword", "hetzner": "token"}[provider]
        yield _error(
            f"{path}.reverseDns.provider",
            "reverse-dns-without-access",
            f"{provider}, but mailroom:{provider} is missing",
            f"mailroom:{provider}, such as {_ACCESS_EXAMPLES[provider]}",
            why="its API sets the PTR records for the account's owner alone",
            fix=f"store each secret with `pulumi config set --secret --path mailroom:{provider}.{last}`, "
            "or write `provider: manual` and set the PTR yourself",
        )


def _unused_access(settings: Settings) -> Iterator[Finding]:
    used = {host.reverse_dns.provider for host in settings.hosts}
    for provider in _ACCESS_EXAMPLES:
        if getattr(settings, provider) is not None and provider not in used:
            yield _warning(
                f"mailroom:{provider}",
                "reverse-dns-access-unused",
                f"no host has `reverseDns: {{provider: {provider}}}`",
                "access for the providers that set reverse DNS, and for no other",
                why="a secret that nothing needs can only be stolen",
                fix=f"write `reverseDns: {{provider: {provider}}}` at the host, or take mailroom:{provider} out",
            )


def _network(path: str, host: HostSettings) -> Iterator[Finding]:
    network = host.network
    if network.is_set and host.ipv6 is None:
        yield _error(
            f"{path}.{'ipv6' if network.ipv6 else 'addresses'}",
            "network-without-ipv6",
            "the host has no `ipv6`",
            "the address that mail leaves from, such as `ipv6: 2001:db8::10` beside `network`",
            why="it is the one that AAAA, SPF and PTR name",
            fix="write the address that your provider shows as `ipv6` of this host",
        )
    if network.echo and not network.ipv6:
        yield _error(
            f"{path}.echo",
            "echo-unused",
            "it is asked when `network.ipv6` changes, which is missing",
            "no echo, or `ipv6: {prefix: 64, gateway: fe80::1}` beside it",
            fix="take echo out, or add ipv6 beside it",
        )
    if network.ipv6 and network.ipv6.gateway == host.ipv6:
        yield _error(
            f"{path}.ipv6.gateway",
            "gateway-is-host",
            f"{network.ipv6.gateway} is the host's own address",
            "the router's address, often fe80::1",
            fix="copy the gateway that your provider shows",
        )
    for index, address in enumerate(network.addresses):
        if address in {host.ipv6, *network.addresses[:index]}:
            yield _error(
                f"{path}.addresses[{index}]",
                "setting-repeated",
                f"{names.shown(address)} already stands there, or as `ipv6` of this host",
                "further addresses, each only once",
                fix="take it out",
            )


def _domain(path: str, domain: DomainSettings, parts: Parts) -> Iterator[Finding]:
    yield from _external(path, domain, parts)
    yield from _hooks(path, domain)
    if domain.mail == "none":
        yield from _silent(path, domain)
        return
    yield from spf.review(domain_spf(domain), f"{path}.spf")
    if not any(key.stage == "active" for key in domain.dkim):
        yield _error(
            f"{path}.dkim",
            "dkim-not-active",
            "no key is active" if domain.dkim else "the list is empty",
            'at least one active key, such as [{selector: "m1", stage: active}]',
            why="mail would leave unsigned and fail DMARC when it is forwarded",
            fix=f"set one selector to active; the stages are {', '.join(dkim.STAGES)}",
        )
    for index, key in enumerate(domain.dkim):
        if len(name := dkim.record_name(key.selector, domain.name)) > limits.DOMAIN:
            yield _error(
                f"{path}.dkim[{index}].selector",
                "dkim-name-long",
                f"the record's name would have {len(name)} characters",
                f"at most {limits.DOMAIN}",
                fix="choose a shorter selector",
            )
    yield from _catch_all(path, domain, parts)
    for index, user in enumerate(domain.users):
        for position, identity in enumerate(user.identities):
            yield from _identity(f"{path}.users[{index}].identities[{position}]", identity, parts)


def _catch_all(path: str, domain: DomainSettings, parts: Parts) -> Iterator[Finding]:
    if aliases.CATCH_ALL in domain.aliases and parts.options and not parts.options.gate:
        yield _error(
            _alias_path(path, aliases.CATCH_ALL),
            "catch-all-without-gate",
            "it takes mail for every name there is, and mailroom:gate is off",
            "a catch-all with the gate on, or no catch-all",
            why="spam to guessed names would be forwarded in this domain's name, which receivers remember",
            fix="take mailroom:gate out (it is on then), or name the addresses that are really used",
        )


def _identity(path: str, identity: str, parts: Parts) -> Iterator[Finding]:
    domain_name = identity.rpartition("@")[2]
    silent = any(domain.name == domain_name and domain.mail == "none" for _, domain in parts.domains)
    if silent or (parts.listed is not None and domain_name not in parts.listed):
        yield _error(
            path,
            "identity-elsewhere",
            f"{domain_name} {'sends no mail (`mail: none`)' if silent else 'is not a listed domain'}",
            "addresses of domains under mailroom:domains that send",
            why="SPF and DKIM vouch for the listed domains alone: receivers would take the mail for forged",
            fix=f"{'set its mail to forward or external' if silent else f'list {domain_name} as a domain of its own'}, "
            "or take the address out",
        )


def _external(path: str, domain: DomainSettings, parts: Parts) -> Iterator[Finding]:
    if domain.mail != "external":
        if domain.mx:
            yield _error(
                f"{path}.mx",
                "mx-unused",
                f"mx belongs to `mail: external`, but mail is {domain.mail}",
                "no mx, or `mail: external`",
                fix="take mx out, or set `mail: external` if the mailboxes are elsewhere",
            )
        return
    if not domain.mx:
        yield _error(
            f"{path}.mx",
            "mx-missing",
            "it is missing",
            "the hosts that receive this domain's mail, such as [mx.example.net]",
            why="mail of our own users to this domain must be handed to them",
            fix="copy the host names of the zone's MX records",
        )
    ours = {host.name for _, host in parts.hosts}
    for index, host in enumerate(domain.mx):
        if host in ours:
            yield _error(
                f"{path}.mx[{index}]",
                "mx-is-ours",
                f"{host} is our own host",
                "a host that is not in mailroom:hosts",
                why="mail would go round in circles",
                fix="set `mail: forward` if our host receives this domain's mail",
            )
    if domain.aliases:
        yield _error(
            f"{path}.aliases",
            "aliases-unused",
            "mail of this domain is received elsewhere",
            "no aliases, or `mail: forward`",
            fix="set up the aliases where the mailboxes are",
        )


def _silent(path: str, domain: DomainSettings) -> Iterator[Finding]:
    given = {"users": domain.users, "aliases": domain.aliases, "dkim": domain.dkim}
    if "spf" in domain.model_fields_set:
        given["spf"] = (domain.spf,)
    for key, value in given.items():
        if value:
            yield _error(
                f"{path}.{key}",
                "silent-domain",
                f"`mail: none` says that {domain.name} neither sends nor receives",
                f"no {key}, or another value for mail",
                fix=f"take {key} out, or set `mail: forward`",
            )
    if domain.dmarc.policy != "reject":
        yield _error(
            f"{path}.dmarc.policy",
            "silent-domain-policy",
            f"{domain.dmarc.policy} for a domain that never sends",
            "reject, or no policy (reject is what you get)",
            fix="take policy out",
        )


def _password_path(address: str) -> str:
    return f'mailroom:passwords["{address}"]'


def _passwords(parts: Parts) -> Iterator[Finding]:
    if parts.accounts is None or parts.listed is None:
        return
    addresses: set[str] = set()
    for path, domain in parts.domains:
        for position, user in enumerate(domain.users):
            # One that only receives may keep its password for later.
            addresses |= {f"{user.name}@{domain.name}", *user.logins(domain.name)}
            for address in user.logins(domain.name):
                if address not in parts.accounts and domain.mail != "none":
                    yield _error(
                        f"{path}.users[{position}]",
                        "password-missing",
                        f"{address} has no password",
                        f"an entry {address} in mailroom:passwords",
                        fix=("" if address == f"{user.name}@{domain.name}" else f"{passwords.MAKE_TOKEN}, then ")
                        + f"`pulumi config set --secret --path 'mailroom:passwords[\"{address}\"]'`",
                    )
            yield from _tokens_of(f"{path}.users[{position}]", user, domain.name, parts)
    readable = {domain.name for _, domain in parts.domains}
    for address in parts.accounts:
        domain_name = address.rpartition("@")[2]
        if address in addresses or (domain_name in parts.listed and domain_name not in readable):
            continue
        yield _nobody(address, listed=domain_name in readable)


def _tokens_of(path: str, user: UserSettings, domain: str, parts: Parts) -> Iterator[Finding]:
    yield from _repeated([(f"{path}.tokens[{n}]", token) for n, token in enumerate(user.tokens)])
    if user.tokens and not user.send:
        yield _error(
            f"{path}.tokens",
            "tokens-unused",
            f"{user.name} only receives (`send: off`)",
            "no tokens, or a user that may send",
            fix="take tokens or `send: off` out",
        )
    stored = parts.options.passwords if parts.options else {}
    for address in user.logins(domain)[1:]:
        secret = stored[address].get_secret_value() if address in stored else ""
        if secret and not passwords.is_hash(secret) and not passwords.is_token(secret):
            yield _error(
                _password_path(address),
                "token-made-by-hand",
                "it is not a generated token",
                "a token or its hash, as scripts/hash_password.py makes them",
                why="a token is checked cheaply, so only one that nobody can guess is safe",
                fix=f"{passwords.MAKE_TOKEN} and store what it prints",
            )


def _nobody(address: str, *, listed: bool) -> Finding:
    user, _, domain = address.rpartition("@")
    found = f"{domain} has no user {names.shown(user)}" if listed else f"{domain} is not a listed domain"
    return _error(
        _password_path(address),
        "password-of-nobody",
        found,
        "only addresses of users under mailroom:domains",
        why="the account would not exist, and its owner would not know why",
        fix=f"add {user} to the users of {domain}, or take the password out",
    )


def _imported_keys(parts: Parts) -> Iterator[Finding]:
    if parts.options is None or parts.listed is None or len(parts.domains) != len(parts.listed):
        return
    named = {dkim.record_name(key.selector, domain.name) for _, domain in parts.domains for key in domain.dkim}
    for name in parts.options.dkim_keys:
        if name not in named:
            selector, _, domain_name = name.partition("._domainkey.")
            listed = domain_name in parts.listed
            yield _error(
                f'mailroom:dkimKeys["{name}"]',
                "dkim-key-of-nobody",
                f"{domain_name} has no selector {selector}" if listed else f"{domain_name} is not a listed domain",
                "names of keys that stand under dkim of a listed domain",
                why="the key would sign nothing, and its owner would not know why",
                fix=f'add {{selector: "{selector}", stage: published}} to the dkim of {domain_name}, or take '
                "the key out",
            )


def _signed_for_few(path: str, domain: DomainSettings, settings: Settings) -> Iterator[Finding]:
    active = [dkim.record_name(key.selector, domain.name) for key in domain.dkim if key.stage == "active"]
    ready = [settings.dkim_keys.get(name) for name in active]
    if all(key and dkim.public_half(key.get_secret_value())[0] == "ed25519" for key in ready):
        yield _warning(
            f"{path}.dkim",
            "dkim-ed25519-alone",
            "every active key is Ed25519",
            "an RSA key beside it",
            why="many receivers, Microsoft among them, do not verify Ed25519 and take the mail for unsigned",
            fix="add a selector without an imported key: it gets an RSA one",
        )


_ENDS: Final = {
    "loop": "the aliases lead back to {address}",
    "too deep": f"more than {limits.ALIAS_DEPTH - 1} aliases in a row",
    "nobody": "{address} is neither a user nor an alias",
}


def _mail_that_goes_nowhere(parts: Parts) -> Iterator[Finding]:
    if parts.acme is None or parts.listed is None or len(parts.domains) != len(parts.listed):
        return  # an alias may lead to a domain that could not be read
    book = aliases.book_of([domain for _, domain in parts.domains], parts.acme.email)
    found = {  # by their names in the book, catch-alls first: what they lose, many names lose
        f"{aliases.without_dots(name)}@{domain.name}": (_alias_path(path, name), name)
        for path, domain in parts.domains
        if domain.mail == "forward"
        for name in sorted(domain.aliases, key=lambda name: name != aliases.CATCH_ALL)
    }
    loops: set[str] = set()
    for address, (path, name) in found.items():
        for end in sorted(book.ends(address), key=lambda end: (end.kind, end.address)):
            if end.kind not in _ENDS or _told_elsewhere(address, end, book, found):
                continue
            if end.kind == "loop":
                if loops & book.passes(address):
                    continue
                loops.add(end.address)
            yield _error(
                path,
                "alias-leads-nowhere",
                _ENDS[end.kind].format(address=end.address),
                "destinations that end at an address elsewhere, such as someone@gmail.com",
                why=f"mail to {address} would be lost or bounce",
                fix=f"give {name} an address outside these domains in aliases",
            )
    for path, domain in parts.domains:
        yield from _users_without_destination(path, domain, book)


def _told_elsewhere(address: str, end: aliases.End, book: aliases.Book, listed: Collection[str]) -> bool:
    """Whether an alias further on has the same end, or a catch-all hands over names that are not all known there."""
    if end.kind == "nobody" and address.startswith("*@"):
        return True
    return any(end in book.ends(other) for other in book.passes(address) if other != address and other in listed)


def _users_without_destination(path: str, domain: DomainSettings, book: aliases.Book) -> Iterator[Finding]:
    for position, user in enumerate(domain.users):
        address = f"{user.name}@{domain.name}"
        if aliases.End("mailbox", address) in book.ends(address):
            yield _error(
                f"{path}.users[{position}]",
                "user-without-destination",
                f"mail to {address} has no destination",
                f"an alias such as `{user.name}: [someone@gmail.com]`",
                why="answers would be accepted and then bounce, with forged senders at people who never wrote",
                fix=f"add {user.name} to the aliases of {domain.name}",
            )


def _alias_path(path: str, name: str) -> str:
    return settings_explain.below(f"{path}.aliases", name)


def _all_limits(parts: Parts) -> Iterator[Finding]:
    if parts.options is None:
        return
    yield from _limits("mailroom:limits", parts.options.limits_of())
    for path, domain in parts.domains:
        for position, user in enumerate(domain.users):
            yield from _limits(f"{path}.users[{position}].limits", parts.options.limits_of(user))


def _limits(path: str, effective: LimitSettings) -> Iterator[Finding]:
    """What never counts, because a wider limit stops the user before; such a limit was given, others yield."""
    fields = type(effective).model_fields
    for narrow, wide in effective.ORDER:
        most, wished = getattr(effective, wide), getattr(effective, narrow)
        if wished > most:
            yield _error(
                f"{path}.{fields[narrow].alias}",
                "limit-without-effect",
                f"{wished} is more than {fields[wide].alias} lets through, {most}",
                f"at most {most}",
                fix=f"write `{fields[narrow].alias}: {most}`, or raise {fields[wide].alias} as well",
            )


def _domain_warnings(path: str, domain: DomainSettings, settings: Settings) -> Iterator[Finding]:
    if domain.mail == "none":
        return
    book = aliases.book(settings)
    for position, user in enumerate(domain.users):
        hashed = [
            login
            for login in user.logins(domain.name)
            if user.export and passwords.is_hash(settings.passwords[login].get_secret_value())
        ]
        if hashed:
            yield _warning(
                f"{path}.users[{position}].export",
                "export-of-hash",
                f"the password of {', '.join(hashed)} is known as a hash only",
                "export for users whose password is stored in clear",
                fix="take export out, or store the password itself",
            )
    for role in aliases.ROLES if domain.mail == "forward" else ():
        if any(end.kind != "elsewhere" for end in book.ends(f"{role}@{domain.name}")):
            yield _warning(
                f"{path}.aliases",
                "role-without-destination",
                f"mail to {role}@{domain.name} arrives nowhere",
                f"an alias such as `{role}: [someone@gmail.com]`",
                why="every mail domain must have it (RFC 5321 section 4.5.1, RFC 2142); complaints go there",
                fix=f"add {role} to the aliases, or set mailroom:acme.email to an address outside these domains",
            )
    yield from _signed_for_few(path, domain, settings)
    yield from _policy_warnings(path, domain)
    yield from spf.weaknesses(domain_spf(domain), domain.name, f"{path}.spf", mx_elsewhere=domain.mail == "external")
    yield from _unread_reports(path, domain, book)
    yield from _long_aliases(path, domain)


def _policy_warnings(path: str, domain: DomainSettings) -> Iterator[Finding]:
    if domain.dmarc.policy == "none":
        yield _warning(
            f"{path}.dmarc.policy",
            "dmarc-none",
            "none: forged mail is only reported",
            "quarantine, then reject, once the reports show no sender you forgot",
            fix="read the reports for two weeks, then set `policy: quarantine`",
        )
    if domain.spf.all == "?all":
        yield _warning(
            f"{path}.spf.all",
            "spf-neutral",
            "?all says nothing about other senders",
            '"~all" or "-all"',
            fix='set "~all"',
        )


def _unread_reports(path: str, domain: DomainSettings, book: aliases.Book) -> Iterator[Finding]:
    for tag, addresses in (("rua", domain.dmarc.rua), ("ruf", domain.dmarc.ruf)):
        for position, address in enumerate(addresses):
            local, _, receiver = address.rpartition("@")
            if local in aliases.ROLES and receiver in book.files:
                continue  # told there
            if any(end.kind != "elsewhere" for end in book.ends(address)):
                yield _warning(
                    f"{path}.dmarc.{tag}[{position}]",
                    "report-address-unread",
                    f"nobody receives mail to {address}",
                    "an address with an alias, or one outside these domains",
                    why="the reports would be refused and lost",
                    fix=f"add {local} to the aliases of {receiver}"
                    if receiver in book.files
                    else f"{receiver} receives no mail (`mail: none`): write another address",
                )


def _long_aliases(path: str, domain: DomainSettings) -> Iterator[Finding]:
    if domain.mail != "forward":
        return  # others' mail is not forwarded
    for name in aliases.lines(domain, ""):
        room = aliases.longest_sender(name)
        if room < _SENDER_ROOM:
            yield _warning(
                _alias_path(path, name),
                "alias-long",
                f"only senders with addresses of up to {room} characters can write to {names.shown(name)}"
                if room > 0
                else f"nobody can write to {names.shown(name)}",
                f"a name of at most {aliases.longest_sender('') - _SENDER_ROOM} characters",
                why="forwarded mail has the alias and the sender's address together before the @, "
                f"where {limits.LOCAL_PART} characters are possible (RFC 5321 section 4.5.3.1.1); longer is refused",
                fix="give out a shorter name",
            )
