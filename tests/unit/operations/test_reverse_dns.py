"""Reverse DNS by the providers' APIs: against the lab's stand-ins over loopback, and against answers gone wrong."""

from __future__ import annotations

import json
import threading
import urllib.request
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from lab.addresses import Plan
from lab.internet.api_server import Apis
from lab.internet.authoritative import MemoryServer, RecordSet
from lab.internet.names import CONTABO, HETZNER_TOKEN
from lab.internet.web import Request, Response, Server
from operations import reverse_dns, web
from operations.reverse_dns import hetzner
from standards.finding import Finding, Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLAN = Plan(name="dev", index=0)
HOST = "smtp.example.test"
IPV4, IPV6 = PLAN.address(60)
FLOATING = PLAN.address(99).ipv4
STRANGERS = ("192.0.2.1", "2001:db8:ffff::1")
PROVIDERS = ("contabo", "hetzner")
SECRETS = (CONTABO["clientSecret"], CONTABO["apiPassword"], HETZNER_TOKEN, "the-token-of-the-login")


@contextmanager
def serving(handle: Callable[[Request], Response]) -> Iterator[str]:
    server = Server("127.0.0.1", 0, handle)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def access(url: str, provider: str, **other: str) -> dict[str, str]:
    if provider == "hetzner":
        return {"token": HETZNER_TOKEN, "apiUrl": f"{url}/hetzner/v1", **other}
    login = f"{url}/contabo/auth/realms/contabo/protocol/openid-connect/token"
    return {**CONTABO, "apiUrl": f"{url}/contabo", "authUrl": login, **other}


class Provider:
    """The lab's providers over one pair of name servers."""

    def __init__(self, url: str, server: MemoryServer) -> None:
        self.url, self.server, self.said = url, server, list[str]()

    def connect(self, provider: str, **other: str) -> reverse_dns.Api:
        return reverse_dns.connect(provider, access(self.url, provider, **other), self.said.append)

    def ensure(self, provider: str, *addresses: str, **other: str) -> dict[str, bool]:
        api = self.connect(provider, **other)
        return reverse_dns.ensure(api, addresses or (IPV4, IPV6), HOST, self.said.append)

    def refused(self, provider: str, *addresses: str, **other: str) -> tuple[Finding, ...]:
        with pytest.raises(Problems) as stopped:
            self.ensure(provider, *addresses, **other)
        assert not [secret for secret in SECRETS if secret in f"{stopped.value} {self.said}"]
        return stopped.value.findings

    def dns(self, address: str) -> tuple[str, ...]:
        owner = ip_address(address).reverse_pointer
        found = self.server.content[self._zone(address)].get((owner, "PTR"))
        return found.contents if found else ()

    def put(self, address: str, *names: str) -> None:
        owner = ip_address(address).reverse_pointer
        self.server.replace(self._zone(address), [RecordSet(owner, "PTR", tuple(f"{name}." for name in names))])

    def control(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/lab/{path}", data, method=method)) as answer:
            return json.loads(answer.read())

    def asked(self) -> list[tuple[str, str]]:
        """Method and last word of the path of each request that changes something."""
        log = self.control("GET", "requests")
        return [(each["method"], each["path"].rsplit("/", 1)[1]) for each in log
                if each["method"] != "GET" and "openid" not in each["path"]]  # fmt: skip

    @staticmethod
    def _zone(address: str) -> str:
        return PLAN.reverse_zones[":" in address]


@pytest.fixture
def provider() -> Iterator[Provider]:
    servers = MemoryServer(), MemoryServer()
    apis = Apis(PLAN, *servers)
    apis.open()
    with serving(apis.handle) as url:
        yield Provider(url, servers[0])


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr(web.time, "sleep", made.append)
    return made


@pytest.mark.parametrize("name", PROVIDERS)
def test_missing_and_wrong_names_are_set_and_right_ones_left(provider: Provider, name: str) -> None:
    provider.put(IPV4, "vps60.provider.test")
    assert provider.ensure(name) == {IPV4: True, IPV6: True}
    assert (provider.dns(IPV4), provider.dns(IPV6)) == ((f"{HOST}.",), (f"{HOST}.",))
    assert any(IPV4 in said and "vps60.provider.test" in said for said in provider.said)
    before = provider.asked()
    assert provider.ensure(name) == {IPV4: False, IPV6: False}
    assert provider.asked() == before
    assert reverse_dns.read(provider.connect(name), [IPV4, IPV6]) == {IPV4: [HOST], IPV6: [HOST]}


def test_contabo_creates_a_pointer_over_ipv6_once_and_edits_all_others(provider: Provider) -> None:
    provider.ensure("contabo")
    provider.put(IPV6, "other.example.test")
    provider.ensure("contabo")
    assert provider.asked() == [("PUT", IPV4), ("POST", "ptrs"), ("PUT", IPV6)]


def test_two_names_are_made_one(provider: Provider) -> None:
    provider.put(IPV4, HOST, "other.example.test")
    assert provider.ensure("contabo", IPV4) == {IPV4: True}
    assert provider.dns(IPV4) == (f"{HOST}.",)


def test_a_floating_ip_of_hetzner_is_found_behind_the_primary_ones(provider: Provider) -> None:
    assert provider.ensure("hetzner", FLOATING) == {FLOATING: True}
    assert provider.dns(FLOATING) == (f"{HOST}.",)


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_address_that_is_not_in_the_account_is_named_and_the_others_are_set(
    provider: Provider, name: str
) -> None:
    findings = provider.refused(name, *STRANGERS, IPV4)
    assert [(each.id, each.subject) for each in findings] == [("ptr.api-stranger", address) for address in STRANGERS]
    assert all("reverseDns: {provider: manual}" in each.fix for each in findings)
    assert provider.dns(IPV4) == (f"{HOST}.",)


@pytest.mark.parametrize(
    ("name", "wrong", "subject", "found"),
    [
        ("contabo", {"apiPassword": "SECRET"}, "mailroom:contabo", "401 Invalid user credentials"),
        ("contabo", {"clientSecret": "SECRET"}, "mailroom:contabo", "Invalid client credentials"),
        ("hetzner", {"token": "SECRET"}, "mailroom:hetzner.token", "401 unauthorized"),
    ],
)
def test_wrong_credentials_are_told_once_with_the_setting_and_not_repeated(
    provider: Provider, name: str, wrong: dict[str, str], subject: str, found: str
) -> None:
    (finding,) = provider.refused(name, **wrong)
    assert (finding.id, finding.subject) == ("ptr.api-login", subject)
    assert found in finding.found
    assert "SECRET" not in str(finding)
    assert "pulumi config set --secret --path mailroom:" in finding.fix


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_api_that_is_busy_for_a_while_is_waited_for(
    provider: Provider, name: str, status: int, pauses: list[float]
) -> None:
    fault = {"path": ".*(contabo|hetzner).*", "times": 3, "status": status, "retry_after": 7, "retry": True}
    provider.control("POST", "faults", fault)
    assert provider.ensure(name) == {IPV4: True, IPV6: True}
    assert [pause for pause in pauses if pause > hetzner.POLL_SECONDS] == [7.0, 7.0, 7.0]
    assert any(f"answers {status}; asking again in 7 s" in said for said in provider.said)


@pytest.mark.parametrize("name", PROVIDERS)
def test_an_api_that_stays_busy_is_given_up_and_asked_about_no_other_address(provider: Provider, name: str) -> None:
    provider.control("POST", "faults", {"path": ".*/v1/.*", "times": 99, "status": 503, "retry": True})
    (finding,) = provider.refused(name)
    assert finding.id == "ptr.api-unreachable"
    assert provider.url in finding.subject
    assert "503" in finding.found


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_change_whose_answer_is_lost_is_no_failure(provider: Provider, name: str) -> None:
    provider.control("POST", "faults", {"method": "POST", "path": ".*/v1/.*", "lost_answer": True})
    assert provider.ensure(name, IPV6) == {IPV6: True}
    assert provider.dns(IPV6) == (f"{HOST}.",)


@pytest.mark.parametrize("name", PROVIDERS)
def test_an_api_that_nobody_serves_is_told_within_bounded_attempts(name: str, pauses: list[float]) -> None:
    said: list[str] = []
    api = reverse_dns.connect(name, access("http://127.0.0.1:1", name), said.append)
    with pytest.raises(Problems, match="refused, asked 4 times|refused\\), asked 4 times") as stopped:
        reverse_dns.read(api, [IPV4, IPV6])
    assert [each.id for each in stopped.value.findings] == ["ptr.api-unreachable"]
    assert pauses == [0.5, 1.0, 2.0]


def test_an_api_that_never_answers_ends_by_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TIMEOUT_SECONDS", 0.02)
    release = threading.Event()

    def stall(_request: Request) -> Response:
        release.wait(5)
        return Response(lost=True)

    with serving(stall) as url:
        api = reverse_dns.connect("hetzner", access(url, "hetzner"), lambda _: None)
        with pytest.raises(Problems, match="timed out"):
            reverse_dns.read(api, [IPV4])
        release.set()


def scripted(provider: str, answer: Callable[[Request], Response]) -> Finding:
    """The one finding where the API answers like this once somebody is logged in; no secret of ours is in it."""

    def handle(request: Request) -> Response:
        if request.path.endswith("/token"):
            return Response(body={"access_token": "the-token-of-the-login"})
        return answer(request)

    with serving(handle) as url:
        api = reverse_dns.connect(provider, access(url, provider), lambda _: None)
        with pytest.raises(Problems) as stopped:
            reverse_dns.ensure(api, [IPV4], HOST, lambda _: None)
    (finding,) = stopped.value.findings
    assert not [secret for secret in SECRETS if secret in str(finding)]
    return finding


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_user_without_the_right_is_told_which_one_it_lacks(name: str) -> None:
    error = {"code": "token_readonly", "message": "the token is only allowed to perform GET requests"}
    finding = scripted(name, lambda _: Response(status=403, body={"message": "Forbidden", "error": error}))
    assert finding.id == "ptr.api-login"
    assert ("Read & Write" if name == "hetzner" else "may manage DNS") in finding.expected


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("body", [None, [], {"data": [{}], "primary_ips": [{}]}, {"data": 1, "primary_ips": 1}])
def test_an_answer_of_something_else_is_not_taken_for_the_api(name: str, body: object) -> None:
    finding = scripted(name, lambda _: Response(body=body))
    assert (finding.id, finding.subject) == ("ptr.api-refused", IPV4)
    assert "API?" in finding.found


@pytest.mark.parametrize("name", PROVIDERS)
def test_an_api_that_repeats_what_it_was_sent_gives_no_secret_away(name: str) -> None:
    def echo(request: Request) -> Response:
        text = f"refused {request.authorization}"
        return Response(status=400, body={"message": text, "error": {"code": "invalid_input", "message": text}})

    assert "refused Bearer ***" in scripted(name, echo).found


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(("status", "told"), [(200, "ptr.api-unreachable"), (403, "ptr.api-login")])
def test_an_answer_that_breaks_off_is_told_by_what_came(name: str, status: int, told: str) -> None:
    headers = {"Content-Length": "999", "Connection": "close"}
    assert scripted(name, lambda _: Response(status=status, headers=headers)).id == told


def test_a_login_that_repeats_its_form_gives_no_password_away() -> None:
    def echo(request: Request) -> Response:
        return Response(status=401, body={"error_description": urlencode(request.form)})

    with serving(echo) as url:
        api = reverse_dns.connect("contabo", access(url, "contabo"), lambda _: None)
        with pytest.raises(Problems, match="password=\\*\\*\\*"):
            reverse_dns.read(api, [IPV4])


@pytest.mark.parametrize("name", PROVIDERS)
def test_an_own_api_is_never_asked_through_a_proxy(
    provider: Provider, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    api = provider.connect(name)
    assert reverse_dns.ensure(api, [IPV4], HOST, provider.said.append) == {IPV4: True}


@pytest.mark.parametrize("name", PROVIDERS)
def test_no_token_follows_a_redirect(name: str) -> None:
    asked: list[str] = []

    def elsewhere(request: Request) -> Response:
        asked.append(request.path)
        return Response(status=302, headers={"Location": "/elsewhere"})

    assert scripted(name, elsewhere).id == "ptr.api-refused"
    assert "/elsewhere" not in asked


def test_an_action_of_hetzner_that_fails_or_never_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    holder = {"primary_ips": [{"id": 1, "ip": IPV4, "dns_ptr": []}], "meta": {"pagination": {"next_page": None}}}
    action: dict[str, Any] = {"id": 7, "status": "running", "error": None}

    def answer(request: Request) -> Response:
        return Response(body=holder if "primary_ips?" in request.target else {"action": action})

    monkeypatch.setattr(hetzner, "ACTION_SECONDS", 0.05)
    assert "action 7 still runs" in scripted("hetzner", answer).found
    action |= {"status": "error", "error": {"code": "action_failed", "message": "Action failed"}}
    assert "action_failed: Action failed" in scripted("hetzner", answer).found


def test_an_object_that_hetzner_is_changing_already_is_waited_for(pauses: list[float]) -> None:
    holder = {"primary_ips": [{"id": 1, "ip": IPV4, "dns_ptr": []}], "meta": {"pagination": {"next_page": None}}}
    locked = [Response(status=423, body={"error": {"code": "locked", "message": "Item is locked"}}) for _ in range(2)]

    def answer(request: Request) -> Response:
        if request.method == "GET":
            return Response(body=holder)
        return locked.pop() if locked else Response(status=201, body={"action": {"id": 1, "status": "success"}})

    with serving(answer) as url:
        api = reverse_dns.connect("hetzner", access(url, "hetzner"), lambda _: None)
        assert reverse_dns.ensure(api, [IPV4], HOST, lambda _: None) == {IPV4: True}
    assert pauses == [0.5, 1.0]


def test_contabo_may_spell_an_address_in_full() -> None:
    full, names, asked = ip_address(IPV6).exploded, ["old.example.test"], list[tuple[str, str]]()

    def answer(request: Request) -> Response:
        if request.path.endswith("/token"):
            return Response(body={"access_token": "t"})
        asked.append((request.method, request.path.rsplit("/", 1)[1]))
        if not request.path.endswith(full):
            return Response(status=404, body={"message": "Entity not found"})
        if request.method == "PUT":
            names[:] = [request.body["ptr"]]
            return Response(status=200, body=None)
        return Response(body={"data": [{"ip": full, "ptr": name} for name in names]})

    with serving(answer) as url:
        api = reverse_dns.connect("contabo", access(url, "contabo"), lambda _: None)
        assert reverse_dns.ensure(api, [IPV6], HOST, lambda _: None) == {IPV6: True}
    assert asked[-1] == ("PUT", full)
    assert names == [HOST]


def test_each_request_to_contabo_has_an_id_of_its_own_and_one_login_serves_all() -> None:
    ids, logins = list[str](), list[str]()

    def answer(request: Request) -> Response:
        if request.path.endswith("/token"):
            logins.append(request.form["username"])
            return Response(body={"access_token": "t"})
        ids.append(request.headers["x-request-id"])
        ip = request.path.rsplit("/", 1)[1]
        return Response(body={"data": [{"ip": ip, "ptr": "old.example.test"}]})

    with serving(answer) as url:
        api = reverse_dns.connect("contabo", access(url, "contabo"), lambda _: None)
        reverse_dns.ensure(api, [IPV4, IPV6], HOST, lambda _: None)
    assert logins == [CONTABO["apiUser"]]
    assert len(ids) == len(set(ids)) >= 4


def test_no_secret_is_in_the_representation(provider: Provider) -> None:
    for name in PROVIDERS:
        assert not [secret for secret in SECRETS if secret in repr(provider.connect(name))]
