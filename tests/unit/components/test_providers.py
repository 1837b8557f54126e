"""What the dynamic providers do when they are called, without an engine; gates are judged on what they refuse."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_private_key

from components.chasquid.provider import UsersProvider
from components.dkim.provider import DkimKeyProvider
from components.dns import provider
from components.dns.provider import SpfTakeoverProvider, ZoneGateProvider
from components.dynamic_provider import _own_words
from components.reverse_dns.provider import PtrCheckProvider, PtrRecordProvider
from operations import cloudflare, mta_sts, reverse_dns
from operations import dns as outside
from standards import passwords
from standards.finding import Finding, Problems

KEY = {"domain": "example.com", "selector": "m1"}


def test_a_dkim_key_is_rsa_2048_and_its_public_half_belongs_to_it() -> None:
    made = DkimKeyProvider().create(dict(KEY)).outs
    private = load_pem_private_key(made["private"].encode(), None)
    public = load_der_public_key(base64.b64decode(made["public"]))
    assert private.public_key().public_numbers() == public.public_numbers()
    assert private.key_size == 2048


def test_a_dkim_key_survives_an_update() -> None:
    keys = DkimKeyProvider()
    made = keys.create(dict(KEY)).outs
    assert keys.update("id", made, dict(KEY)).outs == made


def ready_key() -> str:
    return str(DkimKeyProvider().create(dict(KEY)).outs["private"])


def test_an_imported_key_is_the_one_that_signs_and_is_published() -> None:
    ready = ready_key()
    made = DkimKeyProvider().create(KEY | {"imported": ready}).outs
    assert made["private"] == ready
    public = load_der_public_key(base64.b64decode(made["public"]))
    assert load_pem_private_key(ready.encode(), None).public_key().public_numbers() == public.public_numbers()


def test_an_imported_key_stays_when_its_secret_is_taken_out() -> None:
    made = DkimKeyProvider().create(KEY | {"imported": ready_key()}).outs
    after = DkimKeyProvider().update("id", made, dict(KEY)).outs
    assert (after["private"], after["public"]) == (made["private"], made["public"])


def test_another_key_for_a_published_record_is_refused_in_the_preview_already() -> None:
    made, other = DkimKeyProvider().create(dict(KEY)).outs, ready_key()
    for refuse in (DkimKeyProvider().diff, DkimKeyProvider().update):
        with pytest.raises(Problems, match="new selector") as caught:
            refuse("id", made, KEY | {"imported": other})
        assert other.splitlines()[1] not in str(caught.value)
    assert DkimKeyProvider().diff("id", made, KEY | {"imported": other, "selector": "m2"}).replaces == ["selector"]
    assert DkimKeyProvider().update("id", made, KEY | {"imported": made["private"]}).outs["public"] == made["public"]


@pytest.mark.parametrize(("key", "value"), [("selector", "m2"), ("domain", "example.org")])
def test_another_selector_or_domain_is_another_key(key: str, value: str) -> None:
    made = DkimKeyProvider().create(dict(KEY)).outs
    assert DkimKeyProvider().diff("id", made, KEY | {key: value}).replaces == [key]


def users(*pairs: tuple[str, str], domains: tuple[str, ...] = ("example.com",)) -> dict[str, Any]:
    return {"name": "users", "domains": list(domains), "passwords": dict(pairs)}


def test_an_unchanged_password_keeps_its_hash_and_a_changed_one_gets_another() -> None:
    provider = UsersProvider()
    before = provider.create(users(("a@example.com", "one-password"), ("b@example.com", "two-password"))).outs
    after = provider.update(
        "id", before, users(("a@example.com", "one-password"), ("b@example.com", "new-password"))
    ).outs
    assert after["hashes"]["a@example.com"] == before["hashes"]["a@example.com"]
    assert after["hashes"]["b@example.com"] != before["hashes"]["b@example.com"]
    assert after["changed"] == {"b@example.com": "new-password"}


def test_two_users_with_one_password_have_different_hashes() -> None:
    hashes = UsersProvider().create(users(("a@example.com", "same-password"), ("b@example.com", "same-password"))).outs
    assert len(set(hashes["hashes"].values())) == 2


def test_a_ready_hash_is_used_as_it_is_and_proves_no_login() -> None:
    ready = str(passwords.scrypt_hash("a-password", b"0123456789abcdef"))
    made = UsersProvider().create(users(("a@example.com", ready))).outs
    assert made["hashes"] == {"a@example.com": ready}
    assert made["changed"] == {}


def test_a_token_costs_a_cheap_hash_and_proves_a_login() -> None:
    token = passwords.token(bytes(24))
    made = UsersProvider().create(users(("a+shop@example.com", token), ("a@example.com", "a-password"))).outs
    assert made["hashes"]["a+shop@example.com"].startswith("$scrypt$ln=10,")
    assert made["hashes"]["a@example.com"].startswith("$scrypt$ln=14,")
    assert made["changed"].keys() == {"a+shop@example.com", "a@example.com"}
    assert 'key: "a+shop"' in made["files"]["example.com"]


def test_one_new_password_among_a_thousand_users_makes_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    ready = passwords.scrypt_hash(passwords.token(bytes(24)), b"0123456789abcdef")
    monkeypatch.setattr(passwords, "scrypt_hash", lambda password, _: made.append(password) or ready)
    thousand = tuple((f"u{number}@example.com", f"password-{number}") for number in range(1000))
    before = UsersProvider().create(users(*thousand)).outs
    assert before["files"]["example.com"].count("users:") == 1000
    made.clear()
    news = users(*thousand[:-1], ("u999@example.com", "another-password"))
    after = UsersProvider().update("id", before, news).outs
    assert made == ["another-password"]
    assert after["changed"] == {"u999@example.com": "another-password"}


def test_a_domain_that_lost_its_last_user_gets_a_file_without_users() -> None:
    provider = UsersProvider()
    before = provider.create(users(("a@example.com", "one-password"))).outs
    after = provider.update("id", before, users()).outs
    assert '"a"' in before["files"]["example.com"]
    assert after["files"].keys() == {"example.com"}
    assert '"a"' not in after["files"]["example.com"]


def test_a_no_op_compares_inputs_and_hashes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = UsersProvider().create(users(("a@example.com", "one-password"))).outs
    monkeypatch.setattr(passwords, "scrypt_hash", None)
    news = users(("a@example.com", "one-password")) | {"files": None, "hashes": None, "changed": None}
    assert UsersProvider().diff("id", made, news).changes is False


class FakeZone:
    """A zone with one foreign MX."""

    findings: list[Finding] = []
    name = "example.com"
    listed = 0

    def __init__(self, *_: Any) -> None: ...

    def verify(self, *_domains: str) -> list[Finding]:
        return self.findings

    def records(self) -> list[dict[str, Any]]:
        FakeZone.listed += 1
        return [{"id": "1" * 32, "type": "MX", "name": "example.com", "content": "mx.other.net", "comment": None}]


def gate(kinds: list[str]) -> dict[str, Any]:
    claim = {"name": "example.com", "kinds": kinds, "zone_id": "0" * 32, "mx": []}
    claim |= {"spf": "", "adopt": False, "adopted": []}
    return {
        "name": "gate",
        "names": ["example.com"],
        "zone_id": "0" * 32,
        "wanted": [claim],
        "senders": [],
        "published": [],
        "reports": [],
        "resolver": None,
        "stack": "dev",
        "token": "CANARY-token",
    }


def test_a_foreign_record_at_our_name_stops_the_run_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudflare, "Zone", FakeZone)
    with pytest.raises(Problems, match="mx.other.net") as stopped:
        ZoneGateProvider().create(gate(["MX"]))
    assert "CANARY" not in str(stopped.value)


def test_a_website_behind_an_alias_at_the_zones_own_name_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pages(FakeZone):
        def records(self) -> list[dict[str, Any]]:
            return [{"id": "1", "type": "CNAME", "name": "example.com", "content": "x.pages.dev", "comment": None}]

    monkeypatch.setattr(cloudflare, "Zone", Pages)
    assert ZoneGateProvider().create(gate(["MX", "SPF"])).id == "gate"
    monkeypatch.setattr(Pages, "name", "com")
    with pytest.raises(Problems, match="x.pages.dev"):
        ZoneGateProvider().create(gate(["MX", "SPF"]))


def test_a_gate_without_a_token_of_its_own_takes_that_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    class Zone(FakeZone):
        def __init__(self, token: str, *rest: Any) -> None:
            used.append(token)
            super().__init__(token, *rest)

    monkeypatch.setattr(cloudflare, "Zone", Zone)
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "of-the-run")
    ZoneGateProvider().create(gate(["SPF"]))
    ZoneGateProvider().create(gate(["SPF"]) | {"token": None})
    assert used == ["CANARY-token", "of-the-run"]


def test_a_foreign_record_of_a_kind_we_do_not_write_is_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudflare, "Zone", FakeZone)
    assert ZoneGateProvider().create(gate(["SPF"])).id == "gate"


def sender(text: str) -> dict[str, Any]:
    ours = {"name": "_spf.example.com", "type": "TXT", "value": "v=spf1 ip4:192.0.2.10 -all"}
    return gate(["SPF"]) | {"senders": [{"domain": "example.com", "text": text}], "published": [ours]}


def test_an_spf_record_that_asks_too_much_stops_the_run_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudflare, "Zone", FakeZone)
    many = " ".join(f"a:h{n}.example" for n in range(10))
    answers = {"i.example": [f"v=spf1 {many} ~all"]}
    monkeypatch.setattr(outside.Resolver, "resolve", lambda _, name, kind: answers.get(name, ["192.0.2.1"]))
    with pytest.raises(Problems, match="example.com > i.example > a:h8.example") as stopped:
        ZoneGateProvider().create(sender("v=spf1 include:_spf.example.com include:i.example ~all"))
    assert [one.id for one in stopped.value.findings] == ["spf-lookups"]


def test_what_we_will_publish_counts_and_a_silent_server_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudflare, "Zone", FakeZone)
    asked = []

    def silent(_: outside.Resolver, name: str, kind: str) -> list[str]:
        asked.append((name, kind))
        raise outside.CouldNotTell("nobody")

    monkeypatch.setattr(outside.Resolver, "resolve", silent)
    made = ZoneGateProvider().create(sender("v=spf1 include:_spf.example.com include:x.example ~all"))
    assert (made.id, asked) == ("gate", [("x.example", "TXT")])


@pytest.mark.parametrize(
    ("answer", "told"), [(["v=DMARC1"], 0), (["v=DMARC1; rua=mailto:x@y.example"], 0), ([], 1), (["hello"], 1)]
)
def test_reports_to_others_that_nobody_welcomes_are_told_and_stop_nothing(
    monkeypatch: pytest.MonkeyPatch, answer: list[str], told: int
) -> None:
    said: list[str] = []
    asked: list[str] = []
    monkeypatch.setattr(cloudflare, "Zone", FakeZone)
    monkeypatch.setattr(outside.Resolver, "resolve", lambda _, name, kind: asked.append(name) or answer)
    monkeypatch.setattr(provider, "progress", lambda text, warning=False: said.append(text) if warning else None)
    reports = [{"domain": "example.com", "receiver": "reports.example"}]
    assert ZoneGateProvider().create(gate(["SPF"]) | {"reports": reports}).id == "gate"
    assert asked == ["example.com._report._dmarc.reports.example"]
    assert len(said) == told
    assert all('expected: example.com._report._dmarc.reports.example TXT "v=DMARC1"' in text for text in said)


MTA_STS = "version: STSv1\nmode: {}\nmx: mx.old.example\nmax_age: 86400\n"


def receiving(monkeypatch: pytest.MonkeyPatch, policies: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """A gate before the MX of domains with these policies, one of them in another zone; and what is fetched."""
    fetched: list[str] = []

    def fetch(address: str) -> str:
        fetched.append(address)
        return policies[address.removeprefix("https://mta-sts.").partition("/")[0]]

    records = {f"_mta-sts.{domain}": ["v=STSv1; id=1"] for domain in policies}
    monkeypatch.setattr(cloudflare, "Zone", FakeZone)
    monkeypatch.setattr(
        outside.Resolver, "resolve", lambda _, name, kind: records.get(name, []) if kind == "TXT" else []
    )
    monkeypatch.setattr(mta_sts, "fetch", fetch)
    mx = {"example.com": "10 smtp.example.com", "silent.example": "0 .", "elsewhere.example": "10 smtp.example.com"}
    published = [{"name": name, "type": "MX", "value": value} for name, value in mx.items()]
    return gate(["SPF"]) | {"names": ["example.com", "silent.example"], "published": published}, fetched


def test_an_enforced_mta_sts_policy_without_our_host_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    domains = ["example.com", "silent.example", "elsewhere.example"]
    inputs, fetched = receiving(monkeypatch, dict.fromkeys(domains, MTA_STS.format("enforce")))
    with pytest.raises(Problems, match="nothing was changed in it") as stopped:
        ZoneGateProvider().create(inputs)
    (finding,) = stopped.value.findings
    assert (finding.id, finding.subject) == ("mta-sts-mx", "MTA-STS policy of example.com")
    assert fetched == ["https://mta-sts.example.com/.well-known/mta-sts.txt"]


@pytest.mark.parametrize(
    ("policies", "told"),
    [
        ({}, None),
        ({"example.com": MTA_STS.format("enforce").replace("mx.old.example", "*.example.com")}, None),
        ({"example.com": MTA_STS.format("none")}, None),
        ({"example.com": MTA_STS.format("testing")}, "expected: `mx: smtp.example.com` in https://mta-sts."),
        ({"example.com": "<html>"}, "a policy with version ''"),
    ],
)
def test_any_other_mta_sts_policy_is_told_at_most(
    monkeypatch: pytest.MonkeyPatch, policies: dict[str, str], told: str | None
) -> None:
    said: list[str] = []
    inputs, _ = receiving(monkeypatch, policies)
    monkeypatch.setattr(provider, "progress", lambda text, warning=False: said.append(text) if warning else None)
    assert ZoneGateProvider().create(inputs).id == "gate"
    assert len(said) == (told is not None)
    assert all(told in text for text in said if told)


def test_a_takeover_removes_only_what_ours_allows_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"a": "v=spf1 include:x.example -all", "b": "v=spf1 include:y.example ~all", "c": "verification=1"}
    records = [{"id": key, "type": "TXT", "name": "example.com", "content": f'"{text}"', "comment": None}
               for key, text in texts.items()]  # fmt: skip
    removed: list[str] = []

    class Filled(FakeZone):
        def records(self) -> list[dict[str, Any]]:
            return records

        def remove(self, record_id: str) -> None:
            removed.append(record_id)

    monkeypatch.setattr(cloudflare, "Zone", Filled)
    ours = "v=spf1 include:_spf.example.com include:x.example ~all"
    claim = gate(["SPF"])["wanted"][0] | {"spf": ours, "adopt": True}
    made = SpfTakeoverProvider().create({"name": "example.com", "claim": claim, "token": "t", "base_url": None})
    assert (removed, made.outs["replaced"]) == (["a"], [texts["a"]])
    again = SpfTakeoverProvider().update(
        "id", made.outs, {**made.outs, "token": "u", "claim": claim | {"adopt": False}}
    )
    assert (removed, again.outs["replaced"]) == (["a"], [texts["a"]])


def test_a_problem_reaches_the_person_without_a_traceback() -> None:
    import traceback

    explain = _own_words(traceback.format_exc)
    try:
        raise Problems("the host does not answer", [])
    except Problems:
        assert explain() == "the host does not answer"
    try:
        raise ValueError("a defect of ours")
    except ValueError:
        assert re.match(r"Traceback .*a defect of ours", explain(), re.DOTALL)


def test_reverse_dns_is_judged_only_when_every_server_shows_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[object] = []
    monkeypatch.setattr(
        outside, "wait_until_visible", lambda wanted, _resolver, timeout, _log: order.append((wanted, timeout))
    )
    monkeypatch.setattr(outside, "check_ptr", lambda address, name, _resolver: order.append((address, name)) or [])
    inputs = {"name": "smtp.example.com", "addresses": ["192.0.2.1", "2001:db8::1"], "resolver": None, "timeout": 7}
    PtrCheckProvider().create(inputs)
    expected = [
        outside.Expected("smtp.example.com", "A", "192.0.2.1"),
        outside.Expected("smtp.example.com", "AAAA", "2001:db8::1"),
    ]
    assert order == [(expected, 7), ("192.0.2.1", "smtp.example.com"), ("2001:db8::1", "smtp.example.com")]


POINTED = {
    "name": "smtp.example.com",
    "addresses": ["192.0.2.1", "2001:db8::1"],
    "provider": "hetzner",
    "access": {"token": "CANARY-token"},
    "resolver": None,
    "timeout": 7,
}


class FakeAccount:
    """A provider's account with one wrong name, and what was done to it."""

    def __init__(self) -> None:
        self.pointers = {"192.0.2.1": ["vps1.provider.test"], "2001:db8::1": ["smtp.example.com"]}
        self.steps: list[object] = []

    def names(self, address: str) -> list[str]:
        return self.pointers[address]

    def point(self, address: str, name: str) -> None:
        self.steps.append((address, name))
        self.pointers[address] = [name]


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> FakeAccount:
    made = FakeAccount()
    monkeypatch.setattr(reverse_dns, "connect", lambda provider, access, _say: {"hetzner": made}[provider])
    monkeypatch.setattr(outside, "wait_until_visible", lambda *_: made.steps.append("addresses visible"))
    monkeypatch.setattr(outside, "wait_for_ptr", lambda *_: made.steps.append("pointers visible"))
    return made


def test_a_pointer_is_set_after_the_addresses_are_visible_and_then_waited_for(account: FakeAccount) -> None:
    made = PtrRecordProvider().create(dict(POINTED)).outs
    assert account.steps == ["addresses visible", ("192.0.2.1", "smtp.example.com"), "pointers visible"]
    assert made["pointers"] == {address: ["smtp.example.com"] for address in POINTED["addresses"]}


def test_a_pointer_that_somebody_changed_is_seen_by_a_refresh_and_by_no_diff_before(account: FakeAccount) -> None:
    provider = PtrRecordProvider()
    made = provider.create(dict(POINTED)).outs
    news = {**POINTED, "pointers": None}
    account.pointers["2001:db8::1"] = ["old.example.com"]
    assert provider.diff("id", made, news).changes is False
    seen = provider.read("id", made)
    assert seen.outs["pointers"]["2001:db8::1"] == ["old.example.com"]
    assert provider.diff("id", seen.outs, news).changes is True
    provider.update("id", seen.outs, news)
    assert account.pointers["2001:db8::1"] == ["smtp.example.com"]


@pytest.mark.parametrize("change", [{"name": "mail.example.com"}, {"addresses": ["192.0.2.1"]}, {"access": {}}])
def test_another_name_address_or_secret_is_a_change(account: FakeAccount, change: dict[str, Any]) -> None:
    made = PtrRecordProvider().create(dict(POINTED)).outs
    assert PtrRecordProvider().diff("id", made, {**POINTED, "pointers": None, **change}).changes is True


def test_a_destroy_leaves_the_pointer(account: FakeAccount) -> None:
    made = PtrRecordProvider().create(dict(POINTED)).outs
    account.steps.clear()
    PtrRecordProvider().delete("id", made)
    assert account.steps == []
    assert account.pointers["192.0.2.1"] == ["smtp.example.com"]
