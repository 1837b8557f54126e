"""Builds and caches the root file systems machines start from; a machine's own files are `machines`'."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab import mirrors
from lab.errors import LabError
from lab.shell import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lab.shell import Progress

SUITES: Final = ("bookworm", "trixie")
CA_FILE: Final = Path(__file__).parent / "keys" / "ca.pem"

# What a hosting provider's smallest image has; nothing that has to do with mail.
BARE: Final = (
    *("systemd", "systemd-sysv", "libnss-systemd", "dbus", "udev"),
    *("openssh-server", "iproute2", "iputils-ping", "netbase", "nftables", "procps"),
    *("apt-utils", "ca-certificates", "python3-minimal"),
)

# apt's timers take dpkg's lock at random moments, and a test would fail for no reason of its own.
CUSTOMIZE: Final = (
    'systemctl --quiet --root="$1" enable systemd-networkd',
    'systemctl --quiet --root="$1" disable apt-daily.timer apt-daily-upgrade.timer',
    'install -D -m 644 "$MAILROOM_LAB_CA" "$1/usr/local/share/ca-certificates/mailroom-lab.crt"',
    'chroot "$1" update-ca-certificates >/dev/null 2>&1',
    'rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/resolv.conf "$1"/etc/apt/sources.list "$1"/etc/hostname',
    ': > "$1/etc/machine-id"',
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A root file system to build: the suite and what is installed on top of the essential packages."""

    purpose: str
    suite: str
    packages: tuple[str, ...]

    @property
    def key(self) -> str:
        """Names the result; changes with anything that changes the result, except newer packages."""
        parts = (*sorted(self.packages), *CUSTOMIZE, CA_FILE.read_text())
        return f"{self.suite}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"


def vps(suite: str = SUITES[0], installed: Sequence[str] = ()) -> Recipe:
    """The bare machine a provider hands over; with `installed`, one that has these packages already."""
    if suite not in SUITES:
        raise LabError(f"the lab has no machines of suite {suite!r}; it has {' and '.join(SUITES)}")
    purpose = "a VPS with packages" if installed else "a bare VPS"
    return Recipe(purpose=purpose, suite=suite, packages=(*BARE, *installed))


def services(packages: list[str]) -> Recipe:
    """The guest that runs the lab's DNS, ACME, API and receiver."""
    return Recipe(purpose="the lab's services", suite=SUITES[0], packages=(*BARE, *packages))


def ensure(recipe: Recipe, say: Progress) -> Path:
    """The folder of the root file system, built when the cache does not have it; safe to call in parallel."""
    place = cache_dir() / "base"
    place.mkdir(parents=True, exist_ok=True)
    done = place / recipe.key
    if done.is_dir():
        return done
    with _locked(place / f".lock-{recipe.key}"):
        if not done.is_dir():
            _build(recipe, done, say)
    return done


def cache_dir() -> Path:
    """Where this user keeps what is expensive to make, outside every checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mailroom"


def mail_packages(root: Path) -> list[str]:
    """Installed packages that would make a machine less than bare: servers for mail, and ACME clients."""
    unwanted = {
        "postfix",
        "exim4",
        "exim4-base",
        "chasquid",
        "certbot",
        "sendmail",
        "opensmtpd",
        "dma",
        "nullmailer",
    }
    found = []
    for stanza in (root / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        provides = {word.split()[0] for word in fields.get("Provides", "").split(",") if word.strip()}
        name = fields.get("Package", "")
        if name in unwanted or provides & {"mail-transport-agent", "default-mta"}:
            found.append(name)
    return found


def _build(recipe: Recipe, done: Path, say: Progress) -> None:
    started = time.monotonic()
    say(f"building the base of {recipe.purpose} (Debian {recipe.suite}, kept for the next time) ...")
    for old in done.parent.glob(f".new-{recipe.key}-*"):
        run("rm", "-rf", "--one-file-system", str(old))
    new = done.with_name(f".new-{recipe.key}-{os.getpid()}")
    hooks = [f"--customize-hook={hook}" for hook in CUSTOMIZE]
    # In its own mount namespace a killed build leaves no mount behind.
    run(
        *("unshare", "--mount", "--propagation", "private"),
        *(
            "env",
            f"MAILROOM_LAB_CA={CA_FILE}",
            "nice",
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
        ),
        *(f"--include={','.join(recipe.packages)}", *hooks, recipe.suite, str(new)),
        *mirrors.source_lines(recipe.suite),
        timeout=1800,
    )
    if recipe.packages == BARE and (found := mail_packages(new)):
        raise LabError(f"the base of a bare VPS must not contain {', '.join(found)}")
    new.rename(done)
    say(f"base of {recipe.purpose} built in {time.monotonic() - started:.0f} s")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
