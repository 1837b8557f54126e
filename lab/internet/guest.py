"""Turns a root file system into the guest that runs the lab's services; `client` asks them from outside."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import TYPE_CHECKING, Final

from lab.addresses import GUEST_CODE, GUEST_MAIL, GUEST_SITE_PACKAGES
from lab.internet import api_server, world
from lab.internet.certificates import issue
from lab.internet.names import (
    ACME_NAME,
    CHALLENGE_ZONE,
    COLLEAGUES_MX,
    COLLEAGUES_OCTET,
    NAMESERVERS,
    RECEIVER_MX,
    TSIG_ALGORITHM,
    TSIG_NAME,
    TSIG_SECRET,
)

if TYPE_CHECKING:
    from pathlib import Path

    from lab.addresses import Pair, Plan

CONFIG: Final = "/etc/mailroom-lab"
TLS: Final = f"{CONFIG}/tls"
CERTIFICATE_DAYS: Final = 90
"""How long the ACME server's certificates live."""
_SCHEMA: Final = "usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql"
_DISTRIBUTION_UNITS: Final = (
    "pdns.service",
    "unbound.service",
    "unbound-resolvconf.service",
    "systemd-resolved.service",
)


def packages() -> list[str]:
    """Debian packages the guest needs on top of the base system."""
    return ["pdns-server", "pdns-backend-sqlite3", "unbound", "pebble", "python3"]


def prepare(root: Path, plan: Plan, certificate_days: int = CERTIFICATE_DAYS) -> None:
    """Write addresses, configuration and enabled units into a root that has the packages; before its boot."""
    config = root / CONFIG.lstrip("/")
    state = root / str(api_server.STATE).lstrip("/")
    for folder in (config, state):
        folder.mkdir(parents=True, exist_ok=True)
    _write_network(root, plan)
    (config / "plan.json").write_text(json.dumps({"name": plan.name, "index": plan.index}))
    for server, port in zip(("ns1", "ns2"), api_server.NAMESERVER_APIS, strict=True):
        _write_name_server(root, server, plan.ns1 if server == "ns1" else plan.ns2, port)
    (config / "unbound.conf").write_text(unbound_conf(plan))
    (config / "pebble.json").write_text(pebble_json(certificate_days))
    issue(ACME_NAME, [*plan.acme, "127.0.0.1"], config / "tls")
    issue(RECEIVER_MX, plan.receiver, config / "tls")
    issue(COLLEAGUES_MX, plan.address(COLLEAGUES_OCTET), config / "tls")
    _write_units(root, plan)


def wait_ready(plan: Plan, timeout: float) -> None:
    """Wait until every service of the booted guest answers; says which one does not."""
    from lab.internet import client

    deadline = time.monotonic() + timeout
    for name, answers in client.probes(plan).items():
        while not answers():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{name} of lab {plan.name!r} does not answer after {timeout:.0f} s, expected it within 10 s; "
                    f"read the guest's journal (`journalctl -b`) for its unit"
                )
            time.sleep(0.05)


def unbound_conf(plan: Plan) -> str:
    """A validating resolver that knows the lab, the package mirrors and nothing else, and remembers nothing."""
    zones = ("test", *plan.reverse_zones)
    server = [
        f'directory: "{CONFIG}"',
        'chroot: ""',
        'username: ""',
        'pidfile: ""',
        "use-syslog: no",
        "num-threads: 1",
        *(f"interface: {address}" for address in plan.resolver),
        *(f"outgoing-interface: {address}" for address in plan.resolver),
        *(f"access-control: {network} allow" for network in plan.clients),
        "access-control: 127.0.0.0/8 allow",
        'module-config: "validator iterator"',
        *(f'trust-anchor: "{anchor}"' for anchor in world.trust_anchors(plan)),
        'local-zone: "." refuse',
        # Also switches off unbound's own empty zones for test. and the documentation networks.
        *(f'local-zone: "{zone}." transparent' for zone in zones),
        *(line for mirror in plan.mirrors for line in _mirror_lines(mirror.name, mirror.ipv4)),
        "cache-max-ttl: 0",
        "cache-max-negative-ttl: 0",
        "infra-host-ttl: 1",
        "val-bogus-ttl: 0",
        "aggressive-nsec: no",
        "qname-minimisation: no",
    ]
    lines = ["server:", *(f"  {line}" for line in server)]
    for zone in zones:
        lines += ["stub-zone:", f'  name: "{zone}."', "  stub-no-cache: yes"]
        lines += [f"  stub-addr: {address}" for address in (*plan.ns1, *plan.ns2)]
    return "\n".join([*lines, ""])


def pebble_json(certificate_days: int) -> str:
    """Configuration of the ACME server."""
    pebble = {
        "listenAddress": ":14000",
        "managementListenAddress": ":15000",
        "certificate": f"{TLS}/{ACME_NAME}.pem",
        "privateKey": f"{TLS}/{ACME_NAME}.key",
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
        "certificateValidityPeriod": certificate_days * 86400,
    }
    return json.dumps({"pebble": pebble}, indent=2)


def pdns_conf(server: str, addresses: Pair, api_port: int) -> str:
    """Configuration of one authoritative server; no cache, so that a change is visible at once."""
    settings = {
        "launch": "gsqlite3",
        "gsqlite3-database": f"{api_server.STATE}/{server}.sqlite3",
        "gsqlite3-dnssec": "yes",
        "gsqlite3-pragma-synchronous": "0",
        "local-address": ", ".join(addresses),
        "api": "yes",
        "api-key": api_server.NAMESERVER_API_KEY,
        "webserver": "yes",
        "webserver-address": "127.0.0.1",
        "webserver-port": str(api_port),
        "webserver-allow-from": "127.0.0.1",
        "cache-ttl": "0",
        "query-cache-ttl": "0",
        "negquery-cache-ttl": "0",
        "zone-cache-refresh-interval": "0",
        "consistent-backends": "no",
        "socket-dir": f"/run/{server}",
        "security-poll-suffix": "",
        "version-string": "anonymous",
        "dnsupdate": "yes",
        "allow-dnsupdate-from": "0.0.0.0/0, ::/0",  # that is, with the key of a zone that has one
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def _mirror_lines(name: str, addresses: tuple[str, ...]) -> list[str]:
    return [f'local-zone: "{name}." static', *(f'local-data: "{name}. 60 IN A {address}"' for address in addresses)]


def _write_network(root: Path, plan: Plan) -> None:
    pairs = [*plan.services, plan.address(COLLEAGUES_OCTET)]
    networks = (plan.ipv4.prefixlen, plan.ipv6.prefixlen)
    sections = "".join(
        # Duplicate address detection would keep IPv6 services from binding for a second or two.
        f"[Address]\nAddress={address}/{prefix}\nDuplicateAddressDetection=none\n\n"
        for pair in pairs
        for address, prefix in zip(pair, networks, strict=True)
    )
    network = root / "etc/systemd/network/10-host0.network"
    network.parent.mkdir(parents=True, exist_ok=True)
    network.write_text(
        "[Match]\nName=host0\n\n[Network]\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n"
        f"Gateway={plan.gateway.ipv4}\nGateway={plan.gateway.ipv6}\n\n{sections}"
    )
    resolv = root / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.write_text(f"nameserver {plan.resolver.ipv4}\nnameserver {plan.resolver.ipv6}\noptions edns0 trust-ad\n")


def _write_name_server(root: Path, server: str, addresses: Pair, api_port: int) -> None:
    folder = root / CONFIG.lstrip("/") / server
    folder.mkdir(exist_ok=True)
    (folder / "pdns.conf").write_text(pdns_conf(server, addresses, api_port))
    database = root / str(api_server.STATE).lstrip("/") / f"{server}.sqlite3"
    database.unlink(missing_ok=True)
    connection = sqlite3.connect(database)
    connection.executescript((root / _SCHEMA).read_text())
    if server == "ns1":
        _add_challenge_zone(connection)
    connection.close()


def _add_challenge_zone(connection: sqlite3.Connection) -> None:
    """A zone that clients write by RFC 2136, outside of what the publisher keeps equal on both servers."""
    connection.execute("INSERT INTO domains (id, name, type) VALUES (1, ?, 'NATIVE')", [CHALLENGE_ZONE])
    soa = f"{NAMESERVERS[0]} hostmaster.lab.test 1 60 30 604800 1"
    for kind, content in (("SOA", soa), ("NS", NAMESERVERS[0])):
        row = [CHALLENGE_ZONE, kind, content]
        connection.execute(
            "INSERT INTO records (domain_id, name, type, content, ttl, auth) VALUES (1, ?, ?, ?, 5, 1)", row
        )
    key = [TSIG_NAME, TSIG_ALGORITHM, TSIG_SECRET]
    connection.execute("INSERT INTO tsigkeys (name, algorithm, secret) VALUES (?, ?, ?)", key)
    metadata = "INSERT INTO domainmetadata (domain_id, kind, content) VALUES (1, 'TSIG-ALLOW-DNSUPDATE', ?)"
    connection.execute(metadata, [TSIG_NAME])
    connection.commit()


def _write_units(root: Path, plan: Plan) -> None:
    python = "/usr/bin/python3 -m lab.internet."
    acme_environment = "PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0 PEBBLE_AUTHZREUSE=0"
    resolver = f"{plan.resolver.ipv4}:53"
    pdns = "/usr/sbin/pdns_server --guardian=no --daemon=no --disable-syslog --log-timestamp=no --write-pid=no"
    commands = {
        "ns1": f"{pdns} --config-dir={CONFIG}/ns1",
        "ns2": f"{pdns} --config-dir={CONFIG}/ns2",
        "resolver": f"/usr/sbin/unbound -d -p -c {CONFIG}/unbound.conf",
        "acme": f"/usr/bin/env {acme_environment} /usr/bin/pebble -config {CONFIG}/pebble.json "
        f"-dnsserver {resolver} -strict",
        "api": f"{python}api_server",
        "receiver": f"{python}receiver",
    }
    units = root / "etc/systemd/system"
    wants = units / "multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    for name, command in commands.items():
        unit = f"mailroom-{name}.service"
        (units / unit).write_text(_unit(name, command))
        _link(wants / unit, f"/etc/systemd/system/{unit}")
    for unit in _DISTRIBUTION_UNITS:
        _link(units / unit, "/dev/null")
    (root / GUEST_MAIL.lstrip("/")).mkdir(parents=True, exist_ok=True)


def _unit(name: str, command: str) -> str:
    # No start limit: a service that comes before its addresses are there simply starts again.
    return f"""[Unit]
Description=Mailroom lab: {name}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Environment=PYTHONPATH={GUEST_CODE}:{GUEST_SITE_PACKAGES} PYTHONDONTWRITEBYTECODE=1
RuntimeDirectory={name}
ExecStart={command}
Restart=always
RestartSec=200ms

[Install]
WantedBy=multi-user.target
"""


def _link(path: Path, target: str) -> None:
    if path.is_symlink() or path.exists():
        path.unlink()
    path.symlink_to(target)
