"""The host's IPv6: switched on, its address and gateway as in the settings, and further addresses that never send.

systemd-networkd takes it from a drop-in beside the file that it reads for the interface, whoever wrote that one: a
person, the image, or netplan. So nothing of the host's own is replaced, and taking ours away brings back what was.
Who changes it under a timed way back is access.py.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from components.host import hostlib

    Wanted = Mapping[str, Any]
else:
    import hostlib

NETWORKD = Path("/etc/systemd/network")
DROP_IN = "90-mailroom.conf"
SYSCTL = Path("/etc/sysctl.d/99-zz-mailroom.conf")  # after 99-sysctl.conf, which is /etc/sysctl.conf
MEMORY = Path("/etc/mailroom-host/network.json")  # there while the setting is in force: what was before it
CONF = Path("/proc/sys/net/ipv6/conf")
BEFORE = "network.json"  # in the folder of what a change waits with
PATIENCE = 10.0  # seconds until the interface has what it was given; duplicate address detection takes 1 to 2
ANSWER = 4.0  # seconds; a neighbour that is asked three times has had its chance after 3
ECHO_LIMIT = 5.0  # seconds
METRIC = 512  # wins over a default route of the host's own, which has 1024

HEADER = "# Written by Mailroom; a change here is undone by the next `pulumi up`. See mailroom:hosts[..].network\n"
MAIN = """
[Network]
LinkLocalAddressing=ipv6
IPv6AcceptRA=no

[Address]
Address={address}/{prefix}
PreferredLifetime=forever

[Route]
Gateway={gateway}
GatewayOnLink=yes
Metric={metric}
"""
# Deprecated (RFC 4862 section 5.5.4): it is answered on, and no new connection leaves from it.
EXTRA = """
[Address]
Address={address}/128
PreferredLifetime=0
"""


def drop_in(wanted: Wanted) -> str:
    """What networkd is to add to the interface."""
    text = HEADER
    if wanted["gateway"]:
        text += MAIN.format(
            address=wanted["address"], prefix=wanted["prefix"], gateway=wanted["gateway"], metric=METRIC
        )
    return text + "".join(EXTRA.format(address=address) for address in wanted["addresses"])


def sysctl(interface: str) -> str:
    """IPv6 on for every boot; slashes, as an interface may have a dot in its name."""
    return HEADER + "".join(f"net/ipv6/conf/{name}/disable_ipv6 = 0\n" for name in ("all", "default", interface))


def interface() -> str:
    """The interface that leads to the world; raises OSError where there is none."""
    for family in ("-4", "-6"):
        found = re.search(r"\bdev (\S+)", hostlib.run(["ip", family, "route", "show", "default"]).stdout)
        if found:
            return found.group(1)
    raise OSError("no interface has a default route")


def managed(device: str) -> str:
    """The name of the file by which networkd configures `device`; raises OSError where somebody else does."""
    status = hostlib.run(["networkctl", "status", "--no-pager", device]).stdout
    found = re.search(r"(?m)^ *Network File: (/\S+)", status)
    if not found:
        raise OSError(f"{device} is not configured by systemd-networkd (netplan with its default renderer is fine)")
    return Path(found.group(1)).name


def check(wanted: Wanted | None) -> None:
    """Raise OSError for what cannot work; changes nothing."""
    if wanted is not None:
        managed(interface())
        if wanted["gateway"] and not CONF.is_dir():
            raise OSError("the kernel was started without IPv6 (ipv6.disable=1 in /proc/cmdline)")


def is_wanted(wanted: Wanted | None) -> bool:
    """Whether files and kernel are as wanted; without the setting: whether nothing of ours is left."""
    if wanted is None:
        return not MEMORY.exists()
    device = interface()
    expected = {_drop_in_path(device): drop_in(wanted), **_sysctl_file(wanted, device)}
    there = {path: path.read_text(encoding="utf-8") for path in _files() if path != MEMORY}
    return MEMORY.exists() and there == expected and trouble(wanted, device) is None


def remember(folder: Path) -> None:
    """Write down what is there now; what an unconfirmed run remembered is older and stays."""
    if not (folder / BEFORE).exists():
        files = {str(path): path.read_text(encoding="utf-8") for path in _files()}
        now = {"files": files, "disabled": disabled(), "interface": interface()}
        hostlib.write_file(folder / BEFORE, json.dumps(now), 0o600)


def apply(wanted: Wanted | None) -> list[str]:
    """Change what has to change; raises OSError when the interface does not take it or the gateway is silent."""
    if wanted is None:
        before = json.loads(MEMORY.read_text(encoding="utf-8"))
        if _put_back(before):
            reload(before["interface"])
        return ["network is as it was before the setting"]
    device = interface()
    if not MEMORY.exists():
        before = {"files": {}, "disabled": disabled(), "interface": device}
        hostlib.write_file(MEMORY, json.dumps(before), 0o600)
    expected = {_drop_in_path(device): drop_in(wanted), **_sysctl_file(wanted, device)}
    _remove(set(_files()) - {MEMORY, *expected})
    for path, text in expected.items():
        hostlib.make_directory(path.parent)
        hostlib.write_file(path, text)
    if wanted["gateway"]:
        switch({"all": "0", "default": "0", device: "0"})
    reload(device)
    end = time.monotonic() + PATIENCE
    while (reason := trouble(wanted, device)) and time.monotonic() < end:
        time.sleep(0.1)
    if reason:
        raise OSError(reason)
    if wanted["gateway"] and not answers(wanted["gateway"], device):
        raise OSError(f"no machine on {device} has the address of the gateway {wanted['gateway']}")
    if wanted["echo"]:
        check_echo(wanted["echo"], wanted["address"])
    own = [f"{wanted['address']} by way of {wanted['gateway']}"] if wanted["gateway"] else []
    extra = [f"{address} (never sends)" for address in wanted["addresses"]]
    return [f"{device} has {', '.join([*own, *extra])}"]


def restore(folder: Path) -> None:
    """Bring back what `remember` saw, if it was asked; may be killed and run again."""
    if (folder / BEFORE).exists():
        _restore(folder / BEFORE)


def undo() -> list[str]:
    """Bring back what was before the setting, for good; says whether there was anything."""
    if not MEMORY.exists():
        return []
    _restore(MEMORY)
    return ["network settings"]


def trouble(wanted: Wanted, device: str) -> str | None:
    """Why the interface is not (yet) as wanted; None when it is."""
    text = hostlib.run(["ip", "-6", "-j", "address", "show", "dev", device]).stdout
    listed = json.loads(text or "[]")
    has = {info["local"]: info for link in listed for info in link.get("addr_info", []) if "local" in info}
    expected = [(wanted["address"], True)] if wanted["gateway"] else []
    for address, sends in [*expected, *((address, False) for address in wanted["addresses"])]:
        if address not in has:
            return f"{device} does not get the address {address}"
        if has[address].get("dadfailed"):
            return f"another machine on {device} has the address {address}"
        if has[address].get("tentative"):
            return f"{device} is still asking whether another machine has {address}"
        if (has[address].get("preferred_life_time", 1) != 0) != sends:
            return f"mail {'cannot' if sends else 'could'} leave from {address}"
    if wanted["gateway"]:
        text = hostlib.run(["ip", "-6", "-j", "route", "show", "default", "dev", device]).stdout
        if not any(route.get("gateway") == wanted["gateway"] for route in json.loads(text or "[]")):
            return f"{device} gets no route by way of {wanted['gateway']}"
    return None


def answers(gateway: str, device: str) -> bool:
    """Whether a neighbour has this address (RFC 4861): any packet makes the kernel ask, and it keeps the answer."""
    with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.sendto(b"", (gateway, 9, 0, socket.if_nametoindex(device)))  # port 9 is discard (RFC 863)
    end = time.monotonic() + ANSWER
    while True:
        entry = hostlib.run(["ip", "-6", "neigh", "show", gateway, "dev", device]).stdout
        if "lladdr" in entry:
            return True
        if "FAILED" in entry or time.monotonic() > end:
            return False
        time.sleep(0.1)


def check_echo(url: str, address: str) -> None:
    """Ask a service over IPv6 which address it sees; raises OSError for another one or no answer."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    # Bound to `::` nothing but IPv6 will do, and the kernel still chooses the address, as for mail.
    connection = kind(parts.netloc, timeout=ECHO_LIMIT, source_address=("::", 0))
    try:
        connection.request("GET", f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}")
        answer = connection.getresponse()
        said = answer.read(4096).decode("ascii", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{url} does not answer over IPv6 ({error})") from error
    finally:
        connection.close()
    if said.lower() != address:
        raise OSError(f"{url} sees {said[:100]!r} (status {answer.status}) instead of {address}")


def disabled() -> dict[str, str]:
    """Where IPv6 is off: `all`, `default` and every interface -> disable_ipv6."""
    return {path.parent.name: path.read_text().strip() for path in sorted(CONF.glob("*/disable_ipv6"))}


def switch(values: Mapping[str, str]) -> None:
    """Set disable_ipv6; `all` changes every interface, so it goes first."""
    for name in sorted(values, key=lambda name: (name != "all", name != "default", name)):
        path = CONF / name / "disable_ipv6"
        if path.exists() and path.read_text().strip() != values[name]:
            path.write_text(values[name])


def reload(device: str) -> None:
    """Let networkd read its files and set the interface up anew; addresses that stay do so without a gap."""
    hostlib.must(["networkctl", "reload"])
    hostlib.must(["networkctl", "reconfigure", device])


def _drop_in_path(device: str) -> Path:
    return NETWORKD / f"{managed(device)}.d" / DROP_IN


def _sysctl_file(wanted: Wanted, device: str) -> dict[Path, str]:
    return {SYSCTL: sysctl(device)} if wanted["gateway"] else {}


def _files() -> list[Path]:
    """Everything of ours that is there."""
    return [path for path in (MEMORY, SYSCTL, *NETWORKD.glob(f"*.network.d/{DROP_IN}")) if path.exists()]


def _remove(paths: set[Path]) -> None:
    for path in paths:
        path.unlink()
        with suppress(OSError):  # there are others in it
            if path.name == DROP_IN:
                path.parent.rmdir()


def _restore(memory: Path) -> None:
    before = json.loads(memory.read_text(encoding="utf-8"))
    if _put_back(before):
        with suppress(OSError):  # at a boot networkd may come after us; it reads the files then
            reload(before["interface"])


def _put_back(before: Mapping[str, Any]) -> bool:
    """Files and switches as they were; says whether networkd has to look. The memory goes last: a killed run is
    finished by the next.
    """
    wanted = {Path(path): text for path, text in before["files"].items()}
    now = {path: path.read_text(encoding="utf-8") for path in _files()}
    off = disabled()
    switched = any(off.get(name, value) != value for name, value in before["disabled"].items())
    _remove(set(now) - set(wanted) - {MEMORY})
    for path, text in wanted.items():
        hostlib.make_directory(path.parent, 0o700 if path == MEMORY else 0o755)
        hostlib.write_file(path, text, 0o600 if path == MEMORY else 0o644)
    switch(before["disabled"])
    if MEMORY not in wanted:
        MEMORY.unlink(missing_ok=True)
    return switched or now != wanted
