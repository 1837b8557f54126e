#!/usr/bin/python3
"""Puts the sender policy's units in place and runs the code of the current release; imported by activate.py.

By hand it converges what /etc/mailroom/current says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.host import hostlib
else:
    import hostlib

CURRENT = Path("/etc/mailroom/current")
UNITS = Path("/etc/systemd/system")
SOCKET, SERVICE = "mailroom-policy.socket", "mailroom-policy.service"


def main() -> None:
    """Converge what `current` says."""
    hostlib.finish(converge(CURRENT.resolve()))


def converge(release: Path) -> list[str]:
    """The units of `release` installed, enabled and running its code; what had to be changed for that."""
    if not (release / SERVICE).is_file():  # a release from before there was a policy
        return []
    written = [name for name in (SOCKET, SERVICE) if hostlib.write_file(UNITS / name, (release / name).read_bytes())]
    if written:
        hostlib.run(["systemctl", "daemon-reload"])
    hostlib.run(["systemctl", "enable", "--quiet", SOCKET, SERVICE])
    if SOCKET in written:  # systemd opens a socket only while its service is down
        hostlib.run(["systemctl", "stop", SERVICE])
        hostlib.run(["systemctl", "restart", SOCKET])
    hostlib.run(["systemctl", "start", SOCKET])
    if not written and hostlib.entered(SERVICE) == (release / "scripts").readlink():  # it runs this release's code
        return []
    hostlib.run(["systemctl", "restart", SERVICE])  # who asks meanwhile waits at the socket
    return ["sender policy restarted"]


if __name__ == "__main__":
    main()
