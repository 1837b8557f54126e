"""Certificate: what the host obtains by ACME DNS-01 with its own token, and renews without us."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi

if TYPE_CHECKING:
    from collections.abc import Sequence

    from components.host import Host
    from components.settings import AcmeSettings

PROJECT = Path(__file__).resolve().parents[2]  # paths in the settings start here


@dataclass(frozen=True, kw_only=True)
class CertificateArgs:
    """`names` maps a certificate's name to the names it lists; the host's own comes first.

    `acme` is mailroom:acme; `api_base` another base URL of the DNS provider's API, or None.
    """

    host: Host
    names: dict[str, list[str]]
    acme: AcmeSettings
    api_base: str | None
    gates: Sequence[pulumi.Resource]


class Certificate(pulumi.ComponentResource):
    """The certificates of one host; `issued` is the step after which they are on it."""

    issued: pulumi.Resource

    def __init__(self, name: str, args: CertificateArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("mailroom:index:Certificate", name, None, opts)
        acme = args.acme
        payload: dict[str, Any] = {
            "email": acme.email,
            "directory": acme.directory_url,
            "ca_pem": (PROJECT / acme.ca_file).read_text(encoding="utf-8") if acme.ca_file else None,
            "api_base": args.api_base,
            "token": pulumi.Output.secret(acme.token.get_secret_value()),
            "propagation_seconds": acme.propagation_seconds,
            "certificates": [{"name": name, "names": names} for name, names in args.names.items()],
        }
        self.issued = args.host.step(
            f"{name}/certificate",
            "certificate.py",
            payload,
            timeout=300 + len(args.names) * (300 + acme.propagation_seconds),
            parent=self,
            depends_on=args.gates,
        )
        self.register_outputs({"names": args.names})
