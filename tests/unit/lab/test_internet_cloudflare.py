"""The lab's Cloudflare API: what the official provider and certbot rely on, over loopback and in memory."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.client import RemoteDisconnected
from typing import TYPE_CHECKING, Any

import pytest

from lab.addresses import Plan
from lab.internet.api_server import Apis
from lab.internet.authoritative import MemoryServer
from lab.internet.names import ACME_TOKEN, CLOUDFLARE_TOKEN, zone_id
from lab.internet.web import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ZONE = zone_id("example.test")
RECORDS = f"/client/v4/zones/{ZONE}/dns_records"
ADDRESS = {"type": "A", "name": "smtp.example.test", "content": "198.51.100.10", "ttl": 300, "proxied": False}


class Api:
    """A client of one running API, and the two name servers behind it."""

    def __init__(self, url: str, ns1: MemoryServer, ns2: MemoryServer) -> None:
        self.url = url
        self.ns1 = ns1
        self.ns2 = ns2

    def ask(self, method: str, path: str, body: object = None, token: str | None = CLOUDFLARE_TOKEN) -> Answer:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return Answer(answer.status, json.loads(answer.read()), answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, json.loads(error.read()), error.headers)

    def create(self, body: Mapping[str, object]) -> dict[str, Any]:
        answer = self.ask("POST", RECORDS, body)
        assert answer.status == 200, answer.body
        return answer.result

    def published(self, name: str, kind: str, server: MemoryServer | None = None) -> tuple[str, ...]:
        found = (server or self.ns1).content["example.test"].get((name, kind))
        return found.contents if found else ()


class Answer:
    def __init__(self, status: int, body: Any, headers: Mapping[str, str]) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    @property
    def result(self) -> Any:
        return self.body["result"]

    @property
    def error(self) -> tuple[int, int]:
        return self.status, self.body["errors"][0]["code"]


@contextmanager
def serving(store: str | Path = ":memory:") -> Iterator[Api]:
    ns1, ns2 = MemoryServer(), MemoryServer()
    apis = Apis(Plan(name="dev", index=0), ns1, ns2, store)
    apis.open()
    server = Server("127.0.0.1", 0, apis.handle)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield Api(f"http://127.0.0.1:{server.server_address[1]}", ns1, ns2)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as running:
        yield running


def test_a_created_record_is_in_the_dns_of_both_servers_when_the_answer_arrives(api: Api) -> None:
    api.create(ADDRESS)
    assert api.published("smtp.example.test", "A", api.ns1) == ("198.51.100.10",)
    assert api.published("smtp.example.test", "A", api.ns2) == ("198.51.100.10",)


def test_a_record_echoes_what_was_asked_and_adds_what_the_provider_reads(api: Api) -> None:
    made = api.create({**ADDRESS, "comment": "why mailroom:dev"})
    assert {key: made[key] for key in ADDRESS} == ADDRESS
    assert made["comment"] == "why mailroom:dev"
    assert made["proxiable"] is True
    assert made["tags"] == []
    assert made["settings"] == made["meta"] == {}
    assert made["created_on"].endswith("Z")
    assert api.ask("GET", f"{RECORDS}/{made['id']}").result == made


@pytest.mark.parametrize(
    ("sent", "name", "content"),
    [
        ({"type": "A", "name": "SMTP.Example.Test.", "content": "198.51.100.10"}, "smtp.example.test", "198.51.100.10"),
        ({"type": "A", "name": "smtp", "content": "198.51.100.10"}, "smtp.example.test", "198.51.100.10"),
        ({"type": "A", "name": "@", "content": "198.51.100.10"}, "example.test", "198.51.100.10"),
        ({"type": "A", "name": "bücher", "content": "198.51.100.10"}, "xn--bcher-kva.example.test", "198.51.100.10"),
        ({"type": "AAAA", "name": "a", "content": "2001:DB8:0:0:0:0:0:10"}, "a.example.test", "2001:db8::10"),
        (
            {"type": "MX", "name": "@", "content": "SMTP.example.test.", "priority": 10},
            "example.test",
            "smtp.example.test",
        ),
        ({"type": "TXT", "name": "t", "content": '"v=DKIM1; " "p=abc"'}, "t.example.test", '"v=DKIM1; " "p=abc"'),
        ({"type": "TXT", "name": "t", "content": "v=spf1 -all"}, "t.example.test", "v=spf1 -all"),
        ({"type": "TXT", "name": "t", "content": "x" * 256}, "t.example.test", f'"{"x" * 255}" "x"'),
        (
            {"type": "CAA", "name": "@", "data": {"flags": 0, "tag": "issue", "value": "letsencrypt.org"}},
            "example.test",
            '0 issue "letsencrypt.org"',
        ),
        (
            {
                "type": "TLSA",
                "name": "_25._tcp.smtp",
                "data": {"usage": 3, "selector": 1, "matching_type": 1, "certificate": "ab" * 32},
            },
            "_25._tcp.smtp.example.test",
            f"3 1 1 {'AB' * 32}",
        ),
    ],
)
def test_values_come_back_in_the_real_apis_spelling(api: Api, sent: dict[str, object], name: str, content: str) -> None:
    made = api.create({"ttl": 300, **sent})
    assert (made["name"], made["content"]) == (name, content)


@pytest.mark.parametrize(
    ("sent", "published"),
    [
        ({"type": "TXT", "name": "r", "content": 'plain "quoted"'}, '"plain \\"quoted\\""'),
        ({"type": "MX", "name": "r", "content": "mx.example.test", "priority": 5}, "5 mx.example.test."),
        ({"type": "MX", "name": "r", "content": ".", "priority": 0}, "0 ."),
        ({"type": "CNAME", "name": "r", "content": "elsewhere.test"}, "elsewhere.test."),
        (
            {
                "type": "SRV",
                "name": "r",
                "data": {"priority": 0, "weight": 1, "port": 465, "target": "smtp.example.test"},
            },
            "0 1 465 smtp.example.test.",
        ),
    ],
)
def test_the_dns_gets_zone_file_form(api: Api, sent: dict[str, object], published: str) -> None:
    api.create({"ttl": 300, **sent})
    assert api.published("r.example.test", str(sent["type"])) == (published,)


def test_a_proxied_address_is_hidden_from_the_world(api: Api) -> None:
    made = api.create({**ADDRESS, "ttl": 1, "proxied": True})
    assert made["content"] == ADDRESS["content"]
    assert api.published("smtp.example.test", "A") != (ADDRESS["content"],)


def test_an_update_keeps_the_id_and_leaves_nothing_behind(api: Api) -> None:
    made = api.create({**ADDRESS, "comment": "old"})
    changed = api.ask("PUT", f"{RECORDS}/{made['id']}", {**ADDRESS, "name": "mx.example.test"}).result
    assert (changed["id"], changed["name"], changed["comment"]) == (made["id"], "mx.example.test", None)
    assert api.published("smtp.example.test", "A") == ()
    assert api.published("mx.example.test", "A") == ("198.51.100.10",)


def test_a_patch_changes_only_what_it_names(api: Api) -> None:
    made = api.create({**ADDRESS, "comment": "kept"})
    changed = api.ask("PATCH", f"{RECORDS}/{made['id']}", {"content": "198.51.100.11"}).result
    assert (changed["content"], changed["comment"], changed["ttl"]) == ("198.51.100.11", "kept", 300)


def test_deleting_one_of_two_records_of_a_set_leaves_the_other(api: Api) -> None:
    made = api.create(ADDRESS)
    api.create({**ADDRESS, "content": "198.51.100.11"})
    assert api.ask("DELETE", f"{RECORDS}/{made['id']}").result == {"id": made["id"]}
    assert api.published("smtp.example.test", "A") == ("198.51.100.11",)
    assert api.ask("GET", f"{RECORDS}/{made['id']}").error == (404, 81044)


def test_pages_end_with_an_empty_one(api: Api) -> None:
    for last in range(3):
        api.create({**ADDRESS, "content": f"198.51.100.{10 + last}"})
    pages = [api.ask("GET", f"{RECORDS}?per_page=2&page={page}") for page in (1, 2, 3)]
    assert [len(page.result) for page in pages] == [2, 1, 0]
    assert pages[0].body["result_info"] == {"page": 1, "per_page": 2, "count": 2, "total_count": 3, "total_pages": 2}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("name=t.example.test", 2),
        ("name.exact=T.example.test", 2),
        ("name.exact=t.example.test&type=A", 1),
        ("type=TXT&content=token", 1),
        ("content.exact=other", 0),
        ("comment.contains=mailroom%3Adev", 1),
        ("name.startswith=smtp", 0),
        ("name.endswith=example.test", 2),
    ],
)
def test_a_list_is_filtered_by_every_filter_given(api: Api, query: str, found: int) -> None:
    api.create({"type": "TXT", "name": "t", "content": '"token"', "comment": "x mailroom:dev"})
    api.create({"type": "A", "name": "t", "content": "198.51.100.10"})
    assert len(api.ask("GET", f"{RECORDS}?{query}").result) == found


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({**ADDRESS, "content": "198.51.100.256"}, (400, 9005)),
        ({**ADDRESS, "type": "AAAA"}, (400, 9006)),
        ({**ADDRESS, "ttl": 59}, (400, 9021)),
        ({**ADDRESS, "ttl": 86401}, (400, 9021)),
        ({**ADDRESS, "name": "-.example.test"}, (400, 9000)),
        ({**ADDRESS, "type": "SPF"}, (400, 1004)),
        ({**ADDRESS, "tags": ["a"]}, (400, 9300)),
        ({"type": "MX", "name": "@", "content": "mx.example.test", "ttl": 300}, (400, 9100)),
        ({"type": "MX", "name": "@", "content": "198.51.100.1", "priority": 1, "ttl": 300}, (400, 1004)),
        ({"type": "TXT", "name": "@", "content": f'"{"x" * 256}"', "ttl": 300}, (400, 1004)),
        ({"type": "MX", "name": "@", "content": "mx.test", "priority": 1, "proxied": True}, (400, 9004)),
    ],
)
def test_what_is_no_record_is_refused_and_leaves_no_trace(
    api: Api, body: dict[str, object], error: tuple[int, int]
) -> None:
    assert api.ask("POST", RECORDS, body).error == error
    assert api.ask("GET", RECORDS).result == []


PAGES = {"type": "CNAME", "name": "@", "content": "x.test", "ttl": 300}


def test_an_alias_at_the_zones_own_name_is_seen_as_an_address_beside_the_other_records(api: Api) -> None:
    api.create({"type": "MX", "name": "@", "content": "mx.test", "priority": 1, "ttl": 300})
    made = api.create(PAGES)
    api.create({"type": "TXT", "name": "@", "content": "v=spf1 -all", "ttl": 300})
    assert (made["type"], made["proxied"]) == ("CNAME", False)
    assert api.published("example.test", "CNAME") == ()
    assert len(api.published("example.test", "A")) == len(api.published("example.test", "MX")) == 1
    api.ask("DELETE", f"{RECORDS}/{made['id']}")
    assert api.published("example.test", "A") == ()


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (ADDRESS, ADDRESS, 81058),
        (ADDRESS, {"type": "CNAME", "name": "smtp", "content": "x.test", "ttl": 300}, 81053),
        ({"type": "CNAME", "name": "smtp", "content": "x.test", "ttl": 300}, ADDRESS, 81054),
        (
            {"type": "TXT", "name": "t", "content": "same", "ttl": 300},
            {"type": "TXT", "name": "t", "content": '"same"', "ttl": 60},
            81058,
        ),
        (
            {"type": "MX", "name": "@", "content": "mx.test", "priority": 1, "ttl": 300},
            {"type": "MX", "name": "@", "content": "mx.test", "priority": 2, "ttl": 300},
            81057,
        ),
        (PAGES, {**ADDRESS, "name": "@"}, 81054),
        ({**ADDRESS, "name": "@"}, PAGES, 81053),
        (PAGES, {**PAGES, "content": "y.test"}, 81053),
    ],
)
def test_records_that_cannot_stand_together_are_refused(
    api: Api, first: dict[str, object], second: dict[str, object], code: int
) -> None:
    api.create(first)
    assert api.ask("POST", RECORDS, second).error == (400, code)
    assert len(api.ask("GET", RECORDS).result) == 1


@pytest.mark.parametrize(
    ("token", "error"),
    [(None, (400, 9106)), ("short", (400, 6003)), ("x" * 40, (403, 9109))],
)
def test_a_bad_token_gets_the_apis_own_code(api: Api, token: str | None, error: tuple[int, int]) -> None:
    assert api.ask("GET", RECORDS, token=token).error == error


def test_an_unknown_zone_cannot_be_routed_to(api: Api) -> None:
    assert api.ask("GET", f"/client/v4/zones/{'0' * 32}/dns_records").error == (404, 7003)
    assert api.ask("GET", f"/client/v4/zones/{'0' * 32}").error == (404, 7003)


def test_the_acme_token_edits_challenges_and_nothing_else(api: Api) -> None:
    made = api.create(ADDRESS)
    challenge = {"type": "TXT", "name": "_acme-challenge.smtp.example.test", "content": "token", "ttl": 120}
    accepted = api.ask("POST", RECORDS, challenge, token=ACME_TOKEN)
    assert accepted.status == 200
    assert api.ask("POST", RECORDS, {**ADDRESS, "name": "x"}, token=ACME_TOKEN).error == (403, 10000)
    assert api.ask("DELETE", f"{RECORDS}/{made['id']}", token=ACME_TOKEN).error == (403, 10000)
    moved = {**challenge, "name": "_dmarc.example.test"}
    assert api.ask("PUT", f"{RECORDS}/{accepted.result['id']}", moved, token=ACME_TOKEN).error == (403, 10000)
    assert [each["type"] for each in api.ask("GET", RECORDS, token=ACME_TOKEN).result] == ["TXT"]
    assert len(api.ask("GET", "/client/v4/zones?name=example.test", token=ACME_TOKEN).result) == 1


def test_zones_are_found_by_name_and_by_id(api: Api) -> None:
    found = api.ask("GET", "/client/v4/zones?name=example.test&per_page=1").result
    assert [(zone["id"], zone["status"]) for zone in found] == [(ZONE, "active")]
    assert api.ask("GET", f"/client/v4/zones/{ZONE}").result["name"] == "example.test"
    assert api.ask("GET", "/client/v4/zones?name=unknown.test").result == []


def test_records_survive_a_restart_with_their_ids(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as api:
        kept = api.create(ADDRESS)
        gone = api.create({**ADDRESS, "content": "198.51.100.11"})
        api.ask("DELETE", f"{RECORDS}/{gone['id']}")
    with serving(tmp_path / "store") as api:
        assert api.ask("GET", RECORDS).result == [kept]
        assert api.published("smtp.example.test", "A") == ("198.51.100.10",)


def test_an_injected_error_hits_once_and_changes_nothing(api: Api) -> None:
    fault = {"method": "POST", "path": ".*/dns_records", "status": 429, "retry_after": 1}
    api.ask("POST", "/lab/faults", fault)
    hit = api.ask("POST", RECORDS, ADDRESS)
    assert (hit.status, hit.headers["retry-after"], hit.headers["x-should-retry"]) == (429, "1", "false")
    assert api.published("smtp.example.test", "A") == ()
    assert api.ask("POST", RECORDS, ADDRESS).status == 200


def test_a_lost_answer_leaves_the_record_made(api: Api) -> None:
    api.ask("POST", "/lab/faults", {"method": "POST", "lost_answer": True})
    with pytest.raises((RemoteDisconnected, urllib.error.URLError)):
        api.ask("POST", RECORDS, ADDRESS)
    assert api.ask("POST", RECORDS, ADDRESS).error == (400, 81058)


def test_the_request_log_names_tokens_and_never_holds_them(api: Api) -> None:
    api.ask("GET", RECORDS)
    api.ask("GET", f"{RECORDS}?type=TXT", token=ACME_TOKEN)
    api.ask("GET", RECORDS, token="y" * 40)
    log = api.ask("GET", "/lab/requests").body
    assert [(each["method"], each["token"], each["status"]) for each in log] == [
        ("GET", "edit", 200),
        ("GET", "acme", 200),
        ("GET", "unknown", 403),
    ]
    assert log[1]["path"] == f"{RECORDS}?type=TXT"
    assert all(secret not in json.dumps(log) for secret in (CLOUDFLARE_TOKEN, ACME_TOKEN, "y" * 40))


def test_email_routing_adds_locked_records_and_takes_them_away(api: Api) -> None:
    api.ask("PUT", "/lab/email-routing/example.test")
    locked = api.ask("GET", f"{RECORDS}?type=MX").result
    assert [each["meta"] for each in locked] == [{"email_routing": True, "read_only": True}] * 3
    assert api.ask("DELETE", f"{RECORDS}/{locked[0]['id']}").error == (400, 1046)
    mx = {"type": "MX", "name": "@", "content": "smtp.example.test", "priority": 10, "ttl": 300}
    assert api.ask("POST", RECORDS, mx).error == (400, 890190)
    api.ask("DELETE", "/lab/email-routing/example.test")
    assert api.ask("GET", RECORDS).result == []
    assert api.published("example.test", "MX") == ()


def test_reverse_dns_is_set_shown_and_removed_by_the_providers_api(api: Api) -> None:
    path = "/provider/ptr/2001:db8:99::10"
    assert api.ask("GET", path).body == {"ip": "2001:db8:99::10", "name": None}
    assert api.ask("PUT", path, {"name": "smtp.example.test"}).body["name"] == "smtp.example.test"
    [zone] = [zone for zone in api.ns2.content if zone.endswith("ip6.arpa")]
    contents = [each.contents for each in api.ns2.record_sets(zone) if each.name.startswith("0.1.0.0")]
    assert contents == [("smtp.example.test.",)]
    assert api.ask("DELETE", path).body["name"] is None


def test_reverse_dns_of_a_strangers_address_is_refused(api: Api) -> None:
    assert api.ask("PUT", "/provider/ptr/192.0.2.1", {"name": "smtp.example.test"}).status == 404
