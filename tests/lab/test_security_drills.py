"""What docs/security.md tells to do after a theft, done: the thief is left with nothing that opens anything."""

from __future__ import annotations

import os
import secrets
import smtplib
import ssl
import subprocess
from typing import TYPE_CHECKING

import dns.resolver
import pytest

from lab.folders import CHECKOUT
from operations import stacks
from tests.lab.live_run import forget
from tests.lab.program import DOMAIN, HOST, INSTALLED, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.client import Lab, Vps

USER = f"alice@{DOMAIN}"
STOLEN, FRESH = "a-password-the-thief-has-read", "a-password-the-thief-never-saw"


@pytest.fixture(scope="module")
def stolen(lab: Lab) -> Iterator[Vps]:
    """The machine a thief has; the provider stops it."""
    machine = lab.fresh_vps(octet=47, installed=INSTALLED)
    yield machine
    lab.remove_vps(machine)


@pytest.fixture(scope="module")
def stack(lab: Lab, stolen: Vps) -> Iterator[Stack]:
    """A stack that worked on the stolen machine and was moved to a new one, as docs/security.md says."""
    made = Stack(lab, stolen, passwords={USER: STOLEN})
    made.converge()
    stolen.kill9()

    made.vps = lab.fresh_vps(octet=48, installed=INSTALLED)
    made.settings["mailroom:hosts"] = lab.stack_config(made.vps)["mailroom:hosts"]
    made.settings["mailroom:domains"][0]["dkim"] = [{"selector": "m2"}, {"selector": "m1", "stage": "revoked"}]
    made.settings["mailroom:passwords"] = {USER: FRESH}
    made.converge()
    yield made
    forget(made)
    lab.remove_vps(made.vps)


def test_a_new_machine_takes_over_from_a_stolen_one_that_is_never_asked(stack: Stack) -> None:
    status, report = stack.send()
    assert status == 0, report
    assert report["client_ip"] == stack.vps.ipv6
    assert report["dkim"] == [{"selector": "m2", "domain": DOMAIN, "result": "pass"}]


def test_no_record_names_the_stolen_machine_any_more(stack: Stack, stolen: Vps) -> None:
    zone = stack.zone()
    assert ("A", HOST, stack.vps.ipv4) in zone
    assert not [record for record in zone if stolen.ipv4 in record[2] or str(stolen.ipv6) in record[2]]


def test_a_record_the_thief_changed_is_put_right(stack: Stack) -> None:
    (ours,) = (record for record in stack.records() if (record["type"], record["name"]) == ("A", HOST))
    stack.api("PATCH", f"/{ours['id']}", {"content": "192.0.2.66"})
    assert (done := stack.up("--refresh")).returncode == 0, done.stdout
    assert ("A", HOST, stack.vps.ipv4) in stack.zone()
    assert ("A", HOST, "192.0.2.66") not in stack.zone()


def test_the_stolen_signing_key_is_worthless(stack: Stack) -> None:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [stack.lab.plan.resolver.ipv4]
    (answer,) = resolver.resolve(f"m1._domainkey.{DOMAIN}", "TXT")
    assert b"".join(answer.strings).endswith(b"p=")  # RFC 6376 section 3.6.1: the key is taken back


@pytest.mark.parametrize(("password", "is_right"), [(STOLEN, False), (FRESH, True)])
def test_the_password_the_thief_read_opens_nothing(stack: Stack, password: str, *, is_right: bool) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the certificate is another test's subject
    with smtplib.SMTP_SSL(stack.vps.ipv4, 465, context=context, timeout=60) as client:
        if is_right:
            client.login(USER, password)
        else:
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login(USER, password)


def test_a_new_passphrase_locks_the_old_one_out(tmp_path: Path) -> None:
    name, value = "lab-newpassphrase", secrets.token_hex(20)  # git ignores a file of this name
    program, variables = stacks.engine()
    old, new = ({"PULUMI_CONFIG_PASSPHRASE": secrets.token_hex(8)} for _ in range(2))
    common = {**os.environ, **variables, "PULUMI_BACKEND_URL": f"file://{tmp_path}"}

    def pulumi(passphrase: dict[str, str], *arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        command, environment = [program, *arguments, "--stack", name], common | passphrase
        return subprocess.run(
            command, cwd=CHECKOUT, env=environment, input=answer, capture_output=True, text=True, check=False
        )

    settings = CHECKOUT / f"Pulumi.{name}.yaml"
    try:
        assert pulumi(old, "stack", "init").returncode == 0
        assert pulumi(old, "config", "set", "--secret", "cloudflare:apiToken", answer=value).returncode == 0
        told = new["PULUMI_CONFIG_PASSPHRASE"]
        done = pulumi(old, "stack", "change-secrets-provider", "passphrase", answer=told)
        assert done.returncode == 0, done.stderr
        assert pulumi(new, "config", "get", "cloudflare:apiToken").stdout.strip() == value
        refused = pulumi(old, "config", "get", "cloudflare:apiToken")
        assert "incorrect passphrase" in refused.stderr
    finally:
        settings.unlink(missing_ok=True)
