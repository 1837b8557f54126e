"""A lab's network: its namespace and bridge, the link to this machine, and what may cross it; no machines."""

from __future__ import annotations

import json
import re
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.errors import LabError
from lab.folders import LABS
from lab.shell import run, succeeds

if TYPE_CHECKING:
    from lab.addresses import Plan

# Without one of its own a bridge takes a port's, and changes it as machines come and go: others then lose it.
BRIDGE_MAC: Final = "02:00:5e:00:53:01"
BRIDGE: Final = "br0"
UPLINK_INSIDE: Final = "up0"
SYSCTLS: Final = Path("/proc/sys/net")
BEFORE: Final = LABS / "sysctls.json"

# What may leave: TCP to the package mirrors, and answers to this machine. The rules live in the lab's own
# namespace, so that nothing done to this machine's firewall can open the lab. IPv6 has no way out at all.
INSIDE_RULES: Final = """
table inet lab {{
  chain leaving {{
    type filter hook forward priority 0; policy accept;
    oifname "{uplink}" jump allowed
  }}
  chain leaving_from_the_gateway {{
    type filter hook output priority 0; policy accept;
    oifname "{uplink}" jump allowed
  }}
  chain allowed {{
    ct state established,related accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    {mirrors}
    meta l4proto tcp reject with tcp reset
    reject with icmpx admin-prohibited
  }}
}}
"""

# This machine forwards for the lab, and must not become a way into it for its neighbours.
MACHINE_RULES: Final = """
table inet {table} {{
  chain entering {{
    type filter hook forward priority -10; policy accept;
    oifname "{uplink}" ct state established,related accept
    oifname "{uplink}" reject with icmpx admin-prohibited
  }}
  chain going_out {{
    type nat hook postrouting priority 100;
    ip saddr {{ {guests}, {link} }} oifname != "{uplink}" masquerade
  }}
}}
"""


def up(plan: Plan) -> None:
    """Make the network; what a dead lab of this name left has been removed before (`down`)."""
    _refuse_foreign_routes(plan)
    run("ip", "netns", "add", plan.netns)
    for line in (
        f"link add {plan.uplink_interface} type veth peer name {UPLINK_INSIDE} netns {plan.netns}",
        f"address add {plan.uplink_machine.ipv4}/30 dev {plan.uplink_interface}",
        f"link set {plan.uplink_interface} up",
    ):
        run("ip", *line.split())
    _allow_ipv6(plan)
    _inside(plan)
    run("ip", "-6", "address", "add", f"{plan.uplink_machine.ipv6}/64", "dev", plan.uplink_interface, "nodad")
    here, there = plan.uplink_machine, plan.uplink_lab
    run("ip", "route", "add", str(plan.ipv4), "via", there.ipv4, "src", here.ipv4)
    run("ip", "-6", "route", "add", str(plan.ipv6), "via", there.ipv6, "src", here.ipv6)
    guests, _, link, _ = plan.clients
    names = {"table": plan.netns, "uplink": plan.uplink_interface}
    run("nft", "-f", "-", stdin=MACHINE_RULES.format(**names, guests=guests, link=link))
    _forward(plan)


def is_up(plan: Plan) -> bool:
    """Whether namespace, bridge, link, routes and firewall are all there."""
    return (
        succeeds("nsenter", f"--net=/run/netns/{plan.netns}", "ip", "link", "show", BRIDGE)
        and succeeds("nsenter", f"--net=/run/netns/{plan.netns}", "nft", "list", "table", "inet", "lab")
        and succeeds("nft", "list", "table", "inet", plan.netns)
        and bool(run("ip", "route", "show", str(plan.ipv4)).strip())
        and bool(run("ip", "-6", "route", "show", str(plan.ipv6)).strip())
    )


def check_mirrors(plan: Plan) -> None:
    """Refuse a machine that does not pass the lab's packets on, before apt in a guest waits for minutes."""
    for mirror in plan.mirrors:
        connect = f"</dev/tcp/{mirror.ipv4[0]}/{mirror.port}"
        if not succeeds("nsenter", f"--net=/run/netns/{plan.netns}", "timeout", "10", "bash", "-c", connect):
            raise LabError(
                f"machines in the lab cannot reach the package mirror {mirror.name} ({mirror.ipv4[0]} port"
                f" {mirror.port}), though this machine can resolve it; allow forwarding from the interface"
                f" {plan.uplink_interface} in this machine's firewall (Docker closes it: iptables -I DOCKER-USER"
                f" -i {plan.uplink_interface} -j ACCEPT)"
            )


def down(lab: str) -> list[str]:
    """Remove every part that is there and name it; the processes in the lab are dead already."""
    netns = f"mailroom-{lab}"
    removed = []
    if succeeds("nft", "delete", "table", "inet", netns):
        removed.append(f"firewall table {netns}")
    inside = succeeds("nsenter", f"--net=/run/netns/{netns}", "ip", "link", "delete", UPLINK_INSIDE)
    if succeeds("ip", "netns", "delete", netns):
        removed.append(f"network namespace {netns}" + (" with its link and routes" if inside else ""))
    return removed


def delete_uplink(interface: str) -> list[str]:
    """Remove this machine's end of a link whose namespace lost its name; the kernel does it too, but later."""
    return [f"interface {interface}"] if succeeds("ip", "link", "delete", interface) else []


def restore_sysctls() -> list[str]:
    """Set back what labs changed outside their namespaces; called when the last lab has gone."""
    if not BEFORE.exists():
        return []
    restored = []
    record = json.loads(BEFORE.read_text())
    for name, value in record["values"].items() if record["boot"] == boot_id() else ():
        path = SYSCTLS / name
        if path.exists() and path.read_text().strip() != value:
            path.write_text(value)
            restored.append(f"sysctl net/{name} set back to {value}")
    BEFORE.unlink()
    return restored


def boot_id() -> str:
    """Changes with every start of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _inside(plan: Plan) -> None:
    nsenter = ("nsenter", f"--net=/run/netns/{plan.netns}")
    gateway, here, there = plan.gateway, plan.uplink_lab, plan.uplink_machine
    run(*nsenter, "sh", "-c", "cd /proc/sys/net; echo 1 > ipv4/ip_forward; echo 1 > ipv6/conf/all/forwarding")
    for line in (
        "link set lo up",
        f"link add {BRIDGE} address {BRIDGE_MAC} type bridge stp_state 0 forward_delay 0",
        f"address add {gateway.ipv4}/{plan.ipv4.prefixlen} dev {BRIDGE}",
        f"-6 address add {gateway.ipv6}/{plan.ipv6.prefixlen} dev {BRIDGE} nodad",
        f"link set {BRIDGE} up",
        f"address add {here.ipv4}/30 dev {UPLINK_INSIDE}",
        f"-6 address add {here.ipv6}/64 dev {UPLINK_INSIDE} nodad",
        f"link set {UPLINK_INSIDE} up",
        f"route add default via {there.ipv4}",
    ):
        run(*nsenter, "ip", *line.split())
    # A machine that boots is asked for its address ten times a second, not once.
    for family in ("ipv4", "ipv6"):
        setting = f"/proc/sys/net/{family}/neigh/{BRIDGE}/retrans_time_ms"
        run(*nsenter, "sh", "-c", f"echo 100 > {setting}")
    mirrors = [f"ip daddr {{ {', '.join(m.ipv4)} }} tcp dport {m.port} accept" for m in plan.mirrors]
    rules = INSIDE_RULES.format(uplink=UPLINK_INSIDE, mirrors="\n    ".join(mirrors))
    run(*nsenter, "nft", "-f", "-", stdin=rules)


def _allow_ipv6(plan: Plan) -> None:
    """Machines where IPv6 is switched off (containers often) still carry it on the link to the lab."""
    path = SYSCTLS / "ipv6/conf" / plan.uplink_interface / "disable_ipv6"
    if not path.exists():
        raise LabError(
            "this machine's kernel has no IPv6 (no /proc/sys/net/ipv6); the lab needs it: boot the machine"
            " without ipv6.disable=1"
        )
    path.write_text("0")
    conf = "/proc/sys/net/ipv6/conf"
    script = f"for name in all default {UPLINK_INSIDE}; do echo 0 > {conf}/$name/disable_ipv6; done"
    run("nsenter", f"--net=/run/netns/{plan.netns}", "sh", "-c", script)


def _forward(plan: Plan) -> None:
    """Forward between the lab and the interfaces that lead to its mirrors, and nowhere else.

    The kernel asks the incoming interface whether to forward, so the machine's `ip_forward` stays as it is.
    """
    interfaces = {plan.uplink_interface}
    for address in {address for mirror in plan.mirrors for address in mirror.ipv4}:
        found = re.search(r"\bdev (\S+)", run("ip", "-4", "route", "get", address))
        interfaces |= {found[1]} if found else set()
    for interface in sorted(interfaces):
        name = f"ipv4/conf/{interface}/forwarding"
        path = SYSCTLS / name
        value = path.read_text().strip()
        if value == "1":
            continue
        if interface != plan.uplink_interface:
            _remember(name, value)
        path.write_text("1")


def _remember(name: str, value: str) -> None:
    """Keep the value from before the first lab; a later lab sees ours and must not record it."""
    record = json.loads(BEFORE.read_text()) if BEFORE.exists() else {}
    if record.get("boot") != boot_id():
        record = {"boot": boot_id(), "values": {}}
    record["values"].setdefault(name, value)
    BEFORE.write_text(json.dumps(record))


def _refuse_foreign_routes(plan: Plan) -> None:
    """A machine that uses one of the lab's networks itself would lose it."""
    routes = json.loads(run("ip", "-json", "route", "show", "table", "all"))
    routes += json.loads(run("ip", "-json", "-6", "route", "show", "table", "all"))
    for route in routes:
        if route["dst"] == "default" or route.get("type") in {"multicast", "anycast"}:
            continue
        network = ip_network(route["dst"], strict=False)
        for own in plan.clients:
            if network.version == own.version and network.prefixlen and network.overlaps(own):
                raise LabError(
                    f"this machine already has a route to {route['dst']} (interface {route.get('dev', '?')}),"
                    f" which overlaps the network {own} of the lab {plan.name}; remove it, or use a lab with"
                    " another network: python -m lab --name lab-x up"
                )
