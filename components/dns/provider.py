"""Resources around DNS records: the gate before the first write, a takeover, the wait until all servers show them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pulumi.dynamic import Resource

from components.dynamic_provider import Properties, Provider, progress
from standards.finding import Problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pulumi

    from operations.dns import Expected
    from standards.finding import Finding
    from standards.records import Record


class ZoneGateProvider(Provider):
    """Reads the zone: token, zone and our names; a record there that is not ours stops the run.

    It looks at each SPF record with all it includes, too, and at the MTA-STS policies of domains that get our MX. It
    asks again whenever what we want to write changes. Raises `Problems` naming each record and the ways on.
    """

    def apply(self, inputs: Properties, previous: Mapping[str, Any]) -> Properties:  # noqa: ARG002
        """Return nothing: either the zone is free for us or it raises."""
        from operations import cloudflare
        from standards import ownership

        progress(f"checking the zone of {', '.join(inputs['names'])}")
        zone = cloudflare.Zone(_token(inputs), inputs["zone_id"], inputs.get("base_url"))
        findings = zone.verify(*inputs["names"])
        if not findings:
            findings = ownership.conflicts(zone.records(), inputs["wanted"], inputs["stack"], zone.name)
            findings += [*_costly_spf(inputs), *_unwelcome_reports(inputs), *_unlisted_mx(inputs)]
        for finding in findings:
            if finding.severity != "error":
                progress(str(finding).removeprefix("warning: "), warning=True)
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            headline = f"the zone of {', '.join(inputs['names'])} is not ready for us; nothing was changed in it"
            raise Problems(headline, list(dict.fromkeys(errors)))
        return {}


def _token(inputs: Properties) -> str:
    """The stack's own token, else that of this run, which its state never has."""
    return str(inputs.get("token") or os.environ["CLOUDFLARE_API_TOKEN"])


def _costly_spf(inputs: Properties) -> list[Finding]:
    """What makes receivers give up on our SPF records; a silent name server is told and does not stop the run."""
    from operations import dns, spf

    found = []
    for sender in inputs["senders"]:
        resolver = dns.Resolver(inputs.get("resolver"))
        findings, unanswered = spf.review(sender["domain"], sender["text"], resolver, inputs["published"])
        found += findings
        for question in unanswered:
            progress(f"SPF of {sender['domain']}: nobody answers for {question}; its cost is not known")
    return found


def _unwelcome_reports(inputs: Properties) -> list[Finding]:
    """Reports that will not be sent, because their receiver does not say that it wants them."""
    from operations import dns

    resolver = dns.Resolver(inputs.get("resolver"))
    return [
        finding
        for report in inputs["reports"]
        for finding in dns.check_leave(report["domain"], report["receiver"], resolver)
    ]


def _unlisted_mx(inputs: Properties) -> list[Finding]:
    """Domains whose MTA-STS policy keeps senders from the MX hosts that we are about to publish."""
    from operations import dns, mta_sts

    hosts: dict[str, list[str]] = {}
    for record in inputs["published"]:
        host = record["value"].rpartition(" ")[2]
        if record["type"] == "MX" and record["name"] in inputs["names"] and host != ".":  # a null MX takes no mail
            hosts.setdefault(record["name"], []).append(host)
    resolver = dns.Resolver(inputs.get("resolver"))
    return [finding for domain, mx in hosts.items() for finding in mta_sts.review(domain, mx, resolver)]


class ZoneGate(Resource, module="mailroom", name="ZoneGate"):
    """The gate of one zone, for the owners `names` of what we write there: nothing is written before it has read it.

    `senders` are the SPF records {domain, text} to look at, `published` what we will publish: names in them, and MX;
    `reports` the domains of others that shall get DMARC reports, as {domain, receiver}.
    """

    def __init__(
        self,
        name: str,
        *,
        names: Sequence[str],
        zone_id: str,
        wanted: Sequence[Mapping[str, Any]],
        senders: Sequence[Mapping[str, str]],
        published: Sequence[Mapping[str, str]],
        reports: Sequence[Mapping[str, str]],
        resolver: str | None,
        stack: str,
        token: pulumi.Input[str] | None,
        base_url: str | None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        inputs = {
            "name": name,
            "names": list(names),
            "zone_id": zone_id,
            "wanted": list(wanted),
            "senders": list(senders),
            "published": list(published),
            "reports": list(reports),
            "resolver": resolver,
            "stack": stack,
            "token": token,
            "base_url": base_url,
        }
        super().__init__(ZoneGateProvider(), name, inputs, opts)


class SpfTakeoverProvider(Provider):
    """Removes an SPF record of others that allows nothing ours does not allow, right before ours is written.

    A name may have one SPF record (RFC 7208 section 3.2): two are a permanent error. What was removed stays in the
    state as `replaced`.
    """

    outputs = ("replaced",)

    def apply(self, inputs: Properties, previous: Mapping[str, Any]) -> Properties:
        """Return `replaced`, the texts of all that were ever removed."""
        from operations import cloudflare
        from standards import ownership
        from standards.records import unquoted

        zone = cloudflare.Zone(_token(inputs), inputs["claim"]["zone_id"], inputs.get("base_url"))
        replaced = list(previous.get("replaced") or [])
        for record in ownership.replaceable(zone.records(), inputs["claim"]):
            text = unquoted(record["content"])
            progress(f"replacing the SPF record of others at {inputs['name']}: {text}")
            zone.remove(record["id"])
            replaced.append(text)
        return {"replaced": replaced}


class SpfTakeover(Resource, module="mailroom", name="SpfTakeover"):
    """Makes room for the SPF record of one domain that says `adopt: true`; `claim` is that of its name."""

    replaced: pulumi.Output[list[str]]

    def __init__(
        self,
        name: str,
        *,
        claim: Mapping[str, Any],
        token: pulumi.Input[str] | None,
        base_url: str | None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        inputs = {
            "name": claim["name"],
            "claim": dict(claim),
            "token": token,
            "base_url": base_url,
            "replaced": None,
        }
        super().__init__(SpfTakeoverProvider(), name, inputs, opts)


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
    from standards.records import unquoted

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
