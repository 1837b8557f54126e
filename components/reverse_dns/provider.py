"""Checks that the addresses of a host point back at its name; setting a PTR is the hosting provider's business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pulumi.dynamic import Resource

from components.dynamic_provider import Properties, Provider, progress
from standards.finding import Problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pulumi


class PtrCheckProvider(Provider):
    """Asks every authoritative server of each reverse zone, from the operator's machine.

    It comes right after A and AAAA are written, so it first waits until every server shows them. Raises
    `Problems` naming the exact record to set. Receivers refuse mail from addresses without forward-confirmed
    reverse DNS (RFC 8601 section 2.7.3 `iprev`).
    """

    def apply(self, inputs: Properties, previous: Mapping[str, Any]) -> Properties:  # noqa: ARG002
        """Return nothing: either it is right or it raises."""
        from operations import dns

        resolver = dns.Resolver(inputs.get("resolver"))
        name, addresses = str(inputs["name"]), inputs["addresses"]
        published = [dns.Expected(name, "AAAA" if ":" in address else "A", address) for address in addresses]
        dns.wait_until_visible(published, resolver, inputs["timeout"], progress)
        findings = []
        for address in addresses:
            progress(f"checking that {address} points back at {name}")
            findings += dns.check_ptr(address, name, resolver)
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            headline = f"reverse DNS of {name} is not right yet; set it at the hosting provider, then run again"
            raise Problems(headline, errors)
        return {}


class PtrCheck(Resource, module="mailroom", name="PtrCheck"):
    """Holds back everything that attracts mail until the host's addresses point back at its name."""

    def __init__(
        self,
        name: str,
        *,
        hostname: str,
        addresses: Sequence[str],
        resolver: str | None,
        timeout: int,
        opts: pulumi.ResourceOptions,
    ) -> None:
        inputs = {"name": hostname, "addresses": list(addresses), "resolver": resolver, "timeout": timeout}
        super().__init__(PtrCheckProvider(), name, inputs, opts)
