"""Turns a root file system into the guest that runs the lab's services; what the operator's machine asks them is in `client`."""

from __future__ import annotations


def packages() -> list[str]:
    """Debian packages the guest needs on top of the base system."""
    return ["pdns-server", "pdns-backend-sqlite3", "unbound", "pebble", "python3"]
