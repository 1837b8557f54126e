"""The order of waves, what is secret, and what a change touches: the program under a recording mock engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

HOST = "smtp.example.test"
COMMAND = "command:remote:Command"
RECORD = "cloudflare:index/dnsRecord:DnsRecord"
SECRET = "4dabf18193072939515e22adb298388d"


def revealed(value: Any) -> Any:
    return value["value"] if isinstance(value, dict) and SECRET in value else value


@pytest.mark.parametrize("preview", [True, False])
def test_the_dev_stack_registers_every_record_of_the_standards(run_program: Any, preview: bool) -> None:
    names = run_program(preview=preview).names(RECORD)
    assert {"example.test/mx/smtp.example.test", "example.test/dmarc"} <= names or len(names) == 8


def test_every_record_waits_for_every_gate(run_program: Any) -> None:
    run = run_program()
    for record in run.names(RECORD):
        assert {"example.test/gate", f"{HOST}/gate"} <= run.waits_for(record), record


def test_no_step_changes_a_host_before_every_gate_has_passed(run_program: Any) -> None:
    run = run_program()
    for command in run.names(COMMAND):
        assert {"example.test/gate", f"{HOST}/gate"} <= run.waits_for(command), command


def test_the_dkim_key_reaches_the_host_only_after_its_record_is_visible(run_program: Any) -> None:
    run = run_program()
    assert "identity/propagated" in run.waits_for(f"{HOST}/secret")
    dkim_records = {name for name in run.names(RECORD) if "/dkim/" in name}
    assert dkim_records
    assert dkim_records <= run.waits_for("identity/propagated")


def test_mx_and_dmarc_wait_for_the_service_and_for_reverse_dns(run_program: Any) -> None:
    run = run_program()
    last = {name for name in run.names(RECORD) if "/mx" in name or "/dmarc" in name}
    assert len(last) == 2
    for name in last:
        assert {f"{HOST}/activate", f"{HOST}/logins", f"{HOST}/ptr", f"{HOST}/uninstall"} <= run.waits_for(name)


def test_addresses_do_not_wait_for_the_service(run_program: Any) -> None:
    run = run_program()
    for name in run.names(RECORD):
        if name.startswith(f"{HOST}/a"):
            assert f"{HOST}/activate" not in run.waits_for(name)


def test_steps_of_one_host_never_overlap(run_program: Any) -> None:
    run = run_program()
    steps = [*run.names(COMMAND), *run.names("command:remote:CopyToRemote")]
    for one in steps:
        for other in steps:
            assert one == other or one in run.waits_for(other) or other in run.waits_for(one), (one, other)


def test_what_steps_print_is_secret_and_not_logged(run_program: Any) -> None:
    run = run_program()
    for name in run.names(COMMAND):
        assert {"stdout", "stderr", "connection"} <= set(run.requests[name].additionalSecretOutputs), name
        assert run.inputs(name)["logging"] == "none"
        assert run.inputs(name)["addPreviousOutputInEnv"] is False


def test_secrets_reach_hosts_by_secret_stdin_alone(run_program: Any) -> None:
    run = run_program()
    for name in run.names(COMMAND):
        inputs = run.inputs(name)
        assert "CANARY" not in str(inputs["create"]) + str(inputs.get("delete")), name
        assert "environment" not in inputs
        stdin = inputs["stdin"]
        if "CANARY" in json.dumps(stdin) or "PRIVATE-KEY" in json.dumps(stdin):
            assert stdin[SECRET], f"{name} shows its stdin"


def test_the_cloudflare_token_never_reaches_a_host(run_program: Any) -> None:
    run = run_program()
    for name in run.names(COMMAND):
        assert "CANARY-cloudflare" not in json.dumps(run.inputs(name)["stdin"]), name


def test_a_reviewer_sees_the_plain_files(run_program: Any) -> None:
    stdin = run_program().inputs(f"{HOST}/plain")["stdin"]
    assert isinstance(stdin, str)
    assert "alice@receiver.test" in stdin


def test_another_machine_runs_every_step_again_but_the_uninstall(run_program: Any) -> None:
    run = run_program()
    for name in run.names(COMMAND):
        has_trigger = run.requests[name].HasField("replacement_trigger")
        assert has_trigger == (name != f"{HOST}/uninstall"), name


def test_only_the_uninstall_acts_when_deleted(run_program: Any) -> None:
    run = run_program()
    assert {name for name in run.names(COMMAND) if run.inputs(name).get("delete")} == {f"{HOST}/uninstall"}


def test_hosts_are_pinned_and_dialled_once(run_program: Any) -> None:
    run = run_program()
    for name in run.names(COMMAND):
        connection = revealed(run.inputs(name)["connection"])
        assert connection["hostKey"].startswith("ssh-ed25519 ")
        assert connection["dialErrorLimit"] == 0


def test_mail_none_publishes_that_the_domain_never_mails(run_program: Any) -> None:
    def silence(config: dict[str, Any]) -> None:
        domain = config["mailroom:domains"][0]
        config["mailroom:domains"].append(
            {"name": "quiet.test", "zoneId": "f" * 32, "mail": "none"} | {k: domain[k] for k in ()}
        )

    run = run_program(silence)
    contents = {revealed(run.inputs(name)["content"]) for name in run.names(RECORD) if "quiet.test" in name}
    assert '"v=spf1 -all"' in contents
    assert "." in contents
    assert any("p=reject" in content for content in contents)
    assert not any("DKIM" in content for content in contents)


def test_a_mail_server_makes_no_resource_a_user(run_program: Any) -> None:
    def many(config: dict[str, Any]) -> None:
        names = [f"user{number}" for number in range(30)]
        config["mailroom:domains"][0]["users"] += names
        config["mailroom:passwords"] |= {f"{name}@example.test": "pw-0123456789" for name in names}

    assert set(run_program(many).resources) == set(run_program().resources)
