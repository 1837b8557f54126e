"""Each rule of the policy pack: what it lets pass, what it finds, and that no secret gets into what it says."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from components.host import commands
from mailroom_policy import rules
from mailroom_policy.view import DNS_RECORD, UNKNOWN, Resource, host
from standards import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mailroom_policy.rules import Broken, Rule

CANARY = "canary-4d0c1f"
OUTPUTS = ("stdout", "stderr")
PINNED = {"host": "198.51.100.10", "hostKey": names.EXAMPLE_HOST_KEY, "privateKey": CANARY}


def record(kind: str, name: str, content: Any, **more: Any) -> Resource:
    props = {"name": name, "type": kind, "content": content, "ttl": 300.0, "proxied": False, **more}
    return Resource(type=DNS_RECORD, name=f"{name}/{kind}", props=props, urn=f"urn:{name}")


def text(name: str, content: str) -> Resource:
    return record("TXT", name, f'"{content}"')


def command(name: str = "step", *, secret: Sequence[str] = OUTPUTS, kind: str = "remote", **props: Any) -> Resource:
    given = {"connection": PINNED, "logging": "none", "stdin": json.dumps({"token": CANARY}), **props}
    return Resource(type=f"command:{kind}:Command", name=name, props=given, secret_outputs=secret)


def certificate(*names: str, host: str = "smtp.example.test") -> Resource:
    payload = {"certificates": [{"name": host, "names": list(names)}], "credentials": {"token": CANARY}}
    return command(f"{host}/certificate", stdin=json.dumps(payload))


def said(rule: Callable[[Sequence[Resource]], Iterator[Broken]], *resources: Resource) -> list[str]:
    found = [str(finding) for _, finding in rule(resources)]
    assert CANARY not in "".join(found)
    return found


# --- SPF --------------------------------------------------------------------------------------------------------------


def test_two_spf_records_at_one_name_are_found_however_the_name_is_written() -> None:
    (found,) = said(
        rules.one_spf,
        text("Example.test", "v=spf1 a -all"),
        text("example.test.", "V=SPF1 mx -all"),
        text("b.test", "x"),
    )
    assert "example.test: 2 SPF records" in found


def test_one_spf_record_a_name_beside_other_texts_passes() -> None:
    ours = [text("example.test", "v=spf1 a -all"), text("example.test", "v=spf10 no"), text("b.test", "v=spf1 -all")]
    assert said(rules.one_spf, *ours) == []


def spf(includes: int, name: str = "example.test") -> Resource:
    return text(name, f"v=spf1 {' '.join(f'include:s{n}.example.net' for n in range(includes))} -all")


def test_spf_may_cost_ten_look_ups_and_not_eleven() -> None:
    assert said(rules.spf_within_limits, spf(10)) == []
    (found,) = said(rules.spf_within_limits, spf(11))
    assert "example.test > include:s10.example.net: this is the 11th term" in found


def test_look_ups_are_counted_through_includes_of_this_stack() -> None:
    outer = text("example.test", "v=spf1 include:_spf.example.test mx a -all")
    (found,) = said(rules.spf_within_limits, outer, spf(9, "_spf.example.test"))
    assert "example.test > mx: this is the 11th term" in found
    assert said(rules.spf_within_limits, outer, spf(7, "_spf.example.test")) == []


def test_an_include_of_a_name_with_two_spf_records_is_not_told_as_too_many_look_ups() -> None:
    twice = [text("_spf.example.test", "v=spf1 a -all"), text("_spf.example.test", "v=spf1 mx -all")]
    assert said(rules.spf_within_limits, text("example.test", "v=spf1 include:_spf.example.test -all"), *twice) == []


def test_an_include_that_leads_back_to_itself_is_found() -> None:
    circle = [text("a.test", "v=spf1 include:b.test -all"), text("b.test", "v=spf1 include:a.test -all")]
    found = said(rules.spf_within_limits, *circle)
    assert len(found) == 2
    assert "a.test > b.test > include:a.test: it leads back to itself" in found[0]


# --- DKIM -------------------------------------------------------------------------------------------------------------


def rsa_record(bits: int) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits).public_key()
    octets = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"v=DKIM1; k=rsa; p={base64.b64encode(octets).decode()}"


def ed25519_record() -> str:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    return f"v=DKIM1; k=ed25519; p={base64.b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()}"


ED25519_INFO = base64.b64encode(
    ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()


@pytest.mark.parametrize(
    "value", [rsa_record(2048), ed25519_record(), "v=DKIM1; k=rsa; p="], ids=["RSA-2048", "Ed25519", "taken back"]
)
def test_a_dkim_key_of_full_strength_or_taken_back_passes(value: str) -> None:
    assert said(rules.strong_dkim, text("m1._domainkey.example.test", value)) == []


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (rsa_record(1024), "the RSA key has 1024 bits"),
        (rsa_record(1024).replace(" k=rsa;", ""), "the RSA key has 1024 bits"),
        ("v=DKIM1; k=ed25519; p=AAAA", "neither RSA nor Ed25519"),
        ("v=DKIM1; k=ed25519; p=*", "neither RSA nor Ed25519"),
        ("v=DKIM1; p=AAAA", "not a public key"),
        (f"v=DKIM1; k=rsa; p={ED25519_INFO}", "the tag k= says RSA, the key is another"),
        (rsa_record(2048).replace("k=rsa", "k=ed25519"), "neither RSA nor Ed25519"),
        (rsa_record(2048).replace("k=rsa", "k=RSA"), "neither RSA nor Ed25519"),
        (rsa_record(2048).replace("p=", "P="), "no tag p="),
        (rsa_record(1024).replace("k=rsa", "K=ed25519"), "the RSA key has 1024 bits"),
    ],
    ids=["short", "short without k=", "short Ed25519", "no base64", "no key", "Ed25519 as RSA", "RSA as Ed25519",
         "unknown algorithm", "P= alone", "K= beside it"],
)  # fmt: skip
def test_a_dkim_key_that_is_too_short_another_or_none_is_found(value: str, why: str) -> None:
    (found,) = said(rules.strong_dkim, text("m1._domainkey.example.test", value))
    assert found.startswith("error: m1._domainkey.example.test: ")
    assert why in found


def test_a_text_elsewhere_or_not_yet_known_is_no_dkim_key() -> None:
    unknown = record("TXT", "m1._domainkey.example.test", UNKNOWN)
    assert said(rules.strong_dkim, text("example.test", "v=DKIM1; p=AAAA"), unknown) == []


# --- MX ---------------------------------------------------------------------------------------------------------------

MX = record("MX", "example.test", "smtp.example.test", priority=10.0)


@pytest.mark.parametrize("kind", ["A", "AAAA"])
def test_an_mx_to_a_host_with_an_address_passes(kind: str) -> None:
    for proxied in (False, None, UNKNOWN):
        assert said(rules.reachable_mx, MX, record(kind, "Smtp.example.test.", UNKNOWN, proxied=proxied)) == []


@pytest.mark.parametrize("kind", ["A", "CNAME"])
def test_an_mx_to_a_proxied_name_is_found(kind: str) -> None:
    (found,) = said(rules.reachable_mx, MX, record(kind, "smtp.example.test", "198.51.100.10", proxied=True))
    assert "MX 'smtp.example.test' leads to a proxied name" in found


SPF = text("smtp.example.test", "v=spf1 a -all")


@pytest.mark.parametrize(
    "others",
    [
        [],
        [record("A", "smtp2.example.test", "198.51.100.10")],
        [SPF],
        [record("CNAME", "smtp.example.test", "b.test")],
        [SPF, record("A", "*.example.test", "198.51.100.10")],
        [text("*.example.test", "v=spf1 -all")],
    ],
    ids=["no record", "of another name", "none", "an alias", "a wildcard beside its own records", "a wildcard without"],
)
def test_an_mx_to_a_name_of_ours_without_address_is_found(others: list[Resource]) -> None:
    (found,) = said(rules.reachable_mx, MX, *others)
    assert "with neither A nor AAAA" in found


@pytest.mark.parametrize("target", [".", "mx.example.net", UNKNOWN], ids=["null MX", "of others", "unknown"])
def test_an_mx_whose_host_is_not_in_this_stack_passes(target: Any) -> None:
    assert said(rules.reachable_mx, record("MX", "example.test", target)) == []


@pytest.mark.parametrize(
    "others",
    [
        [record("A", "*.example.test", "198.51.100.10")],
        [SPF, record("A", UNKNOWN, "198.51.100.10")],
        [SPF, record(UNKNOWN, "smtp.example.test", UNKNOWN)],
    ],
    ids=["below a wildcard", "a name not known yet", "a type not known yet"],
)
def test_an_mx_whose_address_a_wildcard_is_or_a_preview_does_not_know_passes(others: list[Resource]) -> None:
    assert said(rules.reachable_mx, MX, *others) == []


def test_an_mx_below_a_proxied_wildcard_is_found() -> None:
    (found,) = said(rules.reachable_mx, MX, record("A", "*.example.test", "198.51.100.10", proxied=True))
    assert "leads to a proxied name" in found


def test_an_mx_to_a_domain_whose_own_address_is_its_websites_passes() -> None:
    own = record("MX", "example.test", "example.test")
    other = [record("MX", "a.test", "b.test"), text("b.test", "v=spf1 -all"), text("_dmarc.b.test", "v=DMARC1; p=none")]
    assert said(rules.reachable_mx, own, text("example.test", "v=spf1 mx -all"), *other) == []


def test_the_name_of_a_text_that_is_not_known_yet_hides_no_missing_address() -> None:
    assert len(said(rules.reachable_mx, MX, SPF, record("TXT", UNKNOWN, "x"))) == 1


@pytest.mark.parametrize("target", ["198.51.100.10", "2001:DB8::10"])
def test_an_mx_to_an_address_is_found(target: str) -> None:
    (found,) = said(rules.reachable_mx, record("MX", "example.test", target))
    assert "leads to an address" in found


# --- certificates -----------------------------------------------------------------------------------------------------

HOST = record("A", "smtp.example.test", "198.51.100.10")


@pytest.mark.parametrize("name", ["smtp.example.test", "*.example.test", "SMTP.example.test"])
def test_a_certificate_of_the_hosts_name_passes(name: str) -> None:
    assert said(rules.announced_names_certified, certificate(name), HOST, MX) == []


@pytest.mark.parametrize("name", ["example.test", "*.test", "*.smtp.example.test"])
def test_a_certificate_without_the_name_of_ehlo_is_found(name: str) -> None:
    (found,) = said(rules.announced_names_certified, certificate(name))
    assert "smtp.example.test: 'smtp.example.test' is in none of its certificates" in found


def test_a_certificate_without_an_mx_host_that_leads_here_is_found() -> None:
    other = [record("MX", "b.test", "mx.b.test"), record("A", "mx.b.test", "198.51.100.10")]
    (found,) = said(rules.announced_names_certified, certificate("smtp.example.test"), HOST, MX, *other)
    assert "'mx.b.test' is in none" in found
    assert said(rules.announced_names_certified, certificate("smtp.example.test", "mx.b.test"), HOST, MX, *other) == []


def test_an_mx_host_elsewhere_needs_no_certificate_of_this_host() -> None:
    other = [record("MX", "b.test", "mx.b.test"), record("A", "mx.b.test", "198.51.100.11")]
    assert said(rules.announced_names_certified, certificate("smtp.example.test"), HOST, MX, *other) == []


def test_an_address_is_the_same_however_it_is_written() -> None:
    here = [record("AAAA", "smtp.example.test", "2001:db8::10"), record("AAAA", "mx.b.test", " 2001:DB8:0:0::10 ")]
    (found,) = said(
        rules.announced_names_certified, certificate("smtp.example.test"), *here, record("MX", "b.test", "mx.b.test")
    )
    assert "'mx.b.test' is in none" in found


def test_two_hosts_whose_addresses_are_not_known_yet_are_not_taken_for_one() -> None:
    unknown = [record("A", name, UNKNOWN) for name in ("smtp.example.test", "mx.b.test")]
    other = record("MX", "b.test", "mx.b.test")
    assert said(rules.announced_names_certified, certificate("smtp.example.test"), other, *unknown) == []


def test_what_a_certificate_step_reads_may_be_unknown_in_a_preview() -> None:
    assert said(rules.announced_names_certified, command("smtp.example.test/certificate", stdin=UNKNOWN), MX) == []


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "open_outputs"), [((), "stderr and stdout"), (("stdout",), "stderr"), (("stderr", "x"), "stdout")]
)
@pytest.mark.parametrize("kind", ["remote", "local"])
def test_a_command_with_an_output_that_is_not_secret_is_found(
    kind: str, secret: tuple[str, ...], open_outputs: str
) -> None:
    (found,) = said(rules.secret_outputs, command(kind=kind, secret=secret))
    assert f"step: {open_outputs} not secret" in found


def test_a_command_with_secret_outputs_passes() -> None:
    assert said(rules.secret_outputs, command()) == []


@pytest.mark.parametrize("logging", ["stdout", "stderr", "stdoutAndStderr", None])
def test_a_command_that_logs_is_found(logging: str | None) -> None:
    (found,) = said(rules.quiet_commands, command(logging=logging))
    assert "command-logs" in [finding.id for _, finding in rules.quiet_commands([command(logging=logging)])]
    assert "`logging=Logging.NONE`" in found


def uninstall(user: str = "root", **changes: Any) -> Resource:
    """The step as `Host.uninstall` makes it, changed."""
    given = {
        "logging": "stdoutAndStderr",
        "stdin": '{"drain_seconds": 60, "hostname": "smtp.example.test"}',
        "create": commands.locked(commands.NOTHING, 10, user=user),
        "delete": commands.locked(commands.UNINSTALL, 360, user=user),
    }
    return command("smtp.example.test/uninstall", **{**given, **changes})


@pytest.mark.parametrize("user", ["root", "admin"])
def test_a_silent_command_and_the_uninstall_step_pass(user: str) -> None:
    assert said(rules.quiet_commands, command(), command(logging=UNKNOWN), uninstall(user)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"stdin": stdin}
        for stdin in ("", UNKNOWN, "[]", "{}", '{"hostname": "a"}',
                      '{"hostname": "a", "drain_seconds": 1, "token": "b"}')
    ]
    + [{"environment": {"TOKEN": CANARY}}, {"environment": UNKNOWN}]
    + [{key: f"echo {CANARY}"} for key in ("create", "update", "delete")]
    + [{key: UNKNOWN} for key in ("create", "update", "delete")]
    + [{"create": None}, {"delete": None}, {"delete": f"timeout 1 echo {CANARY}; {uninstall().props['delete']}"}],
    ids=str,
)  # fmt: skip
def test_a_step_that_logs_and_differs_from_the_uninstall_step_is_found(changes: dict[str, Any]) -> None:
    assert len(said(rules.quiet_commands, uninstall(**changes))) == 1


@pytest.mark.parametrize("kind", ["Command", "CopyToRemote"])
def test_a_connection_without_a_host_key_is_found(kind: str) -> None:
    for connection in ({"host": "a", "privateKey": CANARY}, {**PINNED, "hostKey": ""}, None):
        trusting = Resource(type=f"command:remote:{kind}", name="step", props={"connection": connection})
        (found,) = said(rules.pinned_hosts, trusting)
        assert "step: a connection without one" in found


@pytest.mark.parametrize(
    "key", [" ", "no", "ssh-ed25519 AAAA", "ecdsa-sha2-nistp256 AAAA", CANARY, {"a": CANARY}], ids=str
)
def test_a_host_key_that_is_none_is_found(key: Any) -> None:
    proxied = {**PINNED, "proxy": {"host": "b", "hostKey": key}}
    (one,) = said(rules.pinned_hosts, command(connection={**PINNED, "hostKey": key}))
    (two,) = said(rules.pinned_hosts, command(connection=proxied))
    assert "step: a connection with one that is no Ed25519 key" in one
    assert "step: a connection's proxy with one that is no Ed25519 key" in two


def test_a_proxy_without_a_host_key_is_found() -> None:
    (found,) = said(rules.pinned_hosts, command(connection={**PINNED, "proxy": {"host": "b", "password": CANARY}}))
    assert "step: a connection's proxy without one" in found


def test_pinned_unknown_and_local_ends_pass() -> None:
    pinned = [
        command(connection={**PINNED, "proxy": {"host": "b", "hostKey": names.EXAMPLE_HOST_KEY}}),
        command(connection=UNKNOWN),
        command(connection={**PINNED, "hostKey": UNKNOWN, "proxy": UNKNOWN}),
        command(kind="local", connection=None),
    ]
    assert said(rules.pinned_hosts, *pinned) == []


# --- TTL --------------------------------------------------------------------------------------------------------------


def test_a_ttl_over_an_hour_is_found_and_cloudflares_automatic_one_passes() -> None:
    assert said(rules.short_ttl, HOST, *(record("A", "a.test", "b", ttl=ttl) for ttl in (1.0, 3600.0, UNKNOWN))) == []
    (found,) = said(rules.short_ttl, record("A", "a.test", "b", ttl=3601.0))
    assert "A a.test: 3601 seconds" in found


# --- how records are read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DNS_RECORD, "cloudflare:index/record:Record"])
def test_a_record_is_read_under_either_name_of_its_type_and_without_white_space(kind: str) -> None:
    first, second = (
        Resource(type=kind, name=name, props={"name": "a.test", "type": "TXT", "content": f' "v=spf1 {name} -all"\n'})
        for name in ("a", "mx")
    )
    assert len(said(rules.one_spf, first, second)) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("B\u00fccher.test.", "xn--bcher-kva.test"),
        ("*.b\u00fccher.test", "*.xn--bcher-kva.test"),
        (" Smtp.Example.test", "smtp.example.test"),
        ("2001:DB8:0::1", "2001:db8::1"),
    ],
)
def test_names_and_addresses_are_compared_in_one_spelling(one: str, other: str) -> None:
    assert host(one) == host(other) == other


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.name)
def test_a_resource_of_another_kind_or_with_odd_values_breaks_no_rule_and_stops_none(rule: Rule) -> None:
    odd: list[Any] = [None, UNKNOWN, 7.0, "", CANARY, [], [CANARY], {"certificates": [CANARY, {"names": CANARY}]}]
    strange = [
        Resource(type="x:y:Z", name="z", props=dict.fromkeys(("name", "type", "content", "ttl", "stdin"), value))
        for value in odd
    ]
    strange += [record("TXT", "a._domainkey.b", value, ttl=value, proxied=value) for value in odd]
    strange += [Resource(type=DNS_RECORD, name="z", props={"name": value, "type": "MX"}) for value in odd]
    strange += [Resource(type=DNS_RECORD, name="z", props={"name": "a", "type": value}) for value in odd]
    strange += [command("a/certificate", stdin=json.dumps(value)) for value in odd if value is not UNKNOWN]
    reported: list[str] = []
    rule.judge(strange, lambda message, _: reported.append(message))
    assert [message for message in reported if "a: 'a' is in none" not in message] == []


def test_a_mistake_in_a_rule_is_told_without_the_value_it_stumbled_over() -> None:
    def find(resources: Sequence[Resource]) -> Iterator[Broken]:
        raise ValueError(resources[0].props["stdin"])

    rule = rules.Rule(name="broken", says="", scope="resource", mandatory=True, find=find)
    with pytest.raises(RuntimeError) as error:
        rule.judge([command("step")], lambda *_: None)
    assert str(error.value) == "the rule broken cannot judge step: ValueError"
    assert error.value.__suppress_context__


def test_a_finding_is_reported_at_its_resource_without_its_severity() -> None:
    (rule,) = (rule for rule in rules.RULES if rule.name == "short-ttl")
    reported: list[tuple[str, str]] = []
    rule.judge([record("A", "a.test", "b", ttl=86400.0)], lambda message, urn: reported.append((message, urn)))
    ((message, urn),) = reported
    assert message.startswith("A a.test: 86400 seconds\n  expected: ")
    assert urn == "urn:a.test"


def test_the_packs_page_lists_every_rule_with_its_level() -> None:
    page = (Path(__file__).parents[3] / "policy" / "README.md").read_text()
    listed = re.findall(r"^\| `([\w-]+)` \| (\w+) \|", page, re.MULTILINE)
    assert listed == [(rule.name, "mandatory" if rule.mandatory else "advisory") for rule in rules.RULES]


def test_the_packs_page_names_the_rules_that_an_up_judges_only_at_its_end() -> None:
    page = (Path(__file__).parents[3] / "policy" / "README.md").read_text()
    (listed,) = re.findall(r"look at all resources together \(([^)]+)\) only at its end", page)
    assert re.findall(r"`([\w-]+)`", listed) == [rule.name for rule in rules.RULES if rule.scope == "stack"]
