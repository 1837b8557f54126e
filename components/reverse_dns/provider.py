"""The reverse DNS of a host: checked where a person sets it, set where the hosting provider has an API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import DiffResult, ReadResult, Resource

from components.dynamic_provider import Properties, Provider, progress
from standards.finding import Problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from operations import dns


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
        _wait_for_addresses(inputs, resolver)
        findings = []
        for address in addresses:
            progress(f"checking that {address} points back at {name}")
            findings += dns.check_ptr(address, name, resolver)
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            headline = f"reverse DNS of {name} is not right yet; set it at the hosting provider, then run again"
            raise Problems(headline, errors)
        return {}


def _wait_for_addresses(inputs: Properties, resolver: dns.Resolver) -> None:
    from operations import dns

    name = str(inputs["name"])
    published = [dns.Expected(name, "AAAA" if ":" in address else "A", address) for address in inputs["addresses"]]
    dns.wait_until_visible(published, resolver, inputs["timeout"], progress)


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


class PtrRecordProvider(Provider):
    """Sets the PTR of each address by the hosting provider's API where it is another, then waits until DNS shows it.

    `pointers` (address -> names) is what the API had at the last look: a refresh reads it again, and a name that
    somebody changed there is set back by the next run. Raises `Problems`.
    """

    outputs = ("pointers",)

    def apply(self, inputs: Properties, previous: Mapping[str, Any]) -> Properties:  # noqa: ARG002
        """Return `pointers`."""
        from operations import dns, reverse_dns

        resolver = dns.Resolver(inputs.get("resolver"))
        name, addresses = str(inputs["name"]), inputs["addresses"]
        _wait_for_addresses(inputs, resolver)
        api = reverse_dns.connect(inputs["provider"], inputs["access"], progress)
        reverse_dns.ensure(api, addresses, name, progress)
        progress(f"checking that DNS shows the reverse DNS of {' and '.join(addresses)}")
        dns.wait_for_ptr(addresses, name, resolver, inputs["timeout"], progress)
        return {"pointers": _wanted(inputs)}

    def diff(self, _id: str, olds: Properties, news: Properties) -> DiffResult:
        """Compare the inputs, and what a refresh found with what should be there."""
        drifted = olds.get("pointers") != _wanted(self._inputs(news))
        return DiffResult(changes=drifted or super().diff(_id, olds, news).changes)

    def read(self, id_: str, props: Properties) -> ReadResult:
        """Ask the API anew."""
        from operations import reverse_dns

        api = reverse_dns.connect(props["provider"], props["access"], progress)
        return ReadResult(id_, {**props, "pointers": reverse_dns.read(api, props["addresses"])})

    def delete(self, _id: str, props: Properties) -> None:
        """Leave it: after a renaming it already has the new name, and no name at all is no better than an old one."""
        addresses = " and ".join(props["addresses"])
        progress(f"the reverse DNS of {addresses} stays as it is; change it in the provider's panel when you like")


def _wanted(inputs: Properties) -> dict[str, list[str]]:
    return {address: [inputs["name"]] for address in inputs["addresses"]}


class PtrRecord(Resource, module="mailroom", name="PtrRecord"):
    """The host's addresses point back at its name; `access` are the secret values of the provider's setting."""

    def __init__(
        self,
        name: str,
        *,
        hostname: str,
        addresses: Sequence[str],
        provider: str,
        access: Mapping[str, str],
        resolver: str | None,
        timeout: int,
        opts: pulumi.ResourceOptions,
    ) -> None:
        inputs = {
            "name": hostname,
            "addresses": list(addresses),
            "provider": provider,
            "access": pulumi.Output.secret(dict(access)),
            "resolver": resolver,
            "timeout": timeout,
            "pointers": None,
        }
        secret = pulumi.ResourceOptions(additional_secret_outputs=["access"])
        super().__init__(PtrRecordProvider(), name, inputs, pulumi.ResourceOptions.merge(opts, secret))
