"""What the Cloudflare client asks, and how it says what is wrong; the API is an HTTP server on loopback."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from operations import cloudflare
from operations.cloudflare import Zone
from standards.finding import Problems

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "canary-token-0123456789-0123456789-01234567"
ZONE_ID = "0123456789abcdef0123456789abcdef"
ZONE = {"id": ZONE_ID, "name": "example.test", "status": "active"}


@dataclass
class Reply:
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    raw: bytes = b""


def fine(result: Any, **info: int) -> Reply:
    return Reply(body={"result": result, "success": True, "errors": [], "messages": [], "result_info": info})


def wrong(status: int, code: int, message: str = "no", **headers: str) -> Reply:
    body = {"result": None, "success": False, "errors": [{"code": code, "message": message}], "messages": []}
    return Reply(status, body, {key.replace("_", "-"): value for key, value in headers.items()})


@dataclass
class Api:
    """Answers one reply after the other, and remembers what it was asked."""

    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def zone(self, *replies: Reply) -> Zone:
        self.replies[:] = replies
        return Zone(TOKEN, ZONE_ID, self.url)


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            api.asked.append((self.path, self.headers["Authorization"]))
            reply = api.replies.pop(0)
            if reply.raw:
                self.wfile.write(reply.raw)
                return
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(body) + reply.missing)}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_DELETE = do_GET  # noqa: N815  (http.server's name)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_port}/client/v4"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield api
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(cloudflare.time, "sleep", pauses.append)
    return pauses


@pytest.mark.parametrize("domain", ["example.test", "news.example.test"])
def test_a_good_token_and_zone_have_no_findings(api: Api, domain: str) -> None:
    zone = api.zone(fine({**ZONE, "name": "Example.test"}))
    assert (zone.verify(domain), zone.name) == ([], "example.test")
    assert api.asked == [(f"/client/v4/zones/{ZONE_ID}", f"Bearer {TOKEN}")]  # once


@pytest.mark.parametrize(
    ("reply", "finding_id", "subject"),
    [
        (wrong(403, 9109, "Invalid access token"), "cloudflare.token-refused", "cloudflare:apiToken"),
        (wrong(401, 10000, "Authentication error"), "cloudflare.token-refused", "cloudflare:apiToken"),
        (wrong(400, 6003, "Invalid request headers"), "cloudflare.token-malformed", "cloudflare:apiToken"),
        (
            wrong(404, 7003, "Could not route to /zones/0123"),
            "cloudflare.no-such-zone",
            "mailroom:domains[example.test].zoneId",
        ),
        (
            wrong(400, 7003, "Could not route to /zones/0123"),
            "cloudflare.no-such-zone",
            "mailroom:domains[example.test].zoneId",
        ),
        (
            fine({**ZONE, "name": "other.test"}),
            "cloudflare.other-zone",
            "mailroom:domains[example.test].zoneId",
        ),
        (fine({**ZONE, "name": "ample.test"}), "cloudflare.other-zone", "mailroom:domains[example.test].zoneId"),
        (fine({**ZONE, "status": "pending"}), "cloudflare.zone-not-active", "zone example.test"),
    ],
)
def test_each_fault_is_one_error_that_names_the_key(api: Api, reply: Reply, finding_id: str, subject: str) -> None:
    (finding,) = api.zone(reply).verify("example.test")
    assert (finding.severity, finding.id, finding.subject) == ("error", finding_id, subject)
    assert TOKEN not in str(finding)


def test_the_zone_that_an_id_belongs_to_is_named(api: Api) -> None:
    (finding,) = api.zone(fine({**ZONE, "name": "other.test"})).verify("example.test")
    assert finding.found == f"{ZONE_ID} is the zone of other.test"


def test_an_api_that_nobody_serves_is_named() -> None:
    (finding,) = Zone(TOKEN, ZONE_ID, "http://127.0.0.1:1/client/v4").verify("example.test")
    assert (finding.id, finding.subject) == ("cloudflare.unreachable", "http://127.0.0.1:1/client/v4")
    assert "refused" in finding.found


def test_an_answer_that_is_no_json_is_said_to_be_no_cloudflare_api(api: Api) -> None:
    (finding,) = api.zone(Reply(200, b"<html>welcome</html>")).verify("example.test")
    assert "is this the Cloudflare API?" in finding.found


def test_the_token_does_not_follow_a_redirect(api: Api) -> None:
    elsewhere = Reply(302, b"", {"Location": f"{api.url}/elsewhere"})
    (finding,) = api.zone(elsewhere, fine(ZONE)).verify("example.test")
    assert finding.id == "cloudflare.unreachable"
    assert len(api.asked) == 1


def test_the_token_is_not_in_the_representation() -> None:
    assert TOKEN not in repr(Zone(TOKEN, ZONE_ID))


def test_an_own_api_is_never_asked_through_a_proxy(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert api.zone(fine(ZONE)).verify("example.test") == []


def test_all_pages_are_read_until_the_last(api: Api) -> None:
    zone = api.zone(fine([{"id": "1"}, {"id": "2"}], page=1, total_pages=2), fine([{"id": "3"}], page=2, total_pages=2))
    assert [record["id"] for record in zone.records()] == ["1", "2", "3"]
    assert [path.split("?")[1] for path in api.paths] == ["page=1&per_page=100", "page=2&per_page=100"]


def test_without_a_page_count_an_empty_page_is_the_last(api: Api) -> None:
    assert [record["id"] for record in api.zone(fine([{"id": "1"}]), fine([])).records()] == ["1"]
    assert len(api.asked) == 2


def test_records_that_cannot_be_read_are_a_problem(api: Api) -> None:
    with pytest.raises(Problems, match="cloudflare:apiToken"):
        api.zone(wrong(403, 10000)).records()


def test_a_busy_api_is_asked_again_after_the_pause_it_wishes(api: Api, pauses: list[float]) -> None:
    busy = wrong(429, 10100, retry_after="7")
    assert api.zone(busy, wrong(502, 0), fine(ZONE)).verify("example.test") == []
    assert pauses == [7.0, 1.0]


def test_a_pause_is_never_longer_than_half_a_minute(api: Api, pauses: list[float]) -> None:
    api.zone(wrong(429, 10100, retry_after="86400"), fine(ZONE)).verify("example.test")
    assert pauses == [30.0]


def test_an_api_that_stays_busy_is_given_up(api: Api, pauses: list[float]) -> None:
    (finding,) = api.zone(*[wrong(503, 10, "busy") for _ in range(4)]).verify("example.test")
    assert (finding.id, finding.found) == ("cloudflare.unreachable", "503/10: busy")
    assert len(pauses) == 3


@pytest.mark.parametrize(
    ("reply", "asked"), [(wrong(500, 1, x_should_retry="false"), 1), (wrong(403, 10000), 1), (wrong(500, 1), 2)]
)
def test_only_what_may_pass_is_asked_again(api: Api, reply: Reply, asked: int) -> None:
    api.zone(reply, fine(ZONE)).verify("example.test")
    assert len(api.asked) == asked


def test_an_address_that_is_no_url_is_told_and_not_a_crash() -> None:
    with pytest.raises(Problems, match="unknown url type"):
        cloudflare.Account(TOKEN, "no-url").zone_of("example.test")


BROKEN_OFF = Reply(body={"success": True, "result": []}, missing=50)
GARBAGE = Reply(raw=b"\x16\x03garbage\r\n\r\n")


@pytest.mark.parametrize("broken", [BROKEN_OFF, GARBAGE])
def test_an_answer_that_breaks_off_is_asked_for_again(api: Api, broken: Reply, pauses: list[float]) -> None:
    assert api.zone(broken, broken, fine([{"id": "1"}], total_pages=1)).records() == [{"id": "1"}]
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize("broken", [BROKEN_OFF, GARBAGE])
def test_answers_that_always_break_off_are_told_as_no_answer(api: Api, broken: Reply) -> None:
    (finding,) = api.zone(*[broken] * 4).verify("example.test")
    assert (finding.id, len(api.asked)) == ("cloudflare.unreachable", 4)
    assert "\n" not in finding.found
    with pytest.raises(Problems, match="an answer of the Cloudflare v4 API"):
        api.zone(*[broken] * 4).records()


def test_a_deletion_is_not_repeated_when_its_answer_breaks_off(api: Api) -> None:
    with pytest.raises(Problems, match="a record could not be removed"):
        api.zone(BROKEN_OFF).remove("1")
    assert len(api.asked) == 1


def test_an_error_that_breaks_off_is_still_that_error(api: Api) -> None:
    (finding,) = api.zone(Reply(403, b"{", missing=50)).verify("example.test")
    assert (finding.id, finding.found) == (
        "cloudflare.token-refused",
        f"the API refuses it for zone {ZONE_ID} (403: Forbidden)",
    )


@pytest.mark.parametrize("body", [{"success": True}, {"success": True, "result": None}, {"success": True, "result": 1}])
def test_a_success_without_a_result_is_said_to_be_no_cloudflare_api(api: Api, body: dict[str, Any]) -> None:
    (finding,) = api.zone(Reply(body=body)).verify("example.test")
    assert "the answer has no result: is this the Cloudflare API?" in finding.found
    with pytest.raises(Problems, match="the answer has no result"):
        api.zone(Reply(body=body)).records()
