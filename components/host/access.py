#!/usr/bin/python3
"""Changes what may lock the operator out: our packet filter, SSH by keys alone, and the network.

  access.py apply    changes them, with a way back armed first: a timer that takes the change back
  access.py confirm  from a new login, which proves that there is one: stops the timer and keeps the change
  access.py restore  the way back, for the timer and for a boot before the confirmation: exactly what was before

Payload of the first: {"ssh_port": 22, "allow_tcp": [], "allow_udp": [], "ipv6_mail": true,
"units": {"mailroom-firewall.service": text, ...}, "network": see network.py, or left out}. A run that says "ok" has
nothing to be confirmed.

/etc/mailroom-host/before is there while a change waits for its confirmation. It is complete before the first
change and goes after the last one, so a run that is killed anywhere is taken back or finished by the next.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.host import firewall, hostlib, network, sshd
else:
    import firewall
    import hostlib
    import network
    import sshd

STATE = Path("/etc/mailroom-host")
BEFORE = STATE / "before"
NEW = STATE / "firewall.new"  # the rules that wait for their confirmation
TABLE = "table.nft"  # in BEFORE, beside the files of sshd
UNITS = Path("/etc/systemd/system")
WAY_BACK = "mailroom-rollback"


def main() -> None:
    """Do what the argument says."""
    actions = {"apply": apply, "confirm": confirm, "restore": restore_now}
    action = actions.get(" ".join(sys.argv[1:]))
    if action is None:
        hostlib.fail("no such action", f"expected one of {', '.join(actions)}", "run it by `pulumi up`")
    try:
        action()
    except OSError as error:
        with suppress(OSError):  # or else the timer tries it
            restore()
        back = "comes back within a minute" if BEFORE.exists() else "is back"
        hostlib.fail(str(error), "expected the host to take our settings", f"what was before {back}")


def apply() -> None:
    """Change what has to change; the way back is armed before."""
    wanted = hostlib.read_payload()
    net = wanted.get("network")
    tcp, udp = [wanted["ssh_port"], *sshd.ports(), *wanted["allow_tcp"]], wanted["allow_udp"]
    rules = firewall.rules(tcp, udp, ipv6_mail=wanted["ipv6_mail"])
    network.check(net)
    kept, key_only, net_is_wanted = firewall.is_kept(rules), sshd.is_key_only(), network.is_wanted(net)
    if not kept and (error := firewall.check(rules)):
        raise OSError(error)
    changes = install_units(wanted["units"])
    if kept and key_only and net_is_wanted and not changes and not BEFORE.exists():
        hostlib.finish([])
    remember()
    if not net_is_wanted:
        network.remember(BEFORE)
    arm()
    if not key_only:
        changes += make_key_only()
        sshd.reload()
    hostlib.write_file(NEW, rules, 0o600)
    if not kept:
        firewall.load(rules)
        changes += ["packet filter loaded", *firewall.shut_out(tcp, udp)]
    if not net_is_wanted:
        changes += network.apply(net)
    hostlib.finish([*changes, "waits for its confirmation by a new login"])


def make_key_only() -> list[str]:
    """Write what makes SSH take keys alone. A running sshd never reads files that it refuses, nor old ones anew."""
    try:
        return sshd.make_key_only()
    except OSError:
        restore_files()
        raise


def confirm() -> None:
    """Keep what `apply` changed: whoever calls this got in afterwards."""
    hostlib.run(["systemctl", "stop", f"{WAY_BACK}.timer"])
    state = hostlib.run(["systemctl", "is-active", f"{WAY_BACK}.service"]).stdout.strip()
    if state == "activating" or not BEFORE.exists():
        hostlib.fail(
            "the change of packet filter, SSH or network was taken back before it was confirmed",
            "expected a new login in time",
            "run `pulumi up` again",
        )
    firewall.keep(NEW.read_text(encoding="utf-8"))
    with_network = ", and the network" if network.MEMORY.exists() else ""
    forget()
    hostlib.finish([f"packet filter and SSH by keys alone are kept{with_network}"])


def restore_now() -> None:
    """What the timer and a boot run."""
    done = ["packet filter, SSH and network are as they were before, as nobody confirmed the change"]
    hostlib.finish(done if restore() else [])


# --- the way back ---------------------------------------------------------------------------------------------


def install_units(units: dict[str, str]) -> list[str]:
    """The units that load the rules at boot and take changes back."""
    changed = [name for name, text in units.items() if hostlib.write_file(UNITS / name, text)]
    service = f"{WAY_BACK}.service"
    if hostlib.run(["systemctl", "is-enabled", "--quiet", service]).returncode:
        hostlib.must(["systemctl", "enable", "--quiet", service])
        changed.append(service)
    return [f"installed {', '.join(sorted(set(changed)))}"] if changed else []


def remember() -> None:
    """Write down what is there now, in one rename; what an unconfirmed run remembered is older and stays."""
    if BEFORE.exists():
        return
    fresh = BEFORE.with_name("before.new")
    shutil.rmtree(fresh, ignore_errors=True)
    hostlib.make_directory(STATE, 0o700)
    hostlib.make_directory(fresh, 0o700)
    hostlib.write_file(fresh / TABLE, firewall.listing(), 0o600)
    for path in (sshd.CONFIG, sshd.DROP_IN):
        if path.exists():
            shutil.copy2(path, fresh / path.name)
    fresh.rename(BEFORE)


def arm() -> None:
    """Start the time from the beginning."""
    hostlib.must(["systemctl", "daemon-reload"])
    hostlib.must(["systemctl", "restart", f"{WAY_BACK}.timer"])


def restore() -> bool:
    """Bring back exactly what `remember` saw, if anything waits; may be killed and run again."""
    if not BEFORE.exists():
        return False
    if restore_files():
        sshd.reload(wait=False)  # at a boot sshd may wait for us
    firewall.restore((BEFORE / TABLE).read_text(encoding="utf-8"))
    network.restore(BEFORE)
    hostlib.run(["systemctl", "stop", f"{WAY_BACK}.timer"])
    forget()
    return True


def restore_files() -> bool:
    """Bring back sshd's files; says whether that changed any."""
    changed = False
    for path in (sshd.CONFIG, sshd.DROP_IN):
        saved = BEFORE / path.name
        if saved.exists():
            changed |= hostlib.write_file(path, saved.read_bytes(), saved.stat().st_mode & 0o7777)
        elif path.exists():
            path.unlink()
            changed = True
    return changed


def forget() -> None:
    """Nothing waits any more: one rename, so that no half of it is ever taken for the whole."""
    done = BEFORE.with_name("before.done")
    shutil.rmtree(done, ignore_errors=True)
    BEFORE.rename(done)
    shutil.rmtree(done)


def undo() -> list[str]:
    """Open the host again, for good: SSH by keys alone stays, all else goes. Says what was there."""
    hostlib.run(["systemctl", "stop", f"{WAY_BACK}.timer"])
    removed = firewall.undo() + network.undo()
    hostlib.run(["systemctl", "disable", "--quiet", f"{WAY_BACK}.service"])
    for name in (firewall.UNIT, f"{WAY_BACK}.service", f"{WAY_BACK}.timer"):
        (UNITS / name).unlink(missing_ok=True)
    hostlib.run(["systemctl", "daemon-reload"])
    shutil.rmtree(STATE, ignore_errors=True)
    return removed


if __name__ == "__main__":
    main()
