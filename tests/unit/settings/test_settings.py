"""Settings: what loads, with which defaults, and how each mistake is told; all mistakes at once."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from components.settings import HostSettings, Settings
from standards.finding import Problems
from tests.unit.standards.example_stack import (
    CONFIG,
    HOST_KEY,
    OTHER_ZONE,
    ZONE,
    config,
    domain,
    host,
    load,
    refused,
    second_domain,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Change = Callable[[dict[str, Any]], object]

HASH = f"$scrypt$ln=14,r=8,p=1${'A' * 22}${'A' * 43}"


def top(**keys: Any) -> Change:
    return lambda values: values.update({f"mailroom:{key}": value for key, value in keys.items()})


def acme(**keys: Any) -> Change:
    return lambda values: values["mailroom:acme"].update(keys)


def cloudflare(**keys: Any) -> Change:
    return lambda values: values.update({f"cloudflare:{key}": value for key, value in keys.items()})


def together(*changes: Change) -> Change:
    return lambda values: [change(values) for change in changes]


def without(part: str, key: str) -> Change:
    return lambda values: values[f"mailroom:{part}"][0].pop(key)


def test_a_minimal_stack_gets_its_defaults() -> None:
    settings = load(lambda values: values["mailroom:hosts"][0].pop("ipv6"))
    (one,), (mail,) = settings.hosts, settings.domains
    assert (one.arch, one.ssh.user, one.ssh.port, one.ipv6_outbound, one.reverse_dns.provider, one.zone_id) == (
        "amd64", "root", 22, True, "manual", None,
    )  # fmt: skip
    assert (mail.mail, mail.certificate, mail.spf.all, mail.dmarc.policy, mail.dmarc.fo) == (
        "forward", None, "~all", "none", None,
    )  # fmt: skip
    assert [(key.selector, key.stage) for key in mail.dkim] == [("m1", "active")]
    assert [(user.name, user.export) for user in mail.users] == [("i", False)]
    assert mail.aliases == {"i": ("someone@gmail.com",)}
    assert (settings.stack, settings.propagation_timeout, settings.drain_timeout) == ("prod", 600, 60)
    assert (settings.resolver, settings.ssh_private_key, settings.cloudflare.base_url) == (None, None, None)
    assert (settings.acme.propagation_seconds, settings.acme.ca_file) == (10, None)


def test_reports_go_to_postmaster_unless_somebody_says_otherwise() -> None:
    assert load().domains[0].dmarc.rua == ("postmaster@example.com",)
    assert load(domain(dmarc={"rua": []})).domains[0].dmarc.rua == ()
    assert load(domain(dmarc={"rua": ["d@example.com"]})).domains[0].dmarc.rua == ("d@example.com",)


def test_a_silent_domain_rejects_and_has_no_keys_and_no_reports() -> None:
    silent = load(second_domain(mail="none")).domains[1]
    assert (silent.dmarc.policy, silent.dmarc.rua, silent.dkim) == ("reject", (), ())


def test_values_become_canonical() -> None:
    settings = load(
        together(
            host(name="SMTP.Example.com.", ipv6="2001:DB8:0::10", hostKey=f"{HOST_KEY} comment"),
            domain(name="Example.COM", zoneId=ZONE.upper(), users=["I"], aliases={"I": "Someone@Gmail.com"}),
            top(passwords={"I@example.com": "correct horse battery"}),
        )
    )
    assert (settings.hosts[0].name, settings.hosts[0].ipv6, settings.hosts[0].host_key) == (
        "smtp.example.com", "2001:db8::10", HOST_KEY,
    )  # fmt: skip
    assert (settings.domains[0].name, settings.domains[0].zone_id) == ("example.com", ZONE)
    assert settings.domains[0].aliases == {"i": ("someone@gmail.com",)}
    assert list(settings.passwords) == ["i@example.com"]


@pytest.mark.parametrize(
    ("written", "meant"), [("on", True), ("off", False), (True, True), (False, False), ("true", True), ("false", False)]
)
def test_a_switch_may_be_written_as_yaml_people_do(written: object, meant: bool) -> None:
    assert load(host(ipv6Outbound=written)).hosts[0].ipv6_outbound is meant


def test_a_user_is_a_name_or_a_mapping() -> None:
    change = together(domain(users=["i", {"name": "j", "export": True}]), top(passwords={
        "i@example.com": "correct horse battery", "j@example.com": HASH}))  # fmt: skip
    assert [(user.name, user.export) for user in load(change).domains[0].users] == [("i", False), ("j", True)]


def test_numbers_may_come_as_text_as_pulumi_stores_them() -> None:
    assert load(top(propagationTimeout="30", drainTimeout="0")).propagation_timeout == 30


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("letsencrypt", "https://acme-v02.api.letsencrypt.org/directory"),
        ("letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory"),
        ("https://acme.lab.test:14000/dir", "https://acme.lab.test:14000/dir"),
    ],
)
def test_the_acme_directory_has_three_forms(written: str, url: str) -> None:
    assert load(acme(directory=written)).acme.directory_url == url


def test_the_base_url_loses_its_last_slash() -> None:
    change = cloudflare(baseUrl="http://198.51.100.15:8080/client/v4/")
    assert load(change).cloudflare.base_url == "http://198.51.100.15:8080/client/v4"


def test_a_host_survives_the_way_to_its_gate_as_json() -> None:
    one = load(host(ipv6Outbound="off", ssh={"user": "ops"})).hosts[0]
    assert HostSettings.model_validate_json(one.model_dump_json()) == one


def test_settings_do_not_print_secrets() -> None:
    text = repr(load(top(sshPrivateKey="-----BEGIN OPENSSH PRIVATE KEY-----\nSECRET")))
    for secret in ("correct horse", "t" * 40, "a" * 40, "SECRET"):
        assert secret not in text


# One mistake each: the change, the key path as the user spells it ("mailroom:" left out), the id, a word of it.
MISTAKES: dict[str, tuple[Change, str, str, str]] = {
    "no hosts": (lambda v: v.pop("mailroom:hosts"), "hosts", "setting-missing", "smtp.example.com"),
    "empty hosts": (top(hosts=[]), "hosts", "setting-invalid", "at least one"),
    "hosts as text": (top(hosts="smtp.example.com"), "hosts", "setting-invalid", "a list"),
    "host as text": (top(hosts=["smtp.example.com"]), "hosts[0]", "setting-invalid", "mapping"),
    "host nothing": (lambda v: v["mailroom:hosts"].append(None), "hosts[1].name", "setting-missing", "name"),
    "no host name": (without("hosts", "name"), "hosts[0].name", "setting-missing", "smtp.example.com"),
    "bad host name": (host(name="smtp"), "hosts[0].name", "name-invalid", "no dot"),
    "bad ipv4": (host(ipv4="192.0.2.300"), "hosts[0].ipv4", "ipv4-invalid", "192.0.2.300"),
    "ipv6 as ipv4": (host(ipv4="2001:db8::1"), "hosts[0].ipv4", "ipv4-invalid", "ipv6"),
    "bad ipv6": (host(ipv6="192.0.2.1"), "hosts[0].ipv6", "ipv6-invalid", "belongs into ipv4"),
    "no host key": (without("hosts", "hostKey"), "hosts[0].hostKey", "setting-missing", "ssh_host_ed25519_key.pub"),
    "rsa host key": (host(hostKey="ssh-rsa AAAA"), "hosts[0].hostKey", "host-key-invalid", "SHA-1"),
    "bad arch": (host(arch="x86_64"), "hosts[0].arch", "setting-invalid", "'amd64' or 'arm64'"),
    "port text": (host(ssh={"port": "ssh"}), "hosts[0].ssh.port", "setting-invalid", "1 to 65535"),
    "port 0": (host(ssh={"port": 0}), "hosts[0].ssh.port", "setting-invalid", "0 cannot"),
    "port 65536": (host(ssh={"port": 65536}), "hosts[0].ssh.port", "setting-invalid", "65536"),
    "ssh user": (host(ssh={"user": "-o x"}), "hosts[0].ssh.user", "setting-invalid", "'-o x'"),
    "switch": (host(ipv6Outbound="maybe"), "hosts[0].ipv6Outbound", "setting-invalid", "'maybe'"),
    "reverse": (host(reverseDns={"provider": "x"}), "hosts[0].reverseDns.provider", "setting-invalid", "'x'"),
    "mistyped key": (host(hostkey=HOST_KEY), "hosts[0].hostkey", "setting-unknown", "write hostKey"),
    "snake key": (host(reverse_dns={}), "hosts[0].reverse_dns", "setting-unknown", "write reverseDns"),
    "strange key": (host(colour="red"), "hosts[0].colour", "setting-unknown", "take it out"),
    "deep key": (host(ssh={"prt": 1}), "hosts[0].ssh.prt", "setting-unknown", "write port"),
    "no address": (host(ipv4=None, ipv6=None), "hosts[0].ipv4", "host-without-address", "192.0.2.10"),
    "ipv6 off alone": (host(ipv4=None, ipv6Outbound="off"), "hosts[0].ipv4", "host-without-address", "is off"),
    "no zone": (host(name="smtp.other.example"), "hosts[0].zoneId", "host-without-zone", "smtp.other.example"),
    "bad host zone": (host(zoneId="x"), "hosts[0].zoneId", "zone-id-invalid", "32 hexadecimal"),
    "no domains": (together(top(domains=None), top(passwords={})), "domains", "setting-missing", "example.com"),
    "bad domain": (second_domain(name="x..y"), "domains[1].name", "name-invalid", "empty label"),
    "no zone id": (without("domains", "zoneId"), "domains[0].zoneId", "setting-missing", "32 hexadecimal"),
    "zone id number": (domain(zoneId=123), "domains[0].zoneId", "setting-invalid", "quotes, as in `zoneId"),
    "zone id short": (domain(zoneId="abc"), "domains[0].zoneId", "zone-id-invalid", "'abc'"),
    "mail word": (domain(mail="local"), "domains[0].mail", "setting-invalid", "'external'"),
    "certificate": (domain(certificate="yes"), "domains[0].certificate", "setting-invalid", "'wildcard'"),
    "user name": (domain(users=["i", "a b"]), "domains[0].users[1]", "user-invalid", "'a b'"),
    "user in full": (domain(users=["i", "x@example.com"]), "domains[0].users[1]", "user-invalid", "before the @"),
    "user key": (domain(users=["i", {"name": "i", "exprt": 1}]), "domains[0].users[1].exprt", "setting-unknown",
                 "write export"),
    "users as text": (domain(users="i"), "domains[0].users", "setting-invalid", "a list of users"),
    "alias name": (domain(aliases={"i": "a@x.example", "a b": "a@x.example"}), 'domains[0].aliases["a b"]',
                   "alias-name-invalid", "'a b'"),
    "alias pipe": (domain(aliases={"i": ["a@x.example", "| cat"]}), "domains[0].aliases.i[1]",
                   "alias-target-invalid", "runs a program"),
    "alias to nowhere": (domain(aliases={"i": []}), "domains[0].aliases.i", "alias-empty", "leads nowhere"),
    "alias loop": (domain(aliases={"i": "j", "j": "i"}), "domains[0].aliases.j", "alias-leads-nowhere", "back"),
    "alias nobody": (domain(aliases={"i": "k"}), "domains[0].aliases.i", "alias-leads-nowhere", "k@example.com"),
    "alias everybody loop": (domain(aliases={"*": "x"}), 'domains[0].aliases["*"]', "alias-leads-nowhere", "back"),
    "alias twice": (domain(aliases={"a.b": "a@x.example", "ab": "a@x.example"}), "domains[0].aliases",
                    "alias-repeated", "ignores dots"),
    "spf term": (domain(spf={"mechanisms": ["mx", "ptr"]}), "domains[0].spf.mechanisms[1]",
                 "spf-mechanism-invalid", "ptr"),
    "spf all null": (domain(spf={"all": None}), "domains[0].spf.all", "setting-invalid", '"~all"'),
    "spf plus all": (domain(spf={"all": "+all"}), "domains[0].spf.all", "spf-all-invalid", "everybody"),
    "spf strangers": (domain(spf={"mechanisms": ["ip4:0.0.0.0/0"]}), "domains[0].spf", "spf-strangers", "/0"),
    "spf lookups": (domain(spf={"includes": [f"d{n}.example" for n in range(10)]}), "domains[0].spf",
                    "spf-lookups", "11 terms"),
    "dmarc policy": (domain(dmarc={"policy": "block"}), "domains[0].dmarc.policy", "setting-invalid", "'block'"),
    "dmarc pct": (domain(dmarc={"pct": 50}), "domains[0].dmarc.pct", "setting-unknown", "RFC 9989"),
    "dmarc rua": (domain(dmarc={"rua": ["mailto:a@example"]}), "domains[0].dmarc.rua[0]", "address-invalid", "@"),
    "dmarc fo": (domain(dmarc={"fo": 2}), "domains[0].dmarc.fo", "setting-invalid", '"1"'),
    "selector number": (domain(dkim=[{"selector": 202611}]), "domains[0].dkim[0].selector", "setting-invalid",
                        "quotes"),
    "selector dot": (domain(dkim=[{"selector": "a.b"}]), "domains[0].dkim[0].selector", "selector-invalid", "'a.b'"),
    "dkim stage": (domain(dkim=[{"selector": "a", "stage": "on"}]), "domains[0].dkim[0].stage", "setting-invalid",
                   "'retiring'"),
    "dkim none": (domain(dkim=[]), "domains[0].dkim", "dkim-not-active", "the list is empty"),
    "dkim none active": (domain(dkim=[{"selector": "a", "stage": "retiring"}]), "domains[0].dkim",
                         "dkim-not-active", "no key is active"),
    "mx missing": (domain(mail="external", aliases={}), "domains[0].mx", "mx-missing", "MX records"),
    "mx unused": (domain(mx=["mx.example.net"]), "domains[0].mx", "mx-unused", "external"),
    "mx ours": (domain(mail="external", aliases={}, mx=["mx.example.net", "smtp.example.com"]), "domains[0].mx[1]",
                "mx-is-ours", "circles"),
    "external aliases": (domain(mail="external", mx=["mx.example.net"]), "domains[0].aliases", "aliases-unused",
                         "elsewhere"),
    "silent users": (second_domain(mail="none", users=["a"]), "domains[1].users", "silent-domain", "second.test"),
    "silent aliases": (second_domain(mail="none", aliases={"a": "a@x.example"}), "domains[1].aliases",
                       "silent-domain", "neither"),
    "silent dkim": (second_domain(mail="none", dkim=[{"selector": "a"}]), "domains[1].dkim", "silent-domain", "dkim"),
    "silent spf": (second_domain(mail="none", spf={"mechanisms": ["mx"]}), "domains[1].spf", "silent-domain", "spf"),
    "silent policy": (second_domain(mail="none", dmarc={"policy": "none"}), "domains[1].dmarc.policy",
                      "silent-domain-policy", "reject"),
    "silent host": (second_domain(name="smtp.example.com", mail="none"), "domains[1].mail", "host-name-silent",
                    "bounces"),
    "domain twice": (second_domain(name="EXAMPLE.com"), "domains[1].name", "setting-repeated", "domains[0].name"),
    "user twice": (domain(users=["i", "I"]), "domains[0].users[1]", "setting-repeated", "users[0]"),
    "selector twice": (domain(dkim=[{"selector": "a"}, {"selector": "a"}]), "domains[0].dkim[1].selector",
                       "setting-repeated", "dkim[0]"),
    "address twice": (lambda v: v["mailroom:hosts"].append({**CONFIG["mailroom:hosts"][0], "name": "b.example.com",
                      "ipv4": "192.0.2.11"}), "hosts[1].ipv6", "setting-repeated", "hosts[0].ipv6"),
    "no password": (domain(users=["i", "j"]), "domains[0].users[1]", "password-missing", "j@example.com"),
    "password of nobody": (lambda v: v["mailroom:passwords"].update({"x@example.com": "correct horse"}),
                           'passwords["x@example.com"]', "password-of-nobody", "no user 'x'"),
    "password elsewhere": (lambda v: v["mailroom:passwords"].update({"x@other.example": "correct horse"}),
                           'passwords["x@other.example"]', "password-of-nobody", "not a listed domain"),
    "password list": (lambda v: v["mailroom:passwords"].update({"i@example.com": ["x"]}),
                      'passwords["i@example.com"]', "setting-invalid", "a list"),
    "password key": (lambda v: v["mailroom:passwords"].update({"i": "correct horse"}), "passwords.i",
                     "address-invalid", "no @"),
    "passwords text": (top(passwords="x"), "passwords", "setting-invalid", "text"),
    "no acme": (lambda v: v.pop("mailroom:acme"), "acme", "setting-missing", "letsencrypt"),
    "no directory": (lambda v: v["mailroom:acme"].pop("directory"), "acme.directory", "setting-missing", "staging"),
    "http directory": (acme(directory="http://x.example/d"), "acme.directory", "acme-directory-invalid", "https"),
    "no host directory": (acme(directory="https://"), "acme.directory", "acme-directory-invalid", "https"),
    "acme email": (acme(email="you"), "acme.email", "address-invalid", "no @"),
    "no acme token": (lambda v: v["mailroom:acme"].pop("token"), "acme.token", "setting-missing", "--secret"),
    "acme wait": (acme(propagationSeconds=-1), "acme.propagationSeconds", "setting-invalid", "0 to 3600"),
    "acme ca": (acme(caFile=""), "acme.caFile", "setting-invalid", "PEM"),
    "same token": (acme(token="a" * 40), "acme.token", "acme-token-shared", "stolen host"),
    "no token": (lambda v: v.pop("cloudflare:apiToken"), "cloudflare:apiToken", "setting-missing", "--secret"),
    "bad token": (cloudflare(apiToken="short"), "cloudflare:apiToken", "api-token-invalid", "5 characters"),
    "bad base": (cloudflare(baseUrl="http://x.example/v4"), "cloudflare:baseUrl", "base-url-invalid", "client/v4"),
    "base scheme": (cloudflare(baseUrl="ftp://x.example/client/v4"), "cloudflare:baseUrl", "base-url-invalid", "ftp"),
    "resolver": (top(resolver="dns.example"), "resolver", "ipv4-invalid", "dns.example"),
    "timeout": (top(propagationTimeout="ten"), "propagationTimeout", "setting-invalid", "'ten'"),
    "timeout 0": (top(propagationTimeout=0), "propagationTimeout", "setting-invalid", "1 to 86400"),
    "drain": (top(drainTimeout=-1), "drainTimeout", "setting-invalid", "0 to 3600"),
    "ssh key": (top(sshPrivateKey="ssh-ed25519 AAAA"), "sshPrivateKey", "private-key-invalid", "BEGIN OPENSSH"),
}  # fmt: skip


def full(key: str) -> str:
    """The key path with its namespace."""
    return key if key.startswith("cloudflare:") else f"mailroom:{key}"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_its_path_its_value_and_what_to_do(mistake: str) -> None:
    change, key, identifier, word = MISTAKES[mistake]
    path = full(key)
    told = {finding.subject: finding for finding in refused(change)}
    assert path in told, sorted(told)
    finding = told[path]
    assert finding.id == identifier
    assert word in str(finding)
    assert finding.severity == "error"
    assert finding.expected
    assert finding.fix
    assert "\n" not in finding.found + finding.expected + finding.fix + finding.why


ALONE = sorted(set(MISTAKES) - {
    "alias loop", "empty hosts", "mistyped key", "host nothing", "no host key", "mx ours", "alias twice",
    "host as text", "password key", "hosts as text", "no hosts", "user in full", "dkim none", "no domains",
    "password list", "users as text", "user name", "user key", "silent host", "domain twice", "passwords text",
})  # fmt: skip


@pytest.mark.parametrize("mistake", ALONE)
def test_one_mistake_causes_one_message(mistake: str) -> None:
    assert [finding.subject for finding in refused(MISTAKES[mistake][0])] == [full(MISTAKES[mistake][1])]


def test_all_mistakes_of_all_parts_are_told_at_once() -> None:
    names = ("bad ipv4", "zone id short", "alias pipe", "acme email", "bad token", "resolver", "password elsewhere",
             "spf plus all")  # fmt: skip
    some = [MISTAKES[name] for name in names]
    told = {finding.subject for finding in refused(together(*(change for change, *_ in some)))}
    assert {full(key) for _, key, *_ in some} <= told


def test_rules_between_parts_are_told_beside_mistakes_in_other_parts() -> None:
    told = {f.subject for f in refused(together(MISTAKES["bad ipv4"][0], MISTAKES["no password"][0]))}
    assert told == {"mailroom:hosts[0].ipv4", "mailroom:domains[0].users[1]"}


def test_a_mistake_in_a_domain_is_not_told_again_for_its_passwords_or_its_host() -> None:
    told = [finding.subject for finding in refused(domain(zoneId="abc"))]
    assert told == ["mailroom:domains[0].zoneId"]


def test_no_message_repeats_a_secret() -> None:
    change = together(
        acme(token="SECRET-1 "), cloudflare(apiToken="SECRET-2"), top(sshPrivateKey="SECRET-3"),
        lambda v: v["mailroom:passwords"].update(
            {"i@example.com": "$scrypt$SECRET-4", "a@b.example": "SECRET-5", "c@d.example": ["SECRET-6"], "e": "SECRET"}
        ),
    )  # fmt: skip
    with pytest.raises(Problems) as problems:
        load(change)
    assert "SECRET" not in str(problems.value)
    assert len(problems.value.findings) >= 5


@pytest.mark.parametrize("value", [["SECRET"], "SECRET", {"token": {"secure": "SECRET"}}])
def test_a_misplaced_secret_is_not_repeated_either(value: object) -> None:
    with pytest.raises(Problems) as problems:
        load(top(acme=value) if value != "SECRET" else acme(token=["SECRET"]))
    assert "SECRET" not in str(problems.value)


def test_a_mistyped_top_level_key_is_found_when_the_keys_are_known() -> None:
    keys = [*CONFIG, "mailroom:host", "aws:region"]
    with pytest.raises(Problems) as problems:
        Settings.load(config().get, "prod", keys)
    (finding,) = problems.value.findings
    assert (finding.subject, finding.fix) == ("mailroom:host", "write mailroom:hosts")


def test_a_stack_name_too_long_for_the_mark_is_refused() -> None:
    assert load(stack="s" * 60).stack == "s" * 60
    assert [finding.id for finding in refused(lambda _: None, "s" * 61)] == ["stack-name-long"]


def test_the_message_begins_with_the_stack_and_that_nothing_changed() -> None:
    with pytest.raises(Problems, match="stack prod cannot be used; nothing was changed"):
        load(host(arch="x"))


# What works but deserves a word: the change, the path, the id.
WARNINGS: dict[str, tuple[Change, str, str]] = {
    "user without destination": (domain(aliases={}), "mailroom:domains[0].users[0]", "user-without-destination"),
    "no postmaster": (domain(aliases={}), "mailroom:domains[0].aliases", "role-without-destination"),
    "policy none": (domain(dmarc={"policy": "none"}), "mailroom:domains[0].dmarc.policy", "dmarc-none"),
    "neutral spf": (domain(spf={"all": "?all"}), "mailroom:domains[0].spf.all", "spf-neutral"),
    "reports to nobody": (domain(dmarc={"rua": ["x@example.com"]}), "mailroom:domains[0].dmarc.rua[0]",
                          "report-address-unread"),
    "short password": (top(passwords={"i@example.com": "short"}), 'mailroom:passwords["i@example.com"]',
                       "password-short"),
    "export of a hash": (together(domain(users=[{"name": "i", "export": True}]),
                                  top(passwords={"i@example.com": HASH})),
                         "mailroom:domains[0].users[0].export", "export-of-hash"),
}  # fmt: skip


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_rarely_meant_is_a_warning(name: str) -> None:
    change, path, identifier = WARNINGS[name]
    found = load(change).warnings()
    assert (path, identifier, "warning") in [(f.subject, f.id, f.severity) for f in found]
    assert "short'" not in "".join(map(str, found))


@pytest.mark.parametrize(
    "change",
    [
        domain(dmarc={"policy": "quarantine"}),
        domain(dmarc={"policy": "reject", "rua": ["reports@example.net"]}, aliases={"*": "a@x.example"}),
        together(domain(dmarc={"policy": "quarantine"}), second_domain(mail="none")),
        domain(mail="external", mx=["mx.example.net"], aliases={}, dmarc={"policy": "quarantine"}),
    ],
    ids=["forward", "everybody", "silent", "external"],
)
def test_a_good_stack_has_no_warnings(change: Change) -> None:
    assert [str(finding) for finding in load(change).warnings()] == []


def test_domains_may_share_a_zone() -> None:
    assert load(second_domain(name="eu.example.com", zoneId=ZONE, mail="none")).domains[1].zone_id == ZONE
    assert OTHER_ZONE != ZONE


def test_importing_the_settings_loads_neither_pulumi_nor_cryptography() -> None:
    code = "import sys, components.settings; print({'pulumi', 'cryptography'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
