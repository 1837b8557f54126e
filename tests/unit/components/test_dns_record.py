"""Our DnsRecord is the package's: the engine cannot tell them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_cloudflare
import pytest
from google.protobuf.json_format import MessageToDict

from components.dns.record import DnsRecord

if TYPE_CHECKING:
    from collections.abc import Callable

MX = {"type": "MX", "content": "smtp.example.com", "priority": 10}
TXT = {"type": "TXT", "content": '"v=spf1 -all"', "priority": None}


@pytest.mark.parametrize("record", [MX, TXT], ids=lambda record: record["type"])
def test_our_record_is_registered_as_that_of_the_package(observe: Callable[..., Any], record: dict[str, Any]) -> None:
    kept = {"zone_id": "z" * 32, "name": "example.com", "ttl": 300, "proxied": False, "comment": "of stack dev"}

    def registered(cls: Any) -> dict[str, Any]:
        opts = pulumi.ResourceOptions(delete_before_replace=True)
        run = observe(lambda: cls("r", **kept, **record, opts=opts))
        request: dict[str, Any] = MessageToDict(run.requests["r"])
        return request

    theirs, ours = registered(pulumi_cloudflare.DnsRecord), registered(DnsRecord)
    [alias] = theirs.pop("aliases")
    assert (
        alias["spec"]["type"] == "cloudflare:index/record:Record"
    )  # its name before version 6: no stack of ours has it
    for request in (theirs, ours):
        request.pop("sourcePosition", None)
        request.pop("stackTrace", None)
    assert ours == theirs
    assert (ours["type"], ours["version"]) == (
        "cloudflare:index/dnsRecord:DnsRecord",
        pulumi_cloudflare._utilities.get_version(),
    )
