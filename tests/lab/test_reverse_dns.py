"""`pulumi up` sets reverse DNS by the hosting provider's API, and a host takes another name with all that hangs on it.

One VPS and one story: set by Contabo's API, changed by somebody and put right, renamed with Hetzner's, destroyed.
All of it on Debian 13 and by a login that is not root's, as on the images of many providers: sudo gives it the rights.
"""

from __future__ import annotations

import smtplib
import ssl
from typing import TYPE_CHECKING

import dns.reversename
import pytest
from cryptography import x509

from lab.internet import client as internet
from lab.internet.names import CONTABO, HETZNER_TOKEN
from tests.lab.live_run import forget
from tests.lab.program import DOMAIN, HOST, INSTALLED, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Lab

NEW_NAME = f"mail.{DOMAIN}"
OPERATOR = "debian"  # who may do everything by sudo, without a password
CANARIES = (CONTABO["clientSecret"], CONTABO["apiPassword"], HETZNER_TOKEN)


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Iterator[Stack]:
    """A VPS with the reverse DNS it is sold with: the provider's name over IPv4, none over IPv6."""
    vps = lab.fresh_vps(octet=60, suite="trixie", installed=(*INSTALLED, "sudo"))
    plan = lab.plan
    made = Stack(lab, vps, contabo={**CONTABO, "apiUrl": plan.contabo_api, "authUrl": plan.contabo_login})
    made.settings["mailroom:hosts"][0] |= {"reverseDns": {"provider": "contabo"}, "ssh": {"user": OPERATOR}}
    for command in (
        f"useradd -m {OPERATOR} && install -D -o {OPERATOR} -m 600 {{/root,/home/{OPERATOR}}}/.ssh/authorized_keys",
        f"echo '{OPERATOR} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{OPERATOR}",
    ):
        done = vps.ssh(command)
        assert done.returncode == 0, done.stderr
    made.settings["mailroom:drainTimeout"] = 5
    lab.set_ptr(vps.ipv4, "vps60.provider.test")
    lab.dns.delete(owner(str(vps.ipv6)), "PTR")
    yield made
    forget(made)
    lab.remove_vps(vps)


def owner(address: str) -> str:
    return dns.reversename.from_address(address).to_text()


def pointers(stack: Stack) -> list[list[str]]:
    return [stack.lab.dns.get(owner(str(address)), "PTR") for address in (stack.vps.ipv4, stack.vps.ipv6)]


def shows_no_secret(stack: Stack, *texts: str) -> None:
    kept = [path.read_bytes().decode(errors="replace") for path in stack.state_files()]
    assert any('"deployment"' in text or '"checkpoint"' in text for text in kept), "no state was read"
    assert not [canary for canary in CANARIES for text in (*texts, *kept) if canary in text]


def starts(stack: Stack) -> int:
    """How often chasquid was started on the host."""
    counted = stack.vps.ssh("journalctl -u chasquid --no-pager -o cat | grep -c '^Started '")
    return int(counted.stdout)


def test_up_sets_the_pointers_of_both_addresses_by_the_providers_api(stack: Stack) -> None:
    stack.write()
    done = stack.up()
    assert done.returncode == 0, done.stdout
    assert pointers(stack) == [[f"{HOST}."], [f"{HOST}."]]
    assert f"setting reverse DNS of {stack.vps.ipv4} to {HOST} (it is vps60.provider.test)" in done.stdout
    assert f"setting reverse DNS of {stack.vps.ipv6} to {HOST} (it is not set)" in done.stdout
    shows_no_secret(stack, done.stdout)


def test_a_pointer_that_somebody_changed_is_seen_by_a_refresh_and_put_right(stack: Stack) -> None:
    before = starts(stack)
    stack.lab.set_ptr(str(stack.vps.ipv6), "old.example.test")
    done = stack.up("--refresh", "--diff")
    assert done.returncode == 0, done.stdout
    assert pointers(stack) == [[f"{HOST}."], [f"{HOST}."]]
    assert f"setting reverse DNS of {stack.vps.ipv6} to {HOST} (it is old.example.test)" in done.stdout
    assert starts(stack) == before
    shows_no_secret(stack, done.stdout)


def test_another_name_of_the_host_is_one_restart_and_leaves_nothing_of_the_old_one(stack: Stack) -> None:
    before = starts(stack)
    stack.settings["mailroom:hosts"][0] |= {"name": NEW_NAME, "reverseDns": {"provider": "hetzner"}}
    stack.settings["mailroom:hetzner"] = {"token": HETZNER_TOKEN, "apiUrl": stack.lab.plan.hetzner_api}
    del stack.settings["mailroom:contabo"]
    stack.write()
    done = stack.up()
    assert done.returncode == 0, done.stdout
    assert starts(stack) == before + 1
    assert pointers(stack) == [[f"{NEW_NAME}."], [f"{NEW_NAME}."]]
    assert HOST not in " ".join(f"{name} {content}" for _, name, content in stack.zone())
    with smtplib.SMTP(stack.vps.ipv4, 587, local_hostname="client.test", timeout=20) as client:
        assert client.ehlo()[1].startswith(NEW_NAME.encode())
        context = ssl.create_default_context(cadata=internet.acme_roots(stack.lab.plan))
        client._host = NEW_NAME  # type: ignore[attr-defined]  # the name that the certificate is checked for
        client.starttls(context=context)
        served = x509.load_der_x509_certificate(client.sock.getpeercert(binary_form=True))  # type: ignore[union-attr]
    names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NEW_NAME]
    left = stack.vps.ssh(
        f"grep -rlF {HOST} /etc/mailroom/current/ /etc/mailroom/certs; ls -d /etc/mailroom/certs/*{HOST}"
    )
    assert left.stdout == ""
    status, report = stack.send()
    assert status == 0, report
    assert (report["ptr"], report["ehlo"]) == (NEW_NAME, NEW_NAME)


def test_a_destroy_leaves_the_pointers_and_says_so(stack: Stack) -> None:
    done = stack.run("destroy", "--yes", "--skip-preview")
    assert done.returncode == 0, done.stdout
    assert f"the reverse DNS of {stack.vps.ipv4} and {stack.vps.ipv6} stays as it is" in done.stdout
    assert pointers(stack) == [[f"{NEW_NAME}."], [f"{NEW_NAME}."]]
    shows_no_secret(stack, done.stdout)
