"""Domains and DKIM keys come, change, move in and go while the others' mail goes on: one stack, three runs."""

from __future__ import annotations

import json
import shlex
import smtplib
import socket
import ssl
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from email.utils import formatdate, make_msgid
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from lab import lifecycle
from lab.client import Vps
from lab.folders import CHECKOUT
from lab.internet.client import edit_zone
from lab.internet.names import COLLEAGUES_MX, COLLEAGUES_OCTET, zone_id
from lab.internet.outside import Domain, Mail, deliver
from lab.shell import wait_until
from operations import dns as outside
from operations import recovery
from standards import dkim
from tests.lab.live_run import forget
from tests.lab.program import DOMAIN, HOST, INSTALLED, Stack, Watch
from tests.unit.docs.commands import to_type

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Lab

SECOND, RENAMED, TEAM = "second.test", "post.second.test", "team.second.test"
ALICE, CAROL, DAVE = f"alice@{DOMAIN}", f"carol@{TEAM}", f"dave@{TEAM}"
WRITTEN = {line for block in to_type("docs/moving.md", __file__) for line in block}
PASSWORD = "CANARY-password-of-all"
LAG_SECONDS = 2.0
PEM, PKCS1 = Encoding.PEM, PrivateFormat.TraditionalOpenSSL  # as opendkim-genkey writes it
READY = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(PEM, PKCS1, NoEncryption()).decode()
)


def domain(name: str, *users: str, zone: str = "", **keys: Any) -> dict[str, Any]:
    aliases = {user: [f"{user}@receiver.test"] for user in users}
    return {"name": name, "zoneId": zone_id(zone or name), "users": list(users), "aliases": aliases, **keys}


def first(*stages: tuple[str, str]) -> dict[str, Any]:
    return domain(DOMAIN, "alice", dkim=[{"selector": selector, "stage": stage} for selector, stage in stages])


# The team as its old server has it, which signs with a key of its own.
OLD = Domain(name=TEAM, selector="old")
TEAM_MX = {"type": "MX", "name": TEAM, "content": COLLEAGUES_MX, "priority": 10, "ttl": 300}
OTHERS_SPF = {"type": "TXT", "name": SECOND, "content": '"v=spf1 ip4:192.0.2.77 -all"', "ttl": 300}
TEAM_SPF = {"type": "TXT", "name": TEAM, "content": '"v=spf1 mx -all"', "ttl": 300}
TEAM_KEY = {"type": "TXT", "name": dkim.record_name(OLD.selector, TEAM), "content": OLD.key_record, "ttl": 300}
TEAM_DOMAIN = {"name": TEAM, "zoneId": zone_id(SECOND), "mail": "external", "mx": [COLLEAGUES_MX]}


class Knocking(Watch):
    """Greets port 25; `gaps` counts the times it did not answer, however long each."""

    def __init__(self, address: str) -> None:
        super().__init__(pause=0.05)
        self.address, self.gaps, self.answers = address, 0, 0
        self._answered = True

    def look(self) -> None:
        try:
            with socket.create_connection((self.address, 25), timeout=5) as connection:
                now = connection.recv(4) == b"220 "
        except OSError:
            now = False
        self.answers += now
        self.gaps += self._answered and not now
        self._answered = now


def letter(author: str, to: str, subject: str, domain: Domain) -> Mail:
    """One that is signed by the author's domain."""
    lines = [f"From: {author}", f"To: {to}", f"Subject: {subject}", f"Message-ID: {make_msgid(domain=domain.name)}"]
    data = "\r\n".join([*lines, f"Date: {formatdate()}", "MIME-Version: 1.0", "", "Hello", ""]).encode()
    return Mail(mail_from=author, rcpt_to=to, data=domain.sign(data))


class OldServer(Watch):
    """The colleagues' server: sends from its own address and, while it is entered, forwards what comes to an address.

    As forwarders do, it leaves the message as it is and takes an envelope sender of its own.
    """

    SEND = """
import smtplib, sys
name, own, to_server, sender, to = sys.argv[1:]
with smtplib.SMTP(to_server, 25, name, 20, (own, 0)) as smtp:
    smtp.sendmail(sender, [to], sys.stdin.buffer.read())
"""

    def __init__(self, lab: Lab, forwards: dict[str, str]) -> None:
        super().__init__(pause=0.2)
        self.lab, self.forwards, self.forwarded = lab, forwards, set[str]()
        machine, own = lifecycle.services_machine(lifecycle.require(lab.name)), lab.plan.address(COLLEAGUES_OCTET)
        self.login = Vps(machine, COLLEAGUES_MX, own.ipv4, own.ipv6, machine.host_key)

    def send(self, mail: Mail) -> None:
        """Bring a message to the receiver."""
        words = [self.login.name, self.login.ipv4, self.lab.plan.receiver.ipv4, mail.mail_from, mail.rcpt_to]
        done = self.login.ssh(shlex.join(["python3", "-c", self.SEND, *words]), mail.data.decode())
        assert done.returncode == 0, done.stderr

    def look(self) -> None:
        for message in self.lab.messages():
            to = self.forwards.get("".join(message["rcpt_to"]))
            if to and message["id"] not in self.forwarded:
                data = Path(message["path"]).read_bytes()
                self.send(Mail(mail_from="forwarder@colleagues.test", rcpt_to=to, data=data))
                self.forwarded.add(message["id"])


class Senders(Watch):
    """Write to moving addresses by turns: every other one asks for the MX each time, the rest remember the old host.

    What is refused for now is tried again, as mail servers do; `bounced` are those refused for good.
    """

    def __init__(self, story: Story, to: tuple[str, ...], domain: Domain) -> None:
        super().__init__(pause=0.2)
        self.story, self.to, self.domain = story, to, domain
        plan = story.stack.lab.plan
        self.hosts = {COLLEAGUES_MX: plan.address(COLLEAGUES_OCTET).ipv4, HOST: story.stack.vps.ipv4}
        self.sent, self.waiting, self.bounced = dict[str, tuple[str, str]](), list[int](), list[str]()
        self._numbers = count()

    def look(self) -> None:
        number = self.waiting.pop(0) if len(self.waiting) > 3 else next(self._numbers)
        self.send(number)

    def send(self, number: int) -> None:
        """One message to the host that its sender knows."""
        to = self.to[number // 2 % len(self.to)]
        answers = self.story.everywhere(to.partition("@")[2], "MX") if number % 2 else {(f"10 {COLLEAGUES_MX}",)}
        host, subject = "".join(min(answers)).partition(" ")[2], f"moving {number}"
        if host not in self.hosts:
            self.bounced.append(f"{subject}: MX {answers}")
            return
        try:
            mail = letter(f"friend@{self.domain.name}", to, subject, self.domain)
            (reply,) = deliver(self.hosts[host], [mail])
        except (OSError, EOFError):
            reply = "4"
        if reply.startswith("250"):
            self.sent[subject] = to, host
        elif reply.startswith("5"):
            self.bounced.append(f"{subject} at {host}: {reply}")
        else:
            self.waiting.append(number)

    def lost(self, boxes: dict[tuple[str, str], str]) -> list[str]:
        """What is not exactly once in the mailbox that an address leads to at the host that took it."""
        copies = Counter((message["subject"], *message["rcpt_to"]) for message in self.story.stack.lab.messages())
        return [subject for subject, way in self.sent.items() if copies[subject, boxes[way]] != 1]


class Story:
    """The stack and what its runs did to who was already there."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.gaps, self.restarts = -1, -1
        self.team: dict[str, Any] = {}
        self.typed: set[str] = set()

    def run(self, *domains: dict[str, Any], passwords: tuple[str, ...]) -> None:
        """Converge to these domains while somebody knocks."""
        self.stack.settings["mailroom:domains"] = list(domains)
        self.stack.settings["mailroom:passwords"] = dict.fromkeys(passwords, PASSWORD)
        before = self._starts()
        with Knocking(self.stack.vps.ipv4) as knocking:
            self.stack.converge()
        assert knocking.answers
        self.gaps, self.restarts = knocking.gaps, self._starts() - before

    def type(self, line: str, take: str = "") -> subprocess.CompletedProcess[str]:
        """A line of docs/moving.md, with the lab's names in it."""
        receiver = str(self.stack.lab.status["receiver"])
        names = {"prod": self.stack.name, "ID": take, "i@example.com": ALICE, "someone@gmail.com": receiver}
        command = [sys.executable, *(names.get(word, word) for word in line.split()), "--json"]
        self.typed.add(line)
        return subprocess.run(
            command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120
        )

    def adopt(self, *domains: dict[str, Any], take: str = "") -> Adopted:
        """`scripts/adopt.py`, as docs/moving.md has it, before the run: what it said, and the settings afterwards.

        These domains, of which no other user than alice is one, stand in the file until the run writes it again.
        """
        content = yaml.safe_load(self.stack.file.read_text())
        content["config"]["mailroom:domains"] = list(domains)
        content["config"]["mailroom:passwords"] = {ALICE: content["config"]["mailroom:passwords"][ALICE]}
        self.stack.file.write_text(yaml.safe_dump(content))
        before = self._zones()
        shown = self.type("scripts/adopt.py --stack prod")
        assert shown.returncode in {1, 2}, shown.stdout + shown.stderr  # it waits for a yes, or for what is to be taken
        done = self.type("scripts/adopt.py --stack prod --yes" + " --take ID" * bool(take), take)
        assert self._zones() == before
        assert done.returncode == 0, done.stdout + done.stderr
        config = yaml.safe_load(self.stack.file.read_text())["config"]
        self.stack.settings["mailroom:adopted"] = config["mailroom:adopted"]
        return Adopted(json.loads(done.stdout)["records"], config["mailroom:domains"][-1], config["mailroom:adopted"])

    def _zones(self) -> list[Any]:
        return [edit_zone(self.stack.lab.plan, "GET", zone, "?per_page=1000") for zone in (DOMAIN, SECOND)]

    def planned(self) -> dict[str, str]:
        """What a preview would do to each record, by logical name."""
        done = self.stack.run("preview", "--json")
        steps = json.loads(done.stdout[: done.stdout.rindex("}") + 1])["steps"]
        return {step["urn"].rpartition("::")[2]: step["op"] for step in steps if "DnsRecord::" in step["urn"]}

    def _starts(self) -> int:
        return int(self.stack.vps.ssh("journalctl -u chasquid -o cat | grep -c '^Started '").stdout)

    def everywhere(self, name: str, kind: str = "TXT") -> set[tuple[str, ...]]:
        """The different answers of both name servers."""
        answers = outside.look_everywhere(name, kind, outside.Resolver(self.stack.lab.plan.resolver.ipv4))
        assert len(answers) == 2
        return {answer.values for answer in answers.values()}

    def key(self, selector: str, of: str = DOMAIN) -> str:
        """The one TXT value that all name servers give for a key."""
        ((value,),) = self.everywhere(dkim.record_name(selector, of))
        return value

    def signing(self, of: str = DOMAIN) -> list[str]:
        """The key files of a domain on the host."""
        found = self.stack.vps.ssh(f"cd /etc/mailroom/current/domains/{of} && ls dkim:*.pem")
        return [name.removeprefix("dkim:").removesuffix(".pem") for name in found.stdout.split()]

    def selectors_of_a_message(self, *arguments: str) -> list[tuple[str, str]]:
        """Send one to the receiver, which has to trust it; the domain and selector of every valid signature."""
        status, report = self.stack.send(*arguments)
        assert status == 0, report
        return [(one["domain"], one["selector"]) for one in report["dkim"] if one["result"] == "pass"]

    def arrives(self, to: str, at: str, sender: str = ALICE) -> dict[str, Any]:
        """Send from a user to an address that leads to the receiver or the colleagues."""
        status, report = self.stack.send("--from", sender, "--to", to)
        assert status == 0, report
        known = report["message_id"]
        return self.stack.lab.wait_message(
            lambda message: message["message_id"].strip() == known and message["rcpt_to"] == [at]
        )


@dataclass(frozen=True)
class Adopted:
    """What `scripts/adopt.py` left: records with their verdicts, the last domain's settings, ids in the settings."""

    records: list[dict[str, Any]]
    domain: dict[str, Any]
    ids: list[str]


def gmail(stack: Stack) -> tuple[int, dict[str, Any]]:
    """`scripts/send_test.py --as gmail`: exit code and report."""
    command = [sys.executable, "-m", "scripts.send_test", "--stack", stack.name, "--as", "gmail", "--json"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=120)
    assert PASSWORD not in done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def story(lab: Lab) -> Iterator[Story]:
    """One domain; its second key, made elsewhere, is published and does not sign yet."""
    vps = lab.fresh_vps(octet=83, installed=INSTALLED)
    stack = Stack(lab, vps, domains=[first(("m1", "active"), ("m2", "published"))], passwords={ALICE: PASSWORD},
                  dkimKeys={dkim.record_name("m2", DOMAIN): READY})  # fmt: skip
    for record in (TEAM_MX, TEAM_SPF, TEAM_KEY):
        edit_zone(lab.plan, "POST", SECOND, body=record)
    stack.converge()
    yield Story(stack)
    forget(stack)
    for record in edit_zone(lab.plan, "GET", SECOND, "?per_page=1000"):
        if "mailroom:" in (record["comment"] or "") or record["name"] == SECOND or record["name"].endswith(TEAM):
            edit_zone(lab.plan, "DELETE", SECOND, f"/{record['id']}")
    lab.remove_vps(vps)


def test_a_published_key_made_elsewhere_is_visible_and_does_not_sign(story: Story) -> None:
    assert story.key("m2") == dkim.key_record(dkim.public_half(READY)[1])
    assert story.signing() == ["m1"]
    assert story.selectors_of_a_message() == [(DOMAIN, "m1")]


def test_a_key_made_elsewhere_is_in_no_file_of_the_backend_in_clear(story: Story) -> None:
    # its first half holds the public numbers, which are in the record for everybody
    lines = {line for pem in (READY, dkim.private_key(READY)) for line in pem.splitlines()[-9:-2]}
    files = [*story.stack.state_files(), story.stack.file]
    assert not [
        path for path in files for text in (path.read_text(errors="replace"),) if any(map(text.__contains__, lines))
    ]


def test_gmail_gets_in_at_both_ports_and_its_code_comes_back_through_the_alias(story: Story) -> None:
    status, report = gmail(story.stack)
    assert status == 0, report
    assert {one["port"] for one in report["attempts"]} == {465, 587}
    message = story.stack.lab.wait_message(lambda message: report["code"] in message["subject"])
    assert message["rcpt_to"] == ["alice@receiver.test"]


def test_gmail_names_the_field_that_is_wrong(story: Story) -> None:
    path = f'mailroom:passwords["{ALICE}"]'
    story.stack.set_secret(path, "CANARY-another-password")
    status, report = gmail(story.stack)
    story.stack.set_secret(path, PASSWORD)
    assert status == 2
    assert [one["id"] for one in report["findings"]] == ["submission.login"]
    fields = report["attempts"][0]["fields"]
    assert {name for name, state in fields.items() if state == "ok"} == {"SMTP server", "port", "secured connection"}


def test_records_of_others_and_one_that_the_state_lost_are_taken_over_and_dns_stays(story: Story) -> None:
    urn = f"urn:pulumi:{story.stack.name}::mailroom::mailroom:index:MailServer$mailroom:index:MailDns$"
    lost = story.stack.run("state", "delete", "--yes", f"{urn}{recovery.DNS_RECORD}::{DOMAIN}/dmarc")
    assert lost.returncode == 0, lost.stdout
    adopted = story.adopt(first(("m1", "active"), ("m2", "published")), TEAM_DOMAIN)
    story.team = adopted.domain
    assert adopted.domain["spf"] == {"mechanisms": [f"a:{COLLEAGUES_MX}"], "all": "-all"}
    (mx,) = edit_zone(story.stack.lab.plan, "GET", SECOND, f"?type=MX&name={TEAM}")
    (text,) = edit_zone(story.stack.lab.plan, "GET", SECOND, f"?type=TXT&name={TEAM}")
    assert adopted.ids == [text["id"]]  # the record that the state had lost has our mark
    keys = {one["id"]: one["key"] for one in adopted.records}
    assert (keys[text["id"]], keys[mx["id"]]) == (f"{TEAM}/spf", None)  # others still receive the domain's mail
    assert {one["verdict"] for one in adopted.records} == {"keep"}
    planned = story.planned()
    assert planned[f"{TEAM}/spf"] == "update"
    assert planned.get(f"{DOMAIN}/dmarc") != "create"


def test_a_second_domain_and_the_second_key_come_in_one_run_with_one_restart(story: Story) -> None:
    edit_zone(story.stack.lab.plan, "POST", SECOND, body=OTHERS_SPF)
    second = domain(SECOND, "bob", spf={"mechanisms": ["ip4:192.0.2.77"], "adopt": True})
    story.stack.lab.lag(LAG_SECONDS)
    try:
        story.run(first(("m1", "retiring"), ("m2", "active")), second, story.team,
                  passwords=(ALICE, f"bob@{SECOND}"))  # fmt: skip
    finally:
        story.stack.lab.lag(0)
    assert (story.restarts, story.gaps <= 1) == (1, True)


def test_both_servers_of_a_domain_that_moves_may_send_for_it(story: Story) -> None:
    assert story.everywhere(TEAM) == {(f"v=spf1 include:_spf.{TEAM} a:{COLLEAGUES_MX} -all",)}
    assert story.key(OLD.selector, TEAM) == OLD.key_record
    assert story.key("m1", TEAM).startswith("v=DKIM1; k=rsa; p=MII")
    done = story.type("scripts/send_test.py --stack prod --from i@example.com --to someone@gmail.com")
    assert done.returncode == 0, done.stdout + done.stderr
    the_old_server_is_trusted(story, "before the move")


def the_old_server_is_trusted(story: Story, subject: str) -> None:
    """What it sends for the team meets the SPF record and carries a signature of its own."""
    server = OldServer(story.stack.lab, {})
    server.send(letter(CAROL, str(story.stack.lab.status["receiver"]), subject, OLD))
    message = story.stack.lab.wait_message(lambda message: message["subject"] == subject)
    assert (message["client_ip"], message["spf"], message["dmarc"]) == (server.login.ipv4, "pass", "pass")
    assert message["dkim"] == [{"selector": OLD.selector, "domain": TEAM, "result": "pass"}]


def test_the_active_key_signs_and_the_retiring_one_can_still_be_checked(story: Story) -> None:
    assert story.signing() == ["m2"]
    assert story.selectors_of_a_message() == [(DOMAIN, "m2")]
    assert story.key("m1").startswith("v=DKIM1; k=rsa; p=MII")


def test_the_new_domain_signs_with_its_own_key_only_after_every_name_server_had_it(story: Story) -> None:
    bob = f"bob@{SECOND}"
    assert story.selectors_of_a_message("--from", bob) == [(SECOND, "m1")]
    name = dkim.record_name("m1", SECOND)
    (record,) = edit_zone(story.stack.lab.plan, "GET", SECOND, f"?name={name}")
    stored = story.stack.vps.ssh(f"stat -L -c %.Y /etc/mailroom/current/domains/{SECOND}/dkim:m1.pem").stdout
    assert float(stored) > datetime.fromisoformat(record["created_on"]).timestamp() + LAG_SECONDS


def test_an_spf_record_of_others_was_merged_into_ours_and_not_doubled(story: Story) -> None:
    assert story.everywhere(SECOND) == {(f"v=spf1 include:_spf.{SECOND} ip4:192.0.2.77 ~all",)}


@pytest.mark.parametrize(
    ("role", "name", "at"), [("abuse", DOMAIN, "alice@receiver.test"), ("postmaster", SECOND, "bob@receiver.test")]
)
def test_postmaster_and_abuse_of_every_domain_reach_a_person(story: Story, role: str, name: str, at: str) -> None:
    story.arrives(f"{role}@{name}", at)


def test_another_domains_user_reaches_a_mailbox_elsewhere_at_its_own_mx(story: Story) -> None:
    message = story.arrives(CAROL, CAROL)
    assert (message["spf"], message["dmarc"]) == ("pass", "pass")


def test_a_domain_moves_in_without_a_lost_message_while_another_is_renamed(story: Story) -> None:
    plan = story.stack.lab.plan
    (mx,) = edit_zone(plan, "GET", SECOND, f"?type=MX&name={TEAM}")
    targets = {CAROL: "carol@receiver.test", DAVE: "dave@receiver.test"}
    keys = {"mail": "forward", "aliases": {to.partition("@")[0]: [target] for to, target in targets.items()}}
    moved = {key: value for key, value in story.team.items() if key != "mx"} | keys
    adopted = story.adopt(first(("m1", "retiring"), ("m2", "active")), moved, take=mx["id"])
    assert adopted.ids == [mx["id"]]  # a run has marked the SPF record since
    friend = Domain(name="friend.test", servers=plan.uplink_machine)
    friend.publish(story.stack.lab.dns)
    forwards = {DAVE: targets[DAVE]}  # carol's mailbox stays at the old server and is read to the end
    boxes = {(to, COLLEAGUES_MX): forwards.get(to, to) for to in targets}
    boxes |= {(to, HOST): target for to, target in targets.items()}
    with OldServer(story.stack.lab, forwards):
        with Senders(story, (CAROL, DAVE), friend) as senders:
            assert wait_until(lambda: len(senders.sent) > 3, timeout=20)
            story.run(first(("m1", "revoked"), ("m2", "active")), domain(RENAMED, "bob", zone=SECOND), adopted.domain,
                      passwords=(ALICE, f"bob@{RENAMED}"))  # fmt: skip
            before = len(senders.sent)
            assert wait_until(lambda: len(senders.sent) > before + 7, timeout=20)
        numbers, senders.waiting = senders.waiting, []
        for number in numbers:
            senders.send(number)
        assert senders.bounced == senders.waiting == []
        assert set(senders.sent.values()) == set(boxes)
        assert wait_until(lambda: not senders.lost(boxes), timeout=30), senders.lost(boxes)
    assert senders.lost(boxes) == []
    friend.withdraw(story.stack.lab.dns)
    (now,) = edit_zone(plan, "GET", SECOND, f"?type=MX&name={TEAM}")
    assert (now["id"], now["content"]) == (mx["id"], HOST)  # changed in its place: never without an MX


def test_the_old_server_still_sends_when_the_mx_has_moved(story: Story) -> None:
    the_old_server_is_trusted(story, "after the move")


def test_a_renamed_domain_and_a_revoked_key_cost_the_others_one_restart(story: Story) -> None:
    assert (story.restarts, story.gaps <= 1) == (1, True)


def test_the_revoked_key_is_taken_back_and_the_active_one_signs_on(story: Story) -> None:
    assert story.key("m1") == dkim.REVOKED
    assert story.signing() == ["m2"]


def test_nothing_of_the_old_name_is_left(story: Story) -> None:
    assert story.everywhere(SECOND, "MX") == story.everywhere(SECOND) == {()}
    ours = edit_zone(story.stack.lab.plan, "GET", SECOND, "?per_page=1000")
    marked = [record["name"] for record in ours if "mailroom:" in (record["comment"] or "")]
    assert marked
    assert [name for name in marked if not name.endswith((RENAMED, TEAM))] == []
    is_nobody_here(story, f"bob@{SECOND}")


def is_nobody_here(story: Story, address: str) -> None:
    """It gets no mail and logs in nowhere, while the renamed domain's user gets mail."""
    with smtplib.SMTP(story.stack.vps.ipv4, 25, "client.test", timeout=30) as client:
        client.ehlo()
        assert client.mail("")[0] == 250
        assert client.rcpt(f"bob@{RENAMED}")[0] == 250
        assert client.rcpt(address)[0] >= 500
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        smtplib.SMTP_SSL(story.stack.vps.ipv4, 465, "client.test", context=context, timeout=30) as client,
        pytest.raises(smtplib.SMTPAuthenticationError),
    ):
        client.login(address, PASSWORD)


def test_the_new_name_sends_and_receives(story: Story) -> None:
    assert story.selectors_of_a_message("--from", f"bob@{RENAMED}") == [(RENAMED, "m1")]
    story.arrives(f"bob@{RENAMED}", "bob@receiver.test")


def test_the_first_domain_goes_and_a_domain_moves_out_again_for_one_restart(story: Story) -> None:
    edit_zone(story.stack.lab.plan, "POST", SECOND, body=TEAM_MX)  # beside ours, which this run takes away
    story.stack.settings["mailroom:hosts"][0]["zoneId"] = zone_id(DOMAIN)  # no domain of ours names the host's zone now
    del story.stack.settings["mailroom:dkimKeys"]  # of the domain that goes
    renamed = story.stack.settings["mailroom:domains"][1]
    story.run(renamed, story.team, passwords=(f"bob@{RENAMED}",))
    assert story.everywhere(TEAM, "MX") == {(f"10 {COLLEAGUES_MX}",)}
    assert (story.restarts <= 1, story.gaps <= 1) == (True, True)
    is_nobody_here(story, ALICE)
    assert story.everywhere(DOMAIN, "MX") == story.everywhere(dkim.record_name("m2", DOMAIN)) == {()}
    ours = edit_zone(story.stack.lab.plan, "GET", DOMAIN, "?per_page=1000")
    marked = {record["name"] for record in ours if "mailroom:" in (record["comment"] or "")}
    assert marked == {HOST}
    assert story.selectors_of_a_message("--from", f"bob@{RENAMED}") == [(RENAMED, "m1")]


def test_each_line_of_the_page_was_typed(story: Story) -> None:
    assert story.typed == WRITTEN
