"""chasquid's aliases file (docs/aliases.md, internal/aliases): its atoms, its lines for a domain, where mail ends.

An invalid line is fatal to chasquid at its next reload, so everything is judged here before it is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from standards import limits, names
from standards.finding import Invalid

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from components.settings import DomainSettings, Settings

CATCH_ALL: Final = "*"
ROLES: Final = ("postmaster", "abuse")  # RFC 5321 section 4.5.1, RFC 2142 section 4
_ALIAS: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*(\+[a-z0-9._-]+)?")

Lines = dict[str, tuple[str, ...]]


def alias_name(text: str) -> str:
    """The left side of a line: a local part in lower case, or `*` for everybody else."""
    name = text.strip().lower()
    if name == CATCH_ALL:
        return name
    if not _ALIAS.fullmatch(name) or len(name) > limits.LOCAL_PART:
        raise Invalid(
            f"{names.shown(text)} cannot be aliased",
            id="alias-name-invalid",
            expected="the part before the @: letters, digits, '.', '_', '-', perhaps a suffix after '+', "
            'such as sales, first.last or sales+news; or "*" for all other mail',
            why="spaces, ':', ',' and '@' make the line unreadable, and then the mail server does not start",
            fix="write only the part before the @; the domain is the one it is listed in",
        )
    return name


def target(text: str) -> str:
    """One destination in canonical spelling: an address, a user of this domain, each perhaps `via` hosts."""
    value = text.strip()
    if value.startswith("|"):
        raise _not_a_target(text, "it runs a program", "pipes are not supported: forward to an address")
    if "," in value:
        raise _not_a_target(text, "it has a comma", "write one destination an item: [a@example.com, b@example.com]")
    address, via, servers = value.partition(" via ")
    canonical = _destination(text, address)
    if not via:
        return canonical
    try:
        hosts = [names.fqdn(server) for server in servers.split("/")]
    except Invalid as error:
        raise _not_a_target(text, error.found, "write it as user@example.com via mx1.example.com") from error
    return f"{canonical} via {'/'.join(hosts)}"


def _destination(text: str, address: str) -> str:
    value = address.strip().lower()
    if value == CATCH_ALL:
        return value
    try:
        return names.email_address(value) if "@" in value else alias_name(value)
    except Invalid as error:
        raise _not_a_target(text, error.found, "write a full address, or a user of this domain") from error


def _not_a_target(text: str, because: str, fix: str) -> Invalid:
    return Invalid(
        f"{names.shown(text)} is not a destination for mail: {because}",
        id="alias-target-invalid",
        expected="an address such as someone@gmail.com or a user of this domain",
        why="an unreadable line stops the mail server",
        fix=fix,
    )


def lines(domain: DomainSettings, fallback: str) -> Lines:
    """The whole aliases file of a domain as name -> destinations.

    `fallback` receives postmaster@ and abuse@ when no user of the domain has a destination.
    """
    if domain.mail == "external":
        # Mailboxes are elsewhere. A user who only logs in here would win over the catch-all, so each is named.
        elsewhere = (f"* via {'/'.join(domain.mx)}",)
        return {**{user.name: elsewhere for user in domain.users}, CATCH_ALL: elsewhere}
    if domain.mail == "none":
        return {}
    found: Lines = dict(domain.aliases)
    taken = {without_dots(name) for name in found}
    if CATCH_ALL in found:
        # chasquid lets a user without an alias win over "*" and would try to deliver to a mailbox.
        missing = [user.name for user in domain.users if without_dots(user.name) not in taken]
        return {**dict.fromkeys(missing, found[CATCH_ALL]), **found}
    reachable = [user.name for user in domain.users if without_dots(user.name) in taken]
    for role in ROLES:
        if role not in taken:
            found[role] = (reachable[0],) if reachable else (fallback,)
    return found


def render(file: Mapping[str, Iterable[str]]) -> str:
    """The text of the file, sorted, the catch-all last."""
    order = sorted(file, key=lambda name: (name == CATCH_ALL, name))
    return "".join(f"{name}: {', '.join(file[name])}\n" for name in order)


def without_dots(name: str) -> str:
    """A local part as chasquid looks it up: dots before a suffix do not count (`drop_characters`)."""
    user, plus, suffix = name.partition("+")
    return f"{user.replace('.', '')}{plus}{suffix}"


def longest_sender(name: str) -> int:
    """Octets of the longest sender whose mail to `name` can be forwarded (chasquid: internal/queue rewriteSender).

    Its address, with `=` for `@`, follows the alias in the local part of the new envelope sender.
    """
    return limits.LOCAL_PART - len(f"{name}+fwd_from=")


EndKind = Literal["elsewhere", "mailbox", "nobody", "loop", "too deep"]


@dataclass(frozen=True)
class End:
    """Where mail ends: at another server, at a mailbox or name we do not have, or never."""

    kind: EndKind
    address: str


@dataclass
class Book:
    """The aliases of all domains we serve, asked the way chasquid's resolver asks (`Resolver.resolve`)."""

    files: Mapping[str, Mapping[str, Collection[str]]]
    users: Collection[str]
    silent: Collection[str] = ()  # our domains that receive nothing
    _table: dict[str, tuple[str, ...]] = field(init=False)
    _known: dict[str, tuple[frozenset[End], int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._table = {
            f"{without_dots(name)}@{domain}": tuple(targets)
            for domain, file in self.files.items()
            for name, targets in file.items()
        }

    def ends(self, address: str) -> frozenset[End]:
        """All places a message to `address` reaches."""
        ends, steps = self._walk(address.lower(), ())
        # The resolver counts the address itself as its first level.
        return ends if steps < limits.ALIAS_DEPTH else ends | {End("too deep", address)}

    def _walk(self, address: str, path: tuple[str, ...]) -> tuple[frozenset[End], int]:
        if address in path:
            return frozenset({End("loop", address)}), 0
        if address in self._known:
            return self._known[address]
        onward = self._onward(address)
        if isinstance(onward, End):
            return frozenset({onward}), 0
        ends: frozenset[End] = frozenset()
        steps = 0
        for next_address, handed_over in onward:
            if handed_over:
                ends |= {End("elsewhere", next_address)}
                continue
            found, deeper = self._walk(next_address, (*path, address))
            ends |= found
            steps = max(steps, deeper + 1)
        if not any(end.kind == "loop" for end in ends):  # what a loop shows depends on where it was entered
            self._known[address] = ends, steps
        return ends, steps

    def passes(self, address: str) -> set[str]:
        """Every address a message to `address` comes by, itself included, without dots and unused suffixes."""
        seen: set[str] = set()
        waiting = [address]
        while waiting:
            current = waiting.pop()
            if (name := self._name(current)) not in seen:
                seen.add(name)
                onward = self._onward(current)
                waiting += [] if isinstance(onward, End) else [text for text, handed_over in onward if not handed_over]
        return seen

    def _onward(self, address: str) -> End | list[tuple[str, bool]]:
        """The end at `address`, or the next addresses, each with whether named servers get it (`via`)."""
        local, _, domain = address.rpartition("@")
        if domain not in self.files:
            return End("nobody" if domain in self.silent else "elsewhere", address)
        targets = self._table.get(self._name(address))
        if targets is None and address in self.users:
            return End("mailbox", address)
        onward = []
        for text in targets or self._table.get(f"{CATCH_ALL}@{domain}", ()):
            destination, via, _servers = text.partition(" via ")
            user, _, elsewhere = destination.partition("@")
            onward.append((f"{local if user == CATCH_ALL else user}@{elsewhere or domain}", bool(via)))
        return onward or End("nobody", address)

    def _name(self, address: str) -> str:
        """`address` as the table has it: with its suffix only where that has a line of its own."""
        local, _, domain = address.rpartition("@")
        exact = f"{without_dots(local)}@{domain}"
        return exact if exact in self._table else names.canonical_address(address)


def book(settings: Settings) -> Book:
    """The book of a whole stack."""
    return book_of(settings.domains, settings.acme.email)


def book_of(domains: Iterable[DomainSettings], fallback: str) -> Book:
    """The book of these domains; `fallback` as in `lines`."""
    every = list(domains)
    served = [domain for domain in every if domain.mail != "none"]
    return Book(
        files={domain.name: lines(domain, fallback) for domain in served},
        users={f"{user.name}@{domain.name}" for domain in served for user in domain.users},
        silent={domain.name for domain in every if domain.mail == "none"},
    )
