"""Where a running lab keeps its things on this machine and in its checkout; paths only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

LABS: Final = Path("/run/mailroom-lab")
CHECKOUT: Final = Path(__file__).resolve().parent.parent
KEYS: Final = CHECKOUT / "lab" / "keys"


@dataclass(frozen=True)
class Folders:
    """The folders of one lab."""

    lab: str

    @property
    def root(self) -> Path:
        """Everything of this lab; gone after `down`."""
        return LABS / self.lab

    @property
    def state(self) -> Path:
        """What is known about the lab (`lab.state`)."""
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        """Held while somebody changes the lab."""
        return self.root / "lock"

    @property
    def machines(self) -> Path:
        """One folder per machine: its disk, mounts and console log."""
        return self.root / "machines"

    @property
    def mail(self) -> Path:
        """The receiver's messages and verdicts."""
        return self.root / "mail"

    @property
    def ssh_key(self) -> Path:
        """The operator's SSH key, private to this user (git does not keep that mode)."""
        return self.root / "operator_ed25519"

    @property
    def ca_file(self) -> Path:
        """The certificates that sign what the lab's services and its ACME server's customers show."""
        return self.root / "ca.pem"
