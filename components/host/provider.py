"""What needs more of a host than one command: the gate that only reads, and changes that a new login confirms."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulumi.dynamic import Resource

from components.dynamic_provider import Properties, Provider, progress
from standards.finding import Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pulumi

    from components.settings import HostSettings
    from operations.ssh import Completed, Target

FACTS = Path(__file__).with_name("facts.py")


def _login_inputs(settings: HostSettings, private_key: pulumi.Input[str] | None) -> dict[str, Any]:
    """What a resource keeps of a host to log in there; `_login` reads it."""
    return {"name": settings.name, "settings": settings.model_dump_json(), "private_key": private_key}


def _login(inputs: Properties) -> tuple[HostSettings, Target]:
    """The host and how to log in there."""
    from components.settings import HostSettings
    from operations import ssh

    host = HostSettings.model_validate_json(inputs["settings"])
    return host, ssh.Target.of(host, inputs.get("private_key"))


class HostGateProvider(Provider):
    """Connects with the pinned key, reads facts and judges them; changes nothing.

    Raises `Problems` with every reason: no answer, another host key, a refused login, an OS, architecture,
    clock, port or disk that does not fit, mail that cannot leave.
    """

    outputs = ("os",)

    def apply(self, inputs: Properties, previous: Mapping[str, Any]) -> Properties:  # noqa: ARG002
        """Return the name and version of the host's operating system as `os`."""
        from components.host.requirements import judge, unreadable
        from operations import ssh
        from operations.preflight import judgement, outside

        host, target = _login(inputs)
        progress(f"checking host {host.name} at {target.address}")
        answer = ssh.run(target, "python3 -", input=FACTS.read_text(encoding="utf-8"), wait=20)
        if answer.exit_status:
            raise Problems(f"{host.name} cannot be read; nothing was changed", [unreadable(host, answer.stderr)])
        facts = json.loads(answer.stdout)
        findings = judge(facts, host, time.time())
        if not any(finding.severity == "error" for finding in findings):
            progress(f"checking outgoing port 25 of {host.name}")
            went_out = outside.outbound(target, inputs["outbound_check"])
            findings += judgement.judge_outbound(went_out, facts, host, judgement.provider(facts, {}))
        errors = [finding for finding in findings if finding.severity == "error"]
        for remark in findings:
            if remark.severity != "error":
                progress(str(remark))
        if errors:
            raise Problems(f"{host.name} does not fit; nothing was changed", errors)
        return {"os": f"{facts['os_id']} {facts['os_version']}"}


class ReachableProvider(Provider):
    """Knocks at the mail ports of a host that serves, from here: nothing attracts mail to ports that are closed.

    Again when the host's settings change, with which its packet filter does. Raises `Problems`; where this machine's
    own network is what stops us, it says so and goes on.
    """

    def apply(self, inputs: Properties, previous: Mapping[str, Any]) -> Properties:  # noqa: ARG002
        """Return nothing; see the class."""
        from components.settings import HostSettings
        from operations import dns, preflight
        from operations.preflight import judgement, outside
        from standards.records import sending_addresses

        host = HostSettings.model_validate_json(inputs["settings"])
        progress(f"checking the mail ports of {host.name} from outside")
        addresses = [address for group in sending_addresses([host]) for address in group]
        found = outside.served(
            addresses,
            host.ssh.port,
            lambda: preflight.references(inputs["outbound_check"], dns.Resolver(inputs["resolver"])),
        )
        findings = judgement.judge_inbound(found, host)
        for remark in findings:
            if remark.severity != "error":
                progress(str(remark))
        if errors := [finding for finding in findings if finding.severity == "error"]:
            raise Problems(
                f"{host.name} serves and cannot be reached; nothing was published that attracts mail", errors
            )
        return {}


class AccessProvider(Provider):
    """Runs access.py: a change that takes itself back, confirmed over a connection of its own.

    Two commands of one resource: when the second one cannot log in, the next run begins with the first again.
    """

    outputs = ("summary",)

    def apply(self, inputs: Properties, previous: Mapping[str, Any]) -> Properties:  # noqa: ARG002
        """Return what was changed as `summary`."""
        from operations import ssh

        host, target = _login(inputs)
        summary = _said(host, ssh.run(target, inputs["change"], inputs["payload"], timeout=400, wait=20))
        if summary.startswith("ok"):
            return {"summary": summary}
        progress(f"{host.name}: {summary}")
        if host.network.ipv6 and host.ipv6:
            _seen_from_here(host, host.ipv6)
        try:
            kept = ssh.run(target, inputs["confirm"], timeout=400, wait=20)
        except Problems as problems:
            title = f"{host.name} lets nobody in with what was changed; within a minute it takes it back"
            raise Problems(title, problems.findings) from None
        _said(host, kept)
        return {"summary": summary}


def _seen_from_here(host: HostSettings, address: str) -> None:
    """Raise `Problems` when the address that was switched on is silent; where we have no IPv6 ourselves, say so."""
    from operations import outside

    seen = outside.knock(address, host.ssh.port)
    if seen == "no-route":
        progress(f"{host.name}: {address} cannot be seen from here, as this machine has no IPv6; set network.echo")
    if seen == "silent":
        finding = error_about(
            host.name,
            "host-ipv6-silent",
            expected=f"an answer of {address} on port {host.ssh.port}",
            found="none, over the network that was just set up",
            why="receivers would take mail from an address that does not answer for a dial-up or a mistake",
            fix="compare `ipv6`, `network.ipv6.prefix` and `network.ipv6.gateway` with what your provider shows",
        )
        raise Problems(f"{host.name} is not seen over IPv6; within a minute it takes the change back", [finding])


def _said(host: HostSettings, answer: Completed) -> str:
    """The script's summary; raises `Problems` with its error."""
    if answer.exit_status == 0:
        return answer.stdout.strip()
    said = answer.stderr.strip().splitlines() or [f"exit status {answer.exit_status}"]
    finding = error_about(
        host.name,
        "host-access",
        expected="a host that takes our packet filter, SSH by keys alone and the network of the settings",
        found=said[-1].removeprefix("error: "),
        why="nothing else is set up before the host is closed to strangers",
        fix="solve what it names on the host, then run again",
    )
    raise Problems(f"{host.name} takes no packet filter, SSH by keys or network from us", [finding])


class Access(Resource, module="mailroom", name="Access"):
    """Packet filter, SSH and network of one host; `summary` is what the last change was."""

    summary: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        settings: HostSettings,
        private_key: pulumi.Input[str] | None,
        change: str,
        confirm: str,
        payload: str,
        opts: pulumi.ResourceOptions,
    ) -> None:
        inputs = {
            **_login_inputs(settings, private_key),
            "change": change,
            "confirm": confirm,
            "payload": payload,
            "summary": None,
        }
        super().__init__(AccessProvider(), name, inputs, opts)


class HostGate(Resource, module="mailroom", name="HostGate"):
    """The wave-1 gate of one host; `os` is what runs there, `outbound_check` the mail servers it has to reach."""

    os: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        settings: HostSettings,
        private_key: pulumi.Input[str] | None,
        outbound_check: Sequence[str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        inputs = {
            **_login_inputs(settings, private_key),
            "outbound_check": list(outbound_check),
            "os": None,
        }
        super().__init__(HostGateProvider(), name, inputs, opts)


class Reachable(Resource, module="mailroom", name="Reachable"):
    """The mail ports of one host, seen from outside before anything attracts mail."""

    def __init__(
        self,
        name: str,
        *,
        settings: HostSettings,
        outbound_check: Sequence[str],
        resolver: str | None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        inputs = {
            "name": settings.name,
            "settings": settings.model_dump_json(),
            "outbound_check": list(outbound_check),
            "resolver": resolver,
        }
        super().__init__(ReachableProvider(), name, inputs, opts)
