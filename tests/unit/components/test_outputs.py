"""The outputs as a contract: docs/outputs.md, the declaration and what a run exports say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import pytest

from components.outputs import DECLARED, VERSION
from standards import passwords

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.components.conftest import Run

DOCUMENT = Path("docs/outputs.md").read_text(encoding="utf-8")
TOKEN = passwords.token(b"a canary of 24 octets...")
# What version 1 promised: an output may join, none may go or change its type unless VERSION is raised.
PROMISED = {
    1: {
        "outputsVersion": "integer", "submissionHost": "string", "submissionPort": "integer",
        "submissionStartTlsPort": "integer", "submissionAuth": "string", "users": "list of strings",
        "logins": "list of strings", "domains": "list of strings", "receivingDomains": "list of strings",
        "hosts": "list of {name: string, ipv4: string or null, ipv6: string or null, sshUser: string, "
                 "sshPort: integer, hostKey: string}",
        "ipv4": "list of strings", "ipv6": "list of strings",
        "mx": "list of {domain: string, host: string, priority: integer}",
        "dkim": "list of {domain: string, selector: string, stage: string, name: string, record: string}",
        "records": "list of {name: string, type: string, content: string, priority: integer or null, ttl: integer, "
                   "reason: string}",
        "gmail": "list of {emailAddress: string, smtpServer: string, port: integer, username: string, "
                 "securedConnection: string}",
        "chasquidVersion": "string", "systems": "mapping of strings", "passwords": "mapping of strings",
    }
}  # fmt: skip
PLAIN = {str: "string", int: "integer", str | None: "string or null", int | None: "integer or null",
         list[str]: "list of strings", dict[str, str]: "mapping of strings"}  # fmt: skip


def type_name(kind: Any) -> str:
    """A type as docs/outputs.md writes it."""
    if kind in PLAIN:
        return PLAIN[kind]
    (item,) = get_args(kind)
    return "list of {" + ", ".join(f"{name}: {type_name(of)}" for name, of in get_type_hints(item).items()) + "}"


def table() -> str:
    rows = [
        f"| `{output.name}` | {type_name(output.type)} | {'yes' if output.secret else 'no'} | {output.since} "
        f"| {output.meaning} |"
        for output in DECLARED
    ]
    return "\n".join(["| Output | Type | Secret | Since | What it is |", "| --- | --- | --- | --- | --- |", *rows])


def fits(kind: Any, value: Any) -> bool:
    """Whether an exported value is what was declared, to the last field."""
    if get_origin(kind) is list:
        return isinstance(value, list) and all(fits(get_args(kind)[0], item) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(fits(get_args(kind)[1], item) for item in value.values())
    if hasattr(kind, "__annotations__"):
        fields = get_type_hints(kind)
        return set(value) == set(fields) and all(fits(of, value[name]) for name, of in fields.items())
    return isinstance(value, kind)


def export(config: dict[str, Any]) -> None:
    config["mailroom:domains"][0]["aliases"]["bob"] = ["bob@receiver.test"]
    config["mailroom:domains"][0]["users"] = ["bob", {"name": "alice", "export": True, "tokens": ["shop"]}]
    config["mailroom:domains"].append({"name": "silent.test", "zoneId": "f" * 32, "mail": "none"})
    config["mailroom:passwords"] = {
        "alice@example.test": "CANARY-password-1",
        "alice+shop@example.test": TOKEN,
        "bob@example.test": "CANARY-password-3",
    }


@pytest.fixture
def exported(run_program: Callable[..., Run]) -> Run:
    """What a run exports with two users, a silent domain, an application token and `export: true` for one user."""
    return run_program(export)


def test_the_document_lists_each_output_as_it_is_declared() -> None:
    assert table() in DOCUMENT, f"docs/outputs.md needs this table:\n{table()}"


def test_no_promised_output_is_missing_or_has_another_type() -> None:
    declared = {output.name: type_name(output.type) for output in DECLARED}
    for name, kind in PROMISED[VERSION].items():
        assert declared[name] == kind, "raise VERSION and say in docs/outputs.md what changed"
    assert {output.since for output in DECLARED} <= set(PROMISED)
    assert len(declared) == len(DECLARED)


def test_each_exported_value_has_its_declared_type(exported: Run) -> None:
    assert sorted(exported.outputs) == sorted(output.name for output in DECLARED)
    wrong = {
        output.name: exported.outputs[output.name]
        for output in DECLARED
        if not output.secret and not fits(output.type, exported.outputs[output.name])
    }
    assert wrong == {}


def test_only_exported_users_passwords_leave_the_stack_and_only_as_a_secret(exported: Run) -> None:
    secret = exported.outputs.pop("passwords")
    assert secret == {"alice+shop@example.test": TOKEN, "alice@example.test": "CANARY-password-1"}
    assert exported.secrets == {"passwords"}, "a consumer with its own passphrase reads all the others"
    assert re.findall(rf"CANARY|PRIVATE|{TOKEN}", json.dumps(exported.outputs)) == []


def test_without_an_exported_user_there_is_no_password_among_the_outputs(run_program: Callable[..., Run]) -> None:
    ran = run_program()
    assert sorted(ran.outputs) == sorted(output.name for output in DECLARED if not output.secret)
    assert ran.secrets == set()
    assert "CANARY" not in json.dumps(ran.outputs)


def test_users_logins_and_domains_are_told_apart(exported: Run) -> None:
    assert exported.outputs["outputsVersion"] == VERSION
    assert exported.outputs["users"] == ["bob@example.test", "alice@example.test"]
    assert exported.outputs["logins"] == ["bob@example.test", "alice@example.test", "alice+shop@example.test"]
    assert exported.outputs["domains"] == exported.outputs["receivingDomains"] == ["example.test"]
    assert exported.outputs["mx"] == [
        {"domain": "example.test", "host": "smtp.example.test", "priority": 10},
        {"domain": "silent.test", "host": ".", "priority": 0},
    ]


def test_an_address_that_no_mail_leaves_from_is_not_for_allow_lists(run_program: Callable[..., Run]) -> None:
    def change(config: dict[str, Any]) -> None:
        config["mailroom:hosts"][0]["ipv6Outbound"] = False

    exported = run_program(change)
    assert exported.outputs["ipv6"] == []
    assert exported.outputs["hosts"][0]["ipv6"] == "2001:db8:99::10"
