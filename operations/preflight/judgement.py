"""What the tries of the mail ports and the reverse names mean, as findings; no I/O here."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, get_args

from components.host.requirements import is_behind_nat, stays_inside
from operations.preflight.outside import LISTENER, NO_ROUTE, OTHER
from standards.finding import Finding, Severity
from standards.hosters import UNKNOWN, Hoster, known_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from components.host.requirements import Facts, Wanted
    from operations.preflight.outside import Inbound

IPV4, IPV6 = 4, 6
SMTP = 25
UNROUTED = "Network is unreachable"
GREETS_AS = re.compile(r"220[ -](\S+)")
PURPOSE = {25: "mail from others", 465: "users' mail programs", 587: "users' mail programs"}
SEEN_AS = re.compile(r"\[(?:IPv6:)?([0-9A-Fa-f.:]+)\]")  # "mx.example at your service, [192.0.2.10]"


@dataclass(frozen=True)
class Stranger:
    """A host that no stack lists: its own addresses are taken for what will be listed."""

    address: str
    ipv4: str | None = None
    ipv6: str | None = None
    arch: str | None = None
    ipv6_outbound: bool = True
    network: None = None

    @property
    def name(self) -> str:
        """It has none yet."""
        return self.address

    def knowing(self, facts: Facts) -> Stranger:
        """The same host with the address of its other family, as its interfaces show it."""
        own = [ip_address(text) for group in (facts.get("addresses") or {}).values() for text in group]
        first = {each.version: str(each) for each in reversed(own) if not (stays_inside(each) or is_behind_nat(each))}
        return replace(self, ipv4=self.ipv4 or first.get(4), ipv6=self.ipv6 or first.get(6))


def provider(facts: Facts, reverse_names: Mapping[str, Sequence[str]]) -> Hoster:
    """Whose machine it is, when that shows."""
    return known_by([name for names in reverse_names.values() for name in names], facts.get("hardware") or [])


def families(facts: Facts, host: Wanted) -> dict[int, str]:
    """The address of each family that mail may leave from or arrive at, of those that the host has.

    One that its interfaces lack altogether is left to the requirements: every try of it would only restate that.
    """
    if facts.get("addresses") is None:
        own = {4, 6}
    else:
        addresses = [ip_address(text) for group in facts["addresses"].values() for text in group]
        own = {each.version for each in addresses if not stays_inside(each)}
    found = {4: host.ipv4, 6: host.ipv6}
    return {version: address for version, address in found.items() if address and version in own}


def judge_outbound(answer: Mapping[str, Any], facts: Facts, host: Wanted, hoster: Hoster) -> list[Finding]:
    """Whether mail can leave, per family; `answer` is what reach.py printed."""
    tried: Sequence[Mapping[str, Any]] = answer["tries"]
    if not tried:
        return [_unresolved(host, answer["unresolved"])]
    findings = list(_intercepted(tried, host))
    for version, address in families(facts, host).items():
        if version == IPV6 and not host.ipv6_outbound:
            continue
        mine = [each for each in tried if each["family"] == version]
        findings += _family(version, address, mine, host, hoster)
    return findings


def _family(
    version: int, address: str, tried: Sequence[Mapping[str, Any]], host: Wanted, hoster: Hoster
) -> Iterator[Finding]:
    failed = [each for each in tried if each["outcome"] != "ok"]
    said = "; ".join(f"{each['server']} [{each['address']}]: {each['outcome']}" for each in failed)
    subject = f"{_label(host)}, outgoing port 25 over IPv{version}"
    if not tried:
        yield _finding(
            "note", "outbound-untried", subject,
            expected="a mail server to try", found=f"none of the servers tried has an IPv{version} address",
            why="whether mail leaves over this family is unknown", fix="name one that has: --receiver MX-HOST",
        )  # fmt: skip
    elif all(each["outcome"] == UNROUTED for each in tried):
        yield _finding(
            "error", "no-route", subject,
            expected=f"a route to the internet for {address}", found="the host has none (network is unreachable)",
            why="mail would be tried over it first", fix="correct the host's network settings (gateway), "
            f"or leave `ipv{version}` out of mailroom:hosts",
        )  # fmt: skip
    elif len(failed) == len(tried):
        off = "" if version == IPV4 else ", or set `ipv6Outbound: off` for this host"
        yield _finding(
            "error", "outbound-25", subject,
            expected=f"the greeting of a mail server, e.g. 220 {tried[0]['server']} ESMTP", found=said,
            why="mail to others leaves on port 25 alone, and many providers close it for new customers",
            fix=f"{hoster.name}: {hoster.port_25}{off}",
        )  # fmt: skip
    elif failed:
        yield _finding(
            "note", "outbound-some", subject,
            expected="each server tried to greet", found=said, why="others greet: the port itself is open",
            fix="nothing to do, unless it stays: some receivers turn away addresses with a bad reputation",
        )  # fmt: skip
    seen = {found[1] for each in tried if each["reply"] and (found := SEEN_AS.search(each["reply"]))}
    others = sorted(each for each in seen if _is_other(each, address, version))
    if others:
        yield _finding(
            "error", "outgoing-address", subject,
            expected=f"mail that leaves from {address}", found=f"receivers see it come from {', '.join(others)}",
            why="A/AAAA, PTR and SPF name one address, and receivers judge the one they see",
            fix=f"let the provider translate outgoing connections to {address} (1:1 NAT), or correct `ipv{version}` in "
            "mailroom:hosts",
        )  # fmt: skip


def _is_other(seen: str, address: str, version: int) -> bool:
    try:
        parsed = ip_address(seen)
    except ValueError:
        return False
    return parsed.version == version and parsed != ip_address(address)


def _intercepted(tried: Sequence[Mapping[str, Any]], host: Wanted) -> Iterator[Finding]:
    """Servers of different operators that greet with one name are one machine in between."""
    names: dict[str, set[str]] = {}
    for each in tried:
        if each["outcome"] == "ok" and (name := GREETS_AS.match(each["greeting"])):
            names.setdefault(name[1].lower(), set()).add(each["server"])
    for greeted, servers in names.items():
        if len(servers) > 1:
            yield _finding(
                "error", "intercepted", f"{_label(host)}, outgoing port 25",
                expected="each mail server to greet with a name of its own",
                found=f"{' and '.join(sorted(servers))} both greet as {greeted}",
                why="somebody in between answers for everybody: mail would not reach its receivers as it was sent",
                fix="ask the hosting provider to take its mail filter or relay out of the way",
            )  # fmt: skip


def _unresolved(host: Wanted, servers: Sequence[str]) -> Finding:
    return _finding(
        "error", "no-names", f"{_label(host)}, outgoing port 25",
        expected="a host that resolves the names of mail servers", found=f"it resolves none of {', '.join(servers)}",
        why="each receiver is found by DNS", fix="check /etc/resolv.conf on the host: getent hosts example.com",
    )  # fmt: skip


def judge_inbound(inbound: Inbound, host: Wanted) -> list[Finding]:
    """Whether clients and other mail servers can come in, per address."""
    return [finding for address, ports in inbound.ports.items() for finding in _ports(address, ports, inbound, host)]


def _ports(address: str, ports: Mapping[int, str], inbound: Inbound, host: Wanted) -> Iterator[Finding]:
    version = ip_address(address).version
    shut = {port: outcome for port, outcome in ports.items() if outcome not in {LISTENER, OTHER}}
    subject = f"{_label(host)}, incoming mail ports at {address}"
    if shut and set(shut.values()) == {NO_ROUTE}:
        yield _finding(
            "note", "inbound-untold", subject,
            expected=f"a machine with IPv{version} to look from", found=f"from this one no IPv{version} gets there",
            why="whether the ports are reachable could not be told", fix="run this again from a machine that has it",
        )  # fmt: skip
        return
    if SMTP in shut and inbound.reference.get(version) is False:
        del shut[SMTP]
        yield _finding(
            "note", "inbound-untold", f"{_label(host)}, incoming port 25 at {address}",
            expected=f"a network that lets connections to port 25 out over IPv{version}",
            found="this machine's network lets none out: it reaches no mail server at all",
            why="whether others reach the host's port 25 could not be told",
            fix="run this again from another network; most home connections close port 25",
        )  # fmt: skip
    if shut:
        told = ", ".join(f"{port} ({PURPOSE[port]}): {outcome}" for port, outcome in shut.items())
        yield _finding(
            "error", "inbound", subject,
            expected="a connection to each: something listens there", found=told,
            why="nobody could bring mail in or hand it over for sending",
            fix="open ports 25, 465 and 587 (TCP) for everybody in the provider's firewall or security group, and in "
            "one on the host if there is any (ufw status, nft list ruleset)",
        )  # fmt: skip


def judge_reverse(findings: Sequence[Finding], chosen: str, hoster: Hoster) -> list[Finding]:
    """What DNS says of the reverse names, weighed: `up` publishes the forward records, and sets PTR where it can.

    `chosen` is `reverseDns: {provider: ...}` of the host.
    """
    weighed = []
    for finding in findings:
        if finding.id == "ptr.forward":
            continue
        if chosen != "manual":
            note = f"nothing to do: `up` sets it by the API of {chosen}"
            weighed.append(replace(finding, severity="note", fix=note))
            continue
        way = f"{finding.fix}; {hoster.name}: {hoster.ptr}"
        if hoster.key in api_providers():
            way += f"; or `reverseDns: {{provider: {hoster.key}}}` lets `up` set it"
        weighed.append(replace(finding, severity="warning", fix=way))
    return weighed


def described(hoster: Hoster) -> str:
    """The provider, and who sets reverse DNS there."""
    if hoster is UNKNOWN:
        return "not known by name or hardware; reverse DNS is set in its panel"
    if hoster.key in api_providers():
        return (
            f"{hoster.name}; `up` sets reverse DNS with `reverseDns: {{provider: {hoster.key}}}`, else its panel does"
        )
    return f"{hoster.name}; a person sets reverse DNS: {hoster.ptr}"


def api_providers() -> tuple[str, ...]:
    """The providers by whose API `up` sets reverse DNS."""
    from components.settings import ReverseDnsSettings

    return tuple(each for each in get_args(ReverseDnsSettings.model_fields["provider"].annotation) if each != "manual")


def _label(host: Wanted) -> str:
    return host.name


def _finding(severity: Severity, check: str, subject: str, **text: str) -> Finding:
    return Finding(severity=severity, id=f"preflight.{check}", subject=subject, **text)
