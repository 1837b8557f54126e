"""Cloudflare's DnsRecord as the pulumi_cloudflare package declares it, without that package's import.

To import the package costs each run two seconds of processor time and 150 MB for the thousand other types in it. The
package stays required: it names the plugin. tests/unit/components/test_dns_record.py holds the two together.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

import pulumi

installed_version = cache(version)  # it reads the package's folder each time


class DnsRecord(pulumi.CustomResource):
    """One record of a zone (https://www.pulumi.com/registry/packages/cloudflare/api-docs/dnsrecord/).

    `ttl` is in seconds, `name` a whole name without final dot; the engine answers for values the API refuses.
    """

    def __init__(
        self,
        resource_name: str,
        *,
        zone_id: str,
        name: str,
        type: str,  # noqa: A002  (the property's name)
        ttl: int,
        content: pulumi.Input[str],
        priority: int | None,
        proxied: bool,
        comment: str,
        opts: pulumi.ResourceOptions,
    ) -> None:
        inputs = {
            "zoneId": zone_id,
            "name": name,
            "type": type,
            "ttl": float(ttl),
            "content": content,
            "priority": None if priority is None else float(priority),
            "proxied": proxied,
            "comment": comment,
        }
        plugin = pulumi.ResourceOptions(version=installed_version("pulumi-cloudflare"))
        super().__init__(
            "cloudflare:index/dnsRecord:DnsRecord", resource_name, inputs, pulumi.ResourceOptions.merge(plugin, opts)
        )
