"""Settings: what loads, with which defaults, and how each mistake is told; all mistakes at once."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from components.settings import HostSettings, LimitSettings, Settings
from standards import passwords
from standards.finding import Problems
from standards.names import EXAMPLE_HOST_KEY
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

CHECKOUT = Path(__file__).parents[3]
EXAMPLES = CHECKOUT / "tests/data"  # the shipped ones make room for somebody's own
STAGING = "i@staging.example.net"
CONTABO = {"clientId": "INT-1", "clientSecret": "SECRET-7", "apiUser": "u@example.com", "apiPassword": "SECRET 8&="}
TOKEN = passwords.token(bytes(range(24)))
TOKEN_HASH = str(passwords.scrypt_hash(TOKEN, bytes(16)))
HASH = f"$scrypt$ln=14,r=8,p=1${'A' * 22}${'A' * 43}"


# A key made for these tests alone.
ED25519 = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def top(**keys: Any) -> Change:
    return lambda values: values.update({f"mailroom:{key}": value for key, value in keys.items()})


def acme(**keys: Any) -> Change:
    return lambda values: values["mailroom:acme"].update(keys)


def rfc2136(**keys: str | None) -> Change:
    """Another DNS plugin, with these of its credentials changed, or without those that are None."""
    said = {"server": "192.0.2.53", "name": "key.", "secret": "c2VjcmV0", "algorithm": "HMAC-SHA512", **keys}
    credentials = {f"dns_rfc2136_{key}": value for key, value in said.items() if value is not None}

    def change(values: dict[str, Any]) -> None:
        values["mailroom:acme"].pop("token")
        values["mailroom:acme"].update(dns="rfc2136", credentials=credentials)

    return change


def cloudflare(**keys: Any) -> Change:
    return lambda values: values.update({f"cloudflare:{key}": value for key, value in keys.items()})


def together(*changes: Change) -> Change:
    return lambda values: [change(values) for change in changes]


def without(part: str, key: str) -> Change:
    return lambda values: values[f"mailroom:{part}"][0].pop(key)


def two_users(other: object = "j") -> Change:
    aliases = {"i": "someone@gmail.com", "j": "other@gmail.com"}
    return together(
        domain(users=["i", other], aliases=aliases),
        lambda values: values["mailroom:passwords"].update({"j@example.com": "correct horse battery"}),
    )


def user(**keys: Any) -> Change:
    return domain(users=[{"name": "i", **keys}])


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
    change = together(two_users({"name": "j", "export": True}), top(passwords={
        "i@example.com": "correct horse battery", "j@example.com": HASH}))  # fmt: skip
    assert [(user.name, user.export) for user in load(change).domains[0].users] == [("i", False), ("j", True)]


def test_each_token_is_a_login_of_its_own_and_who_only_receives_has_none() -> None:
    change = together(
        two_users({"name": "j", "send": "off"}),
        domain(users=[{"name": "i", "tokens": ["shop", "printer-2"]}, {"name": "j", "send": "off"}]),
        top(passwords={"i@example.com": HASH, "i+shop@example.com": TOKEN, "i+printer-2@example.com": TOKEN_HASH}),
    )
    assert load(change).logins == ["i@example.com", "i+shop@example.com", "i+printer-2@example.com"]


def test_who_only_receives_may_keep_a_password_for_later() -> None:
    assert load(user(send=False)).logins == []


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
    "no host key": (without("hosts", "hostKey"), "hosts[0].hostKey", "setting-missing",
                    "fix: `scripts/preflight.py ADDRESS --wait --pin` writes it"),
    "short host key": (host(hostKey="ssh-ed25519 AAAA"), "hosts[0].hostKey", "host-key-invalid",
                       "fix: `scripts/preflight.py ADDRESS --wait --pin` writes it"),
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
    "alias loop": (domain(aliases={"i": "j", "j": "i"}), "domains[0].aliases.i", "alias-leads-nowhere", "back"),
    "alias behind a loop": (domain(aliases={"i": "j", "j": "k", "k": "j"}), "domains[0].aliases.j",
                            "alias-leads-nowhere", "back to j@example.com"),
    "alias behind nobody": (domain(aliases={"i": "f.l", "f.l": "k"}), 'domains[0].aliases["f.l"]',
                            "alias-leads-nowhere", "k@example.com is neither"),
    "alias to a silent domain": (together(domain(aliases={"i": "x@second.test"}), second_domain(mail="none")),
                                 "domains[0].aliases.i", "alias-leads-nowhere", "x@second.test"),
    "alias chain": (domain(aliases={"i": "n1", **{f"n{n}": f"n{n + 1}" for n in range(1, 9)}, "n9": "a@x.example"}),
                    "domains[0].aliases.i", "alias-leads-nowhere", "more than 9 aliases in a row"),
    "alias nobody": (domain(aliases={"i": "k"}), "domains[0].aliases.i", "alias-leads-nowhere", "k@example.com"),
    "alias through everybody": (domain(aliases={"i": "a@x.example", "k": "l", "*": "x"}), 'domains[0].aliases["*"]',
                                "alias-leads-nowhere", "back"),
    "user without destination": (domain(aliases={}), "domains[0].users[0]", "user-without-destination", "bounce"),
    "user behind an alias": (domain(aliases={"sales": "i"}), "domains[0].users[0]", "user-without-destination",
                             "i@example.com"),
    "user behind a user": (together(two_users(), domain(aliases={"i": "j"})), "domains[0].users[1]",
                           "user-without-destination", "j@example.com"),
    "users of one name": (together(domain(users=["i", "f.l", "fl"], aliases={"*": "a@x.example"}), top(passwords={
        f"{name}@example.com": "correct horse battery" for name in ("i", "f.l", "fl")})), "domains[0].users",
        "address-repeated", "'fl' and 'f.l'"),
    "catch-all without gate": (together(domain(aliases={"*": "a@x.example"}), top(gate="off")),
                               'domains[0].aliases["*"]', "catch-all-without-gate", "guessed"),
    "identity nonsense": (user(identities=["sales"]), "domains[0].users[0].identities[0]", "identity-invalid", "no @"),
    "identity with suffix": (user(identities=["a.b+c@example.com"]), "domains[0].users[0].identities[0]",
                             "identity-invalid", "write ab@example.com"),
    "identity as text": (user(identities="a@example.com"), "domains[0].users[0].identities", "setting-invalid",
                         "a list of further addresses"),
    "identity elsewhere": (user(identities=["a@example.com", "*@other.example"]), "domains[0].users[0].identities[1]",
                           "identity-elsewhere", "other.example is not a listed domain"),
    "identity in a subdomain": (user(identities=["*@lists.example.com"]), "domains[0].users[0].identities[0]",
                                "identity-elsewhere", "list lists.example.com as a domain of its own"),
    "identity silent": (together(user(identities=["a@second.test"]), second_domain(mail="none")),
                        "domains[0].users[0].identities[0]", "identity-elsewhere", "sends no mail"),
    "limits zero": (top(limits={"minute": 0}), "limits.minute", "setting-invalid", "1 or more"),
    "limits word": (user(limits={"day": "many"}), "domains[0].users[0].limits.day", "setting-invalid", "'many'"),
    "limits key": (top(limits={"dya": 10}), "limits.dya", "setting-unknown", "write day"),
    "message of 101": (top(limits={"recipientsPerMessage": 101}), "limits.recipientsPerMessage", "setting-invalid",
                       "1 to 100"),
    "hour over day": (top(limits={"hour": 51, "day": 50}), "limits.hour", "limit-without-effect", "write `hour: 50`"),
    "minute over hour": (top(limits={"minute": 301}), "limits.minute", "limit-without-effect", "lets through, 300"),
    "minute over day": (top(limits={"minute": 150, "day": 100}), "limits.minute", "limit-without-effect",
                        "hour lets through, 100"),
    "message over minute": (top(limits={"minute": 10, "recipientsPerMessage": 20}), "limits.recipientsPerMessage",
                            "limit-without-effect", "at most 10"),
    "new over day": (top(limits={"newRecipients": 1001}), "limits.newRecipients", "limit-without-effect", "1000"),
    "warm-up over day": (top(limits={"warmUp": 1001}), "limits.warmUp", "limit-without-effect", "1000"),
    "limits of a user": (together(top(limits={"hour": 10}), user(limits={"minute": 11})),
                         "domains[0].users[0].limits.minute", "limit-without-effect", "at most 10"),
    "warm-up": (top(warmUp=-1), "warmUp", "setting-invalid", "0 for off"),
    "gate": (top(gate="maybe"), "gate", "setting-invalid", "'maybe'"),
    "rspamd": (top(rspamd={}), "rspamd", "setting-invalid", "a mapping"),
    "forward rate": (top(forwardRate=0), "forwardRate", "setting-invalid", "1 or more"),
    "open port 0": (host(firewall={"allowTcp": [443, 0]}), "hosts[0].firewall.allowTcp[1]", "setting-invalid",
                    "1 to 65535"),
    "open port 65536": (host(firewall={"allowUdp": [65536]}), "hosts[0].firewall.allowUdp[0]", "setting-invalid",
                        "65536"),
    "open port alone": (host(firewall={"allowTcp": 443}), "hosts[0].firewall.allowTcp", "setting-invalid",
                        "write `allowTcp: [443]`"),
    "network gateway missing": (host(network={"ipv6": {"prefix": 64}}), "hosts[0].network.ipv6.gateway",
                                "setting-missing", "fe80::1"),
    "network gateway ipv4": (host(network={"ipv6": {"gateway": "192.0.2.1"}}),
                             "hosts[0].network.ipv6.gateway", "ipv6-invalid", "192.0.2.1"),
    "network gateway of many": (host(network={"ipv6": {"gateway": "ff02::2"}}),
                                "hosts[0].network.ipv6.gateway", "ipv6-invalid", "no router"),
    "network gateway itself": (host(network={"ipv6": {"gateway": "2001:DB8::10"}}),
                               "hosts[0].network.ipv6.gateway", "gateway-is-host", "often fe80::1"),
    "network prefix": (host(network={"ipv6": {"gateway": "fe80::1", "prefix": 129}}),
                       "hosts[0].network.ipv6.prefix", "setting-invalid", "1 to 128"),
    "network alone": (host(ipv6=None, network={"ipv6": {"gateway": "fe80::1"}}), "hosts[0].network.ipv6",
                      "network-without-ipv6", "2001:db8::10"),
    "addresses alone": (host(ipv6=None, network={"addresses": ["2001:db8::11"]}), "hosts[0].network.addresses",
                        "network-without-ipv6", "AAAA, SPF and PTR"),
    "address with prefix": (host(network={"addresses": ["2001:db8::11/64"]}),
                            "hosts[0].network.addresses[0]", "ipv6-invalid", "without prefix length"),
    "further address twice": (host(network={"addresses": ["2001:db8::11", "2001:db8:0::11"]}),
                      "hosts[0].network.addresses[1]", "setting-repeated", "2001:db8::11"),
    "address of the host": (host(network={"addresses": ["2001:db8::10"]}), "hosts[0].network.addresses[0]",
                            "setting-repeated", "ipv6"),
    "echo alone": (host(network={"echo": "https://echo.example.net"}), "hosts[0].network.echo",
                   "echo-unused", "take echo out"),
    "echo word": (host(network={"echo": "echo.example.net"}), "hosts[0].network.echo", "url-invalid",
                  "https://"),
    "bootstrap zone": (host(bootstrap={"timezone": "../../etc/shadow"}), "hosts[0].bootstrap.timezone",
                       "timezone-invalid", "Europe/Berlin"),
    "bootstrap locale": (host(bootstrap={"locale": "de_DE"}), "hosts[0].bootstrap.locale", "locale-invalid",
                         "de_DE.UTF-8"),
    "bootstrap mirror": (host(bootstrap={"aptMirror": "https://user:word@deb.example.net/"}),
                         "hosts[0].bootstrap.aptMirror", "url-invalid", "without password"),
    "bootstrap package": (host(bootstrap={"packages": ["htop", "-oDebug=1"]}), "hosts[0].bootstrap.packages[1]",
                          "package-invalid", "'-oDebug=1'"),
    "bootstrap key": (host(bootstrap={"timeZone": "Etc/UTC"}), "hosts[0].bootstrap.timeZone", "setting-unknown",
                      "write timezone"),
    "alias everybody loop": (domain(aliases={"*": "x"}), 'domains[0].aliases["*"]', "alias-leads-nowhere", "back"),
    "alias twice": (domain(aliases={"a.b": "a@x.example", "ab": "a@x.example", "i": "ab"}), "domains[0].aliases",
                    "address-repeated", "ignores dots"),
    "spf term": (domain(spf={"mechanisms": ["mx", "ptr"]}), "domains[0].spf.mechanisms[1]",
                 "spf-mechanism-invalid", "ptr"),
    "spf all null": (domain(spf={"all": None}), "domains[0].spf.all", "setting-invalid", '"~all"'),
    "spf plus all": (domain(spf={"all": "+all"}), "domains[0].spf.all", "spf-all-invalid", "everybody"),
    "spf strangers": (domain(spf={"mechanisms": ["ip4:0.0.0.0/0"]}), "domains[0].spf", "spf-strangers", "/0"),
    "spf exists": (domain(spf={"mechanisms": ["exists:%{l}.x.example"]}), "domains[0].spf", "spf-strangers", "exists"),
    "spf include macro": (domain(spf={"includes": ["%{y}.x.example"]}), "domains[0].spf.includes[0]",
                          "spf-mechanism-invalid", "macro"),
    "spf include address": (domain(spf={"includes": ["192.0.2.7"]}), "domains[0].spf.includes[0]",
                            "spf-mechanism-invalid", "a name is needed"),
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
    "mistyped name": (lambda v: v["mailroom:domains"][0].update(nme=v["mailroom:domains"][0].pop("name")),
                      "domains[0].nme", "setting-unknown", "write name"),
    "mistyped host key": (lambda v: v["mailroom:hosts"][0].update(hostkey=v["mailroom:hosts"][0].pop("hostKey")),
                          "hosts[0].hostkey", "setting-unknown", "write hostKey"),
    "mistyped zone": (lambda v: v["mailroom:domains"][0].update(zoneid=v["mailroom:domains"][0].pop("zoneId")),
                      "domains[0].zoneid", "setting-unknown", "write zoneId"),
    "address twice": (lambda v: v["mailroom:hosts"].append({**CONFIG["mailroom:hosts"][0], "name": "b.example.com",
                      "ipv4": "192.0.2.11"}), "hosts[1].ipv6", "setting-repeated", "hosts[0].ipv6"),
    "no password": (together(two_users(), lambda v: v["mailroom:passwords"].pop("j@example.com")),
                    "domains[0].users[1]", "password-missing", "j@example.com"),
    "dkim key of nobody": (top(dkimKeys={"m9._domainkey.example.com": ED25519}),
                           'dkimKeys["m9._domainkey.example.com"]', "dkim-key-of-nobody", "no selector m9"),
    "dkim key elsewhere": (top(dkimKeys={"m1._domainkey.other.example": ED25519}),
                           'dkimKeys["m1._domainkey.other.example"]', "dkim-key-of-nobody", "not a listed domain"),
    "dkim key name": (top(dkimKeys={"m1": ED25519}), "dkimKeys.m1", "dkim-name-invalid", "._domainkey."),
    "dkim key text": (top(dkimKeys={"m1._domainkey.example.com": "canary"}), 'dkimKeys["m1._domainkey.example.com"]',
                      "dkim-private-key-invalid", "not a private key"),
    "token without password": (user(tokens=["shop"]), "domains[0].users[0]", "password-missing",
                               "i+shop@example.com has no password"),
    "token made by hand": (together(user(tokens=["shop"]), lambda v: v["mailroom:passwords"].update(
        {"i+shop@example.com": "mrt_" + "correct-horse-battery-staple-for-ever1"})),
        'passwords["i+shop@example.com"]', "token-made-by-hand", "hash_password.py --token"),
    "token twice": (together(user(tokens=["shop", "shop"]), lambda v: v["mailroom:passwords"].update(
        {"i+shop@example.com": TOKEN})), "domains[0].users[0].tokens[1]", "setting-repeated", "tokens[0]"),
    "token of one who only receives": (user(tokens=["shop"], send="off"), "domains[0].users[0].tokens",
                                       "tokens-unused", "only receives"),
    "token with a name of its own": (user(tokens=["a+b"]), "domains[0].users[0].tokens[0]", "setting-invalid", "shop"),
    "token of nobody": (lambda v: v["mailroom:passwords"].update({"i+shop@example.com": TOKEN}),
                        'passwords["i+shop@example.com"]', "password-of-nobody", "no user 'i+shop'"),
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
    "dns plugin": (acme(dns="Cloud flare"), "acme.dns", "dns-plugin-unusable", "rfc2136"),
    "dns plugin without ini": (acme(dns="route53"), "acme.dns", "dns-plugin-unusable", "no file"),
    "token beside plugin": (together(rfc2136(), acme(token="t" * 40)), "acme.token", "acme-secret-unused", "rfc2136"),
    "credentials beside token": (acme(credentials={"dns_x": "y"}), "acme.credentials", "acme-secret-unused", "token"),
    "no credential": (rfc2136(secret=None), "acme.credentials.dns_rfc2136_secret", "setting-missing", "--secret"),
    "no credentials": (together(rfc2136(), acme(dns="ovh", credentials={})), "acme.credentials.dns_ovh_...",
                       "setting-missing", "--secret"),
    "unknown credential": (together(rfc2136(), lambda v: v["mailroom:acme"]["credentials"].update(dns_ovh_x="1")),
                           "acme.credentials.dns_ovh_x", "acme-credential-unknown", "dns_rfc2136_"),
    "tsig server": (rfc2136(server="ns1.example"), "acme.credentials.dns_rfc2136_server", "acme-credential-invalid",
                    "192.0.2.53"),
    "tsig secret": (rfc2136(secret="SECRET?"), "acme.credentials.dns_rfc2136_secret", "acme-credential-invalid",
                    "base64"),
    "tsig algorithm": (rfc2136(algorithm="sha256"), "acme.credentials.dns_rfc2136_algorithm",
                       "acme-credential-invalid", "HMAC-SHA256"),
    "tsig port": (rfc2136(port="dns"), "acme.credentials.dns_rfc2136_port", "acme-credential-invalid", "53"),
    "credential lines": (rfc2136(name="two\nlines"), "acme.credentials.dns_rfc2136_name", "acme-credential-invalid",
                         "line end"),
    "challenge zone": (acme(challengeZone="acme"), "acme.challengeZone", "name-invalid", "fully qualified"),
    "challenge plugin": (together(rfc2136(), acme(dns="ovh", credentials={"dns_ovh_x": "y"},
                                                  challengeZone="acme.example.net")),
                         "acme.challengeZone", "challenge-zone-plugin", "CNAME"),
    "challenge name": (acme(challengeZone=".".join(["c" * 60] * 4)), "hosts[0].name", "challenge-name-long", "253"),
    "reload hook": (host(reloadHooks=[" "]), "hosts[0].reloadHooks[0]", "reload-hook-empty", "systemctl"),
    "reload hook of nobody": (domain(reloadHooks="true"), "domains[0].reloadHooks",
                              "reload-hooks-without-certificate", "wildcard"),
    "copies folder": (host(certificateCopies={"folder": "/etc/letsencrypt/live", "group": "web"}),
                      "hosts[0].certificateCopies.folder", "copies-folder-invalid", "/srv/certificates"),
    "copies folder up": (host(certificateCopies={"folder": "/srv/a/../../etc", "group": "web"}),
                         "hosts[0].certificateCopies.folder", "copies-folder-invalid", "of its own"),
    "copies group": (host(certificateCopies={"folder": "/srv/certs", "group": "a b"}),
                     "hosts[0].certificateCopies.group", "setting-invalid", "group"),
    "same token in credentials": (together(acme(dns="desec", credentials={"dns_desec_token": "a" * 40}),
                                           lambda v: v["mailroom:acme"].pop("token")),
                                  "acme.credentials", "acme-token-shared", "stolen host"),
    "same token": (acme(token="a" * 40), "acme.token", "acme-token-shared", "stolen host"),
    "no token": (lambda v: v.pop("cloudflare:apiToken"), "cloudflare:apiToken", "setting-missing", "--secret"),
    "bad token": (cloudflare(apiToken="short"), "cloudflare:apiToken", "api-token-invalid", "5 characters"),
    "bad base": (cloudflare(baseUrl="http://x.example/v4"), "cloudflare:baseUrl", "base-url-invalid", "client/v4"),
    "base scheme": (cloudflare(baseUrl="ftp://x.example/client/v4"), "cloudflare:baseUrl", "base-url-invalid", "ftp"),
    "resolver": (top(resolver="dns.example"), "resolver", "ipv4-invalid", "dns.example"),
    "timeout": (top(propagationTimeout="ten"), "propagationTimeout", "setting-invalid", "'ten'"),
    "timeout 0": (top(propagationTimeout=0), "propagationTimeout", "setting-invalid", "1 to 86400"),
    "drain": (top(drainTimeout=-1), "drainTimeout", "setting-invalid", "0 to 3600"),
    "reverse without access": (host(reverseDns={"provider": "hetzner"}), "hosts[0].reverseDns.provider",
                               "reverse-dns-without-access", "mailroom:hetzner is missing"),
    "contabo incomplete": (top(contabo={key: value for key, value in CONTABO.items() if key != "apiPassword"}),
                           "contabo.apiPassword", "setting-missing", "--secret"),
    "contabo user": (top(contabo={**CONTABO, "apiUser": ""}), "contabo.apiUser", "setting-invalid", "you@example.com"),
    "contabo login": (top(contabo={**CONTABO, "authUrl": "auth"}), "contabo.authUrl", "api-url-invalid", "leave"),
    "hetzner token": (top(hetzner={"token": " \n"}), "hetzner.token", "credential-invalid", "empty"),
    "hetzner lines": (top(hetzner={"token": "two\nlines"}), "hetzner.token", "credential-invalid", "one line"),
    "hetzner url": (top(hetzner={"token": "t", "apiUrl": "ftp://x.example"}), "hetzner.apiUrl", "api-url-invalid",
                    "ftp"),
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


@pytest.mark.parametrize("mistake", sorted(set(MISTAKES) - {"host nothing"}))  # an item with nothing lacks two keys
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
        acme(token="SECRET-1 ", credentials={"dns_x_y": "SECRET-7\n"}),
        cloudflare(apiToken="SECRET-2"), top(sshPrivateKey="SECRET-3"),
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


@pytest.mark.parametrize("key", ["acme", "contabo", "hetzner"])
def test_a_secret_in_the_place_of_its_mapping_is_not_repeated(key: str) -> None:
    with pytest.raises(Problems, match=f"mailroom:{key}: text cannot be used here"):
        load(top(**{key: "SECRET"}))


def test_access_to_a_provider_is_given_to_its_hosts_alone() -> None:
    change = together(host(reverseDns={"provider": "contabo"}), top(contabo=CONTABO, hetzner={"token": "SECRET-9"}))
    settings = load(change)
    (one,) = settings.hosts
    assert settings.reverse_dns_access(one) == CONTABO
    assert load(top(contabo=CONTABO)).reverse_dns_access(load().hosts[0]) is None
    assert "SECRET" not in repr(settings)
    unused = [(each.subject, each.id) for each in settings.warnings() if "reverse" in each.id]
    assert unused == [("mailroom:hetzner", "reverse-dns-access-unused")]


def test_another_dns_plugin_has_credentials_instead_of_a_token() -> None:
    read = load(together(rfc2136(), lambda v: v["mailroom:acme"]["credentials"].update(dns_rfc2136_port=5353))).acme
    assert {key: value.get_secret_value() for key, value in read.ini.items()} == {
        "dns_rfc2136_server": "192.0.2.53",
        "dns_rfc2136_name": "key.",
        "dns_rfc2136_secret": "c2VjcmV0",
        "dns_rfc2136_algorithm": "HMAC-SHA512",
        "dns_rfc2136_port": "5353",
    }
    assert "c2VjcmV0" not in repr(read)
    assert load().acme.ini["dns_cloudflare_api_token"].get_secret_value() == "t" * 40
    assert load(acme(dns="dns-cloudflare")).acme.dns == "cloudflare"


def test_a_reload_hook_may_be_one_command_or_a_script() -> None:
    read = load(together(host(reloadHooks="systemctl reload nginx"), domain(reloadHooks=["#!/bin/sh\na\nb\n"],
                                                                           certificate="wildcard")))  # fmt: skip
    assert read.hosts[0].reload_hooks == ("systemctl reload nginx\n",)
    assert read.domains[0].reload_hooks == ("#!/bin/sh\na\nb\n",)


def test_a_mistyped_top_level_key_is_found_when_the_keys_are_known() -> None:
    keys = [*CONFIG, "mailroom:host", "aws:region"]
    with pytest.raises(Problems) as problems:
        Settings.load(config().get, "prod", keys)
    (finding,) = problems.value.findings
    assert (finding.subject, finding.fix) == ("mailroom:host", "write mailroom:hosts")


@pytest.mark.parametrize(
    ("key", "written"),
    [
        ("mailroom:hosts", "mailroom:host"),
        ("mailroom:domains", "mailroom:domain"),
        ("mailroom:domains", "mailroom:Domains"),
        ("mailroom:passwords", "mailroom:password"),
        ("mailroom:acme", "mailroom:acmee"),
        ("cloudflare:apiToken", "cloudflare:apitoken"),
    ],
)
def test_a_mistyped_top_level_key_is_told_without_what_follows_from_it(key: str, written: str) -> None:
    values = config(domain(users=[{"name": "i", "identities": ["*@example.com"]}]))
    values[written] = values.pop(key)
    with pytest.raises(Problems) as problems:
        Settings.load(values.get, "prod", values)
    assert [(finding.subject, finding.fix) for finding in problems.value.findings] == [(written, f"write {key}")]


def test_a_stack_name_too_long_for_the_mark_is_refused() -> None:
    assert load(stack="s" * 60).stack == "s" * 60
    assert [finding.id for finding in refused(lambda _: None, "s" * 61)] == ["stack-name-long"]


def test_the_message_begins_with_the_stack_and_that_nothing_changed() -> None:
    with pytest.raises(Problems, match="stack prod cannot be used; nothing was changed"):
        load(host(arch="x"))


# What works but deserves a word: the change, the path, the id.
WARNINGS: dict[str, tuple[Change, str, str]] = {
    "no postmaster": (second_domain(), "mailroom:domains[1].aliases", "role-without-destination"),
    "gate off": (top(gate="off"), "mailroom:gate", "gate-off"),
    "failures to nobody": (domain(dmarc={"ruf": ["x@example.com"]}), "mailroom:domains[0].dmarc.ruf[0]",
                           "report-address-unread"),
    "reports to a silent domain": (together(domain(dmarc={"rua": ["d@example.net", "x@second.test"]}),
                                            second_domain(mail="none")),
                                   "mailroom:domains[0].dmarc.rua[1]", "report-address-unread"),
    "spf at the website": (domain(spf={"mechanisms": ["a"]}), "mailroom:domains[0].spf", "spf-apex"),
    "spf of other mx": (domain(mail="external", mx=["mx.example.net"], aliases={}, spf={"mechanisms": ["mx"]}),
                        "mailroom:domains[0].spf", "spf-mx-elsewhere"),
    "spf shared": (domain(spf={"includes": ["spf.protection.outlook.com"]}), "mailroom:domains[0].spf", "spf-shared"),
    "long alias": (domain(aliases={"i": "a@x.example", "n" * 25: "i"}), f"mailroom:domains[0].aliases.{'n' * 25}",
                   "alias-long"),
    "policy none": (domain(dmarc={"policy": "none"}), "mailroom:domains[0].dmarc.policy", "dmarc-none"),
    "neutral spf": (domain(spf={"all": "?all"}), "mailroom:domains[0].spf.all", "spf-neutral"),
    "ed25519 alone": (top(dkimKeys={"m1._domainkey.example.com": ED25519}), "mailroom:domains[0].dkim",
                      "dkim-ed25519-alone"),
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
        domain(
            dmarc={"policy": "quarantine", "rua": ["D.M@example.com"]},
            aliases={"i": "a@x.example", "dm": "i", "n" * 24: "i", "*": "i"},
            spf={"mechanisms": ["mx"]},
        ),
        together(
            domain(dmarc={"policy": "quarantine", "ruf": ["ruf@second.test"]}),
            second_domain(mail="external", mx=["mx.example.net"], dmarc={"policy": "reject"}),
        ),
    ],
    ids=["forward", "everybody", "silent", "external", "own reports", "reports elsewhere"],
)
def test_a_good_stack_has_no_warnings(change: Change) -> None:
    assert [str(finding) for finding in load(change).warnings()] == []


def test_the_key_of_the_shipped_example_is_told_with_what_pins_the_hosts_own() -> None:
    (found,) = [one for one in load(host(hostKey=EXAMPLE_HOST_KEY)).warnings() if one.id == "host-key-example"]
    assert found.subject == "mailroom:hosts[0].hostKey"
    assert "`scripts/preflight.py 192.0.2.10 --wait --pin`" in found.fix


def test_reports_to_a_postmaster_who_is_missing_are_not_told_as_well() -> None:
    found = load(together(domain(dmarc={"policy": "reject"}), second_domain(dmarc={"policy": "reject"}))).warnings()
    assert [finding.id for finding in found] == ["role-without-destination"] * 2


def test_domains_may_share_a_zone() -> None:
    assert load(second_domain(name="eu.example.com", zoneId=ZONE, mail="none")).domains[1].zone_id == ZONE
    assert OTHER_ZONE != ZONE


def test_importing_the_settings_loads_neither_pulumi_nor_cryptography() -> None:
    code = "import sys, components.settings; print({'pulumi', 'cryptography'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def limits(change: Change, person: int = 0) -> tuple[int, ...]:
    settings = load(change)
    return tuple(settings.limits_of(settings.domains[0].users[person]).model_dump().values())


def test_limits_have_careful_defaults() -> None:
    settings = load()
    assert limits(lambda _: None) == (60, 300, 1000, 200, 50, 100)
    assert (settings.warm_up, settings.gate, settings.rspamd, settings.forward_rate) == (500, True, False, 500)
    assert (settings.hosts[0].firewall.allow_tcp, settings.hosts[0].firewall.allow_udp) == ((), ())


def test_a_user_has_the_limits_given_for_it_and_else_those_of_the_stack() -> None:
    change = together(top(limits={"hour": 100, "warmUp": 0}), two_users({"name": "j", "limits": {"day": 5000}}))
    assert limits(change, person=0) == (60, 100, 1000, 200, 50, 0)
    assert limits(change, person=1) == (60, 100, 5000, 200, 50, 0)


@pytest.mark.parametrize(
    ("given", "effective"),
    [
        ({"day": 40}, (40, 40, 40, 40, 40, 40)),
        ({"minute": 7}, (7, 300, 1000, 200, 7, 100)),
        ({"minute": 500, "hour": 1000}, (500, 1000, 1000, 200, 50, 100)),
    ],
)
def test_a_limit_that_nobody_gave_is_no_wider_than_one_that_holds_it(
    given: dict[str, int], effective: tuple[int, ...]
) -> None:
    assert limits(top(limits=given)) == effective
    assert limits(user(limits=given)) == effective
    assert limits(together(top(limits={"hour": 300}), user(limits=given))) == effective


def test_names_in_other_letters_are_the_same_everywhere() -> None:
    def other_letters(values: dict[str, Any]) -> None:
        domain(name="bücher.example", users=[{"name": "i", "identities": ["*@BÜCHER.example"]}])(values)
        host(name="smtp.bücher.example")(values)
        top(passwords={"i@bücher.example": "correct horse battery"})(values)

    assert load(other_letters).domains[0].users[0].identities == ("*@xn--bcher-kva.example",)


def test_the_longest_sender_an_alias_takes_is_named() -> None:
    def said(name: str) -> str:
        return "".join(map(str, load(domain(aliases={"i": "a@x.example", name: "i"})).warnings()))

    assert "up to 29 characters" in said("n" * 25)
    assert "a name of at most 24 characters" in said("n" * 25)
    assert "nobody can write" in said("n" * 54)


def test_only_what_is_forwarded_elsewhere_needs_a_short_name() -> None:
    change = domain(mail="external", mx=["mx.example.net"], aliases={}, users=["n" * 30])
    password = top(passwords={f"{'n' * 30}@example.com": "correct horse battery"})
    assert "alias-long" not in [finding.id for finding in load(together(change, password)).warnings()]


def example(stack: str, user: str) -> Settings:
    """A stack file that we ship, its secrets replaced."""
    file = f"Pulumi.{stack}.yaml"
    values = yaml.safe_load((CHECKOUT if stack == "dev" else EXAMPLES).joinpath(file).read_text())["config"]
    values.pop("mailroom:sshPrivateKey", None)
    values["mailroom:acme"]["token"] = "t" * 40
    secret = {"cloudflare:apiToken": "a" * 40, "mailroom:passwords": {user: "correct horse battery"}}
    return Settings.load((values | secret).get, stack, values)


def test_the_shipped_stack_files_load_without_a_surprise() -> None:
    assert example("dev", "alice@example.test").warnings() == []
    assert [finding.id for finding in example("prod", "i@example.com").warnings()] == ["host-key-example", "dmarc-none"]
    assert [finding.id for finding in example("staging", STAGING).warnings()] == ["host-key-example"]


def test_the_shipped_environments_share_no_name_host_zone_or_state_and_production_is_protected() -> None:
    stacks = [example("dev", "alice@example.test"), example("staging", STAGING), example("prod", "i@example.com")]
    names = [{one.name for one in (*stack.hosts, *stack.domains)} for stack in stacks]
    for one, other in itertools.permutations(names, 2):
        assert not [(inner, outer) for inner in one for outer in other if f".{inner}".endswith(f".{outer}")]
    addresses = [host.ipv4 for stack in stacks for host in stack.hosts]
    zones = [domain.zone_id for stack in stacks for domain in stack.domains]
    backends = [stack.backend for stack in stacks[1:]]
    for all_of_them in (addresses, zones, backends):
        assert None not in all_of_them
        assert len(set(all_of_them)) == len(all_of_them)
    assert [stack.protected for stack in stacks] == [False, False, True]


def test_the_production_example_shows_the_defaults() -> None:
    shown, plain = example("prod", "i@example.com"), load()
    names = ("warm_up", "gate", "rspamd", "forward_rate", "limits")
    assert [getattr(shown, name) for name in names] == [getattr(plain, name) for name in names]
    assert set(LimitSettings.model_fields) == shown.limits.model_fields_set
    assert shown.hosts[0].firewall == plain.hosts[0].firewall


def test_a_token_of_the_environment_serves_only_where_the_stack_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "e" * 40)
    kept, exported = load().cloudflare, load(lambda values: values.pop("cloudflare:apiToken")).cloudflare
    assert (kept.api_token.get_secret_value(), kept.token_is_kept) == (CONFIG["cloudflare:apiToken"], True)
    assert (exported.api_token.get_secret_value(), exported.token_is_kept) == ("e" * 40, False)


@pytest.mark.parametrize(
    ("directory", "said", "protected"),
    [
        ("letsencrypt", {}, True),
        ("letsencrypt-staging", {}, False),
        ("https://acme.example.net/directory", {}, False),
        ("letsencrypt", {"protect": False}, False),
        ("letsencrypt-staging", {"protect": "true"}, True),
    ],
)
def test_a_stack_with_certificates_that_clients_trust_is_protected_unless_it_says_otherwise(
    directory: str, said: dict[str, Any], protected: bool
) -> None:
    def change(values: dict[str, Any]) -> None:
        acme(directory=directory)(values)
        top(**said)(values)

    assert load(change).protected is protected


def test_the_shipped_production_stack_is_protected() -> None:
    values = config(top(passwords=CONFIG["mailroom:passwords"]))
    values |= yaml.safe_load((EXAMPLES / "Pulumi.prod.yaml").read_text())["config"]
    values["mailroom:acme"]["token"] = "t" * 40
    assert Settings.load(values.get, "prod", values).protected
