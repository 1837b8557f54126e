#!/usr/bin/python3
"""Reads what a host is and prints it as one JSON document; runs on the host, changes nothing, judges nothing.

It meets machines nobody has prepared: it imports only what Debian's python3-minimal ships (no json module
there), speaks Python 3.7, and answers null where a tool is missing.
"""

from __future__ import annotations

import fcntl
import os
import platform
import pwd
import re
import struct
import subprocess
import time

MAIL_PORTS = (25, 465, 587)
# The four that prepare.py waits for.
APT_LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
)
CLOUD_INIT = "/run/cloud-init"
DMI = "/sys/class/dmi/id"
# Mail servers that do not say `Provides: mail-transport-agent` in every release.
ALSO_MTAS = ("chasquid",)


def to_json(value: object) -> str:
    """JSON of plain values, in ASCII: python3-minimal of Debian 12 has no json module."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(to_json(str(key)) + ": " + to_json(item) for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(to_json, value)) + "]"
    data = str(value).encode("utf-16-le", "surrogatepass")
    return '"' + "".join(map(_escaped, struct.unpack(f"<{len(data) // 2}H", data))) + '"'


def _escaped(unit: int) -> str:
    plain = 0x20 <= unit < 0x7F and chr(unit) not in '"\\'  # noqa: PLR2004 (the printable part of ASCII)
    return chr(unit) if plain else f"\\u{unit:04x}"


def output_of(*argv: str) -> str | None:
    """What a read-only command prints, or None where it is missing or fails."""
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            check=True,
            timeout=20,
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None


def read(path: str) -> str:
    """The text of a file, or nothing where it is missing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def os_release(text: str) -> dict[str, str]:
    """The assignments of an os-release file (os-release(5)), quotes removed."""
    found = re.findall(r"^([A-Z_]+)=(.*)$", text, flags=re.MULTILINE)
    return {key: value.strip().strip("\"'") for key, value in found}


def memory_mb(meminfo: str) -> int | None:
    """Physical memory from /proc/meminfo, whose kB are KiB."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, flags=re.MULTILINE)
    return int(found.group(1)) // 1024 if found else None


def listeners(ss: str | None) -> list[dict[str, object]] | None:
    """Who listens on the mail ports, from `ss -H -ltnp`; the process is null when we may not see it."""
    if ss is None:
        return None
    found = []
    for line in ss.splitlines():
        columns = line.split()
        address, _, port = columns[3].rpartition(":")
        if not port.isdigit() or int(port) not in MAIL_PORTS:
            continue
        users = re.search(r'\(\("([^"]*)",pid=(\d+)', line)
        exe = executable(users.group(2)) if users else None
        found.append(
            {
                "port": int(port),
                "address": address.strip("[]"),
                "process": users.group(1) if users else None,
                "exe": exe,
                "package": package(exe) if exe else None,
            }
        )
    return found


def executable(pid: str) -> str | None:
    """The program file of a process, readable for its owner and root only."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None


def package(exe: str) -> str | None:
    """The package that a program file came with, if any."""
    return (output_of("dpkg-query", "-S", exe) or "").partition(":")[0] or None


def mtas(packages: str | None) -> list[str] | None:
    """Installed mail servers, from dpkg-query lines `status<TAB>package<TAB>provides`."""
    if packages is None:
        return None
    rows = [line.split("\t") for line in packages.splitlines()]
    return [
        row[1] for row in rows if row[0].startswith("ii") and ("mail-transport-agent" in row[2] or row[1] in ALSO_MTAS)
    ]


def addresses(ip: str | None) -> dict[str, list[str]] | None:
    """Interface -> its global addresses, from `ip -o address show scope global`."""
    if ip is None:
        return None
    found: dict[str, list[str]] = {}
    for interface, address in re.findall(r"(?m)^\d+:\s+(\S+)\s+inet6?\s+([0-9a-fA-F.:]+)", ip):
        found.setdefault(interface, []).append(address)
    return found


def interface(routes: str | None) -> str | None:
    """The interface of the first default route, from `ip route show default`."""
    found = re.search(r"\bdev (\S+)", routes or "")
    return found.group(1) if found else None


def network_file(status: str | None) -> str | None:
    """By which file systemd-networkd configures an interface (`networkctl status`); null where somebody else does."""
    found = re.search(r"(?m)^ *Network File: (/\S+)", status or "")
    return found.group(1) if found else None


def lock_holder(path: str) -> dict[str, object] | None:
    """The process that holds a lock file, asked for with F_GETLK: nothing is locked by asking."""
    layout = "hhqqi"  # struct flock of 64-bit Linux: type, whence, start, length, pid
    try:
        with open(path, "rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, fcntl.F_WRLCK, 0, 0, 0, 0))
    except OSError:
        return None
    kind, _, _, _, pid = struct.unpack(layout, answer)
    if kind == fcntl.F_UNLCK:
        return None
    return {"pid": pid, "process": read(f"/proc/{pid}/comm").strip() or None}


def cloud_init(folder: str = CLOUD_INIT) -> str | None:
    """Whether this boot's cloud-init is still at work: "running", "done", or None where there is none.

    Its generator writes `enabled`, its last stage `result.json`, and a boot begins with neither.
    """
    if not os.path.exists(folder + "/enabled"):
        return None
    return "done" if os.path.exists(folder + "/result.json") else "running"


def facts() -> dict[str, object]:
    """Everything the gate wants to know about this host."""
    release = os_release(read("/etc/os-release"))
    disk = os.statvfs("/")
    uid = os.geteuid()
    routes = (output_of("ip", family, "route", "show", "default") for family in ("-4", "-6"))
    device = next(filter(None, map(interface, routes)), None)
    return {
        "os_id": release.get("ID"),
        "os_version": release.get("VERSION_ID"),
        "os_name": release.get("PRETTY_NAME"),
        "arch": (output_of("dpkg", "--print-architecture") or "").strip() or None,
        "kernel": platform.release(),
        "systemd": os.path.isdir("/run/systemd/system"),
        "disk_free_mb": disk.f_bavail * disk.f_frsize // 2**20,
        "memory_mb": memory_mb(read("/proc/meminfo")),
        "user": pwd.getpwuid(uid).pw_name,
        "root": uid == 0,
        "sudo": uid != 0 and output_of("sudo", "-n", "true") is not None,
        "listeners": listeners(output_of("ss", "-H", "-ltnp")),
        "mtas": mtas(output_of("dpkg-query", "-W", "-f", "${db:Status-Abbrev}\t${Package}\t${Provides}\n")),
        "addresses": addresses(output_of("ip", "-o", "address", "show", "scope", "global")),
        "ipv6": os.path.isdir("/proc/sys/net/ipv6"),
        "network_file": network_file(output_of("networkctl", "status", "--no-pager", device)) if device else None,
        "apt_lock": next(filter(None, map(lock_holder, APT_LOCKS)), None),
        "cloud_init": cloud_init(),
        "hardware": [read(f"{DMI}/{name}").strip() for name in ("sys_vendor", "chassis_asset_tag")],
        "python": platform.python_version(),
        "time": time.time(),  # last: the closest to the moment the answer arrives
    }


if __name__ == "__main__":
    print(to_json(facts()))
