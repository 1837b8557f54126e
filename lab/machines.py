"""Guests that boot a real systemd from a cached base: disk, start, stop, power cut, removal."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab import mirrors
from lab.errors import LabError
from lab.folders import KEYS, Folders
from lab.network import BRIDGE
from lab.shell import run, succeeds, wait_until

if TYPE_CHECKING:
    from lab.addresses import Pair, Plan

CGROUPS: Final = Path("/sys/fs/cgroup")
DISK_SIZE: Final = "3g"
"""An upper limit; a tmpfs takes only the memory of what is written."""
STOP_SECONDS: Final = 30


@dataclass(frozen=True, kw_only=True)
class Bind:
    """A folder of this machine a guest sees."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One guest of a lab; all its state is on disk and in the kernel, so any process may manage it.

    Without `addresses` the network is left to whoever prepares the disk.
    """

    plan: Plan
    name: str
    addresses: tuple[Pair, ...] = ()
    ipv6: bool = True
    suite: str = "bookworm"
    binds: tuple[Bind, ...] = ()

    @property
    def folder(self) -> Path:
        """Disk, mount point and console log."""
        return Folders(self.plan.name).machines / self.name

    @property
    def root(self) -> Path:
        """The guest's root file system; readable and writable from here, running or not."""
        return self.folder / "root"

    @property
    def console(self) -> Path:
        """What the guest printed while booting, and why nspawn ended."""
        return self.folder / "console.log"

    @property
    def host_key(self) -> str:
        """The public SSH host key, `ssh-ed25519 AAAA...`."""
        return " ".join((self.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])

    def create(self, base: Path, host_key: Path | None = None) -> None:
        """Make the disk: an overlay in memory on the base, with this machine's identity and network."""
        disk = self.folder / "disk"
        disk.mkdir(parents=True)
        self.root.mkdir()
        label = f"mailroom-{self.plan.name}-{self.name}"
        run("mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE},mode=755", label, str(disk))
        upper, work = disk / "upper", disk / "work"
        upper.mkdir()
        work.mkdir()
        layers = f"lowerdir={base},upperdir={upper},workdir={work}"
        run("mount", "-t", "overlay", label, "-o", layers, str(self.root))
        self._write_identity(host_key)
        if self.addresses:
            self._write_network()
        self._write_apt()

    def start(self) -> None:
        """Power on."""
        for folder in self._cgroups():
            folder.mkdir(parents=True, exist_ok=True)
        self._pid_file.unlink(missing_ok=True)
        argv = [
            # A child of init, not of this process: it outlives the command that switched it on.
            *("setsid", "--fork", "nsenter", f"--net=/run/netns/{self.plan.netns}"),
            *("unshare", "--mount", "--propagation", "private"),
            *(sys.executable, "-I", str(Path(__file__).with_name("supervise.py")), str(self._pid_file)),
            *map(str, self._cgroups()),
            "--",
            *self._nspawn(),
        ]
        environment = {"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with self.console.open("ab") as log:
            subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/", check=True)
        if not wait_until(self._pid_file.exists, timeout=10):
            raise LabError(f"the machine {self.name} does not start; its console log is {self.console}")

    def running(self) -> bool:
        """Whether the supervising process lives."""
        return self._supervisor() is not None

    def exists(self) -> bool:
        """Whether the disk is there, mounted."""
        return os.path.ismount(self.root) and (self.root / "etc/hostname").exists()

    def stop(self) -> None:
        """Power off in good order; a guest that does not end in time loses its power."""
        pid = self._supervisor()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not self.running(), timeout=STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Cut the power: every process of the guest is killed at once; the disk stays."""
        pid = self._supervisor()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        if not wait_until(lambda: kill_all(self._cgroups()) == 0 and not self.running(), timeout=20):
            raise LabError(f"processes of the machine {self.name} survive SIGKILL; see {self._cgroups()[0]}")
        remove_cgroups(self._cgroups())
        # The kernel takes its time to clean up after a guest; until then the next one of this name finds its cable.
        succeeds("ip", "-n", self.plan.netns, "link", "delete", f"vb-{self.name}")
        self._pid_file.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take the machine away with its disk."""
        self.kill()
        remove_mounts(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _pid_file(self) -> Path:
        return self.folder / "supervisor.json"

    def _supervisor(self) -> int | None:
        """The living process, by number and start time: numbers are used again after a crash."""
        try:
            identity = json.loads(self._pid_file.read_text())
        except (OSError, ValueError):
            return None
        pid = int(identity["pid"])
        return pid if _start_time(pid) == identity["started"] is not None else None

    def _cgroups(self) -> list[Path]:
        return [hierarchy / self.plan.netns / self.name for hierarchy in hierarchies()]

    def _nspawn(self) -> list[str]:
        binds = [f"--bind{'' if b.writable else '-ro'}={b.source}:{b.target}" for b in self.binds]
        return [
            *("setpriv", "--pdeathsig", "KILL"),  # without its supervisor the guest loses its power
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}", f"--machine={self.name}"),
            # Neither machined nor a unit of this machine: the cgroup folders above are the guest's.
            *("--register=no", "--keep-unit", f"--network-bridge={BRIDGE}", "--kill-signal=SIGRTMIN+3"),
            *("--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe"),
            *binds,
        ]

    def _write_identity(self, host_key: Path | None) -> None:
        etc, ssh = self.root / "etc", self.root / "etc/ssh/ssh_host_ed25519_key"
        (etc / "hostname").write_text(f"{self.name}\n")
        with (etc / "hosts").open("a") as hosts:
            hosts.write(f"127.0.1.1\t{self.name}\n")
        (etc / "machine-id").write_text(f"{secrets.token_hex(16)}\n")
        if host_key is None:
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"root@{self.name}", "-f", str(ssh))
        else:
            shutil.copyfile(host_key, ssh)
            shutil.copyfile(host_key.with_name(f"{host_key.name}.pub"), ssh.with_name(f"{ssh.name}.pub"))
        ssh.chmod(0o600)
        home = self.root / "root/.ssh"
        home.mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(KEYS / "operator_ed25519.pub", home / "authorized_keys")
        (home / "authorized_keys").chmod(0o600)

    def _write_network(self) -> None:
        plan = self.plan
        lines = ["[Match]", "Name=host0", "", "[Network]", "IPv6AcceptRA=no", f"Gateway={plan.gateway.ipv4}"]
        if self.ipv6:
            lines.append(f"Gateway={plan.gateway.ipv6}")
        for pair in self.addresses:
            lines += ["", "[Address]", f"Address={pair.ipv4}/{plan.ipv4.prefixlen}"]
            if self.ipv6:
                # Usable at once: daemons bind to it while the machine boots.
                address = f"Address={pair.ipv6}/{plan.ipv6.prefixlen}"
                lines += ["", "[Address]", address, "DuplicateAddressDetection=none"]
        (self.root / "etc/systemd/network/10-provider.network").write_text("\n".join(lines) + "\n")
        (self.root / "etc/resolv.conf").write_text(f"nameserver {plan.resolver.ipv4}\n")

    def _write_apt(self) -> None:
        (self.root / "etc/apt/sources.list").write_text("\n".join(mirrors.source_lines(self.suite)) + "\n")
        through = mirrors.proxy()
        if through:
            setting = f'Acquire::http::Proxy "{through}";\n'
            (self.root / "etc/apt/apt.conf.d/80proxy").write_text(setting)


def hierarchies() -> list[Path]:
    """The cgroup trees nspawn uses: one on a unified machine, two on a hybrid one."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    found = [CGROUPS / name for name in ("unified", "systemd") if (CGROUPS / name).is_dir()]
    if len(found) != 2:  # noqa: PLR2004  (both trees of a hybrid machine)
        raise LabError("this machine mounts no cgroup v2 tree at /sys/fs/cgroup (or .../unified); the lab needs one")
    return found


def kill_all(groups: list[Path]) -> int:
    """Send SIGKILL to every process in the groups; returns how many there were."""
    pids = {
        int(line)
        for group in groups
        for procs in group.glob("**/cgroup.procs")
        for line in procs.read_text().split()
        if line != "0"
    }
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def remove_cgroups(groups: list[Path]) -> list[str]:
    """Remove the folders of the groups, innermost first; returns those that were there."""
    removed = []
    for group in groups:
        if group.is_dir():
            folders = [Path(path) for path, _, _ in os.walk(group, topdown=False)]
            wait_until(lambda folders=folders: all(_rmdir(folder) for folder in folders), timeout=5)  # type: ignore[misc]
            removed.append(str(group))
    return removed


def remove_mounts(below: Path) -> list[str]:
    """Unmount everything below a folder, latest first; returns the mount points."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    ours = [point for point in mounts if point == str(below) or point.startswith(f"{below}/")]
    for point in reversed(ours):
        if not succeeds("umount", point):
            run("umount", "--lazy", point)
    return ours


def forget_runtime() -> None:
    """Remove the mount point the supervisors of guests used, when nothing else of nspawn is in it."""
    with suppress(OSError):
        Path("/run/systemd/nspawn").rmdir()


def wait_for_ssh(address: str, *, timeout: float) -> float:
    """Wait until sshd greets; returns the seconds it took."""
    import socket

    def greeted() -> bool:
        try:
            with socket.create_connection((address, 22), timeout=0.3) as connection:
                connection.settimeout(2)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    started = time.monotonic()
    if not wait_until(greeted, timeout=timeout):
        raise LabError(f"no SSH server answered at {address} within {timeout:.0f} s")
    return time.monotonic() - started


def _rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _start_time(pid: int) -> int | None:
    """When a living process started, in clock ticks since boot; none for a dead one or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
