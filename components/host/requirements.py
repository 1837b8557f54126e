"""What a host must be before we touch it: a pure judge over the facts that facts.py read; no I/O here."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Protocol

from components.host.systems import PYTHON, SUPPORTED
from standards.finding import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from components.settings import NetworkSettings

    Facts = Mapping[str, Any]


class Wanted(Protocol):
    """What is asked of a host: an entry of mailroom:hosts, or what preflight knows of a host without one."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def address(self) -> str: ...  # noqa: D102
    @property
    def arch(self) -> str | None: ...  # noqa: D102
    @property
    def ipv4(self) -> str | None: ...  # noqa: D102
    @property
    def ipv6(self) -> str | None: ...  # noqa: D102
    @property
    def ipv6_outbound(self) -> bool: ...  # noqa: D102
    @property
    def network(self) -> NetworkSettings | None: ...  # noqa: D102


CLOCK_TOLERANCE = 60  # seconds
DISK_MB = 500
MEMORY_MB = 256
ARCHITECTURES = ("amd64", "arm64")
PORTS = {25: "SMTP", 465: "submission over TLS", 587: "submission"}
OUR_PROGRAM = "/usr/local/lib/mailroom/chasquid/"
# RFC 1918 and RFC 6598; `is_private` would also count documentation addresses.
TRANSLATED = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))
UNIQUE_LOCAL = ip_network("fc00::/7")  # RFC 4193
# Packages that provide `mail-transport-agent` and never listen: they hand local mail to another server.
SEND_ONLY = frozenset({"dma", "esmtp-run", "lsb-invalid-mta", "msmtp-mta", "nullmailer", "ssmtp"})


def judge(facts: Facts, host: Wanted, now: float) -> list[Finding]:
    """Every reason why `host` does not fit, and notes; `now` is the operator's clock on arrival.

    Of a host that runs something else than we support nothing more is said, and no other fact is needed.
    """
    system = list(_operating_system(facts, host))
    if not is_supported(facts):
        return system
    return [
        *system,
        *_rights(facts, host),
        *_clock(facts, host, now),
        *_room(facts, host),
        *_mail_servers(facts, host),
        *_ports(facts, host),
        *_address(facts, host, host.ipv4),
        *_address(facts, host, host.ipv6),
        *_other_way_out(facts, host),
        *_network(facts, host),
        *_first_boot(facts, host),
        *_package_manager(facts, host),
    ]


def _finding(host: Wanted, severity: Severity, check: str, **text: str) -> Finding:
    subject = host.address if host.name == host.address else f"{host.name} ({host.address})"
    return Finding(severity=severity, id=f"host-{check}", subject=subject, **text)


def unreadable(host: Wanted, said: str) -> Finding:
    """A host on which facts.py did not run; `said` is what it wrote on standard error."""
    lines = said.strip().splitlines() or ["no message"]
    return _finding(
        host,
        "error",
        "unreadable",
        expected="a host that runs python3, such as Debian or Ubuntu as installed",
        found=f"its facts cannot be read ({lines[-1][:200]})",
        why="nothing is changed on a host that was not looked at first",
        fix="log in and install it: apt-get install python3-minimal",
    )


def is_supported(facts: Facts) -> bool:
    """Whether our scripts know the operating system: until then a host may be its provider's installer."""
    return any((facts["os_id"], facts["os_version"]) == (known.id, known.version) for known in SUPPORTED)


def _operating_system(facts: Facts, host: Wanted) -> Iterator[Finding]:
    """The release, its architecture and its init system."""
    if not is_supported(facts):
        yield _finding(
            host,
            "error",
            "os",
            expected=", ".join(known.name for known in SUPPORTED),
            found=f"runs {facts['os_name'] or 'an operating system without /etc/os-release'}",
            why="packages, paths and service names differ between releases; these are the ones we know",
            fix="reinstall the host with one of them, or wait if the provider is still installing it",
        )
        return  # what follows would only restate it
    if facts["arch"] != host.arch and (host.arch or facts["arch"] not in ARCHITECTURES):
        yield _finding(
            host,
            "error",
            "arch",
            expected=f"{host.arch}, as `arch` of this host says" if host.arch else " or ".join(ARCHITECTURES),
            found=f"its architecture is {facts['arch']}",
            why="the mail server is uploaded as a binary for one architecture",
            fix=f"set `arch: {facts['arch']}` for this host in mailroom:hosts (amd64 and arm64 are possible)"
            if facts["arch"] in ARCHITECTURES
            else "take a machine with one of these",
        )
    if not facts["systemd"]:
        yield _finding(
            host,
            "error",
            "systemd",
            expected="systemd as init (the directory /run/systemd/system)",
            found="systemd is not running",
            why="the mail server and the certificate renewal are systemd units",
            fix="use a full virtual machine instead of an application container",
        )
    if tuple(map(int, str(facts["python"]).split(".")[:2])) < PYTHON:
        yield _finding(
            host,
            "error",
            "python",
            expected=f"python3 {PYTHON[0]}.{PYTHON[1]} or newer, as every supported release ships",
            found=f"python3 is {facts['python']}",
            why="our host scripts run with the host's own python3",
            fix="restore the distribution's: apt-get install --reinstall python3-minimal",
        )


def _rights(facts: Facts, host: Wanted) -> Iterator[Finding]:
    if not facts["root"] and not facts["sudo"]:
        yield _finding(
            host,
            "error",
            "rights",
            expected="user root, or a user for whom `sudo -n true` works",
            found=f"user {facts['user']} is neither root nor allowed to use sudo without a password",
            why="packages, services and ports below 1024 need root",
            fix=f"as root: echo '{facts['user']} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{facts['user']}",
        )


def _clock(facts: Facts, host: Wanted, now: float) -> Iterator[Finding]:
    ahead = facts["time"] - now
    if abs(ahead) > CLOCK_TOLERANCE:
        yield _finding(
            host,
            "error",
            "clock",
            expected=f"within {CLOCK_TOLERANCE} s of this machine's clock",
            found=f"its clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}",
            why="certificates, DKIM signatures and Date headers are judged by the receiver's clock",
            fix="on the host: timedatectl set-ntp true (and compare this machine's clock with `date -u`)",
        )


def _room(facts: Facts, host: Wanted) -> Iterator[Finding]:
    if facts["disk_free_mb"] < DISK_MB:
        yield _finding(
            host,
            "error",
            "disk",
            expected=f"at least {DISK_MB} MB free on /",
            found=f"{facts['disk_free_mb']} MB are free",
            why="packages, two versions of the mail server and the mail queue live there",
            fix="free some space (apt-get clean, journalctl --vacuum-size=100M) or take a larger disk",
        )
    if facts["memory_mb"] is not None and facts["memory_mb"] < MEMORY_MB:
        yield _finding(
            host,
            "error",
            "memory",
            expected=f"at least {MEMORY_MB} MB",
            found=f"it has {facts['memory_mb']} MB of memory",
            why="apt and the mail server would be killed by the kernel",
            fix="take a larger machine",
        )


def _holders(facts: Facts) -> dict[tuple[str, str | None], list[int]]:
    """A foreign process and its package -> the mail ports it holds."""
    found: dict[tuple[str, str | None], set[int]] = {}
    for listener in facts["listeners"] or []:
        if not str(listener["exe"] or "").startswith(OUR_PROGRAM):
            who = (listener["process"] or "an unknown process", listener.get("package"))
            found.setdefault(who, set()).add(listener["port"])
    return {who: sorted(ports) for who, ports in sorted(found.items(), key=str)}


def _removal(process: str, package: str | None, port: int, facts: Facts) -> str:
    """How to free a port that a foreign process holds; a package is named only when it is a mail server's.

    The program may be an interpreter that runs somebody's script, and that package holds the system together.
    """
    if process == "docker-proxy":
        return f"find the container with `docker ps --filter publish={port}`, then: docker rm --force ITS-NAME"
    if package in (facts["mtas"] or []):
        return f"save its mail if there is any, then on the host: apt-get purge {package}"
    return f"find it with `ss -ltnp 'sport = :{port}'`, stop and remove it"


def _mail_servers(facts: Facts, host: Wanted) -> Iterator[Finding]:
    for package in facts["mtas"] or []:
        if package in SEND_ONLY:
            continue
        yield _finding(
            host,
            "error",
            "foreign-mta",
            expected="no other mail server (send-only ones such as msmtp-mta or dma may stay)",
            found=f"the mail server {package} is installed",
            why="it holds port 25 now or takes it at the next boot",
            fix=f"save its mail if there is any, then on the host: apt-get purge {package}",
        )


def _ports(facts: Facts, host: Wanted) -> Iterator[Finding]:
    if facts["listeners"] is None:
        yield _finding(
            host,
            "error",
            "ports",
            expected="the command `ss`",
            found="`ss` is missing, so nobody can say who holds ports 25, 465 and 587",
            why="our mail server needs these ports",
            fix="on the host: apt-get install iproute2",
        )
    for (process, package), ports in _holders(facts).items():
        held = ", ".join(f"{port} ({PORTS[port]})" for port in ports)
        yield _finding(
            host,
            "error",
            "ports",
            expected="ports 25, 465 and 587 free, or held by the chasquid of this project",
            found=f"{process} listens on {held}",
            why="our mail server needs these ports",
            fix=_removal(process, package, ports[0], facts),
        )


def _address(facts: Facts, host: Wanted, wanted: str | None) -> Iterator[Finding]:
    """Whether an address of the settings is on an interface; behind 1:1 NAT a public IPv4 address is not."""
    if wanted is None or facts["addresses"] is None:
        return
    version = ip_address(wanted).version
    own = [ip_address(text) for group in facts["addresses"].values() for text in group]
    family = [address for address in own if address.version == version]
    if ip_address(wanted) in family:
        return
    seen = ", ".join(map(str, family)) or "none"
    behind_nat = version == 4 and family and all(is_behind_nat(address) for address in family)  # noqa: PLR2004
    if version == 6 and host.network and host.network.ipv6:  # noqa: PLR2004
        yield _finding(
            host,
            "note",
            "ipv6",
            expected=f"{wanted} on one of its interfaces",
            found=f"its IPv6 addresses are: {seen}",
            why="the gate reads before anything is changed",
            fix="nothing to do: `network` of this host switches it on",
        )
        return
    yield _finding(
        host,
        "note" if behind_nat else "error",
        f"ipv{version}",
        expected=f"{wanted} on one of its interfaces",
        found=f"its IPv{version} addresses are: {seen}",
        why="mail leaves from an address of the host, and A/AAAA, PTR and SPF must name exactly that one",
        fix=f"make sure that the provider translates {seen} to {wanted} in both directions, all ports"
        if behind_nat
        else f"correct `ipv{version}` in mailroom:hosts, or give the interface this address"
        + (" (`network: {ipv6: {gateway: ...}}` of this host does)" if version == 6 else ""),  # noqa: PLR2004
    )


def _network(facts: Facts, host: Wanted) -> Iterator[Finding]:
    """Whether `network` can do its work here."""
    if host.network is None or not host.network.is_set:
        return
    if facts["network_file"] is None:
        yield _finding(
            host,
            "error",
            "network",
            expected="systemd-networkd for the interface of its default route, as netplan's default renderer uses it",
            found="something else configures it (ifupdown, NetworkManager or cloud-init's dhcpcd)",
            why="`network` adds to what systemd-networkd does; two managers of one interface undo each other's work",
            fix="take `network` out and configure IPv6 where the host configures IPv4 (/etc/network/interfaces has "
            "`iface ... inet6 static`), or move the host to systemd-networkd",
        )
    if host.network.ipv6 and not facts["ipv6"]:
        yield _finding(
            host,
            "error",
            "ipv6-kernel",
            expected="a kernel with IPv6 (the directory /proc/sys/net/ipv6)",
            found="IPv6 is off since the kernel started",
            why="nothing can be switched on there before the next boot",
            fix="take ipv6.disable=1 out of GRUB_CMDLINE_LINUX in /etc/default/grub, run update-grub, restart the host",
        )


def _other_way_out(facts: Facts, host: Wanted) -> Iterator[Finding]:
    """An IPv6 address that SPF, AAAA and PTR do not know, and nobody said that no mail may leave from it.

    Go prefers IPv6; with ipv6Outbound off the packet filter refuses it, and Go takes IPv4 at once.
    """
    if facts["addresses"] is None or host.ipv6 or not host.ipv6_outbound:
        return
    own = [ip_address(text) for group in facts["addresses"].values() for text in group]
    routed = [address for address in own if address.version == 6 and not stays_inside(address)]  # noqa: PLR2004
    if routed:
        yield _finding(
            host,
            "error",
            "ipv6-unlisted",
            expected="`ipv6: <that address>` or `ipv6Outbound: off` in mailroom:hosts, or no such address on the host",
            found=f"it has the IPv6 address {routed[0]}, which the settings leave out",
            why="mail would leave from it, and receivers would find neither SPF nor reverse DNS for it",
            fix="list it and set its PTR, or set `ipv6Outbound: off` for this host",
        )


def stays_inside(address: IPv4Address | IPv6Address) -> bool:
    """Link-local, loopback and unique local addresses reach no receiver."""
    return address.is_link_local or address.is_loopback or address in UNIQUE_LOCAL


def is_behind_nat(address: IPv4Address | IPv6Address) -> bool:
    """Whether others see another address instead of this one."""
    return any(address in network for network in TRANSLATED)


def _first_boot(facts: Facts, host: Wanted) -> Iterator[Finding]:
    """Whether cloud-init is still setting the host up; facts of an older run may not say."""
    if facts.get("cloud_init") == "running":
        yield _finding(
            host,
            "note",
            "cloud-init",
            expected="a host whose first boot is over",
            found="cloud-init is still at work",
            why="it may install packages, write settings and start the host again",
            fix="scripts/preflight.py ADDRESS --wait waits until it is done",
        )


def _package_manager(facts: Facts, host: Wanted) -> Iterator[Finding]:
    if facts["apt_lock"] is not None:
        holder = facts["apt_lock"]
        yield _finding(
            host,
            "note",
            "apt-lock",
            expected="nobody installs packages at the same time",
            found=f"{holder['process'] or 'a process'} (pid {holder['pid']}) holds the lock of dpkg",
            why="often unattended-upgrades right after the first boot",
            fix="nothing to do: the installation waits for it",
        )
