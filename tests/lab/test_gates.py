"""Bad input stops the run before any change, with what is wrong and what to do; name servers that lag are waited for.

One VPS and one zone: the tests up to the PTR ones leave both untouched, the last ones go on where those stopped.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import dns.reversename
import pytest

from lab.internet import client as internet
from lab.internet.names import zone_id
from tests.lab.live_run import LiveRun, forget
from tests.lab.program import DOMAIN, HOST, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.client import Lab

LAG_SECONDS = 3600
# As a provider's firewall does it: the host itself sees nothing of it.
CLOSED_OUTSIDE = """
table inet provider {
  chain input {
    type filter hook input priority 0
    iifname != "lo" meta nfproto ipv6 tcp dport 465 drop
  }
}
"""
KEY_NAME = f"m1._domainkey.{DOMAIN}"
PASSWORD = "CANARY-password-of-nobody"


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Iterator[Stack]:
    vps = lab.fresh_vps(octet=11)
    made = Stack(lab, vps)
    for address in addresses(made):
        lab.dns.delete(pointer(address), "PTR")
    yield made
    lab.lag(0)
    forget(made)
    lab.remove_vps(vps)


@pytest.fixture
def settings(stack: Stack) -> Iterator[dict[str, Any]]:
    """The stack's settings, for one test to spoil."""
    good = copy.deepcopy(stack.settings)
    yield stack.settings
    stack.settings = good


def addresses(stack: Stack) -> list[str]:
    return [stack.vps.ipv4, str(stack.vps.ipv6)]


def pointer(address: str) -> str:
    return dns.reversename.from_address(address).to_text()


def stopped(stack: Stack, command: str = "up") -> str:
    """What a run says that must end in the gates, having written nothing anywhere."""
    stack.write()
    before, asked = stack.zone(), len(internet.requests(stack.lab.plan))
    done = stack.up() if command == "up" else stack.run(command)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    assert stack.zone() == before
    log = internet.requests(stack.lab.plan)[asked:]
    assert not [entry for entry in log if entry["method"] != "GET"]
    assert not (stack.vps.root / "etc/mailroom").exists()
    assert not (stack.vps.root / "usr/local/lib/mailroom").exists()
    return done.stdout


def says(text: str, *parts: str) -> None:
    missing = [part for part in parts if part not in text]
    assert not missing, f"{missing} not in:\n{text}"


def test_mistakes_in_the_settings_are_told_all_at_once_without_secrets(stack: Stack, settings: dict[str, Any]) -> None:
    host, domain = settings["mailroom:hosts"][0], settings["mailroom:domains"][0]
    host["ipv4"] = "198.51.100.300"
    del host["hostKey"]
    domain["aliases"] = {"alice": ["no address"]}
    domain["certificat"] = "wildcard"
    settings["mailroom:propagationTimeOut"] = 30
    settings["mailroom:passwords"] |= {"eve@unlisted.test": PASSWORD}
    settings["mailroom:acme"]["token"] = settings["cloudflare:apiToken"]
    text = stopped(stack, "preview")
    says(
        text,
        "nothing was changed",
        "mailroom:hosts[0].ipv4",
        "mailroom:hosts[0].hostKey: it is missing",
        "fix: `scripts/preflight.py ADDRESS --wait --pin` writes it",
        "mailroom:domains[0].aliases.alice",
        "mailroom:domains[0].certificat: there is no setting",
        "fix: write certificate",
        "mailroom:propagationTimeOut: there is no setting",
        "fix: write mailroom:propagationTimeout",
        'mailroom:passwords["eve@unlisted.test"]: unlisted.test is not a listed domain',
        "mailroom:acme.token: it is the same token as cloudflare:apiToken",
    )
    assert PASSWORD not in text
    assert settings["cloudflare:apiToken"] not in text


@pytest.mark.parametrize(
    ("wrong", "found"),
    [(zone_id("second.test"), "is the zone of second.test"), ("0" * 32, "this token sees no such zone")],
    ids=["of another domain", "of no zone"],
)
def test_a_wrong_zone_id_stops_the_run(stack: Stack, settings: dict[str, Any], wrong: str, found: str) -> None:
    settings["mailroom:domains"][0]["zoneId"] = wrong
    says(stopped(stack), f"mailroom:domains[{DOMAIN}].zoneId: {wrong}", found, "fix: copy the Zone ID")


def test_a_token_that_the_api_refuses_stops_the_run_and_is_not_shown(stack: Stack, settings: dict[str, Any]) -> None:
    settings["cloudflare:apiToken"] = "CANARY-token-that-opens-nothing-000000001"
    text = stopped(stack)
    says(text, "cloudflare:apiToken: the API refuses it for zone", "-s STACK --secret cloudflare:apiToken")
    assert settings["cloudflare:apiToken"] not in text


def test_records_of_others_at_our_names_stop_the_run_and_each_is_named_with_the_ways_on(stack: Stack) -> None:
    foreign = [
        {"type": "MX", "name": DOMAIN, "content": "mx.receiver.test", "priority": 10, "ttl": 300},
        {"type": "A", "name": HOST, "content": "198.51.100.80", "ttl": 300},
        {"type": "CNAME", "name": f"_dmarc.{DOMAIN}", "content": "dmarc.receiver.test", "ttl": 300},
        {"type": "TXT", "name": KEY_NAME, "content": '"v=DKIM1; p="', "ttl": 300, "comment": "x mailroom:other"},
        {"type": "TXT", "name": f"_spf.{DOMAIN}", "content": '"v=spf1 mx -all"', "ttl": 300},
    ]
    made = [stack.api("POST", body=record) for record in foreign]
    internet.email_routing(stack.lab.plan, DOMAIN, enabled=True)  # MX records and SPF, locked
    try:
        text = stopped(stack)
    finally:
        internet.email_routing(stack.lab.plan, DOMAIN, enabled=False)
        for record in made:
            stack.api("DELETE", f"/{record['id']}")
    says(
        text,
        *(f"(id {record['id']})" for record in made),
        f"A {HOST} '198.51.100.80'",
        f"CNAME _dmarc.{DOMAIN} 'dmarc.receiver.test'",
        "it belongs to the stack 'other'",
        f"TXT _spf.{DOMAIN}",
        f"MX {DOMAIN} '18 route1.mx.cloudflare.net'",
        "v=spf1 include:_spf.mx.cloudflare.net ~all",
        "Email > Email Routing > Settings",
        "set `mail: external`",
        f"take it over: `scripts/adopt.py --stack {stack.name}`",
    )


def test_another_host_key_stops_the_run_and_the_offered_one_is_shown(stack: Stack, settings: dict[str, Any]) -> None:
    key = stack.vps.root / "etc/ssh/ssh_host_ed25519_key.pub"
    pinned = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEDz0DBHtHWOAPPLuK8zrDDPQnWIIyMPvXqsEmwWbQkB"
    settings["mailroom:hosts"][0]["hostKey"] = pinned
    offered = " ".join(key.read_text().split()[:2])
    says(
        stopped(stack), stack.vps.ipv4, "host key SHA256:", "compare with `ssh-keygen -lf", f"set hostKey to: {offered}"
    )


def test_a_refused_login_stops_the_run(stack: Stack, settings: dict[str, Any], tmp_path: Path) -> None:
    import asyncssh

    stranger = asyncssh.generate_private_key("ssh-ed25519")
    settings["mailroom:sshPrivateKey"] = stranger.export_private_key().decode()
    text = stopped(stack)
    says(text, "the host refuses root", stranger.get_fingerprint(), "~root/.ssh/authorized_keys")
    assert settings["mailroom:sshPrivateKey"].splitlines()[2] not in text


def test_a_host_that_never_answers_stops_the_run(stack: Stack, settings: dict[str, Any]) -> None:
    address = stack.lab.plan.address(99).ipv4
    settings["mailroom:hosts"][0] |= {"ipv4": address}
    says(stopped(stack), f"no answer from {address}:22", "check in the provider's console that the machine runs")


def test_an_operating_system_nobody_tested_stops_the_run(stack: Stack) -> None:
    file = stack.vps.root / "usr/lib/os-release"
    real = file.read_text()
    file.write_text('ID=debian\nVERSION_ID="11"\nPRETTY_NAME="Debian GNU/Linux 11 (bullseye)"\n')
    try:
        text = stopped(stack)
    finally:
        file.write_text(real)
    says(
        text, f"{HOST} ({stack.vps.ipv4}): runs Debian GNU/Linux 11 (bullseye)", "Debian 12", "fix: reinstall the host"
    )


def attracts_no_mail(stack: Stack) -> None:
    published = {(kind, name) for kind, name, _ in stack.zone()}
    assert {("A", HOST), ("AAAA", HOST)} <= published
    assert ("MX", DOMAIN) not in published
    assert ("TXT", f"_dmarc.{DOMAIN}") not in published
    assert stack.vps.ssh("systemctl is-active chasquid").stdout.strip() != "active"


def test_reverse_dns_that_is_missing_or_another_stops_the_run_before_it_attracts_mail(stack: Stack) -> None:
    ipv4, ipv6 = addresses(stack)
    stack.lab.set_ptr(ipv6, "vps11.provider.test")
    stack.write()
    done = stack.up()
    assert done.returncode != 0
    assert "Traceback" not in done.stdout, done.stdout
    says(
        done.stdout,
        f"{ipv4}: no PTR record",
        f"expected: {pointer(ipv4)} PTR {HOST}.",
        f"set the reverse DNS (PTR) of {ipv4} to {HOST} in the hosting provider's panel or API",
        f"{ipv6}: PTR vps11.provider.test",
        f"expected: {pointer(ipv6)} PTR {HOST}.",
    )
    attracts_no_mail(stack)


def test_two_names_for_an_address_stop_the_run(stack: Stack) -> None:
    ipv4, ipv6 = addresses(stack)
    stack.lab.set_ptr(ipv6, HOST)
    stack.lab.dns.set(pointer(ipv4), "PTR", [f"{HOST}.", "vps11.provider.test."])
    done = stack.up()
    assert done.returncode != 0
    says(done.stdout, f"{ipv4}: 2 PTR records", f"remove every other reverse DNS name of {ipv4}")
    attracts_no_mail(stack)


def has_key(stack: Stack) -> bool:
    return any((stack.vps.root / "etc/mailroom").rglob("dkim:*"))


def test_a_name_server_that_stays_behind_is_named_when_time_is_out(stack: Stack) -> None:
    stack.point_back()
    stack.lab.lag(LAG_SECONDS)
    stack.settings["mailroom:domains"][0]["dkim"] = [{"selector": "m2"}]
    stack.settings["mailroom:propagationTimeout"] = 3
    stack.write()
    done = stack.up()
    assert done.returncode != 0
    assert "Traceback" not in done.stdout, done.stdout
    record = f"m2._domainkey.{DOMAIN} TXT at"
    says(done.stdout, f"{record} ns2.lab.test", "mailroom:propagationTimeout", "run again when it has caught up")
    assert f"{record} ns1.lab.test" not in done.stdout
    assert not has_key(stack)
    attracts_no_mail(stack)


@pytest.fixture(scope="module")
def ended() -> list[str]:
    """What the run said that found the ports closed."""
    return []


def test_the_host_gets_its_dkim_key_only_when_every_name_server_shows_it(stack: Stack, ended: list[str]) -> None:
    del stack.settings["mailroom:propagationTimeout"]
    stack.write()
    with LiveRun(stack) as run:
        run.wait_for(f"waiting for m2._domainkey.{DOMAIN} TXT at ns2.lab.test")  # it says what it waits for
        assert not has_key(stack)
        attracts_no_mail(stack)
        stack.vps.ssh("nft -f -", CLOSED_OUTSIDE)
        stack.lab.lag(0)
        assert run.finish() != 0, run.output
    assert has_key(stack)
    ended.append(run.output)


def test_mail_ports_that_are_closed_outside_stop_the_run_before_it_attracts_mail(
    stack: Stack, ended: list[str]
) -> None:
    says(
        ended[0],
        f"{HOST}, incoming mail ports at {stack.vps.ipv6}: 465 (users' mail programs): silent",
        "fix: open ports 25, 465 and 587",
        "nothing was published that attracts mail",
    )
    assert f"incoming mail ports at {stack.vps.ipv4}" not in ended[0]
    assert stack.vps.ssh("systemctl is-active chasquid").stdout.strip() == "active"
    assert ("MX", DOMAIN) not in {(kind, name) for kind, name, _ in stack.zone()}
    assert stack.vps.ssh("nft delete table inet provider").returncode == 0
    stack.converge()
    assert ("MX", DOMAIN) in {(kind, name) for kind, name, _ in stack.zone()}
