"""challenge_hook.py: it follows the CNAME into the zone for challenges, writes there, and tells nobody the secret."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.resolver
import dns.rrset
import dns.tsigkeyring
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import FakeHost

ZONE, NAME = "acme.example.net", "_acme-challenge.example.com"
TARGET = f"{NAME}.{ZONE}"
TOKEN = "canary-token-0123456789-0123456789-0123456"
SECRET = "Y2FuYXJ5LXRzaWc="
TSIG = {"server": "192.0.2.53", "name": "key", "secret": SECRET, "algorithm": "HMAC-SHA256"}


@pytest.fixture
def aliases(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The CNAME records DNS has."""
    found = {NAME: f"{TARGET}."}

    def resolve(name: str, kind: str, **_: object) -> Any:
        assert kind == "CNAME"
        if name[:-1] not in found:
            raise dns.resolver.NXDOMAIN
        return dns.rrset.from_text(name, 5, "IN", "CNAME", found[name[:-1]])

    monkeypatch.setattr(dns.resolver, "resolve", resolve)
    return found


@pytest.fixture
def call(host: FakeHost, aliases: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Call the hook as certbot does; gives how long it slept."""
    import challenge_hook

    def run(action: str, value: str = "value-1", left: str = "0", **config: Any) -> list[float]:
        path = host.letsencrypt / "mailroom/challenge.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"challenge_zone": ZONE, "propagation_seconds": 7, "api_base": None, **config}))
        monkeypatch.setenv("CERTBOT_DOMAIN", "example.com")
        monkeypatch.setenv("CERTBOT_VALIDATION", value)
        monkeypatch.setenv("CERTBOT_REMAINING_CHALLENGES", left)
        slept: list[float] = []
        monkeypatch.setattr(challenge_hook.time, "sleep", slept.append)
        challenge_hook.main(action)
        return slept

    return run


class Api(BaseHTTPRequestHandler):
    """Cloudflare's API with one zone, as far as the hook asks."""

    records: dict[str, dict[str, Any]]
    zones: list[dict[str, str]]

    def answer(self, result: Any, status: int = 200) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"result": result}).encode())

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer("Authentication error", 403)
        elif self.path == f"/zones?name={ZONE}":
            self.answer(self.zones)
        else:
            assert self.path == f"/zones/z1/dns_records?type=TXT&name={TARGET}&per_page=100"
            self.answer([{"id": key, **record} for key, record in self.records.items()])

    def do_POST(self) -> None:
        assert self.path == "/zones/z1/dns_records"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.records[f"r{len(self.records)}"] = body
        self.answer(body)

    def do_DELETE(self) -> None:
        del self.records[self.path.removeprefix("/zones/z1/dns_records/")]
        self.answer({})

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The configuration of the hook for a Cloudflare of its own."""
    monkeypatch.setattr(Api, "records", {}, raising=False)
    monkeypatch.setattr(Api, "zones", [{"id": "z1"}], raising=False)
    server = HTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    credentials = {"dns_cloudflare_api_token": TOKEN}
    yield {"dns": "cloudflare", "credentials": credentials, "api_base": f"http://127.0.0.1:{server.server_port}"}
    server.shutdown()
    server.server_close()


def test_both_challenges_of_a_wildcard_stand_side_by_side_and_each_goes_alone(call: Any, api: dict[str, Any]) -> None:
    assert call("auth", "value-1", "1", **api) == []
    assert call("auth", "value-2", "0", **api) == [7]
    written = [(record["type"], record["name"], record["content"]) for record in Api.records.values()]
    assert written == [("TXT", TARGET, '"value-1"'), ("TXT", TARGET, '"value-2"')]
    assert call("cleanup", "value-1", "0", **api) == []
    assert [record["content"] for record in Api.records.values()] == ['"value-2"']


def test_a_cname_that_leads_elsewhere_stops_the_hook_before_anything_is_written(
    call: Any, api: dict[str, Any], aliases: dict[str, str]
) -> None:
    aliases[NAME] = "_acme-challenge.other.example."
    with pytest.raises(Exception, match=rf"{NAME} leads to _acme-challenge.other.example, a CNAME .* to {TARGET} is"):
        call("auth", **api)
    aliases[NAME] = f"x{ZONE}."
    with pytest.raises(Exception, match="is expected"):
        call("auth", **api)
    del aliases[NAME]
    with pytest.raises(Exception, match="has no CNAME record"):
        call("auth", **api)
    assert Api.records == {}


def test_several_cnames_in_a_row_are_followed(call: Any, api: dict[str, Any], aliases: dict[str, str]) -> None:
    aliases |= {NAME: "second.example.", "second.example": f"{TARGET.upper()}."}
    call("auth", **api)
    assert Api.records["r0"]["name"] == TARGET


def test_a_token_without_rights_is_told_without_the_token(
    call: Any, api: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Exception, match="403 .*Authentication error.*Zone Zone Read for the challenge zone") as refused:
        call("auth", **api | {"credentials": {"dns_cloudflare_api_token": "wrong-token"}})
    assert "wrong-token" not in str(refused.value)
    monkeypatch.setattr(Api, "zones", [])
    with pytest.raises(Exception, match=f"sees no zone {ZONE}"):
        call("auth", **api)


def test_an_answer_that_breaks_off_is_told_as_one(
    call: Any, api: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(request: Api) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")

    monkeypatch.setattr(Api, "do_GET", broken)
    with pytest.raises(Exception, match="Cloudflare's API does not answer .IncompleteRead.*try again later"):
        call("auth", **api)


@pytest.mark.parametrize(("action", "section"), [("auth", "IN"), ("cleanup", "NONE")])
def test_an_update_is_signed_and_touches_one_value(
    call: Any, monkeypatch: pytest.MonkeyPatch, action: str, section: str
) -> None:
    sent: list[Any] = []

    def tcp(update: Any, server: str, timeout: float, port: int) -> dns.message.Message:
        sent.append((dns.message.from_wire(update.to_wire(), keyring=update.keyring), server, port))
        return dns.message.make_response(dns.message.make_query(ZONE, "SOA"))

    monkeypatch.setattr(dns.query, "tcp", tcp)
    credentials = {f"dns_rfc2136_{key}": value for key, value in TSIG.items()}
    call(action, dns="rfc2136", credentials=credentials)
    ((update, server, port),) = sent
    assert (server, port) == ("192.0.2.53", 53)
    assert (update.keyname, update.keyalgorithm.to_text()) == (dns.name.from_text("key"), "hmac-sha256.")
    (change,) = update.update
    assert [word in change.to_text() for word in (TARGET, '"value-1"', section)] == [True] * 3


def test_a_server_that_refuses_an_update_is_named_with_zone_and_key(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def tcp(*_: object, **__: object) -> dns.message.Message:
        answer = dns.message.make_response(dns.message.make_query(ZONE, "SOA"))
        answer.set_rcode(dns.rcode.REFUSED)
        return answer

    monkeypatch.setattr(dns.query, "tcp", tcp)
    credentials = {f"dns_rfc2136_{key}": value for key, value in TSIG.items()}
    with pytest.raises(Exception, match=rf"192.0.2.53 refuses an update of {ZONE} \(REFUSED\).*the key key") as refused:
        call("auth", dns="rfc2136", credentials=credentials)
    assert SECRET not in str(refused.value)
