"""The host's packet filter: our own nftables table, what it lets through, and how it comes back after a boot.

Only the table `inet mailroom` is ours; nobody else's rules are flushed or looked at. Who changes it under a timed way
back is access.py.
"""

from __future__ import annotations

import pwd
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from components.host import hostlib
else:
    import hostlib

TABLE = "mailroom"
SENDER = "chasquid"  # the one user whose mail may leave
MAIL_PORTS = (25, 465, 587)
UNIT = "mailroom-firewall.service"
KEPT = Path("/etc/mailroom-host/firewall.nft")  # what the unit loads at boot
LOADED = Path("/etc/mailroom-host/firewall.loaded")  # how the kernel lists it: shows what others changed
CLIENT_PORTS = 32768  # ip_local_port_range(7): from here on, open UDP ports are those of clients
DHCP_CLIENTS = (68, 546)

# In an inet table one `accept` does not overrule another table's `drop`: rules of ufw or Docker keep their say.
RULES = """\
# Written by Mailroom; a change here is undone by the next `pulumi up`. Ports: mailroom:hosts[..].firewall
table inet {table}
delete table inet {table}
table inet {table} {{
	chain input {{
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iifname "lo" accept
		icmp type {{ echo-request, destination-unreachable, time-exceeded, parameter-problem }} accept
		icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request }} accept
		icmpv6 type {{ nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }} ip6 hoplimit 255 accept
		icmpv6 type {{ mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }} accept
		udp sport 67 udp dport 68 accept
		ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept
		tcp dport {{ {tcp} }} accept
{udp}		tcp dport 113 reject with tcp reset
	}}

	chain output {{
		type filter hook output priority filter; policy accept;
		oifname "lo" accept
{ipv6}		tcp dport 25 meta skuid != {uid} reject with tcp reset
	}}
}}
"""
OPEN_UDP = "\t\tudp dport {{ {udp} }} accept\n"
# A reset makes Go fall back to IPv4 at once (RFC 8305); a dropped packet would cost it minutes.
NO_IPV6 = "\t\tmeta nfproto ipv6 tcp dport 25 reject with tcp reset\n"


def rules(tcp: Iterable[int], udp: Iterable[int], *, ipv6_mail: bool) -> str:
    """The table as nft reads it: replaced as a whole, in one transaction.

    In: what IP itself needs (RFC 4890 section 4.4), DHCP's answers, the ports given, and nothing else; a caller
    that asks who we are (port 113, RFC 1413) is refused, as some mail servers wait for that answer. Out:
    everything but mail of other users than chasquid, which is refused aloud.
    """
    udp_ports = _listed(udp)
    return RULES.format(
        table=TABLE,
        tcp=_listed([*MAIL_PORTS, *tcp]),
        udp=OPEN_UDP.format(udp=udp_ports) if udp_ports else "",
        ipv6="" if ipv6_mail else NO_IPV6,
        uid=pwd.getpwnam(SENDER).pw_uid,  # a number: the file loads whatever happens to the account
    )


def _listed(ports: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(ports))))


def listing() -> str:
    """Our table as the kernel has it, in a form that nft reads; nothing where there is none."""
    answer = hostlib.run(["nft", "list", "table", "inet", TABLE])
    return answer.stdout if answer.returncode == 0 else ""


def check(text: str) -> str | None:
    """What nft has against these rules, None for nothing; changes nothing."""
    answer = hostlib.run(["nft", "--check", "--file", "-"], input=text)
    return answer.stderr.strip() if answer.returncode else None


def load(text: str) -> None:
    """Put the table in place of the one before, in one transaction; raises OSError when the kernel refuses."""
    answer = hostlib.run(["nft", "--file", "-"], input=text)
    if answer.returncode:
        raise OSError(answer.stderr.strip() or "nft failed")


def restore(before: str) -> None:
    """Bring back what `listing` said."""
    load(f"table inet {TABLE}\ndelete table inet {TABLE}\n{before}")


def is_kept(text: str) -> bool:
    """Whether these rules are the kept ones, nobody changed them since, and a boot brings them back."""
    return (
        KEPT.is_file()
        and LOADED.is_file()
        and KEPT.read_text(encoding="utf-8") == text
        and LOADED.read_text(encoding="utf-8") == listing() != ""
        and hostlib.run(["systemctl", "is-enabled", "--quiet", UNIT]).returncode == 0
        and hostlib.run(["systemctl", "is-active", "--quiet", UNIT]).returncode == 0
    )


def keep(text: str) -> None:
    """Make these rules the ones of every boot; the unit loads them now, as it will then."""
    hostlib.write_file(KEPT, text, 0o600)
    for command in (["enable", "--quiet"], ["restart"]):
        hostlib.must(["systemctl", *command, UNIT])
    hostlib.write_file(LOADED, listing(), 0o600)


def shut_out(tcp: Iterable[int], udp: Iterable[int]) -> list[str]:
    """Services that listen for others on a port that these rules close, each with the setting that opens it."""
    opened = {"tcp": {*MAIL_PORTS, *tcp}, "udp": {*DHCP_CLIENTS, *udp}}
    setting = {"tcp": "allowTcp", "udp": "allowUdp"}
    found = listening(hostlib.run(["ss", "-H", "-ltunp"]).stdout)
    return [
        f"closed to others: {program} on {protocol} {port} (open it: firewall: {{{setting[protocol]}: [{port}]}})"
        for (protocol, port), program in sorted(found.items())
        if port not in opened[protocol] and (protocol == "tcp" or port < CLIENT_PORTS)
    ]


def listening(ss: str) -> Mapping[tuple[str, int], str]:
    """(protocol, port) -> program, from `ss -H -ltunp`, for sockets that others reach."""
    found: dict[tuple[str, int], str] = {}
    for line in ss.splitlines():
        columns: list[Any] = line.split()
        address, _, port = columns[4].rpartition(":")
        inside = address.startswith(("127.", "[::1]", "[::ffff:127.")) or "%lo" in address
        if not inside and port.isdigit():
            program = re.search(r'\(\("([^"]*)"', line)
            found.setdefault((columns[0], int(port)), program.group(1) if program else "a program")
    return found


def undo() -> list[str]:
    """Take the packet filter off the host, for good; says what was there."""
    there = [path for path in (KEPT, LOADED) if path.exists()]
    hostlib.run(["systemctl", "disable", "--now", "--quiet", UNIT])
    was_loaded = hostlib.run(["nft", "delete", "table", "inet", TABLE]).returncode == 0
    for path in there:
        path.unlink()
    return ["packet filter"] if there or was_loaded else []
