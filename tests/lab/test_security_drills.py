"""What docs/security.md tells to do after a theft, done: the thief is left with nothing that opens anything."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import smtplib
import ssl
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dns.resolver
import pytest

from lab.folders import CHECKOUT
from lab.shell import wait_until
from operations import stacks
from operations.backup import age, archive, signature
from tests.lab.live_run import forget
from tests.lab.program import DOMAIN, HOST, INSTALLED, Stack
from tests.lab.typist import Typist
from tests.unit.docs.commands import to_type

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.client import Lab, Vps

USER = f"alice@{DOMAIN}"
WAITING = "It waited on the lost machine"
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


# --- a lost host, and a lost operator's machine, from a backup ---------------------------------------------------


@dataclass
class Lost:
    """What there was before the host was given back, and what the restore said."""

    place: Path
    identity: Path
    certificate: str
    records: list[tuple[str, str, str]]
    status: dict[str, Any]
    taken: dict[str, Any]
    state: dict[str, Any]
    said: subprocess.CompletedProcess[str] | None = None


def script(name: str, *arguments: str, folder: Path = CHECKOUT, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"scripts.{name}", *arguments]
    return subprocess.run(
        command, cwd=folder, env=os.environ | env, capture_output=True, text=True, check=False, timeout=180
    )


def status_of(stack: Stack) -> dict[str, Any]:
    return dict(json.loads(script("status", "--stack", stack.name, "--json").stdout)["hosts"][HOST])


def send_to_nowhere(stack: Stack) -> None:
    """Hand in a message that has to wait: the host has no way to its receiver."""
    receivers = stack.lab.plan.receiver
    done = stack.vps.ssh(f"ip route add blackhole {receivers.ipv4} && ip -6 route add blackhole {receivers.ipv6}")
    assert done.returncode == 0, done.stderr
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP_SSL(stack.vps.ipv4, 465, context=context, timeout=60) as client:
        client.login(USER, FRESH)
        receiver = stack.lab.status["receiver"]
        client.sendmail(USER, [receiver], f"From: {USER}\r\nTo: {receiver}\r\nSubject: {WAITING}\r\n\r\nx\r\n")
    assert wait_until(lambda: status_of(stack)["queue"]["length"] == 1, timeout=10)


@pytest.fixture(scope="module")
def lost(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Lost:
    """The stack on a new machine at the old one's address: backed up, given back, ordered, restored, converged."""
    folder = tmp_path_factory.mktemp("lost")
    place, identity = folder / "place", folder / "identity"
    place.mkdir()
    made = subprocess.run(["age-keygen", "-o", identity], capture_output=True, text=True, check=True)
    recipient = made.stderr.removeprefix("Public key: ").strip()
    send_to_nowhere(stack)
    assert script("suspend", "--stack", stack.name, USER, "--reason", "drill").returncode == 0
    taken = script("backup", "--stack", stack.name, "--to", str(place), "--recipient", recipient, "--json")
    assert taken.returncode == 0, taken.stderr
    state = json.loads(stack.run("stack", "export", "--show-secrets").stdout)
    certificate = ssl.get_server_certificate((stack.vps.ipv4, 465))
    before = Lost(place, identity, certificate, stack.zone(), status_of(stack), json.loads(taken.stdout), state)

    stack.lab.remove_vps(stack.vps)
    stack.vps = stack.lab.fresh_vps(octet=48, installed=INSTALLED)
    stack.settings["mailroom:hosts"] = stack.lab.stack_config(stack.vps)["mailroom:hosts"]
    stack.write()
    before.said = script("restore", "--stack", stack.name, "--from", str(place), "--identity", str(identity))
    stack.converge()
    return before


def test_a_backup_holds_nothing_in_plain_text(stack: Stack, lost: Lost) -> None:
    secret = stack.vps.ssh(f"cat /etc/letsencrypt/live/{HOST}/privkey.pem").stdout.splitlines()[1]
    files = [path for path in lost.place.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"manifest.json", "stack.age", f"host-{HOST}.age"}
    assert secret
    assert not [path for path in files if secret.encode() in path.read_bytes() or FRESH.encode() in path.read_bytes()]


def test_a_new_machine_serves_the_certificate_and_the_keys_of_the_lost_one(stack: Stack, lost: Lost) -> None:
    assert lost.said
    assert lost.said.returncode in {0, 1}, lost.said.stderr
    assert f"restored {HOST}: certificate {HOST}" in lost.said.stdout
    assert "comes from a backup" not in lost.said.stdout  # all that certbot had written is known to be harmless
    assert ssl.get_server_certificate((stack.vps.ipv4, 465)) == lost.certificate
    assert stack.zone() == lost.records


def test_mail_that_waited_on_the_lost_machine_is_delivered_by_the_new_one(stack: Stack, lost: Lost) -> None:
    message = stack.lab.wait_message(lambda message: message["subject"] == WAITING, timeout=30)
    assert [(one["selector"], one["result"]) for one in message["dkim"]] == [("m2", "pass")]


def test_what_was_counted_and_who_was_stopped_is_known_to_the_new_machine(stack: Stack, lost: Lost) -> None:
    now = status_of(stack)
    assert now["suspended"] == lost.status["suspended"] != []
    assert now["usage"][USER]["day"] == lost.status["usage"][USER]["day"]
    assert now["usage"][USER]["day"][0] > 0


def test_a_second_restore_changes_nothing_and_sends_nothing_twice(stack: Stack, lost: Lost) -> None:
    assert script("suspend", "--stack", stack.name, USER, "--lift").returncode == 0
    again = script("restore", "--stack", stack.name, "--from", str(lost.place), "--identity", str(lost.identity))
    assert "restored" not in again.stdout, again.stdout
    assert again.returncode == 1, again.stderr
    assert status_of(stack)["suspended"] == []
    assert len([message for message in stack.lab.messages() if message["subject"] == WAITING]) == 1


def forge(stack: Stack, lost: Lost, place: Path) -> None:
    """A whole, newer backup by somebody who has an old one and the recipient, and signs with a key of their own."""
    forged = place / f"{stack.name}-20990101T000000Z"
    shutil.copytree(lost.place / lost.taken["backup"], forged)
    recipient = subprocess.run(["age-keygen", "-y", lost.identity], capture_output=True, text=True, check=True)
    value = json.loads((forged / archive.MANIFEST).read_text()) | {"taken": "2099-01-01T00:00:00+00:00"}
    (forged / archive.MANIFEST).write_text(json.dumps(value))
    sealed = archive.Sealed(archive.Manifest.parse(value, "forged"), "config: {}", "{}", "a guess")
    (forged / archive.STACK).unlink()
    with age.encrypting(forged / archive.STACK, [recipient.stdout.strip()]) as stream:
        stream.write(signature.sign(sealed.text().encode(), signature.key_of("a guess", stack.name)))


def test_a_forged_backup_is_refused_and_the_host_stays_as_it_is(stack: Stack, lost: Lost, tmp_path: Path) -> None:
    forge(stack, lost, tmp_path)
    folders = "/etc/letsencrypt /etc/mailroom /var/lib/chasquid/queue /var/lib/mailroom-restored"
    look = f"find {folders} -printf '%p %T@ %i\\n' | sort; ls /var/lib; systemctl show chasquid -p MainPID"
    before = stack.vps.ssh(look).stdout
    done = script("restore", "--stack", stack.name, "--from", str(tmp_path), "--identity", str(lost.identity))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"expected: a backup signed by {lost.taken['signer']}" in " ".join(done.stderr.split())
    assert "/etc/letsencrypt/renewal" in before
    assert stack.vps.ssh(look).stdout == before


def test_an_empty_operators_machine_gets_the_stack_back(stack: Stack, lost: Lost, tmp_path: Path) -> None:
    clone, backend, told = tmp_path / "clone", tmp_path / "backend", tmp_path / "passphrase"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name and (CHECKOUT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, clone / name)
    (clone / ".engine").symlink_to(CHECKOUT / ".engine")
    backend.mkdir()
    url = {"PULUMI_BACKEND_URL": f"file://{backend}"}
    assert not {"PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"} & os.environ.keys()
    arguments = ("--stack", stack.name, "--from", str(lost.place), "--identity", str(lost.identity),
                 "--signer", lost.taken["signer"])  # fmt: skip
    done = script("restore", *arguments, "--only", "stack", "--passphrase-to", str(told), folder=clone, **url)
    assert done.returncode == 0, done.stderr
    program, _ = stacks.engine()
    export = [program, "stack", "export", "--show-secrets", "--stack", stack.name]
    env = os.environ | url | {"PULUMI_CONFIG_PASSPHRASE_FILE": str(told)}
    exported = subprocess.run(export, cwd=clone, env=env, capture_output=True, text=True, check=True)
    assert json.loads(exported.stdout)["deployment"]["resources"] == lost.state["deployment"]["resources"]
    assert told.stat().st_mode & 0o777 == 0o600
    again = script("restore", *arguments, "--only", "stack", folder=clone, **url)
    assert (again.returncode, again.stdout) == (0, "everything was there\n"), again.stderr


# --- a new machine for a host that still works -------------------------------------------------------------------


def test_a_host_moves_as_the_operations_page_says_and_the_old_machine_goes_on(
    stack: Stack, lost: Lost, agent: None, tmp_path: Path
) -> None:
    old, new = stack.vps, stack.lab.fresh_vps(octet=49, installed=INSTALLED)
    for address in (new.ipv4, str(new.ipv6)):
        stack.lab.set_ptr(address, HOST)
    shutil.copy(lost.identity, tmp_path / "backup.key")
    typist = Typist(stack, tmp_path, other=new)
    before, after = to_type("docs/operations.md", __file__)
    for line in before:
        typist.type(line)
    stack.settings["mailroom:hosts"][0] |= {"ipv4": new.ipv4, "ipv6": new.ipv6}
    stack.write()
    for line in after:
        typist.type(line)
    assert [line for line, _ in typist.said] == [*before, *after]
    stack.vps = new
    zone = stack.zone()
    assert ("A", HOST, new.ipv4) in zone
    assert not [record for record in zone if old.ipv4 in record[2]]
    assert old.ssh("systemctl is-active chasquid").stdout.strip() == "active"
    stack.lab.remove_vps(old)
