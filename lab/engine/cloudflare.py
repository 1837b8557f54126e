"""pulumi-resource-cloudflare: DNS records, DNSSEC and the zone look-up.

Speaks the Cloudflare v4 API to `cloudflare:baseUrl` with `cloudflare:apiToken`, as the official provider 6.23 does for
dnsRecord:DnsRecord, zoneDnssec:ZoneDnssec and getZone:
* a preview sends nothing, a run sends one request a record and never a list;
* a change of zoneId or type replaces a record, any other change is a PUT;
* the state keeps what the program wrote until a refresh reads what the API made of it: a value the API writes
  differently, such as a name with upper case, differs at each run from then on;
* an existing identical record is an error, and so is the deletion of one that is gone.
"""

# The names of RPC methods are the protocol's, and so are their arguments.
# ruff: noqa: N802, ARG002

from __future__ import annotations

import json
import os
import re
import threading
import urllib.parse
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty

from lab.engine import pins, rpc, values
from lab.engine.rpc import Failure, NotFound, proto
from lab.engine.values import UNKNOWN

if TYPE_CHECKING:
    from lab.engine.cloudflare_client import Api
    from lab.engine.values import Props

VERSION = pins.PLUGINS["cloudflare"]
API = "https://api.cloudflare.com/client/v4"
TOKEN_FORM = re.compile(r"[0-9A-Za-z\-_]{40,80}")


@dataclass(frozen=True)
class Kind:
    """One resource type: its properties, and which changes replace it."""

    inputs: frozenset[str]
    required: frozenset[str]
    replaces: frozenset[str]
    computed: frozenset[str]


RECORD = "cloudflare:index/dnsRecord:DnsRecord"
DNSSEC = "cloudflare:index/zoneDnssec:ZoneDnssec"
GET_ZONE = "cloudflare:index/getZone:getZone"
KINDS = {
    RECORD: Kind(
        inputs=frozenset({
            "zoneId", "name", "type", "ttl", "content", "priority", "data", "proxied", "comment", "tags", "settings",
            "privateRouting", "includeShadowMetadata",
        }),
        required=frozenset({"zoneId", "name", "type", "ttl"}),
        replaces=frozenset({"zoneId", "type"}),
        computed=frozenset({
            "createdOn", "modifiedOn", "commentModifiedOn", "tagsModifiedOn", "meta", "proxiable"
        }),
    ),
    DNSSEC: Kind(
        inputs=frozenset({"zoneId", "status", "dnssecMultiSigner", "dnssecPresigned", "dnssecUseNsec3"}),
        required=frozenset({"zoneId"}),
        replaces=frozenset({"zoneId"}),
        computed=frozenset({
            "algorithm", "digest", "digestAlgorithm", "digestType", "ds", "flags", "keyTag", "keyType", "modifiedOn",
            "publicKey",
        }),
    ),
}  # fmt: skip
RECORD_TYPES = (
    *("A", "AAAA", "CNAME", "MX", "NS", "OPENPGPKEY", "PTR", "TXT", "CAA", "CERT", "DNSKEY", "DS", "HTTPS", "LOC"),
    *("NAPTR", "SMIMEA", "SRV", "SSHFP", "SVCB", "TLSA", "URI"),
)
LOCAL_ONLY = {"zoneId", "includeShadowMetadata"}  # inputs that are no part of a request's body


# --- the API -------------------------------------------------------------------------


def snake(value: Any) -> Any:
    """Pulumi's camelCase keys as the API's snake_case, at every depth."""
    if isinstance(value, dict):
        return {re.sub("[A-Z]", lambda m: "_" + m[0].lower(), key): snake(item) for key, item in value.items()}
    return [snake(item) for item in value] if isinstance(value, list) else value


def camel(value: Any) -> Any:
    """The API's snake_case keys as Pulumi's camelCase, at every depth."""
    if isinstance(value, dict):
        return {re.sub("_([a-z0-9])", lambda m: m[1].upper(), key): camel(item) for key, item in value.items()}
    return [camel(item) for item in value] if isinstance(value, list) else value


# --- what the provider makes of it ----------------------------------------------------


def check(token: str, news: Props) -> list[tuple[str, str]]:
    """What is wrong with the inputs of a resource, as (property, reason)."""
    kind = KINDS[token]
    failures = [
        (name, f'Missing required argument. The argument "{name}" is required, but no definition was found.')
        for name in sorted(kind.required - news.keys())
    ]
    failures += [(name, f'Unsupported argument "{name}"') for name in sorted(news.keys() - kind.inputs)]
    if token != RECORD:
        return failures
    if "content" in news and "data" in news:
        failures.append(("content", 'Attribute "data" cannot be specified when "content" is specified'))
    if news.get("type", UNKNOWN) not in (UNKNOWN, *RECORD_TYPES):
        failures.append(
            ("type", f"Attribute type value must be one of: {', '.join(RECORD_TYPES)}, got: {news['type']!r}")
        )
    ttl = news.get("ttl", UNKNOWN)
    if ttl not in (UNKNOWN, 1) and not (isinstance(ttl, (int, float)) and 30 <= ttl <= 86400):  # noqa: PLR2004
        failures.append(("ttl", f"Attribute ttl value must be 1, or between 30 and 86400, got: {ttl!r}"))
    return failures


def differences(token: str, old_inputs: Props, state: Props, news: Props) -> list[tuple[str, str]]:
    """The changes that lead from the last known state to what is asked for."""
    old = {key: state[key] for key in news if state.get(key) is not None}
    for key in KINDS[token].inputs - news.keys():
        # What is no longer asked for goes, and so does what others added that this provider never fills in itself.
        own = key == "comment" or (key == "priority" and "data" not in news)
        if (key in old_inputs or own) and state.get(key) not in (None, False, "", [], {}):
            old[key] = state[key]
    for key in old.keys() & news.keys():
        old[key] = only_asked(old[key], news[key])
        if same(key, news, old_inputs, old[key]):
            old[key] = news[key]
    return list(values.changes(old, {key: value for key, value in news.items() if value or key in old}))


def same(key: str, news: Props, old_inputs: Props, known: Any) -> bool:
    """Whether a value that the API writes differently still means what is asked for."""
    asked = news[key]
    if not (isinstance(asked, str) and isinstance(known, str)):
        return False
    if key == "content" and news.get("type") == "CNAME":
        return asked.lower() == known.lower()
    if key != "name":
        return False
    unchanged = asked == old_inputs.get("name")
    return asked.rstrip(".") == known or (unchanged and (asked == "@" or known.startswith(asked + ".")))


def only_asked(value: Any, model: Any) -> Any:
    """The value without the nested keys its model does not set."""
    if isinstance(value, dict) and isinstance(model, dict):
        return {key: only_asked(value[key], model[key]) for key in value if key in model}
    return value


def body_of(token: str, inputs: Props, old_inputs: Props) -> Props:
    """The body of a request; what was set before and is not any more is null."""
    body: Props = {"proxied": False} if token == RECORD else {}
    body |= {key: None for key in old_inputs if not key.startswith("__")} | inputs
    if body.get("proxied") and body["ttl"] != 1:
        raise Failure("ttl must be set to 1 when `proxied` is true")
    result: Props = snake({key: value for key, value in body.items() if key not in LOCAL_ONLY})
    return result


def state_of(token: str, result: Props) -> Props:
    """What the API says of a resource, as the provider's state."""
    kind, found = KINDS[token], camel(result)
    state = {key: found[key] for key in kind.inputs | kind.computed if found.get(key) is not None}
    if "meta" in state:
        state["meta"] = json.dumps(result["meta"], sort_keys=True)
    return state


# --- the provider -----------------------------------------------------------------------


def kind_of(request: Any) -> str:
    """The type of the resource a request is about, one we know."""
    token = rpc.token_of(request)
    if token not in KINDS:
        raise Failure(f"this stand-in does not know {token}")
    return token


class Cloudflare(proto.ResourceProviderServicer):  # type: ignore[misc]
    """The provider of one engine, whose messages go to `engine`, a stub of its service."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.account: tuple[str, dict[str, str]] = API, {}
        self.cancelled = threading.Event()

    @cached_property
    def api(self) -> Api:
        """The client, loaded by the first request: most runs send none, and it takes a third of the start."""
        from lab.engine.cloudflare_client import Api

        return Api(*self.account, self.cancelled)

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        """Name our version."""
        return proto.PluginInfo(version=VERSION)

    def GetSchema(self, request: Any, context: Any) -> Any:
        """Give the least schema there is: previews and updates never ask for it."""
        return proto.GetSchemaResponse(schema=json.dumps({"name": "cloudflare", "version": VERSION}))

    def CheckConfig(self, request: Any, context: Any) -> Any:
        """Refuse an API token that cannot be one; the token itself is not shown."""
        token = values.reveal(values.plain(request.news)).get("apiToken")
        failures = []
        if token and token != UNKNOWN and not TOKEN_FORM.fullmatch(token):
            reason = (
                "API tokens must be 40 to 80 characters long and only contain a-z, A-Z, 0-9, hyphens and underscores"
            )
            failures = [proto.CheckFailure(property="apiToken", reason=reason)]
        return proto.CheckResponse(inputs=request.news, failures=failures)

    def DiffConfig(self, request: Any, context: Any) -> Any:
        """Find no difference that matters to resources."""
        return proto.DiffResponse(changes=proto.DiffResponse.DIFF_NONE)

    @rpc.reports_failure
    def Configure(self, request: Any, context: Any) -> Any:
        """Take the address and the credentials."""
        config = values.reveal(values.plain(request.args))

        def setting(name: str, variable: str) -> Any:
            return config.get(name) or os.environ.get(variable)

        token = setting("apiToken", "CLOUDFLARE_API_TOKEN")
        key, email = setting("apiKey", "CLOUDFLARE_API_KEY"), setting("email", "CLOUDFLARE_EMAIL")
        if not token and not (key and email):
            raise Failure('must provide one of "api_key", "api_token" or "api_user_service_key"')
        headers = {"Authorization": f"Bearer {token}"} if token else {"X-Auth-Key": key, "X-Auth-Email": email}
        self.account = setting("baseUrl", "CLOUDFLARE_BASE_URL") or API, headers
        return proto.ConfigureResponse(supportsPreview=True)

    def Cancel(self, request: Any, context: Any) -> Any:
        """Wait for no further attempt."""
        self.cancelled.set()
        return Empty()

    @rpc.reports_failure
    def Check(self, request: Any, context: Any) -> Any:
        """Judge the inputs of a resource."""
        token = kind_of(request)
        given = values.plain(request.news)
        news = {key: value for key, value in given.items() if not key.startswith("__") and value is not None}
        failures = [proto.CheckFailure(property=name, reason=reason) for name, reason in check(token, news)]
        return proto.CheckResponse(inputs=values.struct(news), failures=failures)

    @rpc.reports_failure
    def Diff(self, request: Any, context: Any) -> Any:
        """Compare what is asked for with the last known state."""
        token = kind_of(request)
        old_inputs, state, news = map(values.plain, (request.old_inputs, request.olds, request.news))
        return rpc.diff_response(differences(token, old_inputs, state, news), KINDS[token].replaces)

    @rpc.reports_failure
    def Create(self, request: Any, context: Any) -> Any:
        """POST a record, or switch DNSSEC."""
        token, inputs = kind_of(request), values.plain(request.properties)
        if request.preview:
            unknown = dict.fromkeys(KINDS[token].computed, UNKNOWN)
            return proto.CreateResponse(properties=values.struct({**unknown, **inputs}))
        zone, body = f"/zones/{inputs['zoneId']}", body_of(token, inputs, {})
        if token == RECORD:
            result = self.api("POST", f"{zone}/dns_records", body)
        else:
            result = self.api("PATCH", f"{zone}/dnssec", body)
        state = {**state_of(token, result), **inputs}
        return proto.CreateResponse(id=result.get("id") or inputs["zoneId"], properties=values.struct(state))

    @rpc.reports_failure
    def Update(self, request: Any, context: Any) -> Any:
        """PUT a record, or switch DNSSEC."""
        token = kind_of(request)
        old_inputs, state, inputs = map(values.plain, (request.old_inputs, request.olds, request.news))
        if request.preview:
            return proto.UpdateResponse(properties=values.struct({**state, **inputs, "modifiedOn": UNKNOWN}))
        zone, body = f"/zones/{inputs['zoneId']}", body_of(token, inputs, old_inputs)
        if token == RECORD:
            result = self.api("PUT", f"{zone}/dns_records/{request.id}", body)
        else:
            result = self.api("PATCH", f"{zone}/dnssec", body)
        return proto.UpdateResponse(properties=values.struct({**state_of(token, result), **inputs}))

    @rpc.reports_failure
    def Read(self, request: Any, context: Any) -> Any:
        """GET what there is now, for a refresh or an import; what is gone is left out of the state."""
        token = kind_of(request)
        old_inputs, state = values.plain(request.inputs), values.plain(request.properties)
        zone, record = (state["zoneId"], request.id) if state.get("zoneId") else imported(token, request.id)
        try:
            path = f"dns_records/{record}" if token == RECORD else "dnssec"
            result = self.api("GET", f"/zones/{zone}/{path}")
        except NotFound:
            text = "The resource was not found on the server and will be removed from state."
            severity = proto.LogSeverity.Value("WARNING")
            self.engine.Log(proto.LogRequest(severity=severity, message=text, urn=request.urn))
            return proto.ReadResponse()
        found = {**state_of(token, result), "zoneId": zone}
        wanted = old_inputs or {key: None for key in KINDS[token].inputs if found.get(key) not in (None, [], {})}
        inputs = {key: found[key] for key in wanted if found.get(key) is not None}
        if "name" in old_inputs and same("name", old_inputs, old_inputs, found.get("name")):
            inputs["name"] = old_inputs["name"]
        identity = result.get("id") or zone
        return proto.ReadResponse(id=identity, properties=values.struct(found), inputs=values.struct(inputs))

    @rpc.reports_failure
    def Delete(self, request: Any, context: Any) -> Any:
        """DELETE a record, or switch DNSSEC off; that a record is gone already is an error."""
        zone = f"/zones/{values.plain(request.properties)['zoneId']}"
        if kind_of(request) == RECORD:
            self.api("DELETE", f"{zone}/dns_records/{request.id}")
        else:
            self.api("PATCH", f"{zone}/dnssec", {"status": "disabled"})
            self.api("DELETE", f"{zone}/dnssec")
        return Empty()

    @rpc.reports_failure
    def Invoke(self, request: Any, context: Any) -> Any:
        """Look a zone up, in previews too."""
        if request.tok != GET_ZONE:
            raise Failure(f"this stand-in does not know {request.tok}")
        arguments = values.reveal(values.plain(request.args))
        zone = arguments.get("zoneId") or self._zone_named(arguments.get("filter") or {})
        result = {**camel(self.api("GET", f"/zones/{zone}")), "zoneId": zone, "filter": arguments.get("filter")}
        return proto.InvokeResponse(**{"return": values.struct(result)})

    def _zone_named(self, wanted: Props) -> str:
        query = {key: value for key, value in snake(wanted).items() if isinstance(value, (str, int))}
        query |= {f"account.{key}": value for key, value in (wanted.get("account") or {}).items()}
        found = self.api("GET", "/zones?" + urllib.parse.urlencode(sorted(query.items())))
        if len(found) != 1:
            raise Failure(f"failed to find exactly one result: {len(found)} zones for {query}")
        return str(found[0]["id"])


def imported(token: str, identity: str) -> tuple[str, str]:
    """The (zone, record) that an import names."""
    zone, _, record = identity.partition("/")
    if (token == RECORD) != bool(record):
        form = "<zone_id>/<dns_record_id>" if token == RECORD else "<zone_id>"
        raise Failure(f"invalid ID {identity!r}: expected {form}")
    return zone, record


def main() -> None:
    """Serve the engine that started us."""
    engine = proto.EngineStub(rpc.grpc.insecure_channel(rpc.engine_address()))
    provider = Cloudflare(engine)
    rpc.serve(lambda server: proto.provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server))
