"""The command `python -m lab`: reads arguments and prints; what it does is `lifecycle`'s."""

from __future__ import annotations

import argparse
import json
import os
import urllib.error
from typing import TYPE_CHECKING, Any

from lab import lifecycle, preflight
from lab.addresses import DEFAULT_LAB
from lab.base import SUITES
from lab.errors import LabError
from lab.internet import client
from lab.machines import wait_for_ssh
from lab.shell import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 is success, 1 a failure that has been explained on stderr."""
    options = _parser().parse_args(arguments)
    say = Progress()
    try:
        return int(options.action(options, say))
    except (LabError, ValueError, urllib.error.URLError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command again continues, `down` removes what is there")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description="A small internet on this machine.")
    parser.add_argument("--name", default=DEFAULT_LAB, help=f"which lab (default {DEFAULT_LAB}; others: lab-x)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add(commands, "up", _up, "start the lab with one VPS, or repair it")
    _add(commands, "down", _down, "remove every trace of the lab")
    status = _add(commands, "status", _status, "addresses, machines, folders, APIs")
    status.add_argument("--json", action="store_true", help="for programs")

    vps = _add(commands, "vps", None, "order, give back and switch VPSes").add_subparsers(
        required=True, metavar="ACTION"
    )
    add = _add(vps, "add", _vps_add, "order a new one")
    add.add_argument("vps")
    add.add_argument("--no-ipv6", action="store_true", help="without an IPv6 address")
    add.add_argument("--suite", choices=SUITES, default=SUITES[0])
    _add(vps, "rm", _vps_remove, "give it back, with its disk").add_argument("vps")
    for action, text in (
        ("reboot", "stop and start it"),
        ("stop", "power off in good order"),
        ("kill", "cut its power"),
        ("start", "power on"),
    ):
        _add(vps, action, _vps_switch, text, switch=action).add_argument("vps")

    ptr = _add(commands, "ptr", _ptr, "set reverse DNS, as at the hosting provider")
    ptr.add_argument("address", metavar="IP")
    ptr.add_argument("host", metavar="NAME")
    _add(commands, "lag", _lag, "let ns2 see changes that much later").add_argument("seconds", type=float)
    run = _add(commands, "exec", _exec, "run a command inside the lab's network, with its resolver")
    run.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def _add(commands: Any, name: str, action: Any, text: str, **fixed: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(action=action, **fixed)
    return parser


def _up(options: argparse.Namespace, say: Progress) -> int:
    lifecycle.up(options.name, say)
    return 0


def _down(options: argparse.Namespace, say: Progress) -> int:
    lifecycle.down(options.name, say)
    return 0


def _status(options: argparse.Namespace, _say: Progress) -> int:
    preflight.check()  # without root everything would look dead
    answer = lifecycle.status(options.name)
    if options.json:
        print(json.dumps(answer, indent=2))
        return 0
    print(f"lab {answer['name']}: {'up' if answer['up'] else 'not up'}")
    for vps in answer["vps"]:
        addresses = " ".join(filter(None, (vps["ipv4"], vps["ipv6"])))
        print(f"  VPS {vps['name']:16} {addresses} {'running' if vps['running'] else 'off'}")
    for key, value in answer.items():
        if key not in {"name", "up", "vps"}:
            print(f"  {key.replace('_', ' '):20} {_plain(value)}")
    if answer["vps"]:
        print(f"  look inside          ssh -i {answer['ssh_key']} root@{answer['vps'][0]['ipv4']}")
    return 0


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {' '.join(addresses)}" for key, addresses in value.items())
    return str(value)


def _vps_add(options: argparse.Namespace, say: Progress) -> int:
    preflight.check()
    lifecycle.add_vps(options.name, options.vps, say, lifecycle.Order(ipv6=not options.no_ipv6, suite=options.suite))
    return 0


def _vps_remove(options: argparse.Namespace, say: Progress) -> int:
    preflight.check()
    lifecycle.remove_vps(options.name, options.vps, say)
    say(f"VPS {options.vps} is gone")
    return 0


def _vps_switch(options: argparse.Namespace, say: Progress) -> int:
    preflight.check()
    known = lifecycle.require(options.name)
    record = known.find(options.vps)
    machine = lifecycle.vps_machine(known, record)
    if options.switch in {"stop", "reboot"}:
        machine.stop()
    if options.switch == "kill":
        machine.kill()
    if options.switch in {"start", "reboot"}:
        machine.start()
        wait_for_ssh(known.plan.address(record.octet).ipv4, timeout=lifecycle.READY_SECONDS)
    say(f"VPS {record.name} is {'on' if machine.running() else 'off'}")
    return 0


def _ptr(options: argparse.Namespace, say: Progress) -> int:
    client.set_ptr(lifecycle.require(options.name).plan, options.address, options.host)
    say(f"reverse DNS of {options.address} is {options.host}")
    return 0


def _lag(options: argparse.Namespace, say: Progress) -> int:
    client.lag(lifecycle.require(options.name).plan, options.seconds)
    say(f"ns2 sees changes {options.seconds:g} s later")
    return 0


def _exec(options: argparse.Namespace, _say: Progress) -> int:
    preflight.check()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise LabError("exec needs a command, for example: python -m lab exec -- getent ahosts smtp.example.test")
    argv = lifecycle.inside(options.name, command)
    os.execvp(argv[0], argv)  # noqa: S606  (the command takes over this process: its exit code is ours)
