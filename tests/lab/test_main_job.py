"""The main job against real parts: a bare VPS becomes a trusted sender, stays so, and goes without a trace.

The tests of this file tell one story in order: each goes on where the one before it ended.
"""

from __future__ import annotations

import json
import re
import smtplib
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import checkdmarc.dmarc
import checkdmarc.spf
import pytest
import yaml

from tests.lab.program import DOMAIN, HOST, ProcessWatch, Stack
from tests.lab.typist import Typist
from tests.unit.docs.commands import to_type
from tests.unit.docs.pages import everywhere

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.client import Lab

FOREIGN = [
    {"type": "TXT", "name": DOMAIN, "content": '"site-verification=of-somebody-else"', "ttl": 300},
    {"type": "A", "name": f"www.{DOMAIN}", "content": "198.51.100.80", "ttl": 300},
    {"type": "CNAME", "name": DOMAIN, "content": "website.receiver.test", "ttl": 300},  # as website services want it
    {"type": "MX", "name": f"lists.{DOMAIN}", "content": "mx.colleagues.test", "priority": 10, "ttl": 300},
]
PASSWORD = "CANARY-password-of-alice"


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Iterator[Stack]:
    """A bare VPS, a zone that holds other people's records, and reverse DNS set at the provider."""
    vps = lab.fresh_vps(octet=10)
    made = Stack(lab, vps, passwords={f"alice@{DOMAIN}": PASSWORD}, protect=True)
    foreign = [made.api("POST", body=record) for record in FOREIGN]
    made.point_back()
    made.write()
    yield made
    for record in foreign:
        made.api("DELETE", f"/{record['id']}")
    made.discard()
    lab.remove_vps(vps)


@pytest.fixture(scope="module")
def canaries(stack: Stack) -> list[str]:
    """Text that must be found nowhere."""
    acme = stack.settings["mailroom:acme"]["token"]
    key_line = stack.settings["mailroom:sshPrivateKey"].splitlines()[1]
    return [PASSWORD, acme, stack.settings["cloudflare:apiToken"], key_line]


@pytest.fixture(scope="module")
def story() -> dict[str, Any]:
    """What one test tells the next."""
    return {}


def test_a_preview_before_the_first_run_shows_no_secret(stack: Stack, canaries: list[str]) -> None:
    shown = stack.run("preview", "--diff")
    assert shown.returncode == 0, shown.stdout
    assert "alice@receiver.test" in shown.stdout, "a reviewer must see the aliases"
    assert not [canary for canary in canaries if canary in shown.stdout]


def test_up_converges_a_bare_vps_and_shows_no_secret_to_other_processes(
    stack: Stack, canaries: list[str], story: dict[str, Any]
) -> None:
    assert stack.vps.ssh("command -v chasquid certbot postfix exim4").stdout == ""
    story["zone before"] = stack.zone()
    with ProcessWatch(canaries) as watch:
        done = stack.up()
    assert done.returncode == 0, done.stdout
    assert not watch.seen
    assert not [canary for canary in canaries if canary in done.stdout]


@pytest.mark.parametrize("port", ["465", "587"])
def test_the_receiver_trusts_what_it_sends(stack: Stack, port: str) -> None:
    status, report = stack.send("--port", port)
    assert status == 0, report
    assert (report["spf"], report["dmarc"]) == ("pass", "pass")
    assert report["dkim"] == [{"selector": "m1", "domain": DOMAIN, "result": "pass"}]
    assert report["tls"]["version"] in {"TLSv1.2", "TLSv1.3"}
    assert report["verified"] is True
    assert report["client_ip"] == stack.vps.ipv6
    assert (report["ptr"], report["ehlo"]) == (HOST, HOST)


def test_every_delivery_is_recorded_so_that_a_restart_sends_nothing_twice(stack: Stack) -> None:
    said = stack.vps.ssh("journalctl -u chasquid --no-pager | grep -iE 'failed to write|operation not permitted'")
    assert said.stdout == ""


def test_independent_readers_accept_the_published_records(stack: Stack) -> None:
    servers = [stack.lab.plan.resolver.ipv4]
    spf = checkdmarc.spf.check_spf(DOMAIN, nameservers=servers)
    assert spf["valid"], spf
    assert spf["dns_lookups"] == 1
    dmarc = checkdmarc.dmarc.query_dmarc_record(DOMAIN, nameservers=servers)
    assert dmarc["record"].startswith("v=DMARC1; p=")


def test_a_second_preview_is_empty_breaks_no_policy_and_reaches_nobody(stack: Stack) -> None:
    shown = stack.preview_alone("--expect-no-changes", "--policy-pack", "policy")
    assert shown.returncode == 0, shown.stdout
    assert "\u2705 mailroom@" in shown.stdout, shown.stdout


def test_a_preview_of_a_change_to_host_and_zone_reaches_nobody_either(stack: Stack) -> None:
    written = stack.file.read_text()
    settings = yaml.safe_load(written)
    (domain,) = settings["config"]["mailroom:domains"]
    domain |= {"aliases": {**domain["aliases"], "sales": ["alice@receiver.test"]}, "dmarc": {"policy": "quarantine"}}
    stack.file.write_text(yaml.safe_dump(settings))
    shown = stack.preview_alone("--diff")
    stack.file.write_text(written)
    assert shown.returncode == 0, shown.stdout
    assert "sales: alice@receiver.test" in shown.stdout, shown.stdout
    assert "v=DMARC1; p=quarantine" in shown.stdout, shown.stdout


def test_a_refresh_finds_no_difference(stack: Stack) -> None:
    done = stack.up("--refresh", "--expect-no-changes")
    assert done.returncode == 0, done.stdout


def test_other_peoples_records_are_as_they_were(stack: Stack, story: dict[str, Any]) -> None:
    assert set(story["zone before"]) <= set(stack.zone())


def test_no_secret_stands_in_the_state_in_clear(stack: Stack, canaries: list[str]) -> None:
    texts = {path: path.read_bytes().decode(errors="replace") for path in stack.state_files()}
    assert any('"deployment"' in text or '"checkpoint"' in text for text in texts.values()), "no state was read"
    # A key with its first bytes: the host's own code names the line a key begins with.
    needles = [*map(re.escape, canaries), r"BEGIN PRIVATE KEY-----\W+n\w{16}", "scrypt:"]
    found = [(path, needle) for path, text in texts.items() for needle in needles if re.search(needle, text)]
    assert not found


def test_the_zone_token_never_reached_the_host_and_no_secret_is_readable_or_logged_there(
    stack: Stack, canaries: list[str]
) -> None:
    token = stack.settings["cloudflare:apiToken"]
    roots = " ".join(
        f"{stack.vps.root}/{folder}" for folder in ("etc", "var", "usr/local", "root", "home", "run", "tmp")
    )
    everywhere = subprocess.run(
        ["sh", "-c", f"grep -rlF -e '{token}' -e '{PASSWORD}' {roots}"], capture_output=True, text=True, check=False
    )
    assert everywhere.stdout == ""
    patterns = " ".join(f"-e '{canary}'" for canary in canaries)
    readable = stack.vps.ssh(
        f"find /etc /var /usr/local /tmp /run -xdev -type f -perm /o=r -exec grep -lF {patterns} {{}} +", timeout=120
    )
    assert readable.stdout == ""
    journal = stack.vps.ssh(f"journalctl --no-pager | grep -F {patterns}")
    assert journal.stdout == ""


def test_secret_files_are_readable_for_root_and_the_service_alone(stack: Stack) -> None:
    listed = stack.vps.ssh(
        "find -L /etc/mailroom/current/domains /etc/mailroom/certs /etc/mailroom/staged/secret "
        "/etc/letsencrypt/mailroom -type f -perm /o=rwx"
    )
    assert listed.stdout == ""
    as_nobody = stack.vps.ssh("setpriv --reuid=65534 --clear-groups cat /etc/mailroom/current/domains/*/users")
    assert as_nobody.returncode != 0


def test_outputs_tell_how_to_send_and_hold_no_password(stack: Stack) -> None:
    outputs = stack.outputs()
    assert outputs["submissionHost"] == HOST
    assert outputs["users"] == [f"alice@{DOMAIN}"]
    assert outputs["gmail"][0]["smtpServer"] == HOST
    assert all(record["reason"] for record in outputs["records"])
    assert PASSWORD not in json.dumps(outputs)
    assert "passwords" not in outputs


def login(stack: Stack, password: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the certificate is another test's subject
    with smtplib.SMTP_SSL(stack.vps.ipv4, 465, context=context, timeout=20) as client:
        client.login(f"alice@{DOMAIN}", password)


def test_a_changed_password_works_at_once_without_a_restart(stack: Stack, story: dict[str, Any]) -> None:
    process = stack.vps.ssh("systemctl show -p MainPID --value chasquid").stdout
    story["password"] = "CANARY-second-password"
    stack.settings["mailroom:passwords"] = {f"alice@{DOMAIN}": story["password"]}
    stack.write()
    done = stack.up()
    assert done.returncode == 0, done.stdout
    login(stack, story["password"])
    with pytest.raises(smtplib.SMTPAuthenticationError):
        login(stack, PASSWORD)
    assert stack.vps.ssh("systemctl show -p MainPID --value chasquid").stdout == process


def test_mail_works_again_after_a_reboot_with_nobody_there(stack: Stack) -> None:
    stack.vps.reboot()
    waited = stack.vps.ssh("for i in $(seq 100); do ss -ltn | grep -q ':465 ' && exit 0; sleep 0.2; done; exit 1")
    assert waited.returncode == 0
    status, report = stack.send()
    assert status == 0, report


def test_a_destroy_of_a_protected_stack_is_refused_before_anything_is_deleted(stack: Stack) -> None:
    before = stack.zone()
    done = stack.run("destroy", "--yes", "--skip-preview")
    assert done.returncode != 0, done.stdout
    assert "pulumi state unprotect" in done.stdout
    assert stack.zone() == before
    assert stack.vps.ssh("systemctl is-active chasquid").stdout.strip() == "active"


def test_destroy_leaves_the_zone_as_it_was_and_keeps_what_must_not_be_lost(stack: Stack, story: dict[str, Any]) -> None:
    assert stack.run("state", "unprotect", "--all", "--yes").returncode == 0
    done = stack.run("destroy", "--yes", "--skip-preview")
    assert done.returncode == 0, done.stdout
    assert stack.zone() == story["zone before"]
    ours = "/etc/mailroom /etc/mailroom-host /usr/local/lib/mailroom /etc/systemd/system/mailroom-*"
    gone = stack.vps.ssh(f"systemctl is-active chasquid; nft list table inet mailroom; ls -d {ours}")
    assert gone.stdout.strip() == "inactive"
    kept = stack.vps.ssh("ls -d /var/lib/chasquid /etc/letsencrypt/live/smtp.example.test /etc/letsencrypt/accounts")
    assert kept.returncode == 0, kept.stderr


def test_up_works_again_after_a_destroy(stack: Stack) -> None:
    done = stack.up()
    assert done.returncode == 0, done.stdout
    status, report = stack.send()
    assert status == 0, report


# What the pages tell people to type on the host; what it does there comes before what shows it.
TYPED = [*everywhere("systemctl ", "timedatectl "), *everywhere("journalctl ", "ssh-keygen ", "cat ")]


def test_every_command_of_the_operations_page_works_as_it_is_written(
    stack: Stack, canaries: list[str], tmp_path: Path, story: dict[str, Any]
) -> None:
    on_the_host = {line: stack.vps.ssh(line) for line in TYPED}
    assert [line for line, done in on_the_host.items() if done.returncode != 0] == []
    assert [line for line, done in on_the_host.items() if "-- No entries --" in done.stdout] == []
    typist = Typist(stack, tmp_path)
    lines = [line for block in to_type("docs/operations.md", __file__) for line in block]
    for line in lines:
        typist.type(line)
    assert [line for line, _ in typist.said] == lines
    told = "\n".join([*(said for _, said in typist.said), *(done.stdout for done in on_the_host.values())])
    assert [canary for canary in canaries if canary in told] == []
    assert stack.zone() == story["zone before"], "the last commands take everything away"
    assert not stack.file.exists()
