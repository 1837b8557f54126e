"""The questions of scripts/new_stack.py, and what it says at the end."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from components.settings import AcmeSettings, CloudflareSettings, Options, SshSettings
from components.settings_explain import check_of
from operations import new_stack, stacks
from operations.new_stack import Answers, Draft, checked_stack
from operations.questions import Question, ask
from standards import names
from standards.finding import Invalid, Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def one_of(*words: str) -> Callable[[str], str]:
    """A check for a few words."""

    def check(text: str) -> str:
        if text in words:
            return text
        raise Invalid(f"{names.shown(text)} is none of them", expected=" or ".join(words), fix="write one of them")

    return check


def token(text: str) -> str:
    """A Cloudflare API token, before there is a stack to store it in."""
    try:
        return names.api_token(text)
    except Invalid as invalid:
        raise Invalid(invalid.found, id=invalid.id, expected=invalid.expected, fix=new_stack.MAKE_ONE) from None


def _another_token(text: str, told: Mapping[str, str]) -> None:
    if text == told.get("api-token"):
        raise Invalid(
            "it is the first token again", id="acme-token-shared", expected="a token of its own",
            why="it lies on the host: who breaks in there could else change every record",
            fix=f"make a second one at Cloudflare, {new_stack.RIGHTS}, for this zone alone",
        )  # fmt: skip


def _inside(host: str, told: Mapping[str, str]) -> None:
    domain = told.get("domain", "")
    if domain and not f".{host}".endswith(f".{domain}"):
        raise Invalid(
            f"{host} is not in {domain}", id="host-without-zone", expected=f"a name in it, such as smtp.{domain}",
            why="its addresses are published in that zone",
            fix="choose one there; a host in another zone gets its zoneId in the file, later",
        )  # fmt: skip


def _outside(address: str, told: Mapping[str, str]) -> None:
    if address.rpartition("@")[2].lower() == told.get("domain"):
        raise Invalid(
            f"{address} is in the domain itself", id="alias-leads-nowhere",
            expected="a mailbox elsewhere, such as someone@gmail.com",
            why="the server keeps no mailboxes: it sends, and passes on what comes in",
            fix="give the address where you read mail today",
        )  # fmt: skip


def _backend(_: Mapping[str, str]) -> str | None:
    return os.environ.get("PULUMI_BACKEND_URL", "")


def _suggested_v6(answers: Mapping[str, str]) -> str | None:
    return "" if answers.get("ipv4") else None


QUESTIONS: Final = (
    Question("domain", "The domain that you send from", names.fqdn, example="example.com"),
    Question("api-token", "A Cloudflare API token that may edit its DNS (yours, never on the host)", token,
             lambda _: os.environ.get("CLOUDFLARE_API_TOKEN"), is_secret=True),
    Question("acme-token", "A second token like it, for the host's certificates", token, is_secret=True,
             suits=_another_token),
    Question("host", "The server's name: EHLO, certificate and reverse DNS", names.fqdn,
             lambda told: f"smtp.{told['domain']}" if "domain" in told else None, example="smtp.example.com",
             suits=_inside),
    Question("ipv4", "Its IPv4 address", names.ipv4, lambda _: "", example="192.0.2.10"),
    Question("ipv6", "Its IPv6 address", names.ipv6, _suggested_v6, example="2001:db8::10"),
    Question("user", "The first sender, the part before the @", names.user, example="i"),
    Question("forward-to", "Where mail to that address goes", names.email_address, example="someone@gmail.com",
             suits=_outside),
    Question("email", "The address of the ACME account", names.email_address,
             lambda told: told.get("forward-to"), example="someone@gmail.com"),
    Question("directory", "The certificate authority: letsencrypt, letsencrypt-staging or a URL",
             check_of(AcmeSettings, "directory"),
             lambda _: "letsencrypt"),
    Question("mail", "Who receives the domain's mail: forward (we do), external (its MX of today), as the zone says",
             one_of("forward", "external"), lambda _: ""),
    Question("host-key", "The host's ed25519 key; later: scripts/preflight.py --wait --pin", names.host_key,
             lambda _: "", example="ssh-ed25519 AAAA..."),
    Question("ssh-user", "Who logs in by SSH (another than root needs sudo)", check_of(SshSettings, "user"),
             lambda _: "root"),
    Question("arch", "Its processor, amd64 or arm64", one_of("amd64", "arm64"), lambda _: "amd64"),
    Question("backend", "Where Pulumi keeps the state, as you are logged in if empty",
             check_of(Options, "backend"), _backend,
             example="s3://my-bucket"),
)  # fmt: skip


def answers(flags: Mapping[str, Any], *, interactive: bool) -> Answers:
    """What was said on the command line and, if somebody is there, in answer to the rest. Raises `Problems`."""
    given = {question.flag: _given(question, flags.get(question.flag)) for question in QUESTIONS}
    try:
        stack = checked_stack(flags["stack"])
    except Invalid as invalid:
        raise Problems("the stack cannot be made", [invalid.at("stack")]) from None
    base_url = flags.get("base_url")
    try:
        base_url = base_url and check_of(CloudflareSettings, "base_url")(base_url)
    except Invalid as invalid:
        raise Problems("the zone cannot be looked up", [invalid.at("--base-url")]) from None
    told = ask(QUESTIONS, given, interactive=interactive)
    kept = {name.replace("-", "_"): value or None for name, value in told.items()}
    return Answers(stack=stack, base_url=base_url, **kept)  # type: ignore[arg-type]


def _given(question: Question, value: str | None) -> str | None:
    """A secret stands in the file that was named."""
    if value is None or not question.is_secret:
        return value
    try:
        return Path(value).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        invalid = Invalid(f"{value} cannot be read: {reason}", expected="a file with the token", fix="correct the path")
        raise Problems("a token is missing; nothing was written", [invalid.at(question.option)]) from None


def confirms(question: str) -> bool:
    """Whether a person says yes."""
    return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}


def told(answers: Answers, draft: Draft) -> str:
    """What was written and the commands that come next."""
    stack, address = answers.stack, answers.ipv4 or answers.ipv6
    pin = "" if answers.host_key else " --wait --pin"
    steps = [
        f"scripts/preflight.py {address} --stack {stack}{pin}",
        f"pulumi preview -s {stack}",
        f"pulumi up -s {stack}",
        f"scripts/send_test.py --stack {stack} --to {answers.forward_to}",
    ]
    exports = [f"export PULUMI_BACKEND_URL={shlex.quote(answers.backend)}"] if answers.backend else []
    if stacks.passphrase_file(stack).exists():
        exports.append(f"export PULUMI_CONFIG_PASSPHRASE_FILE={shlex.quote(str(stacks.passphrase_file(stack)))}")
    return "\n".join(
        [
            f"Pulumi.{stack}.yaml is written; its secrets are encrypted.",
            *(f"  - {note}" for note in draft.notes),
            f"The password of {answers.user_address} was made; it is shown by",
            f"  pulumi config get -s {stack} --path 'mailroom:passwords[\"{answers.user_address}\"]'",
            "Next:",
            *(f"  {line}" for line in (*exports, *steps)),
        ]
    )
