"""Who may send through a converged server, as whom and how much: against the real chasquid, hook and service."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from lab.folders import CHECKOUT
from lab.internet.names import zone_id
from standards import passwords
from tests.lab.live_run import forget
from tests.lab.program import DOMAIN, HOST, INSTALLED, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Lab

ALICE, BOB, CAROL = (f"{name}@{DOMAIN}" for name in ("alice", "bob", "carol"))
RECEIVER = "check@receiver.test"
PASSWORD = "CANARY-password-of-all"
OK = 250


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Iterator[Stack]:
    """Alice sends as sales, too, and for lists; bob may send three messages an hour; carol forwards elsewhere."""
    vps = lab.fresh_vps(octet=43, installed=INSTALLED)
    domain = {
        "name": DOMAIN,
        "zoneId": zone_id(DOMAIN),
        "users": [
            {"name": "alice", "identities": [f"news@{DOMAIN}"]},
            {"name": "bob", "limits": {"minute": 3, "hour": 3, "recipientsPerMessage": 2}},
            "carol",
        ],
        "aliases": {
            "alice": ["alice@receiver.test"],
            "bob": ["bob@receiver.test"],
            "carol": ["carol@receiver.test"],
            "sales": [ALICE],
            "postmaster": ["postmaster@receiver.test"],
        },
    }
    made = Stack(lab, vps, domains=[domain], passwords=dict.fromkeys((ALICE, BOB, CAROL), PASSWORD))
    made.converge()
    yield made
    forget(made)
    lab.remove_vps(vps)


@contextmanager
def logged_in(stack: Stack, user: str, password: str) -> Iterator[smtplib.SMTP_SSL]:
    """A session on port 465; the certificate is another test's subject."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP_SSL(stack.vps.ipv4, 465, "client.test", context=context, timeout=60) as client:
        client.login(user, password)
        yield client


def submit(
    stack: Stack,
    user: str,
    password: str = PASSWORD,
    *,
    sender: str | None = None,
    to: tuple[str, ...] = (RECEIVER,),
    **fields: str,
) -> tuple[int, str]:
    """Send a message as `user`; the answer to it. `fields` are header fields beside To, `_` for `-`."""
    header = {"From": user, "To": ", ".join(to), "Subject": "policy", **fields}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in header.items()]
    with logged_in(stack, user, password) as client:
        code, text = client.mail(user if sender is None else sender)
        for recipient in to:
            client.rcpt(recipient)
        if code == OK:
            code, text = client.data("\r\n".join([*lines, "", "Hello", ""]))
        return code, text.decode()


def on_host(stack: Stack, command: str) -> str:
    answer = stack.vps.ssh(command, timeout=60)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout.strip()


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"scripts.{arguments[0]}", *arguments[1:]],
        cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sender", "shown"),
    [
        (ALICE, ALICE),
        (f"alice+shop@{DOMAIN}", f"Alice <Al.Ice@{DOMAIN}>"),
        (f"sales@{DOMAIN}", f"Sales <sales@{DOMAIN}>"),
        (ALICE, f"News <news@{DOMAIN}>"),
    ],
)
def test_a_user_sends_as_every_address_of_its_own(stack: Stack, sender: str, shown: str) -> None:
    code, text = submit(stack, ALICE, sender=sender, From=shown)
    assert code == OK, text


@pytest.mark.parametrize(
    ("sender", "fields"),
    [
        (BOB, {}),
        (ALICE, {"From": BOB}),
        (ALICE, {"From": "ceo@bank.test"}),
        (ALICE, {"From": f"{ALICE}, {BOB}"}),
        (ALICE, {"Sender": "ceo@bank.test"}),
        ("ceo@bank.test", {"From": "ceo@bank.test"}),
        ("ceo@bank.test", {}),
        ("", {}),
        (ALICE, {"FROM_": BOB}),
        (ALICE, {"From": f'"{ALICE}" <{BOB}>'}),
    ],
)
def test_a_user_never_sends_as_somebody_else(stack: Stack, sender: str, fields: dict[str, str]) -> None:
    fields = {name.replace("FROM_", "FROM"): value for name, value in fields.items()}
    code, text = submit(stack, ALICE, sender=sender, **fields)
    assert code == 554, text
    assert text.startswith("5.")


def test_the_probe_user_cannot_send_even_as_itself(stack: Stack) -> None:
    key = on_host(stack, "cat /etc/mailroom/probe.key")
    with (
        logged_in(stack, "probe@probe.invalid", key) as client,
        pytest.raises(smtplib.SMTPDataError, match=r"5\.7\.1"),
    ):
        client.sendmail("probe@probe.invalid", [RECEIVER], "From: probe@probe.invalid\r\n\r\nHello\r\n")


def test_a_limit_defers_and_says_until_when(stack: Stack) -> None:
    assert [submit(stack, BOB)[0] for _ in range(3)] == [OK] * 3
    code, text = submit(stack, BOB)
    assert (code, text[:5]) == (451, "4.7.1")
    assert "UTC" in text
    assert submit(stack, CAROL)[0] == OK, "one user's limit must not stop another"


def test_the_postmaster_hears_of_a_user_near_its_limit(stack: Stack) -> None:
    notice = stack.lab.wait_message(lambda message: message["rcpt_to"] == ["postmaster@receiver.test"])
    assert notice["mail_from"] == ""
    assert (notice["spf"], notice["dmarc"]) == ("pass", "pass")
    assert BOB in notice["subject"]


def test_counters_survive_a_killed_service(stack: Stack) -> None:
    on_host(stack, "systemctl kill --signal=KILL mailroom-policy.service")
    assert submit(stack, BOB)[0] == 451


def test_parallel_messages_cannot_slip_past_a_limit_together(stack: Stack) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: submit(stack, BOB)[0], range(8)))
    assert answers == [451] * 8


def test_too_many_recipients_are_refused_for_good(stack: Stack) -> None:
    code, text = submit(stack, BOB, to=tuple(f"r{number}@receiver.test" for number in range(3)))
    assert code == 554, text
    assert "2" in text


def test_a_suspended_user_is_refused_at_once_whatever_up_does_until_lifted(stack: Stack) -> None:
    started = time.monotonic()
    done = script("suspend", "--stack", stack.name, CAROL, "--reason", "stolen laptop")
    assert done.returncode == 0, done.stderr
    code, text = submit(stack, CAROL)
    assert (code, text[:5]) == (554, "5.7.1")
    assert time.monotonic() - started < 30
    assert submit(stack, ALICE)[0] == OK
    stack.settings["mailroom:warmUp"] = 600
    stack.write()
    assert (done := stack.up()).returncode == 0, done.stdout
    assert submit(stack, CAROL)[0] == 554
    shown = script("status", "--stack", stack.name, "--json")
    assert shown.returncode == 1, shown.stdout + shown.stderr
    assert "stolen laptop" in shown.stdout
    assert script("suspend", "--stack", stack.name, CAROL, "--lift").returncode == 0
    assert submit(stack, CAROL)[0] == OK
    assert script("status", "--stack", stack.name).returncode == 0


def test_changed_limits_and_identities_apply_without_a_restart(stack: Stack) -> None:
    process = on_host(stack, "systemctl show -p MainPID --value chasquid mailroom-policy")
    users: Any = stack.settings["mailroom:domains"][0]["users"]
    users[1]["limits"] = {"minute": 10, "hour": 50}
    users[2] = {"name": "carol", "identities": [f"*@{DOMAIN}"]}
    stack.write()
    assert (done := stack.up()).returncode == 0, done.stdout
    assert submit(stack, BOB)[0] == OK
    assert submit(stack, CAROL, From=f"anything@{DOMAIN}")[0] == OK
    assert on_host(stack, "systemctl show -p MainPID --value chasquid mailroom-policy") == process


def test_one_click_unsubscribe_is_covered_by_a_valid_signature(stack: Stack) -> None:
    fields = {
        "Subject": "one click",
        "List_Unsubscribe": "<https://example.test/u/1>",
        "List_Unsubscribe_Post": "List-Unsubscribe=One-Click",
        "Date": "Tue, 24 Nov 2026 10:00:00 +0000",
        "Message_ID": "<one-click@example.test>",
    }
    code, text = submit(stack, ALICE, **fields)
    assert code == OK, text
    message = stack.lab.wait_message(lambda message: "one click" in json.dumps(message))
    signatures = [signature["result"] for signature in message["dkim"]]
    assert signatures == ["pass", "pass"], message


def test_a_signature_over_more_than_the_body_ends_no_session_but_its_own_message(stack: Stack) -> None:
    process = on_host(stack, "systemctl show -p MainPID --value chasquid")
    signature = f"DKIM-Signature: v=1; a=rsa-sha256; d={DOMAIN}; s=m1; h=from; l=99999999; bh=AAAA; b=AAAA"
    message = f"{signature}\r\nFrom: a@outside.test\r\n\r\nHello\r\n"
    with (
        smtplib.SMTP(stack.vps.ipv4, 25, "client.test", timeout=60) as client,
        pytest.raises(smtplib.SMTPDataError, match=r"5\.7\.26"),
    ):
        client.sendmail("a@outside.test", [ALICE], message)
    assert on_host(stack, "systemctl show -p MainPID --value chasquid") == process


@pytest.mark.parametrize(
    "breakage",
    ["systemctl stop mailroom-policy.socket mailroom-policy.service", "mv /etc/mailroom/current/policy.json{,.away}"],
)
def test_without_an_answer_of_the_policy_mail_waits_at_the_sender(stack: Stack, breakage: str) -> None:
    on_host(stack, f"bash -c '{breakage}'")
    try:
        code, text = submit(stack, ALICE)
        assert code == 451, text
    finally:
        on_host(stack, "bash -c 'mv /etc/mailroom/current/policy.json{.away,} 2>/dev/null; true'")
        on_host(stack, "systemctl start mailroom-policy.socket mailroom-policy.service")
    assert submit(stack, ALICE)[0] == OK


def test_an_application_token_is_a_login_of_its_user(stack: Stack) -> None:
    """Beside the password, with its hash alone, within the user's limits; it ends with its place in the settings."""
    token = passwords.token(os.urandom(passwords.TOKEN_BYTES))
    login, users = f"alice+shop@{DOMAIN}", stack.settings["mailroom:domains"][0]["users"]
    stack.settings["mailroom:passwords"][login] = str(passwords.scrypt_hash(token, os.urandom(16)))
    users[0]["tokens"] = ["shop"]
    process = on_host(stack, "systemctl show -p MainPID --value chasquid")
    stack.write()
    assert (done := stack.up()).returncode == 0, done.stdout
    before = used(stack, ALICE)
    assert submit(stack, login, token, sender=ALICE, From=ALICE)[0] == OK
    assert submit(stack, login, token, sender=f"sales@{DOMAIN}", From=f"sales@{DOMAIN}")[0] == OK
    assert submit(stack, login, token, sender=ALICE, From=BOB)[0] == 554
    assert used(stack, ALICE) == before + 2
    with pytest.raises(smtplib.SMTPAuthenticationError):
        submit(stack, ALICE, token)
    with logged_in(stack, login, token) as session:
        users[0]["tokens"], users[2] = [], {"name": "carol", "send": False}
        del stack.settings["mailroom:passwords"][login]
        stack.write()
        assert (done := stack.up()).returncode == 0, done.stdout
        with pytest.raises(smtplib.SMTPDataError, match=r"5\.7\.1 .* may not send any more"):
            session.sendmail(ALICE, [RECEIVER], f"From: {ALICE}\r\n\r\nHello\r\n")
    for user, password in ((login, token), (CAROL, PASSWORD)):
        with pytest.raises(smtplib.SMTPAuthenticationError):
            submit(stack, user, password)
    assert on_host(stack, "systemctl show -p MainPID --value chasquid") == process
    assert token not in on_host(stack, "cat /etc/mailroom/current/lists/*/users; journalctl --no-pager")


def used(stack: Stack, user: str) -> int:
    """Recipients of a user today, as the host's own script tells."""
    told = json.loads(on_host(stack, "/usr/local/lib/mailroom/current/status.py"))
    return int(told["usage"][user]["day"][0])


def test_status_tells_of_a_stopped_service_waiting_mail_a_failed_renewal_and_damage(stack: Stack) -> None:
    receiver = stack.lab.plan.address(25)
    for address in receiver:
        on_host(stack, f"ip route add unreachable {address}")
    mark, renewal = "/var/lib/mailroom-policy/suspended/gone@example.test", "/etc/letsencrypt/renewal/broken.conf"
    on_host(stack, f"echo oops > {mark}; echo oops > {renewal}; systemctl stop fail2ban; systemctl start certbot; true")
    try:
        assert submit(stack, ALICE, to=("waits@receiver.test",))[0] == OK
        on_host(stack, "timeout 20 sh -c 'until grep -q last_failure /var/lib/chasquid/queue/m:*; do sleep 0.2; done'")
        done = script("status", "--stack", stack.name, "--json")
        page = script("status", "--stack", stack.name)
    finally:
        for address in receiver:
            on_host(stack, f"ip route del unreachable {address}")
        on_host(stack, f"rm {mark} {renewal}; systemctl start fail2ban certbot")
    assert (done.returncode, page.returncode) == (2, 2), done.stderr + page.stderr
    told = json.loads(done.stdout)
    (picture,) = told["hosts"].values()
    found = {finding["id"]: finding["found"] for finding in told["findings"]}
    assert found["status.service"].startswith("fail2ban.service inactive")
    assert "exit-code" in found["status.renewal"]
    assert "mark is damaged" in found["status.suspended"]
    (message,) = [one for one in picture["queue"]["messages"] if one["to"][0]["address"] == "waits@receiver.test"]
    assert "unreachable" in message["failure"] or "no route" in message["failure"], message
    assert 0 < message["next"] - message["tried"] <= 120
    assert message["failure"][:40] in page.stdout.replace("\n", " ")
    assert picture["chasquid"]["directory"] == picture["pinned"]["directory"]
    assert picture["certificates"][0]["notAfter"] > picture["clock"]["now"]
    assert picture["services"]["certbot.timer"]["next"] > picture["clock"]["now"]
    assert set(picture["bans"] or {}) <= {"sshd", "chasquid"}


def test_following_goes_on_after_a_broken_connection_and_ends_well_at_ctrl_c(stack: Stack) -> None:
    command = [sys.executable, "-m", "scripts.status", "--stack", stack.name, "--follow"]
    pids = 'for p in /proc/[0-9]*; do [ "$(cat $p/comm 2>/dev/null)" = journalctl ] && echo ${p#/proc/}; done; true'
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        try:
            assert follower.stdout
            assert f" {HOST} " in follower.stdout.readline()
            on_host(stack, f"kill {on_host(stack, pids)}")
            assert submit(stack, ALICE, to=("followed@receiver.test",))[0] == OK
            assert any("to=followed@receiver.test sent" in line for line in follower.stdout)
            follower.send_signal(signal.SIGINT)
            _, said = follower.communicate(timeout=30)
        finally:
            follower.kill()
    assert (follower.returncode, said.count("trying again"), said.count("connected again")) == (0, 1, 1), said


def test_our_services_are_sandboxed_and_keep_no_secret_readable(stack: Stack) -> None:
    open_files = on_host(stack, "find /etc/mailroom/current/ /var/lib/mailroom-policy -type f -perm /o=r")
    assert open_files == ""
    assert on_host(stack, "stat -c %U:%a /run/mailroom-policy/socket") == "chasquid:600"
    assert PASSWORD not in on_host(stack, "journalctl -u mailroom-policy -u chasquid --no-pager")
