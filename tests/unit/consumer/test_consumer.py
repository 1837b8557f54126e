"""The example of a consuming stack: what it accepts as outputs, and the file it writes; and the documented snippet."""

from __future__ import annotations

import asyncio
import io
import json
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pulumi
import pytest

CONSUMER = Path("examples/consumer").resolve()
OUTPUTS = {"outputsVersion": 1.0, "submissionHost": "smtp.example.com", "submissionPort": 465.0,
           "logins": ["i@example.com", "i+shop@example.com"], "users": ["i@example.com"]}  # fmt: skip


@pytest.fixture
def contract(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(CONSUMER))
    import contract  # type: ignore[import-not-found]

    return contract


def test_known_outputs_are_taken_as_they_stand(contract: Any) -> None:
    known = contract.Contract(OUTPUTS, "prod")
    assert (known.submission_host, known.submission_port) == ("smtp.example.com", 465)
    assert known.login("i+shop@example.com") == "i+shop@example.com"
    assert known.sender("i+shop@example.com") == "i@example.com"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"outputsVersion": 2}, r"prod: its outputs have version 2\n  this program knows version 1: read what changed"),
        ({"outputsVersion": "new"}, "its outputs have version 'new'"),
        ({"outputsVersion": None}, r"no outputs, or is no Mailroom stack\n  is the name right, and was it deployed\?"),
        ({"submissionPort": "465", "submissionHost": None}, "submissionHost is missing; submissionPort is no int"),
        ({"submissionHost": "${DB_PASSWORD}.example.net"}, "no names of users or of a host are in submissionHost\n"),
        ({"logins": ["i@example.com", None]}, "no names of users or of a host are in logins\n"),
    ],
)
def test_outputs_it_does_not_know_are_refused_with_what_to_do(contract: Any, change: Any, said: str) -> None:
    with pytest.raises(pulumi.RunError, match=said):
        contract.Contract({**OUTPUTS, **change}, "prod")


def test_a_login_that_the_stack_does_not_have_is_named(contract: Any) -> None:
    with pytest.raises(pulumi.RunError, match=r"nobody logs in as j@example\.com\n.*one of i@example\.com, i\+shop"):
        contract.Contract(OUTPUTS, "prod").login("j@example.com")


@pytest.mark.parametrize(
    ("exported", "own", "taken"),
    [({}, "own", "own"), (None, "own", "own"), ({"i@example.com": "theirs"}, None, "theirs"),
     ({"i@example.com": "theirs"}, "own", "own")],
)  # fmt: skip
def test_its_own_password_goes_before_an_exported_one(contract: Any, exported: Any, own: Any, taken: str) -> None:
    assert contract.Contract({**OUTPUTS, "passwords": exported}, "prod").password("i@example.com", own) == taken


@pytest.mark.parametrize("masked", [{}, "[secret]", None])
def test_a_password_that_it_may_not_see_is_asked_for(contract: Any, masked: Any) -> None:
    with pytest.raises(pulumi.RunError, match="no password .* can be read there\n.*config set --secret password"):
        contract.Contract({**OUTPUTS, "passwords": masked}, "prod").password("i@example.com", None)


def test_a_file_that_is_no_json_says_how_to_write_it(contract: Any, tmp_path: Path) -> None:
    (tmp_path / "outputs.json").write_text("{")
    with pytest.raises(pulumi.RunError, match="pulumi stack output -s prod --json > "):
        contract.read_file(str(tmp_path / "outputs.json"))


def env_file(action: str, path: Path, settings: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CONSUMER / "env_file.py"), action, str(path)]
    return subprocess.run(command, input=json.dumps(settings or {}), capture_output=True, text=True, check=False)


def test_the_file_is_for_its_owner_alone_and_a_shell_reads_what_was_meant(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    secret = 'a $(touch x) "b" `c` #d $1 $'
    assert env_file("write", path, {"SMTP_PASSWORD": "old"}).returncode == 0
    done = env_file("write", path, {"SMTP_PASSWORD": secret})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert path.stat().st_mode & 0o777 == 0o600
    read = subprocess.run(
        ["sh", "-c", f'. {path}; printf %s "$SMTP_PASSWORD"'], capture_output=True, text=True, check=True
    )
    assert read.stdout == secret
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"
    assert env_file("remove", path).returncode == 0
    assert env_file("remove", path).returncode == 0, "a second time, too"
    assert not path.exists()


def test_a_file_of_others_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("MINE=1\n")
    done = env_file("write", path, {"SMTP_PASSWORD": "secret"})
    assert (done.returncode, "is not ours: move it away" in done.stderr) == (1, True)
    assert env_file("remove", path).returncode == 0
    assert path.read_text() == "MINE=1\n"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to(tmp_path / "elsewhere")
    assert env_file("write", tmp_path / ".env", {"A": "b"}).returncode == 1
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("value", ["it's", "a\nb", "a\\b", "a${HOME}b", "a$HOMEb", "a$_b"])
def test_a_value_that_libraries_read_differently_changes_nothing_and_is_not_shown(tmp_path: Path, value: str) -> None:
    path = tmp_path / ".env"
    env_file("write", path, {"SMTP_PASSWORD": "old"})
    before = path.read_text()
    done = env_file("write", path, {"SMTP_PASSWORD": value})
    assert (done.returncode, path.read_text()) == (1, before)
    assert "SMTP_PASSWORD must not hold" in done.stderr
    assert value not in done.stderr


@pytest.mark.parametrize(
    ("change", "to", "said"),
    [
        (
            {},
            "a@b.test\nBcc: x@y.test",
            "smokeTo is empty or has a line break: `pulumi config set smokeTo` with one address",
        ),
        ({}, "", "smokeTo is empty or has a line break"),
        ({}, "a@b.test\n", "smokeTo is empty or has a line break"),
        ({"SMTP_PASSWORD": "s\u00e9cret"}, "a@b.test", "use an application token, made by `scripts/hash_password.py"),
        ({"MAIL_FROM": "i@example.com\nX: y"}, "a@b.test", "may not contain linefeed"),
        ({}, "a@b.test", "sent by smtp.example.com:1 at 127.0.0.1: [Errno 111] Connection refused"),
    ],
)
def test_a_smoke_mail_that_cannot_be_sent_is_one_clear_line(change: dict[str, str], to: str, said: str) -> None:
    settings = {"MAIL_FROM": "i@example.com", "SMTP_HOST": "smtp.example.com", "SMTP_PORT": "1",
                "SMTP_USER": "i@example.com", "SMTP_PASSWORD": "secret"}  # fmt: skip
    given = {"settings": settings | change, "to": to, "address": "127.0.0.1", "ca_file": None}
    command = [sys.executable, str(CONSUMER / "smoke_mail.py")]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: no smoke mail was sent")
    assert said in done.stderr
    assert not re.search("cret|\u00e9|xe9", done.stderr), "no letter of the password is shown"


def test_a_server_whose_name_nobody_knows_is_named_with_its_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    settings = {"MAIL_FROM": "i@example.com", "SMTP_HOST": "smtp.example.com", "SMTP_PORT": "465",
                "SMTP_USER": "i@example.com", "SMTP_PASSWORD": "secret"}  # fmt: skip
    given = {"settings": settings, "to": "a@b.test", "address": None, "ca_file": None}
    monkeypatch.setattr("socket.create_connection", unknown)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(given)))
    with pytest.raises(SystemExit, match="1"):
        runpy.run_path(str(CONSUMER / "smoke_mail.py"), run_name="__main__")
    said = "no smoke mail was sent by smtp.example.com:465: [Errno -2] Name or service not known"
    assert capsys.readouterr().err == f"error: {said}\n"


class Reference(pulumi.runtime.Mocks):
    def new_resource(self, args: Any) -> tuple[str, dict[str, Any]]:
        return args.name, {"name": args.name, "outputs": OUTPUTS, "secretOutputNames": []}

    def call(self, args: Any) -> dict[str, Any]:
        raise AssertionError(args.token)


def test_the_documented_program_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", Path("docs/outputs.md").read_text(encoding="utf-8"), re.DOTALL)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(Reference(), preview=False)
    exported: dict[str, Any] = {}

    async def program() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(pulumi, "export", exported.__setitem__)
            exec(compile(snippet, "docs/outputs.md", "exec"), {})
        exported["mailServer"] = await exported["mailServer"].future()

    try:
        pulumi.runtime.test(program)()
    finally:
        loop.close()
        asyncio.set_event_loop(None)
    assert exported == {"mailServer": "smtp.example.com:465"}
