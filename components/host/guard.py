#!/usr/bin/python3
"""Keeps guard on a closed host: bans who guesses passwords, installs security updates, keeps the clock right.

Payload: {"ssh_port": 22, "fail2ban": {"filter.d/mailroom-sshd.conf": text, ...}}. Another time service than
systemd-timesyncd is left as it is, and so are fail2ban's other jails and what apt does besides.
"""

from __future__ import annotations

import ipaddress
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from components.host import firewall, hostlib, sshd, systems
else:
    import firewall
    import hostlib
    import sshd
    import systems

FAIL2BAN = Path("/etc/fail2ban")
JAILS = {"sshd": "jail.d/mailroom-sshd.conf", "chasquid": "jail.d/mailroom-chasquid.conf"}
START_LIMIT = 20  # seconds until fail2ban must watch
# Ten failures in ten minutes: a phone with an old password, or a typing error of somebody in the same office, is
# far below it; a guesser gets fewer than 1,500 tries a day, and each ban of the same address lasts twice as long.
JAIL = """\
# Written by Mailroom; a change here is undone by the next `pulumi up`.
[{name}]
enabled = true
backend = systemd
filter = mailroom-{name}
action = mailroom[name={name}, port="{ports}"]
maxretry = 10
findtime = 10m
bantime = 10m
bantime.increment = true
bantime.maxtime = 1w
# This host, and whoever set it up last.
ignoreip = 127.0.0.0/8 ::1{address}
ignoreregex ={network}
"""
OS_RELEASE = Path("/etc/os-release")
UPGRADES = Path("/etc/apt/apt.conf.d/99mailroom-upgrades")
APT_TIMERS = ("apt-daily.timer", "apt-daily-upgrade.timer")
APT = """\
// Written by Mailroom; a change here is undone by the next `pulumi up`. Security updates, daily, and no reboot.
APT::Periodic::Enable "1";
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
#clear Unattended-Upgrade::Allowed-Origins;
#clear Unattended-Upgrade::Origins-Pattern;
Unattended-Upgrade::Origins-Pattern {{
{origins}
}};
Unattended-Upgrade::Automatic-Reboot "false";
"""
CLOCKS = ("chrony", "ntpsec", "ntp", "openntpd", "systemd-timesyncd")  # units; the last one is ours to install


def main() -> None:
    """Bring all three to the wanted state."""
    wanted = hostlib.read_payload()
    try:
        changes = [*bans(wanted["fail2ban"], [wanted["ssh_port"], *sshd.ports()]), *upgrades(), *clock()]
    except OSError as error:
        hostlib.fail(str(error), "expected fail2ban, apt and systemd to do as told", "run it again when that is solved")
    hostlib.finish(changes)


# --- bans -----------------------------------------------------------------------------------------------------


def bans(files: Mapping[str, str], ssh_ports: list[int]) -> list[str]:
    """Two jails, each over all its ports; their bans live in fail2ban's database and survive its restart."""
    ports = {"sshd": sorted(set(ssh_ports)), "chasquid": list(firewall.MAIL_PORTS)}
    wanted = {**files, **{JAILS[name]: jail(name, ports[name], sshd.connection()) for name in JAILS}}
    changed = [name for name, text in sorted(wanted.items()) if hostlib.write_file(FAIL2BAN / name, text)]
    if hostlib.run(["systemctl", "is-enabled", "--quiet", "fail2ban"]).returncode:
        hostlib.must(["systemctl", "enable", "--quiet", "fail2ban"])
        changed.append("enabled")
    if changed or not watching():
        hostlib.must(["fail2ban-client", "--test"])
        hostlib.must(["systemctl", "restart", "fail2ban"])
        end = time.monotonic() + START_LIMIT
        while not watching():
            if time.monotonic() > end:
                raise OSError(f"fail2ban does not watch within {START_LIMIT} s, see /var/log/fail2ban.log")
            time.sleep(0.2)
        changed.append("restarted")
    return [f"fail2ban: {', '.join(changed)}"] if changed else []


def jail(name: str, ports: list[int], operator: list[str]) -> str:
    """The jail's file; `operator` is the present login (sshd.connection)."""
    address = ipaddress.ip_address(operator[0].partition("%")[0]) if operator else None
    return JAIL.format(
        name=name,
        ports=", ".join(map(str, ports)),
        address=f" {address}" if address else "",
        network=f" [\\[ ]{network_pattern(address)}" if isinstance(address, ipaddress.IPv6Address) else "",
    )


def network_pattern(address: ipaddress.IPv6Address) -> str:
    """How the text of every address of the same /64 begins (RFC 5952): fail2ban knows no IPv6 network."""
    hextets = [f"{int(part, 16):x}" for part in address.exploded.split(":")[:4]]
    kept = len(hextets)
    while kept > 1 and hextets[kept - 1] == "0":
        kept -= 1
    zeros = ":0" * (len(hextets) - kept)
    return ":".join(hextets[:kept]) + (f"(?:::|{zeros}:)" if zeros else ":")


def watching() -> bool:
    """Whether both jails run."""
    return all(hostlib.run(["fail2ban-client", "status", name]).returncode == 0 for name in JAILS)


def undo() -> list[str]:
    """Stop banning by chasquid's log, which ends with it; SSH keeps its jail. Says what was there."""
    mine = [FAIL2BAN / JAILS["chasquid"], FAIL2BAN / "filter.d/mailroom-chasquid.conf"]
    there = [path for path in mine if path.exists()]
    for path in there:
        path.unlink()
    if there:
        hostlib.run(["systemctl", "try-restart", "fail2ban"])
    return ["fail2ban's jail"] if there else []


# --- updates --------------------------------------------------------------------------------------------------


def upgrades() -> list[str]:
    """Security updates without anybody: written, enabled, and seen to count."""
    release = dict(re.findall(r'(?m)^([A-Z_]+)="?([^"\n]*)"?$', OS_RELEASE.read_text(encoding="utf-8")))
    origins = systems.SECURITY[release["ID"]]
    changed = hostlib.write_file(UPGRADES, APT.format(origins="\n".join(f'\t"{origin}";' for origin in origins)))
    told = hostlib.run(["apt-config", "dump", "--no-empty", "--format", "%F %v%n"]).stdout.splitlines()
    counting = sorted(
        line.partition(" ")[2] for line in told if line.startswith("Unattended-Upgrade::Origins-Pattern::")
    )
    if counting != sorted(origins) or "APT::Periodic::Unattended-Upgrade 1" not in told:
        raise OSError(f"another file of {UPGRADES.parent} undoes what {UPGRADES.name} says about updates")
    started = [unit for unit in APT_TIMERS if start(unit)]
    return (
        [f"security updates: {', '.join([*(['written'] if changed else []), *started])}"] if changed or started else []
    )


def start(unit: str) -> bool:
    """Run a unit now and after each boot; says whether that is new."""
    if all(hostlib.run(["systemctl", check, "--quiet", unit]).returncode == 0 for check in ("is-enabled", "is-active")):
        return False
    hostlib.must(["systemctl", "enable", "--now", "--quiet", unit])
    return True


# --- clock ----------------------------------------------------------------------------------------------------


def clock() -> list[str]:
    """A time service runs: signatures and certificates are judged by the clock. A container has its host's."""
    if hostlib.run(["systemd-detect-virt", "--container", "--quiet"]).returncode == 0:
        return []
    known = [unit for unit in CLOCKS if hostlib.run(["systemctl", "cat", f"{unit}.service"]).returncode == 0]
    if not known:
        raise OSError("the host has no time service")
    return [f"clock: {known[0]} started"] if start(f"{known[0]}.service") else []


if __name__ == "__main__":
    main()
