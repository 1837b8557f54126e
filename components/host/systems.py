"""The operating systems we support, and in what they differ; read here and on hosts alike.

What a script can see for itself, such as whether /etc/timezone is there, it looks at and does not ask here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """One that our scripts are tested for, as /etc/os-release names it."""

    id: str
    version: str
    name: str


SUPPORTED = (
    System("debian", "12", "Debian 12"),
    System("debian", "13", "Debian 13"),
    System("ubuntu", "22.04", "Ubuntu 22.04"),
    System("ubuntu", "24.04", "Ubuntu 24.04"),
    System("ubuntu", "26.04", "Ubuntu 26.04"),
)
PYTHON = (3, 10)  # what the oldest, Ubuntu 22.04, has
# Origins of unattended-upgrades that bring security updates alone, by the system's id.
SECURITY = {
    "debian": [
        "origin=Debian,codename=${distro_codename},label=Debian-Security",
        "origin=Debian,codename=${distro_codename}-security,label=Debian-Security",
    ],
    "ubuntu": [
        "origin=Ubuntu,archive=${distro_codename}-security",
        "origin=UbuntuESMApps,archive=${distro_codename}-apps-security",
        "origin=UbuntuESM,archive=${distro_codename}-infra-security",
    ],
}
ARCHIVES = frozenset({"debian", "debian.list", "ubuntu", "ubuntu-ports"})  # last word of a distribution's URI
