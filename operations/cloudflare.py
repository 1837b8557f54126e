"""A small read-only client of the Cloudflare v4 API; records are written by Pulumi, never from here."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from typing import Any

from operations import web
from standards.finding import Finding, Problems

API = "https://api.cloudflare.com/client/v4"
TOKEN_KEY = "cloudflare:apiToken"  # noqa: S105  (the name of a setting)
MALFORMED_TOKEN = frozenset({6003, 6111})
REFUSED_TOKEN = frozenset({9103, 9106, 9109, 10000})
NO_SUCH_ZONE = frozenset({1001, 7000, 7003})
SERVED_STATES = frozenset({"active", None})
PER_PAGE = 100


class ApiError(Exception):
    """An answer that is no success; the text never holds the token."""

    def __init__(self, status: int, code: int | None, message: str) -> None:
        self.status = status
        self.code = code
        self.message = message
        super().__init__(f"{status}/{code}: {message}" if code else f"{status}: {message}")


@dataclass(frozen=True)
class Account:
    """What one token may see; `base_url` is the API's when None."""

    token: str = field(repr=False)
    base_url: str | None = None

    def zone_of(self, domain: str) -> tuple[str, str] | None:
        """(id, name) of the zone that holds `domain`, asked for label by label; None where the token sees none.

        Raises `Problems` when the token is refused or the API does not answer.
        """
        labels = domain.split(".")
        try:
            for start in range(len(labels) - 1):
                name = ".".join(labels[start:])
                if found := self.call(f"/zones?{urllib.parse.urlencode({'name': name})}", list)["result"]:
                    return str(found[0]["id"]), str(found[0]["name"]).lower()
        except ApiError as error:
            finding = Zone(self.token, "", self.base_url).explain(error, domain)
            raise Problems(f"the zone of {domain} could not be looked up", [finding]) from None
        except (OSError, ValueError) as error:  # ValueError: an address that urllib does not take
            finding = Zone(self.token, "", self.base_url).unreachable(error)
            raise Problems(f"the zone of {domain} could not be looked up", [finding]) from None
        return None

    def call(self, path: str, result: type, method: str = "GET") -> dict[str, Any]:
        """The answer to one request, with a `result` of that type; asked again when the API is busy.

        So is a GET whose answer is lost or breaks off; a change is not, as it may be done. Raises `ApiError` and
        `OSError`.
        """
        for attempt in range(web.ATTEMPTS):
            last = attempt == web.ATTEMPTS - 1
            try:
                return self._ask(path, result, method)
            except urllib.error.HTTPError as error:
                with error:
                    if last or not web.worth_retrying(error.code, error.headers):
                        raise _api_error(error.code, web.text_of(error)) from None
                    pause = web.pause(attempt, error.headers)
            except (OSError, HTTPException) as error:
                if last or method != "GET":
                    raise web.NoAnswer(web.told(error)) from None
                pause = web.pause(attempt, {})
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _ask(self, path: str, result: type, method: str) -> dict[str, Any]:
        base = (self.base_url or API).rstrip("/")
        request = urllib.request.Request(  # noqa: S310  (the address is a validated setting)
            f"{base}{path}",
            method=method,
            headers={"Authorization": f"Bearer {self.token}", "Accept": "application/json"},
        )
        response: HTTPResponse
        opener = web.opener(direct=self.base_url is not None)
        with opener.open(request, timeout=web.TIMEOUT_SECONDS) as response:
            return _parse(response.status, response.read(), result)


@dataclass(frozen=True)
class Zone:
    """One zone, seen with one token; `base_url` is the API's when None."""

    token: str = field(repr=False)
    zone_id: str
    base_url: str | None = None

    def verify(self, *domains: str) -> list[Finding]:
        """What keeps token and zone id from serving `domains`; one clear finding each, empty when fine."""
        try:
            zone, name = self._zone, self.name
        except ApiError as error:
            return [self.explain(error, domain) for domain in domains]
        except OSError as error:
            return [self.unreachable(error)]
        if strangers := [domain for domain in domains if domain != name and not domain.endswith(f".{name}")]:
            return [self._other_zone(domain, name) for domain in strangers]
        if zone.get("status") not in SERVED_STATES:
            return [self._not_served(name, str(zone["status"]))]
        return []

    @property
    def name(self) -> str:
        """The zone's own name; raises `ApiError` or `OSError` where `verify` has a finding about that."""
        return str(self._zone["name"]).lower()

    @cached_property
    def _zone(self) -> dict[str, Any]:
        return dict(self._call("", dict)["result"])

    def records(self) -> list[dict[str, Any]]:
        """Every DNS record of the zone; raises `Problems` when the API stops answering."""
        found: list[dict[str, Any]] = []
        try:
            for page in range(1, 1000):
                query = urllib.parse.urlencode({"page": page, "per_page": PER_PAGE})
                answer = self._call(f"/dns_records?{query}", list)
                found += answer["result"]
                last = (answer.get("result_info") or {}).get("total_pages")
                if not answer["result"] or (last is not None and page >= last):
                    break
        except ApiError as error:
            finding = self.explain(error, "its records")
            raise Problems("the zone's records could not be read", [finding]) from None
        except OSError as error:
            raise Problems("the zone's records could not be read", [self.unreachable(error)]) from None
        return found

    def remove(self, record_id: str) -> None:
        """Delete one record that a lost run of ours made, or that ours replaces on request. Raises `Problems`."""
        try:
            self._call(f"/dns_records/{urllib.parse.quote(record_id)}", dict, method="DELETE")
        except ApiError as error:
            raise Problems("a record could not be removed", [self.explain(error, record_id)]) from None
        except OSError as error:
            raise Problems("a record could not be removed", [self.unreachable(error)]) from None

    def _call(self, path: str, result: type, method: str = "GET") -> dict[str, Any]:
        path = f"/zones/{urllib.parse.quote(self.zone_id)}{path}"
        return Account(self.token, self.base_url).call(path, result, method)

    def explain(self, error: ApiError, domain: str) -> Finding:
        """What an answer that is no success means for `domain`."""
        if error.code in MALFORMED_TOKEN:
            return self._bad_token("cloudflare.token-malformed", f"no token at all ({error})")
        if error.code in REFUSED_TOKEN or error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            found = f"the API refuses it{f' for zone {self.zone_id}' if self.zone_id else ''} ({error})"
            return self._bad_token("cloudflare.token-refused", found)
        if error.code in NO_SUCH_ZONE or error.status == HTTPStatus.NOT_FOUND:
            return _zone_finding(
                "cloudflare.no-such-zone",
                domain,
                found=f"{self.zone_id}: this token sees no such zone ({error})",
            )
        return self.unreachable(error)

    def _bad_token(self, finding_id: str, found: str) -> Finding:
        return Finding(
            severity="error",
            id=finding_id,
            subject=TOKEN_KEY,
            expected="an API token (not the global key) with Zone DNS Edit and Zone Zone Read here",
            found=found,
            why="without it no record can be read or written",
            fix="make one under My Profile > API Tokens, from the template Edit zone DNS, "
            f"then: pulumi config set -s STACK --secret {TOKEN_KEY}",
        )

    def _other_zone(self, domain: str, name: str) -> Finding:
        return _zone_finding("cloudflare.other-zone", domain, found=f"{self.zone_id} is the zone of {name}")

    def _not_served(self, name: str, status: str) -> Finding:
        return Finding(
            severity="error",
            id="cloudflare.zone-not-active",
            subject=f"zone {name}",
            expected="status active",
            found=f"status {status}",
            why="Cloudflare's name servers do not serve the zone, so nobody would see our records",
            fix="set Cloudflare's name servers for it at the registrar and wait until it is active",
        )

    def unreachable(self, error: Exception) -> Finding:
        """What it means that there was no answer."""
        return Finding(
            severity="error",
            id="cloudflare.unreachable",
            subject=self.base_url or API,
            expected="an answer of the Cloudflare v4 API",
            found=str(error),
            why="the zone cannot be read, so nothing is written to it",
            fix="run again; check the network (and cloudflare:baseUrl when it is set)",
        )


def _zone_finding(finding_id: str, domain: str, *, found: str) -> Finding:
    return Finding(
        severity="error",
        id=finding_id,
        subject=f"mailroom:domains[{domain}].zoneId",
        expected=f"the id of the zone of {domain}: 32 hex digits, e.g. 0123456789abcdef0123456789abcdef",
        found=found,
        why="our records would go to another zone, or nowhere",
        fix=f"copy the Zone ID from the overview page of {domain} in the Cloudflare dashboard; "
        "the token must cover that zone",
    )


def _parse(status: int, body: bytes, result: type) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        raise ApiError(status, None, "the answer is not JSON: is this the Cloudflare API?") from None
    if not isinstance(answer, dict) or not answer.get("success"):
        raise _api_error(status, body)
    if not isinstance(answer.get("result"), result):
        raise ApiError(status, None, "the answer has no result: is this the Cloudflare API?")
    return answer


def _api_error(status: int, body: bytes) -> ApiError:
    try:
        first = json.loads(body)["errors"][0]
        return ApiError(status, int(first["code"]), str(first["message"]))
    except (ValueError, LookupError, TypeError):
        return ApiError(status, None, HTTPStatus(status).phrase if status in set(HTTPStatus) else "an error")
