"""Host: a machine that already exists; the only place that opens connections and constructs remote commands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi_command import remote

from components.host import commands
from components.host.bundle import bundle
from components.host.provider import Access, HostGate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from components.settings import HostSettings

PACKAGES = (
    *("ca-certificates", "certbot"),
    *("python3-dkim", "python3-dnspython"),  # the sender policy
    *("fail2ban", "nftables", "python3-systemd", "unattended-upgrades"),
    "systemd-timesyncd | chrony | ntpsec | ntp | openntpd",  # whichever is there already
)
UNITS = ("mailroom-firewall.service", "mailroom-rollback.service", "mailroom-rollback.timer")
BANS = Path(__file__).with_name("fail2ban")  # as below /etc/fail2ban
CHANGE_LIMIT = 40  # seconds; has to end before mailroom-rollback.timer does


@dataclass(frozen=True, kw_only=True)
class HostArgs:
    """`settings` is one entry of mailroom:hosts; `private_key` is the operator's key, or None for the SSH agent.

    `outbound_check` names mail servers that the host has to reach, `packages` are wanted beside those that every host
    needs.
    """

    settings: HostSettings
    private_key: pulumi.Output[str] | None
    gates: Sequence[pulumi.Resource]
    outbound_check: Sequence[str]
    packages: Sequence[str] = ()


class Host(pulumi.ComponentResource):
    """A machine that already exists: its gate, scripts, packages and walls, and the order of steps on it.

    `gate` is what everything that changes anything waits for.
    """

    gate: HostGate

    def __init__(self, name: str, args: HostArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mailroom:index:Host", name, None, opts)
        self._settings = args.settings
        self._connection = remote.ConnectionArgs(
            host=args.settings.address,
            port=float(args.settings.ssh.port),
            user=args.settings.ssh.user,
            host_key=args.settings.host_key,
            private_key=args.private_key,
            dial_error_limit=0,  # every dial is a login: ten more of a refused one look like an attack
            per_dial_timeout=10,
        )
        self.gate = HostGate(
            f"{name}/gate",
            settings=args.settings,
            private_key=args.private_key,
            outbound_check=args.outbound_check,
            opts=self._child(()),
        )
        self._last: pulumi.Resource = self.gate
        self._install_scripts(name, args.gates)
        extras = args.settings.bootstrap.model_dump(exclude_defaults=True)
        wanted = {"packages": [*PACKAGES, *args.packages], **({"bootstrap": extras} if extras else {})}
        self.step(f"{name}/prepare", "prepare.py", wanted, timeout=900)
        self._last = self._access(f"{name}/access", args)
        bans = {str(path.relative_to(BANS)): path.read_text(encoding="utf-8") for path in sorted(BANS.glob("*/*"))}
        self.step(f"{name}/guard", "guard.py", {"ssh_port": args.settings.ssh.port, "fail2ban": bans})
        self.register_outputs({"address": args.settings.address})

    def step(
        self,
        name: str,
        script: str,
        payload: Mapping[str, pulumi.Input[Any]],
        *,
        timeout: int = 300,
        parent: pulumi.Resource | None = None,
        depends_on: Sequence[pulumi.Resource] = (),
    ) -> remote.Command:
        """Run one of our host scripts with `payload` as JSON on stdin, after the host's previous step.

        `timeout` counts seconds of the script itself. Steps of one host never overlap: one SSH session at a
        time, and apt's and our own locks stay free.
        """
        command = remote.Command(
            name,
            connection=self._connection,
            create=self._command(f"{bundle().directory}/{script}", timeout),
            stdin=_as_stdin(payload),
            logging=remote.Logging.NONE,  # an output line over 64 KiB would hang the provider for good
            add_previous_output_in_env=False,  # sshd's AcceptEnv refuses it
            opts=self._child([self._last, *depends_on], parent=parent),
        )
        self._last = command
        return command

    def upload(
        self,
        name: str,
        source: Path,
        remote_path: str,
        *,
        parent: pulumi.Resource | None = None,
        depends_on: Sequence[pulumi.Resource] = (),
    ) -> remote.CopyToRemote:
        """Copy a local file to a content-addressed `remote_path` below home; the step that uses it verifies it."""
        copy = remote.CopyToRemote(
            name,
            connection=self._connection,
            source=pulumi.FileAsset(str(source)),
            remote_path=remote_path,
            triggers=[self._settings.address],  # a copy is not made again for another connection alone
            opts=self._child([self._last, *depends_on], parent=parent, secret=()),
        )
        self._last = copy
        return copy

    def uninstall(
        self,
        name: str,
        payload: Mapping[str, pulumi.Input[Any]],
        *,
        timeout: int,
        protect: bool,
        parent: pulumi.Resource,
        depends_on: Sequence[pulumi.Resource],
    ) -> remote.Command:
        """The one step that acts when it is deleted: `uninstall.py` by way of the newest bundle.

        It has no replacement trigger, so a lost host cannot block its own replacement by being dialled.
        """
        return remote.Command(
            name,
            connection=self._connection,
            create=self._command(commands.NOTHING, 10),
            delete=self._command(commands.UNINSTALL, timeout),
            stdin=_as_stdin(payload),
            logging=remote.Logging.STDOUT_AND_STDERR,  # short lines: how the queue drains, and what stays where
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions(
                parent=parent,
                depends_on=[self._last, *depends_on],
                protect=protect,
                additional_secret_outputs=["stdout", "stderr"],
            ),
        )

    def _install_scripts(self, name: str, gates: Sequence[pulumi.Resource]) -> None:
        ours = bundle()
        copy = self.upload(f"{name}/bundle", ours.file(), ours.remote_path, depends_on=gates)
        self._last = remote.Command(
            f"{name}/scripts",
            connection=self._connection,
            create=self._command(ours.installer(ours.remote_path), 300),
            stdin=json.dumps(ours.digests, indent=1, sort_keys=True),
            logging=remote.Logging.NONE,
            add_previous_output_in_env=False,
            opts=self._child([copy], hide=["create"]),  # our own code: the digests say which of it is another
        )

    def _access(self, name: str, args: HostArgs) -> Access:
        """Who may come in: confirmed by a login of its own, see access.py."""
        settings = args.settings
        folder = Path(__file__).parent
        payload: dict[str, Any] = {
            "ssh_port": settings.ssh.port,
            "allow_tcp": settings.firewall.allow_tcp,
            "allow_udp": settings.firewall.allow_udp,
            "ipv6_mail": settings.ipv6 is not None and settings.ipv6_outbound,
            "units": {unit: (folder / unit).read_text(encoding="utf-8") for unit in UNITS},
        }
        if settings.network.is_set:
            ipv6 = settings.network.ipv6
            payload["network"] = {
                "address": settings.ipv6,
                "prefix": ipv6.prefix if ipv6 else None,
                "gateway": ipv6.gateway if ipv6 else None,
                "addresses": settings.network.addresses,
                "echo": settings.network.echo,
            }
        script = f"{bundle().directory}/access.py"
        return Access(
            name,
            settings=settings,
            private_key=args.private_key,
            change=self._command(f"{script} apply", CHANGE_LIMIT),
            confirm=self._command(f"{script} confirm", CHANGE_LIMIT),
            payload=json.dumps(payload, indent=1, sort_keys=True),
            opts=self._child([self._last], secret=()),
        )

    def _command(self, command: str, timeout: int) -> str:
        return commands.locked(command, timeout, user=self._settings.ssh.user)

    def _child(
        self,
        depends_on: Sequence[pulumi.Resource],
        *,
        parent: pulumi.Resource | None = None,
        secret: Sequence[str] = ("stdout", "stderr"),
        hide: Sequence[str] = (),
    ) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(
            parent=parent or self,
            depends_on=list(depends_on),
            additional_secret_outputs=list(secret),  # not inferred from a secret stdin
            replacement_trigger=self._settings.host_key,  # another machine: run everything again
            delete_before_replace=True,
            hide_diffs=list(hide) or None,
        )


def _as_stdin(payload: Mapping[str, pulumi.Input[Any]]) -> pulumi.Output[str]:
    """The payload as indented, sorted JSON: a preview shows its lines."""
    return pulumi.Output.from_input(dict(payload)).apply(
        lambda value: json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    )
