"""A new stack's file: complete, judged as `up` judges it, and never stricter or weaker than the zone allows."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from components.settings import Settings
from operations import interview, new_stack, questions, stacks
from operations.cloudflare import Account, ApiError
from operations.new_stack import Answers, Existing, draft
from scripts import new_stack as command
from standards import dmarc, ownership
from standards.finding import Problems
from standards.records import unquoted, wanted_records

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from standards.finding import Finding

ZONE = "0123456789abcdef0123456789abcdef"
API, ACME = "api-token-canary-0123456789-0123456789-01", "acme-token-canary-0123456789-0123456789-0"
ANSWERS = Answers(
    stack="prod",
    domain="example.com",
    host="smtp.example.com",
    ipv4="192.0.2.10",
    ipv6="2001:db8::10",
    user="i",
    forward_to="someone@gmail.com",
    api_token=API,
    acme_token=ACME,
    email="someone@gmail.com",
    host_key=new_stack.EXAMPLE_KEY,
)
FLAGS = {
    "stack": "prod",
    "domain": "Example.com",
    "ipv4": "192.0.2.10",
    "user": "i",
    "forward-to": "someone@gmail.com",
}


def record(kind: str, name: str, content: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "name": name, "content": content, **more}


def domain_of(made: new_stack.Draft) -> dict[str, Any]:
    (domain,) = yaml.safe_load(made.text)["config"]["mailroom:domains"]
    return dict(domain)


def loaded(made: new_stack.Draft) -> Settings:
    config = yaml.safe_load(made.text)["config"]
    config["mailroom:acme"]["token"] = ACME
    config |= {"cloudflare:apiToken": API, "mailroom:passwords": {"i@example.com": "a-long-password-of-ours"}}
    return Settings.load(config.get, "prod", config)


def at_the_gate(made: new_stack.Draft, texts: Sequence[str], mx: Sequence[str] = ()) -> list[Finding]:
    """What stops the first run in a zone with these SPF and MX records at the domain."""
    zone = [
        *(record("TXT", "example.com", text, id=str(number)) for number, text in enumerate(texts)),
        *(record("MX", "example.com", host, id=host, priority=10) for host in mx),
    ]
    stack = loaded(made)
    return ownership.conflicts(zone, ownership.claims(stack, wanted_records(stack), ZONE), "prod", "example.com")


def test_the_file_is_all_that_up_needs_but_the_secrets() -> None:
    stack = loaded(draft(ANSWERS, ZONE, Existing()))
    assert [host.name for host in stack.hosts] == ["smtp.example.com"]
    assert [warning.id for warning in stack.warnings()] == ["host-key-example"]


def test_no_secret_is_in_the_file_and_none_is_shown() -> None:
    made = draft(ANSWERS, ZONE, Existing())
    password = made.secrets['mailroom:passwords["i@example.com"]']
    assert len(password) >= 32
    said = [made.text, repr(made), repr(ANSWERS), interview.told(ANSWERS, made)]
    assert [secret for secret in (API, ACME, password) if any(secret in text for text in said)] == []


def test_an_empty_zone_gets_quarantine_and_reports() -> None:
    assert domain_of(draft(ANSWERS, ZONE, Existing()))["dmarc"] == {
        "policy": "quarantine",
        "rua": ["dmarc@example.com"],
    }


@pytest.mark.parametrize(
    "existing",
    [Existing(mx=("mx.other.test",)), Existing(spf=("v=spf1 -all",)), Existing(dkim=("google",))],
    ids=["MX", "SPF", "DKIM"],
)
def test_where_others_mail_already_dmarc_begins_with_none(existing: Existing) -> None:
    assert domain_of(draft(ANSWERS, ZONE, existing))["dmarc"]["policy"] == "none"


@pytest.mark.parametrize("policy", ["none", "quarantine", "reject"])
def test_a_policy_that_is_there_stays_as_it_is(policy: str) -> None:
    existing = Existing(dmarc=(f"v=DMARC1; p={policy}; rua=mailto:reports@example.com!10m",))
    made = domain_of(draft(ANSWERS, ZONE, existing))
    assert made["dmarc"] == {"policy": policy, "rua": ["reports@example.com"]}


def test_a_policy_that_is_there_is_taken_over_with_all_that_the_settings_can_say_and_the_rest_is_told() -> None:
    text = (
        "v=DMARC1; p=Reject; sp=QUARANTINE; np=strict; adkim=S; aspf=r; t=y; pct=50; fo=1:d; "
        "ruf=mailto:f@example.com; rua=mailto:a@example.com"
    )
    made = draft(ANSWERS, ZONE, Existing(dmarc=(text,)))
    assert domain_of(made)["dmarc"] == {
        "policy": "reject", "rua": ["a@example.com"], "ruf": ["f@example.com"], "sp": "quarantine", "adkim": "s",
        "aspf": "r", "fo": "1:d",
    }  # fmt: skip
    assert "the DMARC policy that is there was taken over: p=reject, without t=y, pct=50" in made.notes
    (record,) = (one for one in wanted_records(loaded(made)) if one.name == "_dmarc.example.com")
    assert dmarc.weaker(unquoted(record.content or ""), text) == ""


def test_mail_that_is_received_elsewhere_stays_there_unless_told_otherwise() -> None:
    existing = Existing(mx=("mx1.other.test", "mx2.other.test"))
    made = domain_of(draft(ANSWERS, ZONE, existing))
    assert (made["mail"], made["mx"]) == ("external", ["mx1.other.test", "mx2.other.test"])
    assert domain_of(draft(replace(ANSWERS, mail="forward"), ZONE, existing))["mail"] == "forward"


def test_an_mx_of_our_own_host_is_no_foreign_one() -> None:
    assert domain_of(draft(ANSWERS, ZONE, Existing(mx=("smtp.example.com",))))["mail"] == "forward"


def test_the_senders_of_a_record_that_is_there_may_go_on() -> None:
    existing = Existing(spf=("v=spf1 +ip4:198.51.100.7 include:_spf.google.com -all",))
    made = domain_of(draft(ANSWERS, ZONE, existing))
    senders = {"mechanisms": ["ip4:198.51.100.7"], "includes": ["_spf.google.com"], "all": "-all"}
    assert made["spf"] == senders | {"adopt": True}


def test_a_domain_that_said_it_takes_no_mail_gets_it_here_once_the_null_mx_is_gone() -> None:
    null = {"type": "MX", "name": "example.com", "content": ".", "priority": 0}
    made = draft(ANSWERS, ZONE, Existing.of([null], "example.com"))
    assert domain_of(made)["mail"] == "forward"
    assert "mx" not in domain_of(made)
    assert "the MX records (the null MX) have to go before `up`: it names them and stops" in made.notes


def test_mx_of_the_record_that_is_there_stays_the_hosts_of_today_and_what_is_left_out_is_told() -> None:
    existing = Existing(mx=("mx.other.test",), spf=("v=spf1 mx ptr -all",))
    made = draft(ANSWERS, ZONE, existing)
    assert domain_of(made)["spf"]["mechanisms"] == ["a:mx.other.test"]
    assert "left out of it: ptr" in made.notes


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("v=spf1 include:_spf.google.com ?include:x.example ~all", "?include:x.example"),
        ("v=spf1 include:_spf.google.com ?ip4:192.0.2.1 ~all", "?ip4:192.0.2.1"),
        ("v=spf1 ~ip4:192.0.2.1 -all", ""),
    ],
)
def test_terms_that_let_nobody_pass_do_not_stop_up_and_are_told_where_they_are_left_out(
    text: str, left_out: str
) -> None:
    made = draft(ANSWERS, ZONE, Existing(spf=(text,)))
    assert domain_of(made)["spf"]["adopt"] is True
    assert at_the_gate(made, [text]) == []
    assert (f"left out of it: {left_out}" in made.notes) == bool(left_out)


def test_a_record_whose_order_the_settings_cannot_hold_is_not_said_to_be_replaced() -> None:
    text = "v=spf1 -include:bad.example include:x.example ~all"
    made = draft(ANSWERS, ZONE, Existing(spf=(text,)))
    assert "adopt" not in domain_of(made)["spf"]
    note = next(note for note in made.notes if "`up`" in note)
    assert note.startswith(f"`up` stops at {text}: -include:bad.example refuses whom a later term may let in")
    assert "`scripts/adopt.py --stack prod` shows the ways on, such as --take" in note
    (stopped,) = at_the_gate(made, [text])
    assert stopped.fix.startswith(
        "-include:bad.example refuses whom a later term may let in: `spf` cannot hold that order"
    )
    assert stopped.fix.endswith("or take it over: `scripts/adopt.py --stack prod --take 0`")


TERMS = st.builds(
    str.__add__,
    st.sampled_from(["", "", "+", "-", "~", "?"]),
    st.sampled_from(
        ["ip4:192.0.2.1", "ip4:198.51.100.0/24", "a:x.example", "mx", "include:y.example", "include:z.example", "ptr"]
    ),
)
TEXTS = st.builds(
    "v=spf1 {} {}".format,
    st.lists(TERMS, max_size=4).map(" ".join),
    st.sampled_from(["~all", "-all", "?all", "redirect=r.example", "exp=e.example"]),
)


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=2),
    mx=st.sampled_from([(), ("mx.old.example",)]),
    mail=st.sampled_from([None, "forward"]),
)
def test_what_a_draft_says_of_spf_records_is_what_the_gate_does(
    texts: list[str], mx: tuple[str, ...], mail: str | None
) -> None:
    made = draft(replace(ANSWERS, mail=mail), ZONE, Existing(mx=mx, spf=tuple(texts)))
    stops = [note for note in made.notes if note.startswith("`up` stops at")]
    stopped = [finding for finding in at_the_gate(made, texts, mx) if "spf1" in finding.found]
    assert bool(stopped) == bool(stops) == ("adopt" not in domain_of(made)["spf"])


def test_a_selector_that_is_taken_is_not_used_again() -> None:
    assert domain_of(draft(ANSWERS, ZONE, Existing(dkim=("m1", "m2"))))["dkim"][0]["selector"] == "m3"


def test_only_what_stands_at_the_domain_itself_counts() -> None:
    found = Existing.of(
        [
            record("MX", "example.com", "b.test.", priority=20),
            record("MX", "example.com", "a.test", priority=10),
            record("MX", "sub.example.com", "c.test", priority=10),
            record("TXT", "example.com", '"v=spf1 -all"'),
            record("TXT", "example.com", '"google-site-verification=1"'),
            record("TXT", "_dmarc.example.com", '"v=DMARC1; p=none"'),
            record("TXT", "m1._domainkey.example.com", '"v=DKIM1; p=AAAA"'),
            record("CNAME", "s1._domainkey.example.com", "s1.sender.test"),
            record("TXT", "m9._domainkey.sub.example.com", '"v=DKIM1; p=AAAA"'),
        ],
        "example.com",
    )
    assert found == Existing(("a.test", "b.test"), ("v=spf1 -all",), ("v=DMARC1; p=none",), ("m1", "s1"))


def test_every_reason_is_told_at_once_and_before_anything_is_written() -> None:
    with pytest.raises(Problems) as caught:
        draft(replace(ANSWERS, ipv4=None, ipv6=None, directory="letsdecrypt"), ZONE, Existing())
    assert {finding.id for finding in caught.value.findings} >= {"host-without-address", "acme-directory-invalid"}


def test_a_stack_without_a_host_key_yet_says_what_pins_it() -> None:
    unpinned = replace(ANSWERS, host_key=None)
    made = draft(unpinned, ZONE, Existing())
    assert "hostKey" not in made.text
    assert "scripts/preflight.py 192.0.2.10 --stack prod --wait --pin" in interview.told(unpinned, made)


def test_a_backend_with_options_is_exported_as_a_shell_takes_it() -> None:
    kept = replace(ANSWERS, backend="s3://my-bucket?region=eu-central-1&endpoint=s3.example.com")
    shown = interview.told(kept, draft(kept, ZONE, Existing()))
    assert "export PULUMI_BACKEND_URL='s3://my-bucket?region=eu-central-1&endpoint=s3.example.com'\n" in shown


# Whose file it is


@pytest.mark.parametrize("stack", ["prod", "staging"])
def test_the_shipped_example_and_no_file_are_nobodys(tmp_path: Path, stack: str) -> None:
    example = new_stack.path_of(stack, tmp_path)
    assert new_stack.is_free(example)
    example.write_text(Path(f"tests/data/Pulumi.{stack}.yaml").read_text())
    assert new_stack.is_free(example)


@pytest.mark.parametrize("stack", ["prod", "staging"])
def test_the_copy_of_the_tests_is_the_shipped_example_until_somebody_puts_a_stack_in_its_place(stack: str) -> None:
    shipped = new_stack.path_of(stack)
    if shipped.exists() and new_stack.is_free(shipped):
        assert shipped.read_text() == Path(f"tests/data/Pulumi.{stack}.yaml").read_text()


@pytest.mark.parametrize(
    ("flag", "there", "answer", "replaced"),
    [
        ([], "example", None, True),
        ([], "another", None, False),
        ([], "another", "n", False),
        ([], "another", "y", True),
        (["--yes"], "another", None, True),
    ],
    ids=["the example, unasked", "nobody to ask", "no", "yes", "--yes"],
)
def test_any_other_file_is_replaced_on_confirmation_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: list[str], there: str, answer: str | None, *, replaced: bool
) -> None:
    file, written = tmp_path / "Pulumi.prod.yaml", []
    example = Path("tests/data/Pulumi.prod.yaml").read_text()
    file.write_text(example if there == "example" else "config: {}\n")
    monkeypatch.setattr(sys, "argv", ["new_stack.py", "prod", *flag])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: answer is not None))
    monkeypatch.setattr("builtins.input", lambda _: answer)
    monkeypatch.setattr(interview, "answers", lambda *_, **__: ANSWERS)
    monkeypatch.setattr(new_stack, "path_of", lambda _: file)
    monkeypatch.setattr(new_stack, "look", lambda _: (ZONE, Existing()))
    monkeypatch.setattr(new_stack, "write", lambda made, _: written.append(made))
    assert command.main() == (0 if replaced else command.NOT_CONFIRMED)
    assert len(written) == replaced


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("IJpPEQfz2RN0X9s", "IJpPEQfz2RN0X9t"),
        lambda text: text + "encryptionsalt: v1:AAAA\n",
        lambda text: text.replace("directory: letsencrypt-staging", "token: {secure: v1:AAAA}"),
        lambda _: "config: [\n",
        lambda _: "config: {}\n",
    ],
    ids=["own host key", "own salt", "a secret", "no YAML", "no hosts"],
)
def test_a_file_that_somebody_worked_on_is_not_replaced(tmp_path: Path, change: Any) -> None:
    file = tmp_path / "Pulumi.prod.yaml"
    file.write_text(change(Path("tests/data/Pulumi.prod.yaml").read_text()))
    assert not new_stack.is_free(file)


# Questions


def flags(tmp_path: Path, **more: str) -> dict[str, str]:
    for name, token in (("api-token", API), ("acme-token", ACME)):
        (tmp_path / name).write_text(token + "\n")
    return {**FLAGS, "api-token": str(tmp_path / "api-token"), "acme-token": str(tmp_path / "acme-token"), **more}


def test_flags_alone_are_enough_and_the_rest_is_derived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PULUMI_BACKEND_URL", raising=False)
    told = interview.answers(flags(tmp_path), interactive=False)
    assert (told.domain, told.host, told.email) == ("example.com", "smtp.example.com", "someone@gmail.com")
    assert (told.api_token, told.acme_token, told.ipv6, told.backend) == (API, ACME, None, None)


def test_without_a_person_every_missing_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUDFLARE_API_TOKEN", raising=False)
    with pytest.raises(Problems) as caught:
        interview.answers({"stack": "prod", "ipv4": "1.2.3"}, interactive=False)
    assert {finding.subject for finding in caught.value.findings} >= {
        "--domain",
        "--api-token-file",
        "--acme-token-file",
        "--ipv4",
        "--user",
        "--forward-to",
    }


def test_a_person_is_asked_again_until_the_answer_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["not a domain", "example.com"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    (question,) = [one for one in interview.QUESTIONS if one.flag == "domain"]
    assert questions.ask([question], {}, interactive=True) == {"domain": "example.com"}


def test_a_secret_is_asked_for_without_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("it would be seen"))
    monkeypatch.setattr("getpass.getpass", lambda _: ACME)
    (question,) = [one for one in interview.QUESTIONS if one.flag == "acme-token"]
    assert questions.ask([question], {}, interactive=True) == {"acme-token": ACME}


@pytest.mark.parametrize(
    ("flag", "wrong", "right", "told"),
    [
        ("directory", "letsdecrypt", "https://acme.example.com/directory", {}),
        ("backend", "my-bucket", "s3://my-bucket", {}),
        ("ssh-user", "A b", "ubuntu", {}),
        ("host", "smtp.example.org", "smtp.example.com", {"domain": "example.com"}),
        ("forward-to", "me@example.com", "me@gmail.com", {"domain": "example.com"}),
        ("acme-token", API, ACME, {"api-token": API}),
    ],
)
def test_an_answer_that_cannot_be_used_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, flag: str, wrong: str, right: str, told: dict[str, str]
) -> None:
    typed = iter([wrong, right])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    monkeypatch.setattr("getpass.getpass", lambda _: next(typed))
    asked = [one for one in interview.QUESTIONS if one.flag in {flag, *told}]
    assert questions.ask(asked, told, interactive=True)[flag] == right


def test_a_default_that_cannot_be_used_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "my-bucket")
    typed = iter(["", "s3://my-bucket"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    asked = [one for one in interview.QUESTIONS if one.flag == "backend"]
    assert questions.ask(asked, {}, interactive=True) == {"backend": "s3://my-bucket"}


def test_another_base_url_is_judged_before_it_is_asked(tmp_path: Path) -> None:
    with pytest.raises(Problems, match="--base-url"):
        interview.answers({**flags(tmp_path), "base_url": "http://"}, interactive=False)


# What is said of a token before there is a stack


def test_a_token_of_the_wrong_form_is_not_told_to_be_stored(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("x")
    with pytest.raises(Problems) as caught:
        interview.answers({**flags(tmp_path), "api-token": str(tmp_path / "short")}, interactive=False)
    (finding,) = caught.value.findings
    assert (finding.subject, finding.fix) == ("--api-token-file", new_stack.MAKE_ONE)


def test_a_token_that_the_api_refuses_is_not_told_to_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ApiError(403, 10000, "Authentication error")

    monkeypatch.setattr(Account, "call", refuse)
    with pytest.raises(Problems) as caught:
        new_stack.look(ANSWERS)
    (finding,) = caught.value.findings
    assert (finding.subject, finding.fix) == ("--api-token-file", new_stack.MAKE_ONE)
    assert finding.found == "the API refuses it (403/10000: Authentication error)"


# How scripts find the stack again


def test_scripts_find_backend_and_passphrase_of_a_stack_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "engine", lambda _=None: ("pulumi", {}))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PULUMI_BACKEND_URL", "file:///elsewhere")
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE", raising=False)
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE_FILE", raising=False)
    (tmp_path / "Pulumi.prod.yaml").write_text("config:\n  mailroom:backend: s3://state\n")
    stacks.passphrase_file("prod").parent.mkdir(parents=True)
    stacks.passphrase_file("prod").write_text("x")
    _, environment = stacks.command("prod", tmp_path)
    assert environment["PULUMI_BACKEND_URL"] == "s3://state"
    assert environment["PULUMI_CONFIG_PASSPHRASE_FILE"] == str(stacks.passphrase_file("prod"))
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "exported")
    assert "PULUMI_CONFIG_PASSPHRASE_FILE" not in stacks.command("prod", tmp_path)[1]


@pytest.mark.parametrize("text", ["", "config: [", "config: {}", "config: {mailroom:backend: 1}", "- 1"])
def test_a_file_that_names_no_backend_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(stacks, "engine", lambda _=None: ("pulumi", {}))
    monkeypatch.setenv("PULUMI_BACKEND_URL", "file:///elsewhere")
    (tmp_path / "Pulumi.prod.yaml").write_text(text)
    assert stacks.command("prod", tmp_path)[1]["PULUMI_BACKEND_URL"] == "file:///elsewhere"


# The stack and its file


FAKE = """#!/bin/sh
# A stand-in for pulumi: the state of the stack is the file {state}, a call is a line of {calls}
echo "$1 $2" >> {calls}
case "$1 $2" in
"stack init") [ -e {state} ] && {{ echo "error: stack 'organization/mailroom/prod' already exists" >&2; exit 1; }}
  printf '{{"deployment": {{}}}}' > {state} ;;
"stack export") [ -e {state} ] || exit 6; cat {state} ;;
"config set") for key; do :; done; shift 6; echo "# secure $1: $(cat | wc -c)" >> Pulumi.prod.yaml ;;
esac
[ "$(wc -l < {calls})" != "{last}" ] || kill -9 $PPID
"""
SECRETS = 3


@dataclass
class Workplace:
    """A checkout with a stand-in for the engine, which may kill its caller after so many calls."""

    checkout: Path
    state: Path
    calls: Path

    def engine(self, last: int | str) -> None:
        text = FAKE.format(state=self.state, calls=self.calls, last=last)
        program = self.checkout / "pulumi"
        program.write_text(text)
        program.chmod(0o755)
        self.calls.write_text("")

    def write(self) -> Path:
        return new_stack.write(draft(ANSWERS, ZONE, Existing()), checkout=self.checkout)

    def is_complete(self) -> bool:
        text = (self.checkout / "Pulumi.prod.yaml").read_text()
        return text.startswith("# Written by") and text.count("# secure") == SECRETS


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    made = Workplace(tmp_path, tmp_path / "state", tmp_path / "calls")
    (tmp_path / "Pulumi.yaml").write_text("name: mailroom\n")
    monkeypatch.setattr(stacks, "engine", lambda _=None: (str(tmp_path / "pulumi"), {}))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    made.engine("never")
    return made


def killed(work: Callable[[], object]) -> bool:
    """Whether this work, in a process of its own, is ended by SIGKILL."""
    process = os.fork()
    if not process:
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


@pytest.mark.parametrize("calls", range(1, SECRETS + 2))
def test_a_run_killed_anywhere_leaves_the_file_of_before_and_the_next_one_ends_the_work(
    place: Workplace, calls: int
) -> None:
    shipped = place.checkout / "Pulumi.prod.yaml"
    shipped.write_text(Path("tests/data/Pulumi.prod.yaml").read_text())
    place.engine(calls)
    assert killed(place.write)
    assert new_stack.is_free(shipped)
    assert shipped.read_text() == Path("tests/data/Pulumi.prod.yaml").read_text()
    place.engine("never")
    place.write()
    assert place.is_complete()
    assert not (place.checkout / "build/new-stack/prod").exists()


def test_a_passphrase_is_never_there_in_part(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    made = draft(replace(ANSWERS, backend="file:///srv/pulumi"), ZONE, Existing())
    monkeypatch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    assert killed(lambda: new_stack.write(made, checkout=place.checkout))
    assert not stacks.passphrase_file("prod").exists()
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(place.checkout))
    monkeypatch.setattr(stacks, "engine", lambda _=None: (str(place.checkout / "pulumi"), {}))
    new_stack.write(made, checkout=place.checkout)
    file = stacks.passphrase_file("prod")
    assert (len(file.read_text()), file.stat().st_mode & 0o777) == (44, 0o600)


def test_the_file_of_a_stack_that_was_never_deployed_is_replaced(place: Workplace) -> None:
    place.write()
    file = place.checkout / "Pulumi.prod.yaml"
    file.write_text("config:\n  mailroom:hosts: []\n")
    place.write()
    assert place.is_complete()


def test_the_file_of_a_deployed_stack_is_not_replaced(place: Workplace) -> None:
    place.state.write_text(
        '{"deployment": {"resources": [{"urn": "urn:pulumi:prod::mailroom::pulumi:pulumi:Stack::x"}]}}'
    )
    file = place.checkout / "Pulumi.prod.yaml"
    for before in (None, "config:\n  mailroom:hosts: []\n"):
        if before:
            file.write_text(before)
        with pytest.raises(Problems) as caught:
            place.write()
        (finding,) = caught.value.findings
        assert (finding.id, "pulumi destroy -s prod" in finding.fix) == ("new-stack.exists", True)
        assert (file.read_text() if before else file.exists()) == (before or False)


def test_a_state_that_would_be_lost_with_the_folder_is_refused(place: Workplace) -> None:
    program = place.checkout / "pulumi"
    program.write_text("#!/bin/sh\nmkdir -p .pulumi\n")
    with pytest.raises(Problems) as caught:
        place.write()
    (finding,) = caught.value.findings
    assert (finding.id, ".pulumi" in finding.found) == ("new-stack.relative", True)
    assert not (place.checkout / "Pulumi.prod.yaml").exists()


@pytest.mark.parametrize(
    ("said", "way_on"),
    [
        ("PULUMI_ACCESS_TOKEN must be set for login during non-interactive CLI sessions", "--backend"),
        ("unable to open state directory", "follow what it says"),
    ],
)
def test_a_stack_that_was_not_made_says_the_way_on(place: Workplace, said: str, way_on: str) -> None:
    (place.checkout / "pulumi").write_text(f'#!/bin/sh\necho "error: {said}" >&2\nexit 1\n')
    with pytest.raises(Problems) as caught:
        place.write()
    (finding,) = caught.value.findings
    assert finding.found == said
    assert way_on in finding.fix
    assert not (place.checkout / "Pulumi.prod.yaml").exists()
