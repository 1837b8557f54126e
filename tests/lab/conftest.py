"""A lab of its own for every test process, and bare machines in it."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from lab.client import Lab
from lab.folders import CHECKOUT, Folders
from lab.shell import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Vps


# A shell starts its background jobs deaf to Ctrl-C, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def lab_name() -> Iterator[str]:
    """The first name no living test process of this checkout uses: the next run finds what a killed one left."""
    checkout = hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:6]
    for number in itertools.count():
        name = f"lab-{checkout}t{number}"
        lock = CHECKOUT / ".lab" / f"{name}.lock"
        lock.parent.mkdir(exist_ok=True)
        with lock.open("w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield name
            return


@pytest.fixture(scope="session")
def lab(lab_name: str) -> Iterator[Lab]:
    """A running lab without machines; an earlier run that was killed may have left one."""
    Lab(lab_name).down()
    try:
        with Lab.create(lab_name) as running:
            yield running
    finally:
        Lab(lab_name).down()


@pytest.fixture(scope="module")
def agent(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The operator's own SSH agent with the key that the machines know."""
    socket = tmp_path_factory.mktemp("agent") / "socket"
    with (
        subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as process,
        pytest.MonkeyPatch.context() as patch,
    ):
        try:
            assert wait_until(socket.exists, timeout=5)
            patch.setenv("SSH_AUTH_SOCK", str(socket))
            subprocess.run(["ssh-add", "-q", str(Folders(lab.name).ssh_key)], check=True)
            yield
        finally:
            process.terminate()


@pytest.fixture
def vps(lab: Lab) -> Iterator[Vps]:
    """A bare machine, given back after the test."""
    machine = lab.fresh_vps()
    yield machine
    lab.remove_vps(machine)
