"""Certificate: what the host obtains by ACME DNS-01 with its own token, and renews without us."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi

from standards import acme as challenges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from components.host.component import Host
    from components.settings import AcmeSettings, HostSettings

PROJECT = Path(__file__).resolve().parents[2]  # paths in the settings start here
HOOK_LIMIT = 60  # seconds a reload hook may take; reload_hook.py stops it then


@dataclass(frozen=True, kw_only=True)
class CertificateArgs:
    """`names` maps a certificate's name to the names it lists; the host's own comes first.

    `hooks` are the reload hooks of some of them; `acme` is mailroom:acme; `api_base` another base URL of the
    Cloudflare API, or None.
    """

    host: Host
    host_settings: HostSettings
    names: dict[str, list[str]]
    hooks: Mapping[str, Sequence[str]]
    acme: AcmeSettings
    api_base: str | None
    gates: Sequence[pulumi.Resource]


class Certificate(pulumi.ComponentResource):
    """The certificates of one host; `issued` is the step after which they are on it."""

    issued: pulumi.Resource

    def __init__(self, name: str, args: CertificateArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mailroom:index:Certificate", name, None, opts)
        acme, copies = args.acme, args.host_settings.certificate_copies
        payload: dict[str, Any] = {
            "email": acme.email,
            "directory": acme.directory_url,
            "ca_pem": (PROJECT / acme.ca_file).read_text(encoding="utf-8") if acme.ca_file else None,
            "api_base": args.api_base,
            "dns": acme.dns,
            "credentials": {key: pulumi.Output.secret(value.get_secret_value()) for key, value in acme.ini.items()},
            "challenge_zone": acme.challenge_zone,
            "propagation_seconds": acme.propagation_seconds,
            "copies": {"folder": copies.folder, "group": copies.group} if copies else None,
            "certificates": [
                {"name": name, "names": names} | ({"hooks": list(args.hooks[name])} if name in args.hooks else {})
                for name, names in args.names.items()
            ],
        }
        hooks = sum(map(len, args.hooks.values()))
        self.issued = args.host.step(
            f"{name}/certificate",
            "certificate.py",
            payload,
            timeout=300 + len(args.names) * (300 + acme.propagation_seconds) + hooks * HOOK_LIMIT,
            parent=self,
            depends_on=args.gates,
        )
        self.register_outputs({"names": args.names})


def challenge_packages(acme: AcmeSettings) -> list[str]:
    """The Debian packages of the way challenges are answered; our own hook needs none beside the sender policy's."""
    return [] if acme.challenge_zone else [challenges.package(acme.dns)]
