"""Whether this machine can run a lab at all, said once and before anything is changed."""

from __future__ import annotations

import os
import shutil

from lab.errors import LabError
from lab.mirrors import os_release

# command -> Debian package
NEEDED = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}


def check() -> None:
    """Raise one message with everything that is missing and what to do."""
    release = os_release()
    if release.get("ID") != "debian":
        raise LabError(
            f"the lab runs on Debian 12 and this is {release.get('PRETTY_NAME', 'another system')}; use a Debian 12"
            " machine (a virtual one will do), or work with a real stack: make setup"
        )
    if os.geteuid() != 0:
        raise LabError(
            "the lab needs root: it makes network namespaces, mounts and firewall rules, and removes them again;"
            " run the same command as root, for example: sudo make up"
        )
    missing = {package for command, package in NEEDED.items() if shutil.which(command) is None}
    if missing:
        names = " ".join(sorted(missing))
        raise LabError(f"the lab needs packages that are not installed; run: apt-get install -y {names}")
