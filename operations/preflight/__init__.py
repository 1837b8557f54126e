"""Preflight: is this host fit for the mail server, as it is now, seen by SSH and from here? Changes nothing there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.table import Table

from components.host.requirements import judge
from components.settings import HostSettings, Options
from components.settings_explain import explain
from operations import dns, report, ssh, stack_file, stacks
from operations.new_stack import EXAMPLE_KEY
from operations.preflight import contact, judgement, outside
from operations.preflight.judgement import Stranger
from standards import names
from standards.finding import Finding, Problems, error_about
from standards.hosters import UNKNOWN, Hoster

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from operations.preflight.contact import Seen
    from operations.preflight.outside import Inbound
    from operations.stack_file import StackFile

    Say = Callable[[str], None]

CHECK = "mailroom:outboundCheck"
LIMIT_MINUTES = 30.0
UNPINNED = EXAMPLE_KEY
"""Stands for a key that is not known yet where settings need one, as in the shipped example; no host has it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to look at and how; `limit` in seconds, None for one try. `repin` replaces another pinned key.

    `receivers` are mail servers to try; without them those of the stack, or the setting's default.
    """

    address: str
    user: str | None = None
    port: int | None = None
    stack: str | None = None
    limit: float | None = None
    pin: bool = False
    repin: bool = False
    receivers: Sequence[str] = ()
    resolver: str | None = None

    @classmethod
    def of(cls, chosen: Namespace) -> Request:
        """What the options of scripts/preflight.py ask for."""
        return cls(
            address=chosen.address, user=chosen.user, port=chosen.port, stack=chosen.stack,
            limit=chosen.limit * 60 if chosen.wait else None, pin=chosen.pin or chosen.repin, repin=chosen.repin,
            receivers=chosen.receiver or (), resolver=chosen.resolver,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was seen; `findings` is what it means."""

    address: str
    seen: Seen
    hoster: Hoster = UNKNOWN
    pinned_in: str | None = None
    outbound: Mapping[str, Any] = field(default_factory=dict)
    inbound: Inbound | None = None
    reverse_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    findings: Sequence[Finding] = ()


def run(request: Request, say: Say, checkout: Path = stacks.CHECKOUT) -> Result:
    """Everything, in order; raises `Problems` when the host cannot be looked at or its key not be written."""
    file = _stack_file(request, checkout)
    host = _host(request, file)
    target = _target(request, host, file, checkout)
    if request.limit is None:
        say(f"looking at {target}")
        seen = contact.look(target, host)
    else:
        seen = contact.wait(target, host, request.limit, say)
    if isinstance(host, Stranger):
        host = host.knowing(seen.facts)
    findings = judge(seen.facts, host, seen.at)
    if not seen.supported:
        return Result(address=request.address, seen=seen, findings=findings)
    say(f"{target} runs {seen.facts['os_name']}; its host key is {seen.fingerprint}")
    key_findings, pinned_in = _key(request, file, host, seen)
    target = replace(target, host_key=seen.host_key)
    return _tried(request, file, host, Result(
        address=request.address, seen=seen, pinned_in=pinned_in, findings=[*key_findings, *findings]
    ), target, say)  # fmt: skip


def _tried(
    request: Request,
    file: StackFile | None,
    host: HostSettings | Stranger,
    result: Result,
    target: ssh.Target,
    say: Say,
) -> Result:
    """The result with what only tries show: mail ports both ways, and reverse names."""
    resolver = dns.Resolver(request.resolver or _text(file, "mailroom:resolver"))
    families = judgement.families(result.seen.facts, host)
    say("trying the mail ports from the host and from here, and asking for reverse names")
    with ThreadPoolExecutor() as pool:
        asked = {address: pool.submit(_reverse_names, address, resolver) for address in families.values()}
        receivers = request.receivers or _receivers(file)
        out = pool.submit(outside.outbound, target, receivers)
        elsewhere = references(receivers, resolver)
        came_in = outside.inbound(target, list(families.values()), elsewhere)
        reverse = {address: each.result() for address, each in asked.items()}
        went_out = out.result()
    hoster = judgement.provider(result.seen.facts, reverse)
    findings = [
        *result.findings,
        *judgement.judge_outbound(went_out, result.seen.facts, host, hoster),
        *judgement.judge_inbound(came_in, host),
    ]
    if isinstance(host, HostSettings):
        sending = [address for version, address in families.items() if version == judgement.IPV4 or host.ipv6_outbound]
        told = [finding for address in sending for finding in dns.check_ptr(address, host.name, resolver)]
        findings += judgement.judge_reverse(told, host.reverse_dns.provider, hoster)
    return replace(result, hoster=hoster, outbound=went_out, inbound=came_in, reverse_names=reverse, findings=findings)


def receiver(text: str) -> str:
    """A mail server's name or address; raises `Invalid`."""
    return names.ip_address(text) if _is_address(text) else names.dns_name(text)


def _stack_file(request: Request, checkout: Path) -> StackFile | None:
    """The stack that lists the host: the one asked for, else the only one there is."""
    if request.stack:
        file = stack_file.of_stack(request.stack, checkout)
        if file.entry(request.address) is None:
            raise Problems(f"stack {file.stack} does not list {request.address}", [_unlisted(request, file)])
        return file
    files = stack_file.listing(request.address, checkout)
    if len(files) > 1 and request.pin:
        raise Problems("more than one stack lists the host", [_which(request, files)])
    return files[0] if len(files) == 1 else None


def _host(request: Request, file: StackFile | None) -> HostSettings | Stranger:
    """The host as its stack wants it, or one that no stack lists."""
    if file is None:
        family = "ipv6" if ":" in request.address else "ipv4"
        return Stranger(request.address, **{family: request.address})  # type: ignore[arg-type]
    entry = dict(file.entry(request.address) or {})
    entry[stack_file.KEY] = entry.get(stack_file.KEY) or UNPINNED
    try:
        return HostSettings.model_validate(entry)
    except ValidationError as error:
        place = f"mailroom:hosts[{file.hosts.index(file.entry(request.address) or {})}]"
        raise Problems(
            f"the host's settings in {file.path.name} cannot be used", explain(error, HostSettings, entry, place)
        ) from None


def _target(request: Request, host: HostSettings | Stranger, file: StackFile | None, checkout: Path) -> ssh.Target:
    """How to log in; the stack's own key needs its secrets, so the engine is asked only where there is one."""
    key = None
    if file and "mailroom:sshPrivateKey" in file.config:
        key = stacks.config(file.stack, checkout).get("mailroom:sshPrivateKey")
    settings = host.ssh if isinstance(host, HostSettings) else None
    user = request.user or (settings.user if settings else "root")
    port = request.port or (settings.port if settings else 22)
    return ssh.Target(request.address, port, user, UNPINNED, key, user != "root")


def _key(
    request: Request, file: StackFile | None, host: HostSettings | Stranger, seen: Seen
) -> tuple[list[Finding], str | None]:
    """What is to say about the host's key, and the file that pins it now."""
    if file is None or isinstance(host, Stranger):
        return [_not_kept(request, seen)], None
    if host.host_key == seen.host_key:
        return [], file.path.name
    unpinned = host.host_key == UNPINNED
    if request.repin or (unpinned and request.pin):
        file.pin(request.address, seen.host_key)
        return [], file.path.name
    return [_not_kept(request, seen) if unpinned else _another(request, file, host.host_key, seen)], None


def _reverse_names(address: str, resolver: dns.Resolver) -> list[str]:
    try:
        return resolver.resolve(dns.reverse_name(address), "PTR")
    except dns.CouldNotTell:
        return []


def references(receivers: Sequence[str], resolver: dns.Resolver) -> dict[int, str]:
    """An address of each family of the servers tried, to knock at from here."""
    found: dict[int, str] = {}
    for name in receivers:
        try:
            addresses = [name] if _is_address(name) else resolver.addresses(name)
        except dns.CouldNotTell:
            continue
        for address in addresses:
            found.setdefault(ip_address(address).version, address)
    return found


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _text(file: StackFile | None, key: str) -> str | None:
    value = file.config.get(key) if file else None
    return value if isinstance(value, str) else None


def _receivers(file: StackFile | None) -> Sequence[str]:
    """The mail servers that the stack names, else big ones of different operators."""
    listed = file.config.get(CHECK) if file else None
    default: Sequence[str] = Options.model_fields["outbound_check"].default
    return [str(name) for name in listed] if isinstance(listed, list) and listed else default


def _unlisted(request: Request, file: StackFile) -> Finding:
    listed = [str(host.get("ipv4") or host.get("ipv6")) for host in file.hosts]
    return error_about(
        f"{file.path.name}, {stack_file.HOSTS}",
        "preflight.unlisted",
        expected=f"a host with `ipv4: {request.address}` (or ipv6)",
        found=f"hosts: {', '.join(listed) or 'none'}",
        why="what the host must be, and where its key is kept, is said there",
        fix="add the host to mailroom:hosts, or leave out --stack",
    )


def _which(request: Request, files: Sequence[StackFile]) -> Finding:
    return error_about(
        request.address,
        "preflight.which-stack",
        expected="one stack to write the key into",
        found=f"the stacks {', '.join(file.stack for file in files)} list it",
        why="a key is pinned for one stack at a time",
        fix=f"say which: --stack {files[0].stack}",
    )


def _not_kept(request: Request, seen: Seen) -> Finding:
    fix = f"compare it with the provider's console, then set for this host: hostKey: {seen.host_key}"
    return Finding(
        severity="warning" if request.pin else "note",
        id="preflight.unpinned",
        subject=f"the host key of {request.address}",
        expected="the key pinned as hostKey in mailroom:hosts",
        found=f"{seen.fingerprint}, in no stack's file",
        why="`pulumi up` sends secrets to the machine with the pinned key alone",
        fix=fix if request.pin else f"{fix} (--pin writes it where a stack lists the address)",
    )


def _another(request: Request, file: StackFile, pinned: str, seen: Seen) -> Finding:
    return error_about(
        f"the host key of {request.address}",
        "preflight.another-key",
        expected=f"{ssh.fingerprint(pinned)}, as {file.path.name} pins it",
        found=f"{seen.fingerprint}; nothing was written",
        why="another machine, one installed again, or somebody in between",
        fix="compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` in the provider's console; when it is the "
        "same, run again with --repin",
    )


def as_json(result: Result) -> dict[str, Any]:
    """The result for programs."""
    inbound = result.inbound
    return {
        "result": ("pass", "warn", "fail")[report.exit_code(result.findings)],
        "address": result.address,
        "hostKey": result.seen.host_key,
        "fingerprint": result.seen.fingerprint,
        "pinnedIn": result.pinned_in,
        "provider": result.hoster.name,
        "facts": result.seen.facts,
        "outbound": result.outbound,
        "inbound": inbound.ports if inbound else {},
        "reverseNames": result.reverse_names,
        "findings": [asdict(finding) for finding in result.findings],
    }


def show(console: Console, result: Result) -> None:
    """One row for each thing that was looked at, then what it means."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in _rows(result):
        table.add_row(name, report.said(value))
    console.print(table)
    report.show(console, result.findings)
    last = {report.OK: "fit", report.WARNINGS: "fit, with warnings", report.FAILURES: "not fit yet"}
    console.print(f"{result.address}: {last[report.exit_code(result.findings)]}", soft_wrap=True, highlight=False)


def _rows(result: Result) -> list[tuple[str, str]]:
    facts = result.seen.facts
    rows = [("system", str(facts["os_name"]))]
    kept = f", pinned in {result.pinned_in}" if result.pinned_in else ", not pinned"
    rows.append(("host key", result.seen.fingerprint + kept))
    if not result.seen.supported:
        return rows
    rows.append(("machine", f"{facts['arch']}, {facts['memory_mb']} MB memory, {facts['disk_free_mb']} MB free on /"))
    rows.append(("clock", f"{facts['time'] - result.seen.at:+.0f} s from this machine's"))
    own = [each for group in (facts["addresses"] or {}).values() for each in group]
    rows.append(("addresses", ", ".join(own) or "none"))
    rows.append(("provider", judgement.described(result.hoster)))
    rows += [("outgoing 25", f"{each['server']} {each['address']}: {each['outcome']}")
             for each in result.outbound.get("tries", [])]  # fmt: skip
    for address, ports in (result.inbound.ports if result.inbound else {}).items():
        rows.append(("incoming", f"{address}: " + ", ".join(f"{port} {_told(each)}" for port, each in ports.items())))
    rows += [("reverse name", f"{address}: {', '.join(found) or 'none'}")
             for address, found in result.reverse_names.items()]  # fmt: skip
    return rows


def _told(outcome: str) -> str:
    return {outside.LISTENER: "reachable", outside.OTHER: "reachable (a server answers)"}.get(outcome, outcome)
