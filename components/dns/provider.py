"""Two resources around DNS records: the gate before the first write, and the wait until all servers show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pulumi.dynamic import Resource

from components.dynamic_provider import Properties, Provider, progress
from standards.finding import Problems
from standards.records import unquoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pulumi

    from operations.dns import Expected
    from standards.records import Record


class ZoneGateProvider(Provider):
    """Reads the zone: token, zone and our names; a record there that is not ours stops the run.

    It asks again whenever the names we want to write change. Raises `Problems` naming each record and the ways on.
    """

    def apply(self, inputs: Properties, previous: Mapping[str, Any]) -> Properties:  # noqa: ARG002
        """Return nothing: either the zone is free for us or it raises."""
        from operations import cloudflare
        from standards import ownership

        progress(f"checking the zone of {', '.join(inputs['names'])}")
        zone = cloudflare.Zone(inputs["token"], inputs["zone_id"], inputs.get("base_url"))
        findings = zone.verify(*inputs["names"])
        if not findings:
            findings = ownership.conflicts(zone.records(), inputs["wanted"], inputs["stack"])
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            headline = f"the zone of {', '.join(inputs['names'])} is not ready for us; nothing was changed in it"
            raise Problems(headline, list(dict.fromkeys(errors)))
        return {}


class ZoneGate(Resource, module="mailroom", name="ZoneGate"):
    """The gate of one zone, for the owners `names` of what we write there: nothing is written before it has read it."""

    def __init__(
        self,
        name: str,
        *,
        names: Sequence[str],
        zone_id: str,
        wanted: Sequence[Mapping[str, Any]],
        stack: str,
        token: pulumi.Input[str],
        base_url: str | None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        inputs = {
            "name": name,
            "names": list(names),
            "zone_id": zone_id,
            "wanted": list(wanted),
            "stack": stack,
            "token": token,
            "base_url": base_url,
        }
        super().__init__(ZoneGateProvider(), name, inputs, opts)


class PropagatedProvider(Provider):
    """Waits, from the operator's machine, until every authoritative server answers with the wanted values.

    A receiver may ask any of them: a DKIM signature made before all have the key fails at some (RFC 6376
    section 3.6.2.2 treats a missing key as a permanent failure). Raises `Problems` when time is out.
    """

    def apply(self, inputs: Properties, previous: Mapping[str, Any]) -> Properties:  # noqa: ARG002
        """Return nothing: it ends when everything is visible, or raises."""
        from operations import dns

        expected = [_as_answered(item) for item in inputs["records"]]
        dns.wait_until_visible(expected, dns.Resolver(inputs.get("resolver")), inputs["timeout"], progress)
        return {}


def _as_answered(item: Mapping[str, str]) -> Expected:
    """A published record as DNS answers with it: the strings of a TXT joined (RFC 7208 section 3.3)."""
    from operations import dns

    value = unquoted(item["value"]) if item["type"] == "TXT" else item["value"]
    return dns.Expected(item["name"], item["type"], value)


class Propagated(Resource, module="mailroom", name="Propagated"):
    """These records are visible at every authoritative name server; `timeout` in seconds."""

    def __init__(
        self,
        name: str,
        *,
        records: Sequence[tuple[Record, pulumi.Input[str]]],
        resolver: str | None,
        timeout: int,
        opts: pulumi.ResourceOptions,
    ) -> None:
        expected = [{"name": record.name, "type": record.type, "value": value} for record, value in records]
        inputs = {"name": name, "records": expected, "resolver": resolver, "timeout": timeout}
        super().__init__(PropagatedProvider(), name, inputs, opts)
