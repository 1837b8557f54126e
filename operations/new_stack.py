"""Writes a complete stack file from few answers and a look at the zone; asks nobody itself, changes no DNS."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import yaml

from components.settings import Settings
from operations import stacks
from operations.cloudflare import TOKEN_KEY, Account, Zone
from operations.stack_file import flow
from standards import dmarc, names, spf, spf_merge
from standards.finding import Finding, Invalid, Problems, error_about
from standards.records import unquoted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

EXAMPLE_KEY: Final = names.EXAMPLE_HOST_KEY
EXISTS: Final = "new-stack.exists"
RIGHTS: Final = "My Profile > API Tokens, from the template Edit zone DNS (Zone DNS Edit and Zone Zone Read)"
MAKE_ONE: Final = f"make one at Cloudflare, {RIGHTS}, and give that one"
_STACK: Final = re.compile(r"[A-Za-z0-9_.-]{1,60}")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a person has to say; the tokens are secret. `mail` None: as the zone suggests."""

    stack: str
    domain: str
    host: str
    ipv4: str | None
    ipv6: str | None
    user: str
    forward_to: str
    api_token: str = field(repr=False)
    acme_token: str = field(repr=False)
    email: str
    directory: str = "letsencrypt"
    host_key: str | None = None
    ssh_user: str = "root"
    arch: str = "amd64"
    mail: str | None = None
    backend: str | None = None
    base_url: str | None = None

    @property
    def user_address(self) -> str:
        """The first sender's address."""
        return f"{self.user}@{self.domain}"


@dataclass(frozen=True)
class Existing:
    """What of mail stands in the zone at the domain, before we do anything."""

    mx: tuple[str, ...] = ()
    spf: tuple[str, ...] = ()
    dmarc: tuple[str, ...] = ()
    dkim: tuple[str, ...] = ()  # selectors

    @property
    def is_empty(self) -> bool:
        """Whether nobody sends or receives for the domain: a strict policy can harm no mail."""
        return not (self.mx or self.spf or self.dmarc or self.dkim)

    @property
    def receivers(self) -> tuple[str, ...]:
        """The hosts that take the domain's mail: a null MX, here empty, says that none does (RFC 7505)."""
        return tuple(filter(None, self.mx))

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]], domain: str) -> Existing:
        """Sorted out of a zone's records as the API lists them."""
        mx: list[tuple[int, str]] = []
        found: dict[str, list[str]] = {"spf": [], "dmarc": [], "dkim": []}
        for record in records:
            name, kind = str(record["name"]).lower(), record["type"]
            text = unquoted(str(record["content"])) if kind == "TXT" else ""
            if kind == "MX" and name == domain:
                mx.append((int(record.get("priority") or 0), str(record["content"]).rstrip(".").lower()))
            elif kind == "TXT" and name == domain and spf.is_record(text):
                found["spf"].append(text)
            elif kind == "TXT" and name == dmarc.record_name(domain) and dmarc.is_record(text):
                found["dmarc"].append(text)
            elif kind in {"TXT", "CNAME"} and name.endswith(f"._domainkey.{domain}"):
                found["dkim"].append(name.removesuffix(f"._domainkey.{domain}"))
        return cls(tuple(host for _, host in sorted(mx)), *(tuple(sorted(set(each))) for each in found.values()))


@dataclass(frozen=True)
class Draft:
    """A stack file without its secrets, these by their configuration path, and what a person should know."""

    stack: str
    text: str
    secrets: Mapping[str, str] = field(repr=False)
    notes: tuple[str, ...]
    backend: str | None = None


def checked_stack(text: str) -> str:
    """A name that Pulumi takes for a stack; raises `Invalid`."""
    if _STACK.fullmatch(text):
        return text
    raise Invalid(
        f"{names.shown(text)} is no stack name; expected letters, digits, - _ . such as prod",
        expected="a name such as prod",
        fix="choose another name",
    )


def look(answers: Answers) -> tuple[str, Existing]:
    """The zone's id and what of mail is in it. Raises `Problems`."""
    account = Account(answers.api_token, answers.base_url)
    try:
        zone = account.zone_of(answers.domain)
    except Problems as problems:
        raise Problems(
            f"{problems.headline}; nothing was written", [*map(_before_there_is_a_stack, problems.findings)]
        ) from None
    if zone is None:
        finding = error_about(
            f"domain {answers.domain}",
            "zone.unseen",
            expected="a zone that holds it, readable with this API token",
            found="the token sees no zone of that name or above it",
            why="its DNS records are written there",
            fix="add the domain to Cloudflare, or give the token Zone DNS Edit and Zone Zone Read for its zone",
        )
        raise Problems(f"there is no zone for {answers.domain}; nothing was written", [finding])
    there = Zone(answers.api_token, zone[0], answers.base_url)
    return zone[0], Existing.of(there.records(), answers.domain)


def _before_there_is_a_stack(finding: Finding) -> Finding:
    """The same about a token that no setting holds yet."""
    return replace(finding, subject="--api-token-file", fix=MAKE_ONE) if finding.subject == TOKEN_KEY else finding


def draft(answers: Answers, zone_id: str, existing: Existing) -> Draft:
    """The whole file, judged as `up` judges it. Raises `Problems` with every reason."""
    settings, notes = _domain_settings(answers, zone_id, existing)
    text = _render(answers, settings, notes)
    hidden = {
        "cloudflare:apiToken": answers.api_token,
        "mailroom:acme.token": answers.acme_token,
        _password_key(answers): secrets.token_urlsafe(24),
    }
    _judge(answers, text, hidden)
    return Draft(answers.stack, text, hidden, tuple(notes), answers.backend)


def _password_key(answers: Answers) -> str:
    return f'mailroom:passwords["{answers.user_address}"]'


def _domain_settings(answers: Answers, zone_id: str, existing: Existing) -> tuple[dict[str, Any], list[str]]:
    """The domain's entry, and in sentences what was taken over from the zone."""
    notes: list[str] = []
    ours = existing.mx == (answers.host,)
    mail = answers.mail or ("external" if existing.receivers and not ours else "forward")
    entry: dict[str, Any] = {"name": answers.domain, "zoneId": zone_id, "mail": mail}
    if mail == "external":
        entry["mx"] = list(existing.receivers)
        notes.append(
            f"mail to {answers.domain} goes on being received by {', '.join(existing.receivers)} (mail: external)"
        )
    elif existing.mx and not ours:
        named = ", ".join(host or "the null MX" for host in existing.mx)
        notes.append(f"the MX records ({named}) have to go before `up`: it names them and stops")
    entry["spf"] = _spf(answers, existing, notes)
    entry["dmarc"] = _dmarc(answers, existing, notes)
    entry["dkim"] = [{"selector": _selector(existing), "stage": "active"}]
    entry["users"] = [answers.user]
    if mail == "forward":
        entry["aliases"] = {name: [answers.forward_to] for name in dict.fromkeys((answers.user, "dmarc"))}
    return entry, notes


def _spf(answers: Answers, existing: Existing, notes: list[str]) -> dict[str, Any]:
    """What others may already send by stays allowed; their record gives way to the one that says both, if one can."""
    senders = [spf.with_hosts(text, answers.domain, existing.receivers) for text in existing.spf]
    kept = {"mechanisms": [], "includes": [], "all": "~all", **spf_merge.as_settings(senders, answers.domain)}
    if not existing.spf:
        return kept
    ours, there = spf.record(kept["mechanisms"], kept["includes"], ending=kept["all"]), "; ".join(existing.spf)
    refusing = [term for text in senders for term in spf_merge.out_of_order(text, "v=spf1", ours, answers.domain)]
    if refusing:
        notes.append(
            f"`up` stops at {there}: {', '.join(dict.fromkeys(refusing))} refuses whom a later term may let in, and "
            f"`spf` below does not hold that order; `scripts/adopt.py --stack {answers.stack}` shows the ways on, such "
            "as --take, by which ours takes its place"
        )
        return kept
    notes.append(f"`up` replaces {there} by one SPF record that lets the same pass and your host")
    if left_out := [term for text in senders for term in spf_merge.left_out(text, ours, answers.domain)]:
        notes.append(f"left out of it: {', '.join(left_out)}")
    return {**kept, "adopt": True}


def _dmarc(answers: Answers, existing: Existing, notes: list[str]) -> dict[str, Any]:
    """An existing policy is never weakened; where nobody mails yet, forged mail may be quarantined at once."""
    reports = {"rua": [f"dmarc@{answers.domain}"]}
    if existing.dmarc:
        said = dmarc.as_settings(existing.dmarc[0])
        left_out = dmarc.left_out(existing.dmarc[0])
        without = f", without {', '.join(left_out)}" if left_out else ""
        notes.append(f"the DMARC policy that is there was taken over: p={said['policy']}{without}")
        return {"policy": said.pop("policy"), **reports, **said}
    if not existing.is_empty:
        notes.append("others already mail for the domain: DMARC begins with p=none, raise it as the reports allow")
    return {"policy": "quarantine" if existing.is_empty else "none", **reports}


def _selector(existing: Existing) -> str:
    """The first of ours that is not taken."""
    return next(name for number in range(1, 1000) if (name := f"m{number}") not in existing.dkim)


def _render(answers: Answers, domain: Mapping[str, Any], notes: Sequence[str]) -> str:
    """The file as a person would write it: flow style for what is short, a comment for what may be changed."""
    host = {
        "name": answers.host,
        **({"ipv4": answers.ipv4} if answers.ipv4 else {}),
        **({"ipv6": answers.ipv6} if answers.ipv6 else {}),
        **({"hostKey": answers.host_key} if answers.host_key else {}),
        **({"arch": answers.arch} if answers.arch != "amd64" else {}),
        **({"ssh": {"user": answers.ssh_user}} if answers.ssh_user != "root" else {}),
    }
    acme = {"email": answers.email, "directory": answers.directory}
    lines = ["# Written by scripts/new_stack.py; every key is explained in docs/guide.md and components/settings.py."]
    lines += [f"# - {note}" for note in notes]
    lines += ["config:"]
    if answers.backend:
        lines += [f"  mailroom:backend: {flow(answers.backend)} # where the state lives; scripts find it by this"]
    if answers.base_url:
        lines += [f"  cloudflare:baseUrl: {flow(answers.base_url)}"]
    lines += ["  mailroom:hosts:", *_item(host), "  mailroom:domains:", *_item(domain), "  mailroom:acme:"]
    lines += [f"    {key}: {flow(value)}" for key, value in acme.items()]
    return "\n".join(lines) + "\n"


def _item(mapping: Mapping[str, Any]) -> list[str]:
    """One item of a list, a key a line; an alias a line as well."""
    lines: list[str] = []
    for key, value in mapping.items():
        if key == "aliases":
            lines += ["      aliases:", *(f"        {name}: {flow(targets)}" for name, targets in value.items())]
        else:
            lines.append(f"      {key}: {flow(value)}")
    return [f"    - {lines[0].lstrip()}", *lines[1:]]


def _judge(answers: Answers, text: str, hidden: Mapping[str, str]) -> None:
    """Raises what `up` would; the host key may come later, from scripts/preflight.py --pin."""
    config = yaml.safe_load(text)["config"]
    config["mailroom:hosts"][0].setdefault("hostKey", EXAMPLE_KEY)
    config["mailroom:acme"]["token"] = hidden["mailroom:acme.token"]
    config["cloudflare:apiToken"] = hidden["cloudflare:apiToken"]
    config["mailroom:passwords"] = {answers.user_address: hidden[_password_key(answers)]}
    Settings.load(config.get, answers.stack, config)


# --- the file -------------------------------------------------------------------------------------------------


def path_of(stack: str, checkout: Path = stacks.CHECKOUT) -> Path:
    """Where Pulumi looks for a stack's settings."""
    return checkout / f"Pulumi.{stack}.yaml"


def is_free(path: Path) -> bool:
    """Whether nothing of anybody is lost with this file: it is not there, or it is the shipped example."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except (OSError, yaml.YAMLError):
        return False
    hosts = found.get("config", {}).get("mailroom:hosts", []) if isinstance(found, dict) else []
    untouched = isinstance(found, dict) and set(found) == {"config"} and "secure:" not in path.read_text("utf-8")
    return untouched and bool(hosts) and all(host.get("hostKey") == EXAMPLE_KEY for host in hosts)


def write(made: Draft, say: Callable[[str], None] = lambda _: None, checkout: Path = stacks.CHECKOUT) -> Path:
    """Make the stack and its file with encrypted secrets, in a folder of its own; the last act puts the file in place.

    Killed anywhere, it leaves the checkout as it was, and the next run goes on with the stack that is there already.
    Raises `Problems`, also for a stack that was deployed: its file is not replaced.
    """
    path, folder = path_of(made.stack, checkout), checkout / "build" / "new-stack" / made.stack
    _ensure_passphrase(made, say)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    try:
        if not is_free(path):
            _refuse_deployed(made.stack, checkout, checkout)
        fresh = _prepare(made, say, folder, checkout)
        with fresh.open("rb") as opened:
            os.fsync(opened.fileno())
        fresh.replace(path)
    finally:
        shutil.rmtree(folder)
    return path


def _prepare(made: Draft, say: Callable[[str], None], folder: Path, checkout: Path) -> Path:
    """The complete file in `folder`, and the stack it belongs to."""
    fresh = path_of(made.stack, folder)
    shutil.copy(checkout / "Pulumi.yaml", folder)
    fresh.write_text(made.text, encoding="utf-8")
    say(f"making stack {made.stack}")
    try:
        _pulumi(made.stack, ["stack", "init", made.stack, "--no-select"], folder, checkout)
    except Problems as problems:
        if problems.findings[0].id != EXISTS:
            raise
        _refuse_deployed(made.stack, folder, checkout)
        say(f"stack {made.stack} is there and was never deployed: going on with it")
    if stray := {each.name for each in folder.iterdir()} - {"Pulumi.yaml", fresh.name}:
        raise Problems(f"stack {made.stack} was not made, and no file was changed", [_relative(made.stack, stray)])
    for key, value in made.secrets.items():
        say(f"encrypting {key}")
        command = ["config", "set", "--stack", made.stack, "--path", "--secret", key]
        _pulumi(made.stack, command, folder, checkout, value)
    return fresh


def _refuse_deployed(stack: str, folder: Path, checkout: Path) -> None:
    """Raise `Problems` when the state that the stack's file in `folder` leads to has resources."""
    done = stacks.run(stack, ["stack", "export", "--stack", stack], checkout=checkout, folder=folder)
    if done.returncode == stacks.NO_STACK:
        return
    if done.returncode:
        raise Problems(f"no file was changed for stack {stack}", [stacks.unreadable(stack, done, checkout)])
    if (json.loads(done.stdout).get("deployment") or {}).get("resources"):
        finding = error_about(
            f"stack {stack}",
            EXISTS,
            expected="a stack that was never deployed, or none of that name",
            found="it is deployed",
            why="its new file would have other keys, passwords and hosts than what runs",
            fix=f"edit Pulumi.{stack}.yaml, or choose another name; to begin anew: `pulumi destroy -s {stack}` first",
        )
        raise Problems(f"stack {stack} was not made, and no file was changed", [finding])


def _ensure_passphrase(made: Draft, say: Callable[[str], None]) -> None:
    """Where the backend encrypts with a passphrase and nobody exports one, it is made and kept for this user alone."""
    backend = made.backend or os.environ.get("PULUMI_BACKEND_URL", "")
    file = stacks.passphrase_file(made.stack)
    if not backend or backend.startswith("https://") or stacks.passphrase_is_exported() or file.exists():
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(secrets.token_urlsafe(32) + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    fresh.rename(file)
    say(f"made a passphrase in {file}: keep a copy of it, without it no secret of the stack can be read")


def _pulumi(stack: str, arguments: Sequence[str], folder: Path, checkout: Path, stdin: str = "") -> None:
    """Backend and passphrase are found by the file in `folder`."""
    done = stacks.run(stack, arguments, stdin, checkout, folder)
    if done.returncode:
        refused = _refused(stack, arguments, stacks.error(done))
        raise Problems(f"stack {stack} was not made, and no file was changed", [refused])


def _relative(stack: str, stray: Collection[str]) -> Finding:
    return error_about(
        f"stack {stack}",
        "new-stack.relative",
        expected="a backend that is the same from every folder, such as file:///srv/pulumi or s3://my-bucket",
        found=f"a relative one: the state came to lie in {', '.join(sorted(stray))} of the folder it was made in",
        why="scripts and people start Pulumi in different folders",
        fix="run this again with --backend and the whole path",
    )


def _refused(stack: str, arguments: Sequence[str], found: str) -> Finding:
    finding_id, fix = "new-stack.refused", "follow what it says, then run this again"
    if "already exists" in found:
        finding_id = EXISTS
    elif "PULUMI_ACCESS_TOKEN" in found:  # what the engine says when it is logged in nowhere
        finding_id = "new-stack.login"
        fix = "say where the state is kept, such as --backend s3://my-bucket or file:///srv/pulumi, or `pulumi login`"
    return error_about(
        f"stack {stack}",
        finding_id,
        expected=f"`pulumi {' '.join(arguments[:2])}` to succeed",
        found=found,
        why="the secrets are encrypted with a key that belongs to the stack",
        fix=fix,
    )
