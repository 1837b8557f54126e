"""Chasquid: its binary, configuration, users and service on one host, and the one step that activates them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pulumi

from components.chasquid import build, config
from standards.finding import Finding, Problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from components.certificates.component import Certificate
    from components.chasquid.provider import Users
    from components.dkim.provider import DkimKey
    from components.host.component import Host
    from components.settings import HostSettings, Settings


@dataclass(frozen=True, kw_only=True)
class ChasquidArgs:
    """What one host serves. `before_signing` is what a DKIM key waits for: its TXT visible everywhere."""

    settings: Settings
    host_settings: HostSettings
    host: Host
    certificate: Certificate
    certificate_names: dict[str, list[str]]
    keys: Mapping[tuple[str, str], DkimKey]
    users: Users
    before_signing: Sequence[pulumi.Resource]


class Chasquid(pulumi.ComponentResource):
    """The running service of one host; `serving` is the step after which mail may come."""

    serving: pulumi.Resource

    def __init__(self, name: str, args: ChasquidArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mailroom:index:Chasquid", name, None, opts)
        host, settings = args.host, args.settings
        release = build.release(args.host_settings.arch)
        _require_built(release)
        tar = host.upload(f"{name}/binary", release.tar, release.remote_path, parent=self)
        installed = host.step(
            f"{name}/install",
            "install_binary.py",
            {"tar": release.remote_path, "sha256": release.sha256, "version": release.version},
            parent=self,
            depends_on=[tar],
        )
        plain = config.plain_files(settings, args.host_settings)
        secret = _secret_files(args)
        staged = [
            host.step(f"{name}/plain", "stage.py", {"kind": "plain", "files": plain}, parent=self),
            host.step(
                f"{name}/secret", "stage.py", {"kind": "secret", "files": secret}, parent=self,
                depends_on=args.before_signing,
            ),
        ]  # fmt: skip
        domains = config.served_domains(settings)
        activated = host.step(
            f"{name}/activate",
            "activate.py",
            {
                "plain": config.digest(plain),
                "secret": secret.apply(config.digest),
                "binary": release.directory_name,
                "hostname": args.host_settings.name,
                "domains": domains,
                "certificates": args.certificate_names,
                "directory": settings.acme.directory_url,  # another CA: another certificate to serve
            },
            parent=self,
            depends_on=[installed, *staged, args.certificate.issued, *args.before_signing],
        )
        self.serving = host.step(
            f"{name}/logins",
            "verify_users.py",
            {"hostname": args.host_settings.name, "users": args.users.changed},
            parent=self,
            depends_on=[activated],
        )
        self.register_outputs({"version": release.version})


def _require_built(release: build.Release) -> None:
    """Without the built release there is nothing to upload; the message says how to make it."""
    if release.tar.is_file():
        return
    finding = Finding(
        severity="error",
        id="chasquid-not-built",
        subject=f"chasquid {release.version} for {release.arch}",
        expected=f"its build, {release.name}, in this machine's cache",
        found="it is not there",
        why="hosts get exactly the pinned programs, built here: they need no compiler",
        fix="make setup; elsewhere than on Debian 12: scripts/setup.sh program",
    )
    raise Problems("there is no chasquid to install; nothing was changed", [finding])


def _secret_files(args: ChasquidArgs) -> pulumi.Output[dict[str, Any]]:
    """Users and active DKIM keys, as the staging step takes them; secret as a whole."""
    active = config.active_keys(args.settings)
    keys = {f"{domain} {selector}": args.keys[domain, selector].private for domain, selector in active}
    return pulumi.Output.secret(
        pulumi.Output.all(users=args.users.files, keys=keys).apply(
            lambda known: config.secret_files(
                known["users"], {tuple(name.split(" ")): pem for name, pem in known["keys"].items()}
            )
        )
    )
