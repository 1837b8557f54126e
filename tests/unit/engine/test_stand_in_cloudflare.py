"""The Cloudflare stand-in keeps the contract of pulumi-cloudflare 6.23, as seen against a local API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.engine import values
from lab.engine.cloudflare import DNSSEC, GET_ZONE, RECORD, Cloudflare
from lab.engine.cloudflare_client import Answer, delay
from lab.engine.rpc import proto

ZONE = "f" * 32
TOKEN = "lab-cloudflare-api-token-not-a-secret-000001"
ADDRESS = {"zoneId": ZONE, "name": "smtp.example.test", "type": "A", "ttl": 300, "content": "198.51.100.10"}
MX = {"zoneId": ZONE, "name": "example.test", "type": "MX", "ttl": 300, "content": "smtp.example.test", "priority": 10}


class RefusedError(Exception):
    """What the engine would show."""


class Context:
    def abort(self, code: Any, text: str) -> None:
        raise RefusedError(text)


class Plugin:
    """Calls the provider as the engine does and keeps what it would keep of one resource."""

    def __init__(self, base: str, engine: Any, token: str) -> None:
        self.provider = Cloudflare(engine)
        self.call("Configure", proto.ConfigureRequest(args=values.struct({"apiToken": token, "baseUrl": base})))

    def call(self, method: str, request: Any) -> Any:
        return getattr(self.provider, method)(request, Context())

    def check(self, inputs: dict[str, Any]) -> list[str]:
        answer = self.call("Check", proto.CheckRequest(urn=urn(RECORD), news=values.struct(inputs)))
        return [failure.property for failure in answer.failures]

    def create(self, inputs: dict[str, Any], *, preview: bool = False) -> tuple[str, dict[str, Any]]:
        request = proto.CreateRequest(urn=urn(RECORD), properties=values.struct(inputs), preview=preview)
        answer = self.call("Create", request)
        return answer.id, values.plain(answer.properties)

    def diff(self, old: dict[str, Any], state: dict[str, Any], new: dict[str, Any]) -> Any:
        parts = {"old_inputs": old, "olds": state, "news": new}
        return self.call("Diff", proto.DiffRequest(urn=urn(RECORD), **{k: values.struct(v) for k, v in parts.items()}))

    def update(
        self, identity: str, old: dict[str, Any], state: dict[str, Any], new: dict[str, Any], *, preview: bool = False
    ) -> dict[str, Any]:
        parts = {"old_inputs": old, "olds": state, "news": new}
        request = proto.UpdateRequest(
            id=identity, urn=urn(RECORD), preview=preview, **{k: values.struct(v) for k, v in parts.items()}
        )
        found: dict[str, Any] = values.plain(self.call("Update", request).properties)
        return found

    def read(self, identity: str, inputs: dict[str, Any], state: dict[str, Any]) -> tuple[str, Any, Any]:
        request = proto.ReadRequest(
            id=identity, urn=urn(RECORD), inputs=values.struct(inputs), properties=values.struct(state)
        )
        answer = self.call("Read", request)
        return answer.id, values.plain(answer.inputs), values.plain(answer.properties)

    def delete(self, identity: str, kind: str = RECORD) -> None:
        state = values.struct({"zoneId": ZONE})
        self.call("Delete", proto.DeleteRequest(id=identity, urn=urn(kind), properties=state))


def urn(kind: str) -> str:
    return f"urn:pulumi:dev::mail::{kind}::record"


Start = Callable[[str], Plugin]


@pytest.fixture
def start(api: Any, engine: Any) -> Iterator[Start]:
    """Start the provider with a token, as often as a test likes."""
    started: list[Plugin] = []

    def one(token: str) -> Plugin:
        started.append(Plugin(api.base, engine, token))
        return started[-1]

    yield one
    for plugin in started:
        if connection := getattr(plugin.provider.api.local, "connection", None):
            connection.close()


@pytest.fixture
def plugin(start: Start) -> Plugin:
    return start(TOKEN)


# --- what is sent ------------------------------------------------------------------------------


def test_previews_send_nothing(plugin: Plugin, api: Any) -> None:
    _, state = plugin.create(ADDRESS, preview=True)
    plugin.update("1", ADDRESS, ADDRESS, {**ADDRESS, "ttl": 600}, preview=True)
    plugin.diff(ADDRESS, ADDRESS, {**ADDRESS, "ttl": 600})
    assert api.requests == []
    assert state["createdOn"] == values.UNKNOWN


def test_a_create_is_one_post_with_what_is_asked_for_and_proxied(plugin: Plugin, api: Any) -> None:
    plugin.create({**MX, "comment": "why mailroom:dev"})
    body = {key: value for key, value in MX.items() if key != "zoneId"}
    assert api.requests == [
        ("POST", f"/zones/{ZONE}/dns_records", {**body, "proxied": False, "comment": "why mailroom:dev"})
    ]


def test_nested_keys_are_sent_in_the_words_of_the_api(plugin: Plugin, api: Any) -> None:
    data = {"usage": 3, "selector": 1, "matchingType": 1, "certificate": "AB"}
    plugin.create({"zoneId": ZONE, "name": "_25._tcp.smtp.example.test", "type": "TLSA", "ttl": 300, "data": data})
    assert api.requests[0][2]["data"] == {"usage": 3, "selector": 1, "matching_type": 1, "certificate": "AB"}


def test_an_update_is_one_put_and_what_was_cleared_is_null(plugin: Plugin, api: Any) -> None:
    old = {**ADDRESS, "comment": "old"}
    identity, state = plugin.create(old)
    plugin.update(identity, old, state, {**ADDRESS, "ttl": 600})
    method, path, body = api.requests[1]
    assert (method, path) == ("PUT", f"/zones/{ZONE}/dns_records/{identity}")
    assert (body["ttl"], body["comment"]) == (600, None)


def test_a_whole_life_never_asks_for_a_list(plugin: Plugin, api: Any) -> None:
    identity, state = plugin.create(ADDRESS)
    plugin.read(identity, ADDRESS, state)
    plugin.update(identity, ADDRESS, state, {**ADDRESS, "ttl": 600})
    plugin.delete(identity)
    assert api.methods() == ["POST", "GET", "PUT", "DELETE"]
    assert all("dns_records" in path and "?" not in path for _, path, _ in api.requests)


# --- what the API refuses ------------------------------------------------------------------------


def test_an_identical_record_is_an_error_of_the_api(plugin: Plugin) -> None:
    plugin.create(ADDRESS)
    with pytest.raises(RefusedError, match=r'POST ".*": 400 Bad Request .*81058.*An identical record already exists'):
        plugin.create(ADDRESS)


def test_a_wrong_token_is_reported_by_each_record(start: Start) -> None:
    with pytest.raises(RefusedError, match=r"403 Forbidden .*9109"):
        start("x" * 40).create(ADDRESS)


def test_deleting_a_record_that_is_gone_fails(plugin: Plugin) -> None:
    with pytest.raises(RefusedError, match=r'DELETE ".*": 404 Not Found .*81044.*Record does not exist'):
        plugin.delete("0" * 32)


def test_a_proxied_record_needs_the_automatic_ttl(plugin: Plugin, api: Any) -> None:
    with pytest.raises(RefusedError, match="ttl must be set to 1 when `proxied` is true"):
        plugin.create({**ADDRESS, "proxied": True})
    assert api.requests == []


def test_a_server_error_is_tried_again(plugin: Plugin, api: Any) -> None:
    api.faults = [(503, {"retry-after": "0"})]
    plugin.create(ADDRESS)
    assert api.methods() == ["POST", "POST"]


def test_a_connection_the_api_has_closed_meanwhile_costs_no_attempt(plugin: Plugin, api: Any) -> None:
    api.close_after = True
    plugin.create(ADDRESS)
    api.close_after = False
    plugin.create(MX)
    assert api.methods() == ["POST", "POST"]


def test_a_server_error_that_forbids_it_is_not_tried_again(plugin: Plugin, api: Any) -> None:
    api.faults = [(503, {"x-should-retry": "false"})]
    with pytest.raises(RefusedError, match="503"):
        plugin.create(ADDRESS)
    assert api.methods() == ["POST"]


@pytest.mark.parametrize(("attempt", "seconds"), [(0, 2), (1, 4), (3, 16), (9, 30)])
def test_the_wait_between_two_attempts_grows_to_half_a_minute(attempt: int, seconds: float) -> None:
    assert delay(attempt, Answer(503, "", {}, "")) == seconds


def test_cancelling_ends_the_wait_for_another_attempt(plugin: Plugin, api: Any) -> None:
    api.faults = [(503, {})]
    plugin.call("Cancel", None)
    with pytest.raises(RefusedError, match="context canceled"):
        plugin.create(ADDRESS)


# --- what is compared ----------------------------------------------------------------------------------


def test_what_was_created_does_not_differ(plugin: Plugin) -> None:
    for inputs in (ADDRESS, MX):
        _, state = plugin.create(inputs)
        assert plugin.diff(inputs, state, inputs).changes == proto.DiffResponse.DIFF_NONE


@pytest.mark.parametrize(("name", "replaces"), [("type", True), ("zoneId", True), ("content", False), ("ttl", False)])
def test_only_a_new_type_or_zone_replaces_a_record(plugin: Plugin, name: str, replaces: bool) -> None:
    answer = plugin.diff(ADDRESS, ADDRESS, {**ADDRESS, name: 900 if name == "ttl" else "other"})
    assert (list(answer.diffs), list(answer.replaces)) == ([name], [name] if replaces else [])


def test_upper_case_in_a_name_differs_for_ever_after_a_refresh(plugin: Plugin) -> None:
    inputs = {**ADDRESS, "name": "SMTP.example.test"}
    identity, state = plugin.create(inputs)
    assert not plugin.diff(inputs, state, inputs).diffs
    _, read_inputs, read_state = plugin.read(identity, inputs, state)
    assert list(plugin.diff(read_inputs, read_state, inputs).diffs) == ["name"]


def test_a_relative_name_still_means_the_same_after_a_refresh(plugin: Plugin) -> None:
    inputs = {**ADDRESS, "name": "smtp"}
    state = {**ADDRESS, "name": "smtp.example.test"}
    assert not plugin.diff(inputs, state, inputs).diffs


def test_drift_found_by_a_refresh_is_undone(plugin: Plugin, api: Any) -> None:
    identity, state = plugin.create(ADDRESS)
    api.records[identity]["content"] = "198.51.100.66"
    _, inputs, state = plugin.read(identity, ADDRESS, state)
    assert inputs["content"] == "198.51.100.66"
    assert list(plugin.diff(inputs, state, ADDRESS).diffs) == ["content"]


def test_a_comment_added_by_hand_is_removed(plugin: Plugin, api: Any) -> None:
    identity, state = plugin.create(ADDRESS)
    api.records[identity]["comment"] = "by hand"
    _, inputs, state = plugin.read(identity, ADDRESS, state)
    assert list(plugin.diff(inputs, state, ADDRESS).diffs) == ["comment"]


def test_the_content_that_the_api_makes_of_data_is_no_difference(plugin: Plugin, api: Any) -> None:
    inputs = {
        "zoneId": ZONE,
        "name": "example.test",
        "type": "CAA",
        "ttl": 300,
        "data": {"flags": 0, "tag": "issue", "value": "ca.test"},
    }
    identity, state = plugin.create(inputs)
    api.records[identity]["content"] = '0 issue "ca.test"'
    _, read_inputs, read_state = plugin.read(identity, inputs, state)
    assert not plugin.diff(read_inputs, read_state, inputs).diffs


def test_the_priority_that_the_api_copies_from_data_is_no_difference(plugin: Plugin, api: Any) -> None:
    data = {"priority": 5, "weight": 0, "port": 465, "target": "smtp.example.test"}
    inputs = {"zoneId": ZONE, "name": "_submissions._tcp.example.test", "type": "SRV", "ttl": 300, "data": data}
    identity, state = plugin.create(inputs)
    api.records[identity]["priority"] = 5
    _, read_inputs, read_state = plugin.read(identity, inputs, state)
    assert not plugin.diff(read_inputs, read_state, inputs).diffs


# --- what is read -----------------------------------------------------------------------------------------


def test_a_record_deleted_by_hand_leaves_the_state_with_a_warning(plugin: Plugin, api: Any, engine: Any) -> None:
    identity, state = plugin.create(ADDRESS)
    api.records.clear()
    assert plugin.read(identity, ADDRESS, state)[0] == ""
    assert engine.texts() == ["The resource was not found on the server and will be removed from state."]


def test_an_imported_record_does_not_differ(plugin: Plugin, api: Any) -> None:
    identity, _ = plugin.create({**ADDRESS, "comment": "mailroom:dev"})
    found, inputs, state = plugin.read(f"{ZONE}/{identity}", {}, {})
    assert found == identity
    assert not plugin.diff(inputs, state, {**ADDRESS, "comment": "mailroom:dev"}).diffs


def test_an_import_without_a_zone_names_the_form_of_an_id(plugin: Plugin) -> None:
    with pytest.raises(RefusedError, match="expected <zone_id>/<dns_record_id>"):
        plugin.read("0" * 32, {}, {})


# --- checks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "property_"),
    [
        ({"name": None}, "name"),
        ({"data": {}}, "content"),
        ({"type": "SPF"}, "type"),
        ({"ttl": 5}, "ttl"),
        ({"value": "x"}, "value"),
    ],
)
def test_inputs_the_official_provider_refuses_are_refused(plugin: Plugin, change: Any, property_: str) -> None:
    assert plugin.check({**ADDRESS, **change}) == [property_]


def test_good_inputs_pass(plugin: Plugin) -> None:
    assert plugin.check(ADDRESS) == plugin.check({**MX, "ttl": 1, "content": values.UNKNOWN}) == []


@pytest.mark.parametrize("token", ["short", "x" * 39, "x" * 81, "x" * 39 + "!"])
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(plugin: Plugin, token: str) -> None:
    news = values.struct({"apiToken": values.secret(token)})
    (failure,) = plugin.call("CheckConfig", proto.CheckRequest(news=news)).failures
    assert failure.property == "apiToken"
    assert token not in failure.reason


@pytest.mark.parametrize("token", ["x" * 40, "A-z_0" * 16, values.UNKNOWN])
def test_a_token_of_the_right_form_passes(plugin: Plugin, token: str) -> None:
    assert not plugin.call("CheckConfig", proto.CheckRequest(news=values.struct({"apiToken": token}))).failures


def test_without_any_token_nothing_starts(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUDFLARE_API_TOKEN", raising=False)
    with pytest.raises(RefusedError, match="must provide one of"):
        start("")


# --- the other two ----------------------------------------------------------------------------------------------


def test_a_zone_is_found_by_its_name(plugin: Plugin) -> None:
    args = values.struct({"filter": {"match": "all", "name": "example.test"}})
    answer = plugin.call("Invoke", proto.InvokeRequest(tok=GET_ZONE, args=args))
    assert values.plain(getattr(answer, "return"))["zoneId"] == ZONE


def test_a_name_without_a_zone_is_an_error(plugin: Plugin) -> None:
    args = values.struct({"filter": {"match": "all", "name": "other.test"}})
    with pytest.raises(RefusedError, match="failed to find exactly one result"):
        plugin.call("Invoke", proto.InvokeRequest(tok=GET_ZONE, args=args))


def test_destroying_dnssec_switches_it_off_first(plugin: Plugin, api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: Any) -> tuple[int, Any]:
        return 200, ""

    monkeypatch.setattr(api, "answer", answer)
    plugin.delete(ZONE, DNSSEC)
    path = f"/zones/{ZONE}/dnssec"
    assert api.requests == [("PATCH", path, {"status": "disabled"}), ("DELETE", path, None)]
