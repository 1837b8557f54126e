"""What the operator's machine asks the lab's internet: records, lag, reverse DNS, ACME roots, whether it is up."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import dns.exception
import dns.flags
import dns.message
import dns.query

from lab.internet.certificates import CA_CERTIFICATE
from lab.internet.names import CLOUDFLARE_TOKEN, COLLEAGUES_OCTET, zone_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lab.addresses import Plan

TIMEOUT: Final = 10.0
PROBE_TIMEOUT: Final = 0.25
"""Short: a packet sent before the guest has its address is lost, and its repetition comes a second later."""
# The lab's addresses are this machine's own routes: a proxy for the outside world must not see them.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Dns:
    """Record sets straight at the authoritative servers, in zone file form; Cloudflare's API does not list them."""

    plan: Plan

    def set(self, name: str, kind: str, values: Sequence[str], ttl: int = 5) -> None:
        """Publish exactly these values; a TXT value without quotes gets them."""
        contents = [_zone_file(kind, value) for value in values]
        control(self.plan, "PUT", f"dns/{name}/{kind}", {"values": contents, "ttl": ttl})

    def get(self, name: str, kind: str) -> list[str]:
        """The values ns1 has."""
        return list(control(self.plan, "GET", f"dns/{name}/{kind}")["values"])

    def delete(self, name: str, kind: str) -> None:
        """Remove the record set."""
        control(self.plan, "DELETE", f"dns/{name}/{kind}")


def lag(plan: Plan, seconds: float) -> None:
    """Let ns2 see later changes that much later; 0 also delivers what waits."""
    control(plan, "PUT", "lag", {"seconds": seconds})


def set_ptr(plan: Plan, address: str, name: str) -> None:
    """Set reverse DNS, as a person does at the hosting provider."""
    _ask("PUT", f"{plan.provider_api}/ptr/{address}", {"name": name})


def requests(plan: Plan) -> list[dict[str, Any]]:
    """What the Cloudflare and provider APIs were asked, oldest first."""
    return list(control(plan, "GET", "requests"))


def email_routing(plan: Plan, zone: str, *, enabled: bool) -> None:
    """Let the provider's mail routing product put its locked records into a zone, or take them away."""
    control(plan, "PUT" if enabled else "DELETE", f"email-routing/{zone}")


def edit_zone(plan: Plan, method: str, zone: str, path: str = "", body: object = None) -> Any:
    """List, make, change or remove records as the zone's owner does at the provider; `path` is `/ID` or a query."""
    url = f"{plan.cloudflare_api}/zones/{zone_id(zone)}/dns_records{path}"
    return _ask(method, url, body, {"Authorization": f"Bearer {CLOUDFLARE_TOKEN}"})["result"]


def acme_roots(plan: Plan) -> str:
    """PEM of the root that signs the ACME server's certificates; a new one at each of its starts."""
    with _tls_opener().open(f"{plan.acme_management}/roots/0", timeout=TIMEOUT) as answer:
        text: str = answer.read().decode()
    return text


def probes(plan: Plan) -> dict[str, Callable[[], bool]]:
    """Every service of the lab's internet with a test whether it answers; the cheap ones first."""
    servers = {"ns1": plan.ns1, "ns2": plan.ns2, "the resolver": plan.resolver}
    checks: dict[str, Callable[[], bool]] = {"the API": lambda: _api_ready(plan)}
    for name, pair in servers.items():
        for address in pair:
            checks[f"{name} ({address})"] = partial(_answers, address)
    for name, pair in {"the receiver": plan.receiver, "the colleagues": plan.address(COLLEAGUES_OCTET)}.items():
        for address in pair:
            checks[f"{name} ({address})"] = partial(_greets, address)
    checks["the ACME server"] = lambda: _acme_ready(plan)
    return checks


def control(plan: Plan, method: str, path: str, body: object = None) -> Any:
    """One request to the tests' own API."""
    return _ask(method, f"http://{plan.api.ipv4}:8080/lab/{path}", body)


def _ask(method: str, url: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310
    try:
        with _OPENER.open(request, timeout=TIMEOUT) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode()
        raise ValueError(f"{method} {url} is refused: {error.code} {text}") from error


def _tls_opener() -> urllib.request.OpenerDirector:
    context = ssl.create_default_context(cafile=str(CA_CERTIFICATE))
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))


def _zone_file(kind: str, value: str) -> str:
    if kind.upper() != "TXT" or value.startswith('"'):
        return value
    from lab.internet.records import quoted

    return quoted(value)


def _api_ready(plan: Plan) -> bool:
    try:
        with _OPENER.open(f"http://{plan.api.ipv4}:8080/lab/ready", timeout=PROBE_TIMEOUT) as answer:
            return bool(json.loads(answer.read())["ready"])
    except OSError:
        return False


def _answers(address: str) -> bool:
    """Whether a DNS server answers for a signed zone."""
    query = dns.message.make_query("lab.test", "SOA")
    try:
        return bool(dns.query.udp(query, address, timeout=PROBE_TIMEOUT).answer)
    except (OSError, dns.exception.DNSException):
        return False


def _greets(address: str) -> bool:
    try:
        with closing(socket.create_connection((address, 25), timeout=PROBE_TIMEOUT)) as connection:
            return connection.recv(4) == b"220 "
    except OSError:
        return False


def _acme_ready(plan: Plan) -> bool:
    try:
        return "BEGIN CERTIFICATE" in acme_roots(plan)
    except OSError:
        return False
