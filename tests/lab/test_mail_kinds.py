"""Domains whose mailboxes are elsewhere, domains without mail, and a host that is certified by one of them.

One stack, one run, read at every name server.
"""

from __future__ import annotations

import smtplib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.internet.names import COLLEAGUES_MX, zone_id
from operations import dns as outside
from operations import explain, stacks, status
from tests.lab.consumer import Consumer
from tests.lab.live_run import forget
from tests.lab.program import DOMAIN, HOST, INSTALLED, Stack, deliver
from tests.unit.docs.commands import to_type

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Lab

SILENT = "second.test"
SMOKE = "The application can send mail"
FOREIGN_MX = {"type": "MX", "name": DOMAIN, "content": COLLEAGUES_MX, "priority": 10, "ttl": 300}


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Iterator[Stack]:
    """A domain whose mail somebody else's MX receives, and one that neither sends nor receives; converged."""
    vps = lab.fresh_vps(octet=12, installed=INSTALLED)
    external = {
        "name": DOMAIN,
        "zoneId": zone_id(DOMAIN),
        "mail": "external",
        "mx": [COLLEAGUES_MX],
        "users": [{"name": "alice", "export": True}],
        "dmarc": {"policy": "quarantine"},
    }
    silent = {"name": SILENT, "zoneId": zone_id(SILENT), "mail": "none"}
    made = Stack(lab, vps, domains=[external, silent])
    made.settings["mailroom:acme"]["challengeZone"] = SILENT
    made.settings["mailroom:hosts"][0]["reloadHooks"] = ["echo cannot reload; exit 3"]
    foreign = made.api("POST", body=FOREIGN_MX)
    made.converge()
    yield made
    made.run("destroy", "--yes", "--skip-preview")
    forget(made)
    made.api("DELETE", f"/{foreign['id']}")
    lab.remove_vps(vps)


def everywhere(stack: Stack, name: str, kind: str) -> set[tuple[str, ...]]:
    """The different answers of both name servers."""
    answers = outside.look_everywhere(name, kind, outside.Resolver(stack.lab.plan.resolver.ipv4))
    assert len(answers) == 2
    return {answer.values for answer in answers.values()}


def test_the_host_is_certified_by_a_challenge_in_another_zone(stack: Stack) -> None:
    assert everywhere(stack, f"_acme-challenge.{HOST}", "CNAME") == {(f"_acme-challenge.{HOST}.{SILENT}",)}
    assert "authenticator = manual\n" in stack.vps.ssh(f"cat /etc/letsencrypt/renewal/{HOST}.conf").stdout
    assert everywhere(stack, f"_acme-challenge.{HOST}.{SILENT}", "TXT") == {()}


def test_a_failed_reload_hook_is_shown_and_the_postmaster_hears_of_it(stack: Stack) -> None:
    assert stack.vps.ssh("systemctl start certbot.service").returncode != 0
    notice = stack.lab.wait_message(lambda message: "Certificates" in message["subject"])
    assert f"reload hook 1 of {HOST} ended with 3: cannot reload" in Path(notice["path"]).read_text()
    pictures, _ = status.read(stacks.settings(stack.name))
    (finding,) = [each for each in status.findings(pictures) if each.id == "status.certificates"]
    assert (finding.severity, "ended with 3" in finding.found) == ("warning", True)


def test_mail_of_our_own_user_to_a_mailbox_elsewhere_arrives_there(stack: Stack) -> None:
    bob = f"bob@{DOMAIN}"
    code, report = stack.send("--to", bob)
    assert code == 0, report
    message = stack.lab.wait_message(lambda message: message["rcpt_to"] == [bob])
    assert message["mail_from"] == f"alice@{DOMAIN}"
    assert (message["spf"], message["dmarc"]) == ("pass", "pass")
    assert message["tls"], "the colleagues offer TLS"


def test_a_delivered_message_is_explained_as_it_was_sent(stack: Stack) -> None:
    message = stack.lab.wait_message(lambda message: message["rcpt_to"] == [f"bob@{DOMAIN}"])
    found = explain.read(message["path"]).as_json()
    (leg,) = found["legs"]
    assert (leg["kind"], leg["by"], leg["logged_in"]) == ("submission", HOST, True)
    assert leg["delay_seconds"] is not None
    assert found["subject"] == message["subject"]


def test_a_domain_with_mailboxes_elsewhere_is_sent_for_and_keeps_its_mx(stack: Stack) -> None:
    assert everywhere(stack, DOMAIN, "MX") == {(f"10 {COLLEAGUES_MX}",)}
    assert everywhere(stack, DOMAIN, "TXT") == {(f"v=spf1 include:_spf.{DOMAIN} ~all",)}
    (mx,) = (record for record in stack.records() if record["type"] == "MX")
    assert mx["comment"] is None


def test_the_receiver_trusts_mail_of_a_domain_with_mailboxes_elsewhere(stack: Stack) -> None:
    code, report = stack.send()
    assert code == 0, report


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        (SILENT, "MX", "0 ."),
        (SILENT, "TXT", "v=spf1 -all"),
        (f"_dmarc.{SILENT}", "TXT", "v=DMARC1; p=reject"),
        (f"m1._domainkey.{SILENT}", "TXT", None),
    ],
)
def test_a_domain_without_mail_says_so_at_every_name_server(
    stack: Stack, name: str, kind: str, value: str | None
) -> None:
    assert everywhere(stack, name, kind) == {(value,) if value else ()}


def test_a_forged_message_is_treated_as_the_published_policy_asks(stack: Stack) -> None:
    lab = stack.lab
    deliver(lab, lab.plan.receiver.ipv4, f"alice@{DOMAIN}", "forged and quarantined")
    verdict = lab.wait_message(lambda message: message["subject"] == "forged and quarantined")
    assert (verdict["dmarc"], verdict["dmarc_policy"]) == ("fail", "quarantine")
    with pytest.raises(smtplib.SMTPDataError, match="DMARC"):
        deliver(lab, lab.plan.receiver.ipv4, f"alice@{SILENT}", "forged and turned away")


def test_the_mail_server_does_not_take_mail_for_a_domain_without_mail(stack: Stack) -> None:
    served = stack.vps.ssh("ls /etc/mailroom/current/domains").stdout.split()
    assert served == [DOMAIN, "probe.invalid"]


def test_another_stack_sends_mail_by_the_outputs_as_documented(stack: Stack) -> None:
    password = stack.settings["mailroom:passwords"][f"alice@{DOMAIN}"]
    with Consumer(stack) as consumer:
        blocks = to_type("docs/outputs.md", __file__)
        asked, as_stack, as_file, anew = ([consumer.here(line) for line in block] for block in blocks)
        assert HOST in consumer.run(asked[0], passphrase=None), "no passphrase is needed"
        assert '"passwords": "[secret]"' in consumer.run(asked[1], passphrase=None)

        for command in as_stack:
            if command.endswith("password"):
                refused = consumer.run("pulumi preview", fails=True)
                assert f"no password of alice@{DOMAIN} can be read there" in refused
            consumer.run(command, stdin=password)
        env = consumer.folder / ".env"
        written = env.read_text()
        assert env.stat().st_mode & 0o777 == 0o600
        assert f"SMTP_HOST='{HOST}'\nSMTP_PORT='465'\n" in written
        assert f"SMTP_PASSWORD='{password}'\n" in written
        stack.lab.wait_message(lambda message: message["subject"] == SMOKE)

        for command in as_file:
            consumer.run(command)
        assert len([message for message in stack.lab.messages() if message["subject"] == SMOKE]) == 1, "nothing changed"
        assert env.read_text() == written
        assert password not in consumer.said

        env.unlink()
        for command in anew:
            consumer.run(command)
        assert env.read_text() == written

        outputs = consumer.folder / "outputs.json"
        outputs.write_text(outputs.read_text().replace('"outputsVersion": 1', '"outputsVersion": 2'))
        refused = consumer.run("pulumi preview", fails=True)
        assert "outputs.json: its outputs have version 2" in refused
        assert "this program knows version 1" in refused

        consumer.run(consumer.here("pulumi destroy"))
        assert not env.exists()
        clear = [path for path in stack.state_files() if password in path.read_bytes().decode(errors="replace")]
        assert clear == []


def test_a_stack_with_the_mail_stacks_own_passphrase_reads_the_exported_password(stack: Stack) -> None:
    with Consumer(stack) as consumer:
        values = {"mailStack": f"organization/mailroom/{stack.name}", "user": f"alice@{DOMAIN}"}
        words = " ".join(f"--plaintext {key}={value}" for key, value in values.items())
        for command in ("pulumi stack init shared", f"pulumi config set-all {words}", "pulumi preview"):
            consumer.run(command, passphrase=consumer.theirs)
        password = stack.settings["mailroom:passwords"][f"alice@{DOMAIN}"]
        assert "local:Command" in consumer.said
        assert password not in consumer.said


def test_a_destroy_leaves_the_mx_of_others(stack: Stack) -> None:
    done = stack.run("destroy", "--yes", "--skip-preview")
    assert done.returncode == 0, done.stdout
    assert [(record["type"], record["content"]) for record in stack.records()] == [("MX", COLLEAGUES_MX)]
