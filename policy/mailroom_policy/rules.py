"""The rules of the policy pack, pure functions: each tells which of these resources break it, as findings.

A rule reads new properties alone: no old state, no network. Secrets come in clear, so that messages are made of the
names of resources and DNS, of counts and of public records, and of nothing else.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from components.host import commands
from mailroom_policy.view import (
    ADDRESSES,
    COMMANDS,
    REMOTE,
    UNKNOWN,
    DnsRecord,
    Resource,
    host,
    may_add_an_address,
    payload,
    records,
)
from standards import dkim, dmarc, limits, names, spf, spf_tree
from standards.finding import Finding, Invalid, error_about
from standards.names import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ED25519_OCTETS: Final = 32  # RFC 8463 section 4
# What the step that logs reads: none of it is secret, so neither is what it prints.
PLAIN_INPUTS: Final = {"hostname", "drain_seconds"}
TIME_LIMIT: Final = re.compile(r"\btimeout [0-9]+ ")
DMARC: Final = dmarc.record_name("")
# Where an MX must not lead to: what it is, why not, what to do.
LITERAL: Final = ("an address", "senders look for a host of that name, and find none", "write the host's name")
PROXIED: Final = ("a proxied name", "Cloudflare's edge answers there and speaks no SMTP", "set `proxied` to false")
MISSING: Final = (
    "a name with neither A nor AAAA",
    "no sender finds a server there, and mail bounces",
    "name it in `mailroom:hosts`, or take the MX record out",
)

Broken = tuple[Resource, Finding]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """`find` gets one resource at a time with the scope `resource`, all of them with `stack`.

    A `mandatory` rule stops the run, another one warns.
    """

    name: str
    says: str
    scope: Literal["resource", "stack"]
    mandatory: bool
    find: Callable[[Sequence[Resource]], Iterator[Broken]]

    def judge(self, resources: Sequence[Resource], report: Callable[[str, str], None]) -> None:
        """Report each finding with the URN of its resource. An error of ours names no value: it may be a secret one."""
        try:
            for resource, finding in self.find(resources):
                report(str(finding).partition(": ")[2], resource.urn)
        except Exception as error:  # noqa: BLE001  (whatever it is)
            where = resources[0].name if len(resources) == 1 else f"{len(resources)} resources"
            raise RuntimeError(f"the rule {self.name} cannot judge {where}: {type(error).__name__}") from None


# --- DNS ----------------------------------------------------------------------------------------------------------


def one_spf(resources: Sequence[Resource]) -> Iterator[Broken]:
    """RFC 7208 section 4.5: more than one record at a name is a permanent error."""
    at: defaultdict[str, list[DnsRecord]] = defaultdict(list)
    for record in _spf_records(resources):
        at[record.name].append(record)
    for name, found in at.items():
        for record in found[1:]:
            yield (
                record.resource,
                error_about(
                    name,
                    "spf-twice",
                    expected="one SPF record at a name",
                    found=f"{len(found)} SPF records, of {', '.join(shown(one.resource.name) for one in found)}",
                    why="receivers answer with a permanent error, and SPF never passes",
                    fix="put what they allow into one record: `spf` of the domain has `mechanisms` and `includes`",
                ),
            )


def spf_within_limits(resources: Sequence[Resource]) -> Iterator[Broken]:
    """RFC 7208 section 4.6.4, counted through every include that is a record of this stack; an include that ends."""
    texts: defaultdict[str, list[str]] = defaultdict(list)
    ours = list(_spf_records(resources))
    for record in ours:
        texts[record.name].append(record.content)

    def known(name: str, kind: str) -> Sequence[str] | None:
        return texts.get(name) if kind == "TXT" else None  # what others publish is the gate's and the doctor's

    for record in ours:
        findings, _ = spf_tree.review(record.name, record.content, known)
        for finding in findings:
            if finding.id in {"spf-lookups", "spf-loop"}:
                yield record.resource, finding


def strong_dkim(resources: Sequence[Resource]) -> Iterator[Broken]:
    """RFC 8301 section 3.2 for RSA; RFC 8463 for Ed25519. A key taken back (empty `p=`) is none."""
    for record in records(resources):
        tags = dkim.tags(record.content)
        is_key = "p" in tags or tags.get("v") == "DKIM1"
        if record.type == "TXT" and "._domainkey." in f"{record.name}." and is_key and tags.get("p") != "":
            try:
                _judge_key(tags.get("k", "rsa"), dkim.published(record.content))
            except Invalid as refused:
                yield record.resource, refused.at(record.name)


def _judge_key(algorithm: str, key: str | None) -> None:
    if key is None:
        raise _no_dkim_key("the record has no tag p=", "receivers find no key in it")
    if algorithm == "rsa":
        if dkim.tags(dkim.key_record(key))["k"] != algorithm:
            raise _no_dkim_key("the tag k= says RSA, the key is another", "receivers read the key as what k= says")
        return
    try:
        octets = len(base64.b64decode(key, validate=True))
    except binascii.Error:
        octets = 0
    if algorithm != "ed25519" or octets != ED25519_OCTETS:
        raise _no_dkim_key("the key is neither RSA nor Ed25519", "receivers verify no other kind")


def _no_dkim_key(found: str, why: str) -> Invalid:
    return Invalid(
        found,
        id="dkim-key-invalid",
        expected=f"an RSA key of {limits.RSA_BITS_MIN} to {limits.RSA_BITS_MAX} bits, or Ed25519",
        why=why,
        fix="make a new key pair under a new selector",
    )


def reachable_mx(resources: Sequence[Resource]) -> Iterator[Broken]:
    """An MX leads to a name with an address of a server (RFC 5321 section 5.1), not to Cloudflare's edge.

    An address is missing at a name below a mail domain of this stack, and at any name that this stack writes other
    records of. Of other names, and of a domain itself, where its website is, others may keep it.
    """
    found = list(records(resources))
    domains = {
        record.name.removeprefix(DMARC) for record in found if record.type == "MX" or record.name.startswith(DMARC)
    }
    complete = not any(may_add_an_address(resource) for resource in resources)
    for record in found:
        host = record.content
        if record.type != "MX" or not host:  # unknown, or the null MX
            continue
        here = _answers(host, found)
        is_ours = here or any(host.endswith(f".{domain}") for domain in domains)
        if _is_address(host):
            yield record.resource, _unreachable(record, *LITERAL)
        elif any(other.proxied for other in here):
            yield record.resource, _unreachable(record, *PROXIED)
        elif is_ours and complete and host not in domains and not any(one.type in ADDRESSES for one in here):
            yield record.resource, _unreachable(record, *MISSING)


def _answers(name: str, found: Sequence[DnsRecord]) -> list[DnsRecord]:
    """What DNS answers with at a name: its own records, else those of a wildcard above (RFC 4592 section 2.2.1)."""
    labels = name.split(".")
    for owner in (name, *(".".join(["*", *labels[place:]]) for place in range(1, len(labels)))):
        if here := [record for record in found if record.name == owner]:
            return here
    return []


def _is_address(name: str) -> bool:
    try:
        return bool(names.ip_address(name))
    except Invalid:
        return False


def _unreachable(record: DnsRecord, what: str, why: str, fix: str) -> Finding:
    return error_about(
        record.name,
        "mx-unreachable",
        expected="an MX host with an A or AAAA record of its own, not proxied",
        found=f"MX {shown(record.content)} leads to {what}",
        why=why,
        fix=fix,
    )


def short_ttl(resources: Sequence[Resource]) -> Iterator[Broken]:
    """A run waits for the authoritative servers; what others still keep of an old value, only the TTL ends."""
    for record in records(resources):
        if record.ttl is not None and record.ttl > limits.ROTATION_TTL:
            yield (
                record.resource,
                error_about(
                    f"{record.type} {record.name}",
                    "ttl-long",
                    expected=f"a TTL of at most {limits.ROTATION_TTL} seconds, such as 300",
                    found=f"{record.ttl:.0f} seconds",
                    why="a run goes on once the name servers have a new value; others go on using the old one so long",
                    fix="shorten it, and let the old TTL pass before the next change of a key, a host or a certificate",
                ),
            )


def _spf_records(resources: Sequence[Resource]) -> Iterator[DnsRecord]:
    return (record for record in records(resources) if record.type == "TXT" and spf.is_record(record.content))


# --- certificates -------------------------------------------------------------------------------------------------


def announced_names_certified(resources: Sequence[Resource]) -> Iterator[Broken]:
    """What a host says of itself at EHLO, and every MX that leads to it, is in one of its certificates."""
    found = list(records(resources))
    for resource in resources:
        certified = _certified(resource)
        if certified is None:
            continue
        ehlo = host(resource.name.removesuffix("/certificate"))
        for name in sorted({ehlo, *_announced(ehlo, found)}):
            if not any(_covers(pattern, name) for pattern in certified):
                yield (
                    resource,
                    error_about(
                        ehlo,
                        "certificate-misses-name",
                        expected="certificates that list its own name and every MX host that leads to it",
                        found=f"{shown(name)} is in none of its certificates",
                        why="senders that verify (MTA-STS, DANE) refuse to deliver, and mail programs warn",
                        fix="let the MX records name hosts of `mailroom:hosts`: each has its own certificate",
                    ),
                )


def _certified(resource: Resource) -> set[str] | None:
    """The names that a host's certificates will list, as its step obtains them; None for any other resource."""
    given = payload(resource) if resource.type.startswith(REMOTE) and resource.name.endswith("/certificate") else None
    certificates = given.get("certificates") if given is not None else None
    if not isinstance(certificates, list):
        return None
    lists = [item.get("names") for item in certificates if isinstance(item, dict)]
    return {host(name) for names in lists if isinstance(names, list) for name in names if isinstance(name, str)}


def _announced(ehlo: str, found: Sequence[DnsRecord]) -> set[str]:
    """The MX hosts that lead to an address of the host."""
    addresses = {record.content for record in found if record.type in ADDRESSES and record.name == ehlo}
    ours = {record.name for record in found if record.type in ADDRESSES and record.content in addresses - {""}}
    return {record.content for record in found if record.type == "MX"} & ours


def _covers(pattern: str, name: str) -> bool:
    """RFC 6125 section 6.4.3: a wildcard stands for one label."""
    return pattern == name or (pattern.startswith("*.") and pattern[2:] == name.partition(".")[2])


# --- commands -----------------------------------------------------------------------------------------------------


def secret_outputs(resources: Sequence[Resource]) -> Iterator[Broken]:
    """What a Command prints is kept in the state, in clear unless its outputs are declared secret."""
    for resource in _commands(resources):
        if open_outputs := sorted({"stdout", "stderr"} - set(resource.secret_outputs)):
            yield (
                resource,
                error_about(
                    resource.name,
                    "command-output-in-clear",
                    expected="`additional_secret_outputs=['stdout', 'stderr']` among its options",
                    found=f"{' and '.join(open_outputs)} not secret",
                    why="a secret that the command prints would stand in the state, in previews and in outputs",
                    fix="run it by `Host.step`, which declares both",
                ),
            )


def quiet_commands(resources: Sequence[Resource]) -> Iterator[Broken]:
    """The provider shows every line a Command prints, unless `logging` is none: only `Host.uninstall` may."""
    for resource in _commands(resources):
        logging = resource.props.get("logging")
        if logging in ("none", UNKNOWN) or _is_uninstall(resource):
            continue
        yield (
            resource,
            error_about(
                resource.name,
                "command-logs",
                expected="`logging=Logging.NONE`",
                found="what it prints is shown in every run, and kept in logs of CI",
                why="a secret that it prints would be read by whoever reads the logs",
                fix="run it by `Host.step`, which logs nothing",
            ),
        )


def pinned_hosts(resources: Sequence[Resource]) -> Iterator[Broken]:
    """Without `hostKey` the provider trusts whatever machine answers."""
    for resource in resources:
        if not resource.type.startswith(REMOTE):
            continue
        connection = resource.props.get("connection")
        for what, end in _ends(connection):
            key = end.get("hostKey")
            if key is not UNKNOWN and not _is_host_key(key):
                yield (
                    resource,
                    error_about(
                        resource.name,
                        "host-unpinned",
                        expected=f"`hostKey` in its {what}, such as ssh-ed25519 AAAA...",
                        found=f"a {what} with one that is no Ed25519 key" if key else f"a {what} without one",
                        why="keys and passwords would be handed to whoever answers at that address",
                        fix="`scripts/preflight.py ADDRESS --pin` shows the host's key and writes it",
                    ),
                )


def _is_host_key(text: Any) -> bool:
    try:
        return isinstance(text, str) and bool(names.host_key(text))
    except Invalid:
        return False


def _ends(connection: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The machines that a connection logs in to."""
    if connection is UNKNOWN:
        return
    known = connection if hasattr(connection, "get") else {}
    yield "connection", known
    if (proxy := known.get("proxy")) is not None and hasattr(proxy, "get"):
        yield "connection's proxy", proxy


def _commands(resources: Sequence[Resource]) -> Iterator[Resource]:
    return (resource for resource in resources if resource.type in COMMANDS)


def _is_uninstall(resource: Resource) -> bool:
    """Whether nothing of the step is its caller's own but the seconds and the plain values on its standard input."""
    props, given = resource.props, payload(resource)
    return (
        given is not None
        and given.keys() == PLAIN_INPUTS
        and not (props.get("environment") or props.get("update"))
        and _runs(props.get("create"), commands.NOTHING)
        and _runs(props.get("delete"), commands.UNINSTALL)
    )


def _runs(text: Any, command: str) -> bool:
    """Whether a text is the line that a host runs for the command, whatever its time limit."""
    lines = [commands.locked(command, 0, user=user) for user in ("root", "another")]
    return isinstance(text, str) and TIME_LIMIT.sub("timeout 0 ", text) in lines


RULES: Final = (
    Rule(name="one-spf", scope="stack", mandatory=True, find=one_spf, says="A name has one SPF record"),
    Rule(name="spf-lookups", scope="stack", mandatory=True, find=spf_within_limits,
         says=f"SPF costs receivers at most {limits.SPF_LOOKUPS} look-ups, and its includes end"),
    Rule(name="dkim-strength", scope="resource", mandatory=True, find=strong_dkim,
         says=f"DKIM keys are RSA of {limits.RSA_BITS_MIN} bits or more, or Ed25519"),
    Rule(name="mx-reachable", scope="stack", mandatory=True, find=reachable_mx,
         says="MX records lead to hosts that exist and speak SMTP"),
    Rule(name="names-certified", scope="stack", mandatory=True, find=announced_names_certified,
         says="Certificates list the names a host is announced by"),
    Rule(name="secret-outputs", scope="resource", mandatory=True, find=secret_outputs,
         says="What a Command prints is secret in the state"),
    Rule(name="quiet-commands", scope="resource", mandatory=True, find=quiet_commands,
         says="Commands that read secrets log nothing"),
    Rule(name="pinned-hosts", scope="resource", mandatory=True, find=pinned_hosts,
         says="SSH trusts a host by its pinned key alone"),
    Rule(name="short-ttl", scope="resource", mandatory=False, find=short_ttl,
         says=f"TTLs let a change through within {limits.ROTATION_TTL // 60} minutes"),
)  # fmt: skip
