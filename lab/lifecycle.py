"""Brings a lab up from any condition, takes it down to the last trace, and says which it is in."""

from __future__ import annotations

import json
import shutil
import sysconfig
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab import base, machines, mirrors, network, preflight, state
from lab.addresses import (
    DEFAULT_LAB,
    GUEST_CODE,
    GUEST_MAIL,
    GUEST_SITE_PACKAGES,
    RECEIVER,
    Plan,
)
from lab.engine import build
from lab.engine.install import make_home
from lab.errors import LabError
from lab.folders import CHECKOUT, KEYS, LABS, Folders
from lab.internet import client, guest
from lab.machines import Bind, Machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.addresses import Mirror
    from lab.shell import Progress
    from lab.state import State, VpsRecord

SERVICES: Final = "services"
"""Name of the guest that runs DNS, ACME, APIs and the receiver."""
FIRST_VPS: Final = "vps"
PASSPHRASE: Final = "mailroom-lab"  # noqa: S105  (public on purpose)
READY_SECONDS: Final = 60


def up(lab: str, say: Progress, *, vps: bool = True) -> State:
    """Start a lab, or repair it, or find it complete; with its first VPS unless told otherwise."""
    preflight.check()
    _check_name(lab)
    with state.locked(lab, say):
        known = state.load(lab)
        _refuse_foreign(lab, known)
        if known is None or not _repairable(known):
            known = _start(lab, say)
        else:
            _repair(known, say)
        if vps and not known.vps:
            known = add_vps_locked(known, FIRST_VPS, say, Order(octet=10))
        _write_checkout_files(known)
    say(f"lab {lab} is up")
    return known


def down(lab: str, say: Progress) -> list[str]:
    """Remove every trace of a lab, whatever is left of it; returns what was removed."""
    preflight.check()
    _check_name(lab)
    folder = Folders(lab).root
    with state.locked(lab, say):
        known = state.load(lab)
        _refuse_foreign(lab, known)
        removed = _clear(lab, known)
        shutil.rmtree(folder, ignore_errors=True)
    (CHECKOUT / ".lab" / f"{lab}.json").unlink(missing_ok=True)
    with state.all_labs():
        if not state.labs():
            removed += network.restore_sysctls()
            machines.forget_runtime()
            network.BEFORE.unlink(missing_ok=True)
            state.ALL_LABS.unlink(missing_ok=True)  # who waits for it sees that it has gone, and makes it again
            with suppress(OSError):  # a lab that starts at this moment has its folder there
                LABS.rmdir()
    for line in removed:
        say(f"removed {line}")
    say(f"lab {lab} is down" if removed else f"lab {lab} was not there: nothing to remove")
    return removed


def status(lab: str) -> dict[str, Any]:
    """What a person or a program needs to work with the lab."""
    known = state.load(lab)
    folders = Folders(lab)
    plan = known.plan if known else Plan(name=lab, index=0)
    answer: dict[str, Any] = {"name": lab, "up": known is not None and is_healthy(known), "vps": []}
    if known is None:
        return answer
    answer["vps"] = [
        {
            "name": record.name,
            "ipv4": plan.address(record.octet).ipv4,
            "ipv6": plan.address(record.octet).ipv6 if record.ipv6 else None,
            "host_key": record.host_key,
            "running": vps_machine(known, record).running(),
        }
        for record in known.vps
    ]
    return answer | {
        "resolver": plan.resolver.ipv4,
        "nameservers": {"ns1.lab.test": list(plan.ns1), "ns2.lab.test": list(plan.ns2)},
        "receiver": RECEIVER,
        "mail_dir": str(folders.mail),
        "cloudflare_api": plan.cloudflare_api,
        "provider_api": plan.provider_api,
        "acme_directory": plan.acme_directory,
        "ca_file": str(folders.ca_file),
        "ssh_key": str(folders.ssh_key),
        "stack": lab,
        "stack_file": f"Pulumi.{lab}.yaml",
        "owner": known.owner,
    }


def is_healthy(known: State) -> bool:
    """Whether network, services and every VPS are there and running."""
    everything = [services_machine(known), *(vps_machine(known, record) for record in known.vps)]
    return _repairable(known) and all(machine.running() for machine in everything)


def services_machine(known: State) -> Machine:
    """The guest that runs the lab's services."""
    code = Path(known.owner) / "lab"
    packages = Path(sysconfig.get_path("purelib"))
    return Machine(
        plan=known.plan,
        name=SERVICES,
        binds=(
            Bind(source=code, target=f"{GUEST_CODE}/lab"),
            Bind(source=packages, target=GUEST_SITE_PACKAGES),
            Bind(source=Folders(known.name).mail, target=GUEST_MAIL, writable=True),
        ),
    )


def vps_machine(known: State, record: VpsRecord) -> Machine:
    """A VPS of the lab."""
    pair = known.plan.address(record.octet)
    return Machine(plan=known.plan, name=record.name, addresses=(pair,), ipv6=record.ipv6, suite=record.suite)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a VPS is to be: `octet` None for any that is free, bare but for the packages that are `installed`."""

    ipv6: bool = True
    suite: str = "bookworm"
    octet: int | None = None
    installed: Sequence[str] = ()


ANY_VPS: Final = Order()


def add_vps(lab: str, name: str, say: Progress, order: Order = ANY_VPS) -> VpsRecord:
    """Order a new VPS: booted, and its SSH server answering."""
    with state.locked(lab, say):
        return add_vps_locked(require(lab), name, say, order).find(name)


def add_vps_locked(known: State, name: str, say: Progress, order: Order = ANY_VPS) -> State:
    """`add_vps` for who holds the lab's lock already."""
    if name == SERVICES or any(record.name == name for record in known.vps):
        raise LabError(f"the lab {known.name} already has a machine named {name!r}; choose another name")
    tree = base.ensure(base.vps(order.suite, order.installed), say)
    octet = known.free_octet(order.octet)
    record = state.VpsRecord(name=name, octet=octet, host_key="", ipv6=order.ipv6, suite=order.suite)
    machine = vps_machine(known, record)
    machine.remove()  # an earlier command may have been killed half way
    fixed = KEYS / "host_ed25519" if known.name == DEFAULT_LAB and record.octet == 10 else None  # noqa: PLR2004
    machine.create(tree, host_key=fixed)
    known = state.with_vps(known, replace(record, host_key=machine.host_key))
    machine.start()
    address = known.plan.address(record.octet)
    seconds = machines.wait_for_ssh(address.ipv4, timeout=READY_SECONDS)
    say(f"VPS {name} at {address.ipv4}{f' and {address.ipv6}' if order.ipv6 else ''}: SSH after {seconds:.1f} s")
    return known


def remove_vps(lab: str, name: str, say: Progress) -> None:
    """Give a VPS back, with its disk."""
    with state.locked(lab, say):
        known = require(lab)
        vps_machine(known, known.find(name)).remove()
        state.without_vps(known, name)


def inside(lab: str, command: list[str]) -> list[str]:
    """The command line that runs a command in the lab's network, with the lab's resolver for the names."""
    plan = require(lab).plan
    resolver = Folders(lab).root / "resolv.conf"
    resolver.write_text(f"nameserver {plan.resolver.ipv4}\n")
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    namespaces = ("nsenter", f"--net=/run/netns/{plan.netns}", "unshare", "--mount", "--propagation", "private")
    return [*namespaces, "sh", "-c", script, str(resolver), *command]


def require(lab: str) -> State:
    """The state of a lab that runs."""
    known = state.load(lab)
    if known is None or not network.is_up(known.plan):
        option = "" if lab == DEFAULT_LAB else f"--name {lab} "
        raise LabError(f"the lab {lab} is not up; start it: python -m lab {option}up")
    return known


def _start(lab: str, say: Progress) -> State:
    for line in _clear(lab, state.load(lab)):
        say(f"removed {line} of an earlier lab {lab}")
    # A new internet knows nothing of what an old one's stack recorded.
    shutil.rmtree(CHECKOUT / ".lab" / lab, ignore_errors=True)
    known = state.claim(lab, CHECKOUT)
    tree = base.ensure(base.services(guest.packages()), say)
    reachable = mirrors.endpoints(mirrors.source_lines("bookworm"))
    known = state.save(replace(known, mirrors=reachable))
    with state.all_labs():
        network.up(known.plan)
    network.check_mirrors(known.plan)
    say(f"network {known.plan.ipv4} and {known.plan.ipv6}, with a way out to {_names(reachable)} only")
    folders = Folders(lab)
    folders.mail.mkdir(exist_ok=True)
    shutil.copyfile(KEYS / "operator_ed25519", folders.ssh_key)
    folders.ssh_key.chmod(0o600)
    machine = services_machine(known)
    machine.create(tree)
    guest.prepare(machine.root, known.plan)
    _start_services(known, say)
    return state.save(replace(known, services=tree.name))


def _repair(known: State, say: Progress) -> None:
    """Switch on again what has died; disks survive, so nothing is set up anew."""
    if not services_machine(known).running():
        services_machine(known).kill()
        say("the services were off and are on again")
        _start_services(known, say)
    for record in known.vps:
        machine = vps_machine(known, record)
        if not machine.running():
            machine.kill()
            machine.start()
            seconds = machines.wait_for_ssh(known.plan.address(record.octet).ipv4, timeout=READY_SECONDS)
            say(f"VPS {record.name} was off and is on again: SSH after {seconds:.1f} s")


def _repairable(known: State) -> bool:
    """Whether network and disks are complete, so that starting machines is all there may be to do."""
    everything = [services_machine(known), *(vps_machine(known, record) for record in known.vps)]
    return bool(known.services) and network.is_up(known.plan) and all(machine.exists() for machine in everything)


def _start_services(known: State, say: Progress) -> None:
    services_machine(known).start()
    try:
        guest.wait_ready(known.plan, READY_SECONDS)
    except TimeoutError as error:
        console = services_machine(known).console
        raise LabError(f"{error}; its console log is {console}") from error
    _write_ca_file(known.plan)
    say("services ready: DNS, ACME, Cloudflare and provider API, receiver")


def _names(reachable: tuple[Mirror, ...]) -> str:
    return " and ".join(dict.fromkeys(mirror.name for mirror in reachable))


def _write_ca_file(plan: Plan) -> None:
    """The lab's CA and every root the ACME server has had: it makes a new one whenever it starts."""
    path = Folders(plan.name).ca_file
    known = path.read_text() if path.exists() else (KEYS / "ca.pem").read_text()
    root = client.acme_roots(plan).strip()
    if root not in known:
        path.write_text(f"{known.rstrip()}\n{root}\n")


def _clear(lab: str, known: State | None) -> list[str]:
    """Remove processes, mounts, cgroups and network of a lab in any condition; its folder's files stay."""
    folders = Folders(lab)
    groups = [hierarchy / f"mailroom-{lab}" for hierarchy in machines.hierarchies()]
    removed: list[str] = []
    for path in sorted(folders.machines.glob("*")):
        machine = Machine(plan=Plan(name=lab, index=0), name=path.name)
        removed += [f"machine {machine.name}"] if machine.running() else []
        machine.kill()
    killed = machines.kill_all(groups)
    removed += [f"{killed} stray processes"] if killed else []
    removed += [f"cgroup {path}" for path in machines.remove_cgroups(groups)]
    removed += [f"mount {point}" for point in machines.remove_mounts(folders.root)]
    shutil.rmtree(folders.machines, ignore_errors=True)
    removed += network.down(lab)
    if known is not None:
        removed += network.delete_uplink(known.plan.uplink_interface)
    folders.state.unlink(missing_ok=True)
    return removed


def _refuse_foreign(lab: str, known: State | None) -> None:
    """One checkout owns a lab: its code runs in there, and its stack describes the VPS."""
    if known is None or Path(known.owner) == CHECKOUT or not (Path(known.owner) / "lab").is_dir():
        return
    raise LabError(
        f"the lab {lab} on this machine belongs to another checkout, {known.owner}; take it down there (make -C"
        f" {known.owner} down) or start one of your own beside it: python -m lab --name lab-x up"
    )


def _check_name(lab: str) -> None:
    suffix = lab.removeprefix("lab-")
    if lab != DEFAULT_LAB and (suffix == lab or not suffix.isalnum() or len(lab) > 20):  # noqa: PLR2004
        raise LabError(f"{lab!r} is no name of a lab; expected {DEFAULT_LAB} or lab-<letters and digits>, like lab-x")


def _write_checkout_files(known: State) -> None:
    """Tell the scripts of this checkout how to work with the lab's stack."""
    place = CHECKOUT / ".lab"
    backend = place / known.name / "backend"
    backend.mkdir(parents=True, exist_ok=True)
    folders = Folders(known.name)
    # The files beside each state file are written in place: a kill in between would leave a state nobody can read.
    env = {"PULUMI_BACKEND_URL": f"file://{backend}?metadata=skip", "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE}
    if known.name != DEFAULT_LAB and build.official() is None:
        env["PULUMI_HOME"] = str(place / known.name / "home")  # labs that run side by side share no workspace
        make_home(CHECKOUT, place / known.name / "home")
    content = {
        "env": env,
        "lab": known.name,
        "ca_file": str(folders.ca_file),
        "mail_dir": str(folders.mail),
        "receiver": RECEIVER,
    }
    new = place / f".{known.name}.json.new"
    new.write_text(json.dumps(content, indent=2) + "\n")
    new.replace(place / f"{known.name}.json")
