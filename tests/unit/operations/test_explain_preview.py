"""A preview is explained the same way each time, with its risks, without a secret, in Markdown nobody breaks out of.

The previews in explain_preview/ were made by this project's program and shortened; the .md beside each is what a
reviewer reads. After a wanted change of the text: UPDATE_GOLDEN=1 pytest tests/unit/operations/test_explain_preview.py
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from operations.dns import CouldNotTell
from operations.explain_preview import ANY, OUTPUTS_ELSEWHERE, RISKS, explain
from operations.explain_preview.secrecy import in_clear, marked
from scripts import explain_preview as script

ROOT = Path(__file__).parents[3]
SAMPLES = Path(__file__).with_name("explain_preview")
MAGIC, SECRET = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"
CANARY = "canary-0123456789abcdef"
PEM = f"-----BEGIN PRIVATE KEY-----\n{base64.b64encode(CANARY.encode() * 6).decode()}\n-----END PRIVATE KEY-----"
DNS = "cloudflare:index/dnsRecord:DnsRecord"
COMMAND = "command:remote:Command"
DYNAMIC = "pulumi-python:dynamic/mailroom:"
HOST = "smtp.example.com"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"


# --- building previews ----------------------------------------------------------------------------------------


def step(op: str, kind: str, name: str, old: Any = None, new: Any = None, **state: Any) -> dict[str, Any]:
    urn = f"urn:pulumi:prod::mailroom::mailroom:index:MailServer${kind}::{name}"
    marks = {"DkimKey": ["private"], "Users": ["passwords", "files", "hashes", "changed"]}
    common = {"urn": urn, "custom": True, "type": kind, **state}
    common.setdefault("additionalSecretOutputs", marks.get(kind.rpartition(":")[2], []))
    found: dict[str, Any] = {"op": op, "urn": urn}
    if old is not None:
        found["oldState"] = {**common, "inputs": old}
    if new is not None:
        found["newState"] = {**common, "inputs": new}
    both = old is not None and new is not None
    found["diffReasons"] = sorted(key for key in {**old, **new} if old.get(key) != new.get(key)) if both else []
    return found


def preview(*steps: dict[str, Any], config: Any = None, **more: Any) -> str:
    return json.dumps({"config": config or {}, "steps": list(steps), "changeSummary": {"same": 3}, **more})


def dns(op: str, key: str, old: str | None, new: str | None, kind: str = "TXT", **more: Any) -> dict[str, Any]:
    name = key.partition("/")[0]

    def values(content: str | None) -> dict[str, Any] | None:
        return None if content is None else {"name": name, "type": kind, "content": content, "ttl": 300, **more}

    return step(op, DNS, key, values(old), values(new))


def command(role: str, old: Any, new: Any, *, op: str = "update", host: str = HOST) -> dict[str, Any]:
    def values(payload: Any) -> dict[str, Any] | None:
        text = json.dumps(payload, indent=1) if isinstance(payload, dict) and MAGIC not in payload else payload
        return None if payload is None else {"create": f"/usr/local/lib/mailroom/0/{role}.py", "stdin": text}

    return step(op, COMMAND, f"{host}/{role}", values(old), values(new))


def plain(old: Any, new: Any, *, op: str = "update", host: str = HOST, **files: tuple[str, str]) -> dict[str, Any]:
    def payload(policy: Any, side: int) -> dict[str, Any] | None:
        if policy is None:
            return None
        texts = {path.replace("__", "/"): pair[side] for path, pair in files.items()}
        texts["policy.json"] = json.dumps(policy)
        return {
            "kind": "plain",
            "files": {path: {"mode": "0640", "lines": text.splitlines()} for path, text in texts.items()},
        }

    return command("plain", payload(old, 0), payload(new, 1), op=op, host=host)


def signs(*selectors: str, **more: Any) -> dict[str, Any]:
    return {"domains": {"example.com": {"selectors": list(selectors)}}, "users": {}, "gate": True, **more}


def may(*identities: str, **limits: int) -> dict[str, Any]:
    return {"identities": list(identities), "limits": limits}


def protected(before: bool, after: bool, key: str = "example.com/x") -> dict[str, Any]:
    """A record that stays as it is, as the engine shows it where its protection changes."""
    same = dns("same", key, '"x"', '"x"')
    same["oldState"]["protect"], same["newState"]["protect"] = before, after
    return same


def access(old: Any, new: Any, op: str = "update") -> dict[str, Any]:
    sides = (None if side is None else {"payload": json.dumps({"ssh_port": 22, **side})} for side in (old, new))
    return step(op, f"{DYNAMIC}Access", f"{HOST}/access", *sides)


def events_of(name: str) -> list[dict[str, Any]]:
    document = json.loads((SAMPLES / name).read_text())
    steps = [
        {"resourcePreEvent": {"metadata": {
            "op": one["op"], "urn": one["urn"], "type": one["urn"].split("::")[2].split("$")[-1],
            "old": one.get("oldState"), "new": one.get("newState"), "diffs": one.get("diffReasons"),
        }}}
        for one in document["steps"]
    ]  # fmt: skip
    prelude, summary = {"config": document["config"]}, {"resourceChanges": document["changeSummary"]}
    return [{"preludeEvent": prelude}, *steps, {"summaryEvent": summary}]


def streamed(events: list[dict[str, Any]]) -> str:
    return "\n".join(json.dumps({"sequence": at, "timestamp": 1, **event}) for at, event in enumerate(events))


def ids(text: str) -> list[str]:
    return [risk.id for risk in explain(text).risks]


def sentences(text: str) -> str:
    return "\n".join(risk.sentence for risk in explain(text).risks)


# --- whole previews -------------------------------------------------------------------------------------------

EXPECTED = {
    "first.json": [],
    "edit.json": [],
    "unchanged.json": [],
    "host-key.json": ["host-key-changed", "host-replaced"],
    "move.json": ["host-removed", "address-changed"],
    "risky.json": [
        *("mail-stops", "dkim-removed", "dmarc-weakened", "spf-weakened"),
        *("gate-off", "firewall-opened", "user-removed", "alias-removed"),
    ],
    "plan.json": ["mail-stops", "dkim-removed", "dmarc-weakened", "spf-weakened", "gate-off", "firewall-opened"],
    "destroy.json": [
        *("stack-destroyed", "mail-stops", "last-mx-deleted", "host-removed", "address-changed"),
        *("dkim-removed", "dmarc-weakened", "spf-weakened"),
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recorded_preview_reads_as_its_golden_file_and_has_its_risks(name: str) -> None:
    found = explain((SAMPLES / name).read_text())
    golden = (SAMPLES / name).with_suffix(".md")
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(found.markdown)
    assert found.markdown == golden.read_text()
    assert list(dict.fromkeys(risk.id for risk in found.risks)) == EXPECTED[name]


def test_the_order_in_which_the_engine_says_its_steps_does_not_matter() -> None:
    document = json.loads((SAMPLES / "risky.json").read_text())
    random.Random(7).shuffle(document["steps"])
    assert explain(json.dumps(document)).markdown == (SAMPLES / "risky.md").read_text()


def test_the_engines_stream_of_events_is_explained_like_its_one_document() -> None:
    stream = streamed(events_of("edit.json"))
    assert explain(stream).markdown == (SAMPLES / "edit.md").read_text().replace(
        f"\n\n### Outputs\n\n{OUTPUTS_ELSEWHERE}", ""
    )


STACK = "urn:pulumi:prod::mailroom::pulumi:pulumi:Stack::mailroom-prod"


def plan_of(outputs: dict[str, Any], stack: str = STACK) -> str:
    goal = {"type": "pulumi:pulumi:Stack", "custom": False, "outputDiff": {"adds": outputs}}
    return json.dumps({"resourcePlans": {stack: {"goal": goal, "steps": ["same"], "state": outputs}}})


def test_an_output_is_judged_where_the_plan_of_the_same_preview_is_given() -> None:
    digest = preview({"op": "same", "urn": STACK, "newState": {"urn": STACK, "custom": False}})
    plan = plan_of({"passwords": {"i@example.com": CANARY}})
    assert ids(digest) == []
    found = explain(digest, plan)
    assert [risk.sentence for risk in found.risks] == [
        "a secret would be exported in clear: the output `passwords` is not marked secret"
    ]
    assert CANARY not in found.markdown
    assert OUTPUTS_ELSEWHERE in explain(digest).markdown
    assert OUTPUTS_ELSEWHERE not in found.markdown


def sealed(text: str = CANARY) -> dict[str, str]:
    """A secret as a plan keeps it."""
    return {MAGIC: SECRET, "ciphertext": f"v1:AAAA:{base64.b64encode(text.encode()).decode()}"}


def exports(adds: Any = None, updates: Any = None, deletes: Any = None) -> tuple[str, str]:
    """A preview that changes nothing but outputs, and its plan."""
    state = {"urn": STACK, "custom": False, "outputs": {"gone": "x", "name": "y"}}
    digest = preview({"op": "same", "urn": STACK, "oldState": state, "newState": {"urn": STACK, "custom": False}})
    diff = {"adds": adds or {}, "updates": updates or {}, "deletes": deletes or []}
    goal = {"type": "pulumi:pulumi:Stack", "custom": False, "outputDiff": diff}
    plan = {STACK: {"goal": goal, "steps": ["same"], "state": {**diff["adds"], **diff["updates"]}}}
    return digest, json.dumps({"resourcePlans": plan})


def test_outputs_that_differ_are_told_by_their_names_and_are_changes() -> None:
    both = exports({"x": {"y": [sealed()]}, "a": "plain"}, {"name": "other", "token": sealed()}, ["gone"])
    told = "- new: `a`\n- new: `x` (secret)\n- changed: `name`\n- changed: `token` (secret)\n- removed: `gone`\n"
    for found in (explain(*both), explain(both[1])):
        assert f"### Outputs\n\n{told}" in found.markdown
        assert found.risks == ()
        assert "of `prod`: outputs change\n" in found.markdown
        assert "plain" not in found.markdown.partition("### Outputs")[2]
        assert not found.counts["update"]


def test_a_preview_without_any_other_output_has_no_changes() -> None:
    found = explain(*exports())
    assert found.markdown == "## Preview of `prod`: no changes\n"


def test_an_exported_password_is_a_risk_where_it_is_new_and_secret() -> None:
    for outputs in (exports({"passwords": sealed()}), exports({"passwords": {"alice@example.com": sealed()}})):
        found = explain(*outputs)
        assert [risk.id for risk in found.risks] == ["password-exported"]
        assert "a password becomes readable for who can read the stack's outputs" in found.markdown
        assert "- new: `passwords` (secret)\n" in found.markdown
        assert CANARY not in found.markdown
    assert explain(*exports({"dkim": sealed()})).risks == explain(*exports({}, {}, ["passwords"])).risks == ()


def test_a_plan_of_another_stack_or_of_no_stack_at_all_cannot_be_judged_with_it() -> None:
    digest = preview({"op": "same", "urn": STACK, "newState": {"urn": STACK, "custom": False}})
    with pytest.raises(CouldNotTell, match="the plan is of another stack than urn:pulumi:prod"):
        explain(digest, plan_of({}, STACK.replace("prod", "staging")))
    with pytest.raises(CouldNotTell, match="the plan is of another stack"):
        explain(digest, '{"resourcePlans": {}}')
    with pytest.raises(CouldNotTell, match="what was named as the plan is none"):
        explain(digest, digest)


def test_a_secret_output_in_the_stream_of_events_is_seen_by_its_looks_alone() -> None:
    outputs = {"passwords": {"i@example.com": CANARY}}
    state = {"urn": STACK, "custom": False}
    metadata = {"op": "update", "urn": STACK, "type": "pulumi:pulumi:Stack", "old": state, "new": state}
    events = [
        {"resourcePreEvent": {"metadata": metadata}},
        {"resOutputsEvent": {"metadata": {**metadata, "new": {**state, "outputs": outputs}}}},
        {"summaryEvent": {"resourceChanges": {"update": 1}}},
    ]
    found = explain(streamed(events))
    assert [risk.id for risk in found.risks] == ["secret-in-clear"]
    assert CANARY not in found.markdown


@pytest.mark.parametrize("lines", [1, 2, 5, -1])
def test_a_stream_that_ended_before_its_summary_cannot_be_told(lines: int) -> None:
    with pytest.raises(CouldNotTell, match="the preview ended before it said all that would change"):
        explain(streamed(events_of("risky.json")[:lines]))


@pytest.mark.parametrize("lost", ["changeSummary", "steps", "one step"])
def test_a_digest_that_lacks_its_summary_or_what_that_counts_cannot_be_told(lost: str) -> None:
    document = json.loads((SAMPLES / "risky.json").read_text())
    if lost == "one step":
        document["steps"].remove(next(one for one in document["steps"] if one["op"] == "delete"))
    else:
        del document[lost]  # as the engine prints it when it is cancelled
    with pytest.raises(CouldNotTell, match="the preview ended before it said all that would change"):
        explain(json.dumps(document))


# --- risks ----------------------------------------------------------------------------------------------------

MX = {"mailroom:domains": [{"name": "example.com"}], "mailroom:hosts": [{"name": HOST}, {"name": "mx2.example.com"}]}
GONE_A = dns("delete", f"{HOST}/a", "192.0.2.10", None, "A")
GONE_MX = dns("delete", f"example.com/mx/{HOST}", HOST, None, "MX", priority=10)
RISKY = {
    "secret-in-clear": preview(step("create", f"{DYNAMIC}ZoneGate", "0/gate", None, {"token": CANARY})),
    "stack-destroyed": json.dumps({"changeSummary": {}, "steps": [{
        "op": "delete", "urn": "urn:pulumi:prod::mailroom::pulumi:pulumi:Stack::mailroom-prod"}]}),
    "mail-stops": preview(GONE_MX),
    "last-mx-deleted": preview(GONE_MX, GONE_A),
    "host-removed": preview(step("delete", "mailroom:index:Host", HOST, {})),
    "host-key-changed": preview(step("update", f"{DYNAMIC}HostGate", f"{HOST}/gate",
                                     {"settings": '{"host_key": "ssh-ed25519 AAAA"}'},
                                     {"settings": json.dumps({"host_key": OTHER_KEY})})),
    "host-replaced": preview(command("activate", {"a": 1}, {"a": 1}, op="replace")),
    "spf-taken-over": preview(step("create", f"{DYNAMIC}SpfTakeover", "example.com/spf-takeover", None, {})),
    "address-changed": preview(dns("update", f"{HOST}/a", "192.0.2.10", "192.0.2.11", "A")),
    "dkim-removed": preview(dns("delete", "example.com/dkim/m1", '"v=DKIM1; p=AA"', None),
                            plain(signs("m1"), signs("m2"))),
    "dkim-replaced": preview(step("replace", f"{DYNAMIC}DkimKey", "example.com/dkim-key/m1", {}, {})),
    "unsigned": preview(plain(signs("m1"), signs())),
    "dmarc-weakened": preview(dns("update", "example.com/dmarc", '"v=DMARC1; p=reject"', '"v=DMARC1; p=none"')),
    "spf-weakened": preview(dns("update", "example.com/spf", '"v=spf1 mx -all"', '"v=spf1 mx ~all"')),
    "unprotected": preview(protected(True, False)),
    "spf-narrowed": preview(dns("update", "example.com/spf", '"v=spf1 include:a.example -all"', '"v=spf1 -all"')),
    "password-exported": exports({"passwords": sealed()})[1],
    "may-send-as": preview(plain(signs("m1", users={"i@example.com": may("i@example.com")}),
                                 signs("m1", users={"i@example.com": may("i@example.com", "*@example.org")}))),
    "limits-raised": preview(plain(signs("m1", users={"i@example.com": may(day=1000)}),
                                   signs("m1", users={"i@example.com": may(day=10_000)}))),
    "proxied": preview(step("update", DNS, f"{HOST}/a", {"content": "192.0.2.10", "type": "A", "proxied": False},
                            {"content": "192.0.2.10", "type": "A", "proxied": True})),
    "gate-off": preview(plain(signs("m1"), signs("m1", gate=False))),
    "rspamd-off": preview(plain(signs("m1", rspamd=True), signs("m1", rspamd=False))),
    "firewall-opened": preview(access({"allow_udp": []}, {"allow_udp": [51820]})),
    "ssh-moved": preview(access({}, {"ssh_port": 2222})),
    "user-removed": preview(plain(signs("m1", users={"i@example.com": {}}), signs("m1"))),
    "alias-removed": preview(plain(signs("m1"), signs("m1"), **{
        "domains__example.com__aliases": ("i: a@example.net\nb: c@example.net", "i: a@example.net")})),
}  # fmt: skip
HARMLESS = {
    "an MX goes while another stays": preview(GONE_MX, GONE_A, config=MX).replace(f'"{HOST}/a"', '"x"'),
    "an MX gets another priority": preview(dns("update", f"example.com/mx/{HOST}", HOST, HOST, "MX", priority=10)),
    "DMARC gets stricter": preview(dns("update", "d.example/dmarc", '"v=DMARC1; p=none"', '"v=DMARC1; p=reject"')),
    "DMARC says what it meant before": preview(
        dns("update", "d.example/dmarc", '"v=DMARC1; p=reject"', '"v=DMARC1; p=reject; sp=reject"')
    ),
    "DMARC holds for more, and is exact": preview(
        dns(
            "update",
            "d.example/dmarc",
            '"v=DMARC1; p=reject; pct=10"',
            '"v=DMARC1; p=reject; pct=100; adkim=s; aspf=s"',
        )
    ),
    "SPF gets stricter": preview(dns("update", "d.example/spf", '"v=spf1 ?all"', '"v=spf1 -all"')),
    "a retiring selector goes": preview(
        dns("delete", "example.com/dkim/m1", '"v=DKIM1; p=AA"', None), plain(signs("m2"), signs("m2", warmUp=1))
    ),
    "a selector goes that no policy tells of any more": preview(
        dns("delete", "example.com/dkim/m0", '"v=DKIM1; p=AA"', None)
    ),
    "a revoked key goes": preview(
        dns("delete", "example.com/dkim/m1", '"v=DKIM1; k=rsa; p="', None), plain(signs("m1"), signs("m2"))
    ),
    "ports are closed": preview(access({"allow_tcp": [443]}, {"allow_tcp": []})),
    "an alias goes into the catch-all": preview(
        plain(signs("m1"), signs("m1"), **{"domains__example.com__aliases": ("a: b@example.net", "*: b@example.net")})
    ),
    "a resource is protected": preview(protected(False, True)),
    "an SPF record gets more, in another order and spelling": preview(
        dns(
            "update",
            "d.example/spf",
            '"v=spf1 include:A.example +ip4:192.0.2.10 mx -all"',
            '"v=spf1 mx ip4:192.0.2.0/24 include:a.example a -all"',
        )
    ),
    **{
        f"an SPF record says the same: {old} -> {new}": preview(
            dns("update", "d.example/spf", f'"v=spf1 {old}"', f'"v=spf1 {new}"'),
            config={"mailroom:domains": [{"name": "d.example", "mail": "external", "mx": ["mail.old.net"]}]},
        )
        for old, new in (
            ("mx ~all", "include:_spf.d.example a:mail.old.net ~all"),
            ("mx:d.example/24 ~all", "a:mail.old.net/24 ~all"),
            ("mx ~all", "a mx ~all"),
            ("redirect=x.example", "include:x.example ~all"),
            ("a:WWW.example.com. IP4:192.0.2.7/32 -all", "a:www.example.com ip4:192.0.2.7 -all"),
            ("-all include:x.example", "-all"),
            ("a ~all redirect=x.example", "a ~all"),
            ("a ~all", "a ~all ip4:0.0.0.0/0"),
            ("a match=x exp=x.example ~all", "a ~all"),
            ("a ~mx ?include:x.example ~all", "a ~all"),
            ("mx -all", "mx exists:%{i}.x.all -all"),
        )
    },
    "an SPF record stops to let everybody in": preview(
        dns("update", "d.example/spf", '"v=spf1 mx +all"', '"v=spf1 mx -all"')
    ),
    "an address goes from SPF with its host": preview(
        GONE_A,
        dns("update", "d.example/spf", '"v=spf1 ip4:192.0.2.10 ip4:192.0.2.9 -all"', '"v=spf1 ip4:192.0.2.9 -all"'),
    ),
    "a DMARC record whose value is not known yet": preview(
        dns("update", "d.example/dmarc", '"v=DMARC1; p=reject"', "04da6b54-80e4-46f7-96ec-b56ff0331ba9")
    ),
    "an SPF record whose value is not known yet": preview(
        dns("update", "d.example/spf", '"v=spf1 -all"', "04da6b54-80e4-46f7-96ec-b56ff0331ba9")
    ),
    "a user gets an alias, and may send as it": preview(
        plain(
            signs("m1", users={"i@example.com": may("i@example.com")}),
            {
                "domains": {"example.com": {"selectors": ["m1"], "aliases": {"info": ["i"]}}},
                "users": {"i@example.com": may("i@example.com", "info@example.com")},
            },
        )
    ),
    "a limit rises a little": preview(
        plain(
            signs("m1", users={"i@example.com": may(day=1000, warmUp=100)}),
            signs("m1", users={"i@example.com": may(day=9999, warmUp=900)}),
        )
    ),
    "an alias goes from a domain whose mail arrives elsewhere": preview(
        plain(
            {"domains": {"example.com": {"mail": "external"}}},
            {"domains": {"example.com": {"mail": "external"}}},
            domains__example__aliases=("", ""),
            **{"domains__example.com__aliases": ("i: me@example.net", "")},
        )
    ),
    "the gate goes on": preview(plain(signs("m1", gate=False), signs("m1", gate=True))),
    "a marked secret": preview(
        step("create", f"{DYNAMIC}ZoneGate", "0/gate", None, {"token": "[secret]"}),
        config={"cloudflare:apiToken": "[secret]", "mailroom:passwords": '{"i@example.com": "[secret]"}'},
    ),
}


def test_there_is_a_preview_here_for_every_risk() -> None:
    assert set(RISKY) == set(RISKS)


@pytest.mark.parametrize("name", RISKY)
def test_each_risk_is_seen(name: str) -> None:
    assert name in ids(RISKY[name])


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm_is_no_risk(name: str) -> None:
    assert [name for name in ids(HARMLESS[name]) if name != "address-changed"] == []


def test_risks_are_said_in_the_reviewers_words() -> None:
    assert "mail for `example.com` stops arriving here" in sentences(RISKY["mail-stops"])
    assert sentences(RISKY["dmarc-weakened"]) == "DMARC weakened from reject to none at `example.com`"
    assert "selector `m1` of `example.com` is removed while active" in sentences(RISKY["dkim-removed"])
    assert "the last MX host of `example.com` is deleted" in sentences(RISKY["last-mx-deleted"])
    assert "a secret would be stored in clear" in sentences(RISKY["secret-in-clear"])


def test_mail_that_goes_on_arriving_at_another_host_is_no_risk_and_without_it_is() -> None:
    one_left = {**MX, "mailroom:hosts": json.dumps([{"name": "mx2.example.com"}])}
    assert "mail-stops" not in ids(preview(GONE_MX, config=one_left))
    assert "mail-stops" in ids(preview(GONE_MX, config={**MX, "mailroom:hosts": [{"name": HOST}]}))
    elsewhere = {**MX, "mailroom:domains": [{"name": "example.com", "mail": "external"}]}
    assert "mail-stops" in ids(preview(GONE_MX, config=elsewhere))


def test_an_mx_host_that_stays_is_not_the_deleted_one() -> None:
    second = dns("delete", "example.com/mx/mx2.example.com", "mx2.example.com", None, "MX", priority=20)
    assert set(ids(preview(GONE_MX, second, GONE_A))) == {"mail-stops", "address-changed"}


GONE_AAAA = dns("delete", f"{HOST}/aaaa", "2001:db8::10", None, "AAAA")
ELSEWHERE = [{"name": "example.com", "mail": "external"}]


def test_a_host_that_only_loses_ipv6_is_not_deleted_and_one_without_any_address_is() -> None:
    both = {"mailroom:domains": ELSEWHERE, "mailroom:hosts": [{"name": HOST, "ipv4": "192.0.2.10"}]}
    assert "last-mx-deleted" not in ids(preview(GONE_MX, GONE_AAAA, config=both))
    assert "last-mx-deleted" not in ids(preview(GONE_MX, GONE_AAAA))  # its A is not told, so it stays
    assert "last-mx-deleted" in ids(preview(GONE_MX, GONE_AAAA, GONE_A, config=both))
    only = {"mailroom:domains": ELSEWHERE, "mailroom:hosts": [{"name": HOST, "ipv6": "2001:db8::10"}]}
    assert "last-mx-deleted" in ids(preview(GONE_MX, GONE_AAAA, config=only))
    assert "last-mx-deleted" not in ids(preview(GONE_MX, GONE_A, config=only))
    instead = dns("create", f"{HOST}/aaaa", None, "2001:db8::10", "AAAA")
    assert "last-mx-deleted" not in ids(preview(GONE_MX, GONE_A, instead))


def test_an_mx_that_leads_to_a_host_without_any_address_receives_nothing() -> None:
    alone = {**MX, "mailroom:hosts": [{"name": HOST}]}
    assert ids(preview(GONE_A, config=alone)) == ["mail-stops", "address-changed"]
    assert "its MX leads to `smtp.example.com`, which has no address any more" in sentences(
        preview(GONE_A, GONE_AAAA, config=alone)
    )
    assert "mail-stops" not in ids(preview(GONE_A, config=MX))  # another host has one
    assert "mail-stops" not in ids(preview(GONE_AAAA, config=alone))


@pytest.mark.parametrize("written", ["bücher.example", "BÜCHER.example.", "XN--bcher-kva.example"])
@pytest.mark.parametrize("other", ["mx2.example.com", "MX2.Example.com."])
def test_names_are_the_same_however_they_are_written(written: str, other: str) -> None:
    config = {"mailroom:domains": [{"name": written}], "mailroom:hosts": [{"name": HOST}, {"name": other}]}
    gone = dns("delete", f"xn--bcher-kva.example/mx/{HOST}", HOST, None, "MX", priority=10)
    left = dns("delete", "xn--bcher-kva.example/mx/mx2.example.com", "mx2.example.com", None, "MX", priority=10)
    assert ids(preview(gone, config=config)) == []
    assert ids(preview(gone, left, config=config)) == ["mail-stops"]


def test_a_host_that_goes_takes_its_users_and_switches_with_it_as_one_risk() -> None:
    policy = signs("m1", rspamd=True, users={"i@example.com": {}})
    gone = step("delete", "mailroom:index:Host", HOST, {})
    assert ids(preview(gone, plain(policy, None, op="delete"))) == ["host-removed"]


def test_a_plan_cannot_tell_whether_a_selector_is_active_and_says_so() -> None:
    urn = f"urn:pulumi:prod::mailroom::{DNS}::example.com/dkim/m1"
    text = json.dumps({"resourcePlans": {urn: {"steps": ["delete"]}}})
    assert "whether it is still active is not in this plan" in sentences(text)


def test_what_is_no_longer_protected_is_a_change_and_told_by_its_name() -> None:
    shown = explain(preview(protected(True, False)))
    assert shown.markdown.startswith("## Preview of `prod`: 1 changed, 2 unchanged\n")
    assert "- no longer protected: `dnsRecord:DnsRecord` `example.com/x`" in shown.markdown
    assert shown.counts["update"] == 1
    assert "- protected: `dnsRecord:DnsRecord` `example.com/x`" in explain(preview(protected(False, True))).markdown


def test_a_dkim_key_that_signs_no_more_loses_its_protection_without_a_risk() -> None:
    def keys(**stages: str) -> dict[str, Any]:
        named = [{"selector": selector, "stage": stage} for selector, stage in stages.items()]
        return {"mailroom:domains": json.dumps([{"name": "Example.com", "dkim": named}])}

    both = [protected(True, False, f"example.com/{kind}/m1") for kind in ("dkim", "dkim-key")]
    rotated = explain(preview(*both, config=keys(m1="retiring", m2="active")))
    assert rotated.risks == ()
    assert "- no longer protected: `dnsRecord:DnsRecord` `example.com/dkim-key/m1`" in rotated.markdown
    assert ids(preview(*both, config=keys(m1="active", m2="published"))) == ["unprotected", "unprotected"]
    assert ids(preview(*both, config=keys(m2="active"))) == ["unprotected", "unprotected"]
    assert ids(preview(*both, protected(True, False), config=keys(m1="revoked"))) == ["unprotected"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("v=spf1 include:_spf.google.com -all", "v=spf1 -all", "mail from `include:_spf.google.com` is no longer"),
        ("v=spf1 ip4:192.0.2.10 -all", "v=spf1 ip4:192.0.2.11 -all", "mail from `ip4:192.0.2.10` is no longer allowed"),
        ("v=spf1 ip4:192.0.2.0/24 -all", "v=spf1 ip4:192.0.2.0/25 -all", "mail from `ip4:192.0.2.0/24` is no longer"),
        ("v=spf1 ip6:2001:db8::10 -all", "v=spf1 ip4:192.0.2.0/25 -all", "mail from `ip6:2001:db8::10` is no longer"),
        ("v=spf1 mx -all", "v=spf1 ~mx -all", "mail from `mx` is no longer allowed by SPF of `d.example`"),
        ("v=spf1 mx -all", "v=spf1 a:old.test -all", "by SPF of `d.example`, where `a:old.test` are not its hosts"),
        ("v=spf1 mx a:old.test -all", "v=spf1 a:old.test -all", "mail from `mx` is no longer allowed by SPF"),
        ("v=spf1 ptr -all", "v=spf1 -all", "mail from `ptr` is no longer allowed by SPF of `d.example`"),
        ("v=spf1 redirect=x.test", "v=spf1 ~all", "mail from `include:x.test` is no longer allowed by SPF"),
        ("v=spf1 -all", "v=spf1 exists:x.all -all", "lets strangers send: `exists:x.all`"),
        ("v=spf1 mx -all", "v=spf 1 mx -all", "becomes a text that is no SPF record"),
        ("v=spf1 mx -all", "v=spf2 mx -all", "becomes a text that is no SPF record"),
        ("v=spf1 mx -all", "", "becomes a text that is no SPF record"),
    ],
)
def test_an_spf_record_that_loses_senders_or_its_meaning_is_seen(old: str, new: str, said: str) -> None:
    assert said in sentences(preview(dns("update", "d.example/spf", f'"{old}"', f'"{new}"')))


def test_an_spf_record_of_others_is_replaced_unless_it_was_imported_and_changes_in_place() -> None:
    def own(before: str, comment: str | None, op: str = "update", key: str = "example.com/spf") -> dict[str, Any]:
        changed = dns(op, key, before, '"v=spf1 include:_spf.example.com -all"', comment="x mailroom:prod")
        changed["oldState"]["inputs"]["comment"] = comment
        return changed

    takeover = step("create", f"{DYNAMIC}SpfTakeover", "example.com/spf-takeover", None, {})
    assert sentences(preview(takeover)) == (
        "an SPF record of others at `example.com` is replaced by ours, which allows the same"
    )
    assert ids(preview(takeover, own('"v=spf1 -all"', None))) == []
    assert ids(preview(takeover, own('"v=spf1 -all"', "of the shop"))) == []
    for other in (
        own('"v=spf1 -all"', "x mailroom:prod"),
        own('"v=spf1 -all"', None, op="replace"),
        own('"v=spf1 -all"', None, key="example.org/spf"),
        own('"v=spf1 -all"', None, key="example.com/spf-hosts"),
        own('"hello"', None),
    ):
        assert ids(preview(takeover, other)) == ["spf-taken-over"]


@pytest.mark.parametrize(
    ("after", "weakened"),
    [
        ('"v=spf1 -all"', []),
        (None, ["d.example/spf"]),
        ('"v=spf1 a include:_SPF.d.example -all"', ["d.example/spf-hosts"]),
        ("04da6b54-80e4-46f7-96ec-b56ff0331ba9", ["d.example/spf-hosts"]),
        ("the same", ["d.example/spf-hosts"]),
    ],
)
def test_the_spf_record_of_our_addresses_may_go_where_the_domains_own_has_it_no_more(
    after: str | None, weakened: list[str]
) -> None:
    before = '"v=spf1 include:_spf.d.example -all"'
    own = dns("update" if after else "delete", "d.example/spf", before, after)
    gone = dns("delete", "d.example/spf-hosts", '"v=spf1 ip4:192.0.2.10 -all"', None)
    named = json.loads(json.dumps(gone).replace('"name": "d.example"', '"name": "_spf.d.example"'))
    found = explain(preview(gone) if after == "the same" else preview(gone, own))
    assert [risk.subject for risk in found.risks if risk.id == "spf-weakened"] == weakened
    another = {"mailroom:domains": [{"name": "b.example", "spf": {"includes": ["_spf.d.example"]}}]}
    assert "SPF of `_spf.d.example` is deleted" in sentences(preview(named, own, config=another))


def test_a_key_whose_tag_is_written_in_capitals_was_not_taken_back() -> None:
    gone = dns("delete", "example.com/dkim/m1", '"v=DKIM1; P=; p=AA"', None)
    assert ids(preview(gone, plain(signs("m1"), signs("m2")))) == ["dkim-removed"]


def test_where_no_dmarc_record_was_none_is_weakened() -> None:
    assert ids(preview(dns("update", "d.example/dmarc", '"hello"', '"v=DMARC1; p=none; t=y; pct=5"'))) == []


def test_a_switched_off_warm_up_is_seen_of_a_user_and_of_a_host() -> None:
    text = preview(plain(signs("m1", warmUp=500, users={"i@example.com": may(warmUp=100)}),
                         signs("m1", warmUp=0, users={"i@example.com": may(warmUp=0)})))  # fmt: skip
    assert sentences(text) == (
        "user `i@example.com` may send without a warm-up from now on\n"
        "`smtp.example.com` may send without a warm-up from now on"
    )


def test_another_mode_of_a_file_is_shown() -> None:
    def payload(mode: str, *lines: str) -> dict[str, Any]:
        return {"kind": "plain", "files": {"x.conf": {"mode": mode, "lines": list(lines)}}}

    shown = explain(preview(command("plain", payload("0640", "a"), payload("0666", "a")))).markdown
    assert f"`x.conf` on `{HOST}`: changed, mode `0640` -> `0666`\n" in shown
    assert "```diff" not in shown
    both = explain(preview(command("plain", payload("0640", "a"), payload("0666", "b")))).markdown
    assert "changed, mode `0640` -> `0666`\n\n```diff\n" in both


def test_a_null_mx_in_place_of_ours_stops_mail() -> None:
    both = [GONE_MX, dns("create", "example.com/mx", None, ".", "MX", priority=0)]
    assert ids(preview(*both)) == ["mail-stops"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("v=DMARC1; p=quarantine", "v=DMARC1; p=none", "from quarantine to none at"),
        ("v=DMARC1; p=reject", "v=DMARC1; p=reject; sp=none", "from reject to none for subdomains at"),
        ("v=DMARC1; p=reject", "v=DMARC1; p=reject; np=none", "from reject to none for names that do not exist at"),
        ("v=DMARC1; p=none; sp=reject", "v=DMARC1; p=none", "from reject to none for subdomains at"),
        ("v=DMARC1; p=reject", "v=DMARC1; p=reject; t=y", "only tests"),
        ("v=DMARC1; p=reject", None, "from reject to nothing at"),
        ("v=DMARC1; p=reject", "p=reject", "from reject to nothing at"),
        ("v=DMARC1; p=reject", "p=reject; v=DMARC1", "from reject to nothing at"),
        ("v=DMARC1; p=reject", "v=DMARC2; p=reject", "from reject to nothing at"),
        ("v=DMARC1; p=reject", "v=DMARC1; p=reject; pct=1", "holds for 1 % of mail instead of 100 %"),
        ("v=DMARC1; p=reject; adkim=s", "v=DMARC1; p=reject", "takes mail signed by its subdomains for its own"),
        ("v=DMARC1; p=reject; aspf=s", "v=DMARC1; p=reject; aspf=r", "takes mail sent by its subdomains for its own"),
    ],
)
def test_every_way_to_ask_for_less_by_dmarc_is_seen(old: str, new: str | None, said: str) -> None:
    text = preview(dns("update" if new else "delete", "example.com/dmarc", f'"{old}"', new and f'"{new}"'))
    assert said in sentences(text)


def test_an_spf_record_that_lets_strangers_in_by_a_network_is_seen() -> None:
    text = preview(dns("update", "d.example/spf", '"v=spf1 -all"', '"v=spf1 ip4:0.0.0.0/1 -all"'))
    assert "lets strangers send: `ip4:0.0.0.0/1`" in sentences(text)


def test_a_new_host_with_the_gate_off_or_a_port_open_is_a_risk_from_the_beginning() -> None:
    text = preview(plain(None, signs("m1", gate=False), op="create"), access(None, {"allow_tcp": [8080]}, "create"))
    assert ids(text) == ["gate-off", "firewall-opened"]


def test_the_host_scripts_that_differ_are_listed_by_name() -> None:
    old, new = (
        {"a.py": "0" * 64, "b.py": "1" * 64, "gone.py": "2" * 64},
        {"a.py": "0" * 64, "b.py": "3" * 64, "c.py": ""},
    )
    told = explain(preview(command("scripts", old, new))).markdown
    assert f"differ on `{HOST}`: `b.py`, `c.py`, `gone.py`" in told


# --- restarts and files ---------------------------------------------------------------------------------------


def restarts(*steps: dict[str, Any]) -> str:
    return explain(preview(*steps, command("activate", {"a": 1}, {"a": 2}))).markdown


def test_users_aliases_and_limits_need_no_restart_and_keys_and_configuration_do() -> None:
    lists = plain(signs("m1"), signs("m1", warmUp=1), **{"domains__example.com__aliases": ("a: b", "a: c")})
    assert "keeps running" in restarts(lists)
    assert "restarts once (other DKIM keys sign)" in restarts(plain(signs("m1"), signs("m2")))
    assert "restarts once (`chasquid.conf` changed)" in restarts(
        plain(signs(), signs(), **{"chasquid.conf": ("a", "b")})
    )
    assert "another program," in restarts(command("install", {"version": "1"}, {"version": "2"}))


def test_what_is_added_at_the_end_of_a_long_record_or_line_is_shown() -> None:
    spf = f"v=spf1 {' '.join(f'include:_spf{at}.example.net' for at in range(9))}"
    many = "i: " + ", ".join(f"user{at}@example.net" for at in range(30))
    text = preview(
        dns("update", "d.example/spf", f'"{spf} -all"', f'"{spf} ip4:203.0.113.9 -all"'),
        dns("create", "e.example/spf", None, f'"{spf} ip4:203.0.113.8 -all"'),
        plain(signs(), signs(), **{"x.conf": (f"{many}, a@x.example", f"{many}, evil@x.example")}),
    )
    shown = explain(text).markdown
    for told in ("ip4:203.0.113.9 -all`", "ip4:203.0.113.8 -all`", ", a@x.example\n", ", evil@x.example\n"):
        assert told in shown


def test_the_same_file_on_two_hosts_is_shown_once() -> None:
    pair = {"chasquid.conf": ("max: 1", "max: 2")}
    shown = explain(preview(plain(signs(), signs(), **pair), plain(signs(), signs(), host="b.example.com", **pair)))
    assert shown.markdown.count("+max: 2") == 1
    assert "`chasquid.conf` on `b.example.com`, `smtp.example.com`: changed" in shown.markdown


def test_a_record_whose_value_is_not_known_yet_says_what_it_will_be() -> None:
    unknown = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
    shown = explain(preview(dns("create", "example.com/dkim/m2", None, unknown))).markdown
    assert "`<new RSA-2048 key>`" in shown
    assert unknown not in shown


# --- secrets --------------------------------------------------------------------------------------------------


def in_magic(value: Any, how: str = "plaintext") -> dict[str, str]:
    return {MAGIC: SECRET, how: json.dumps(value)}


def secret_payload(text: str) -> dict[str, Any]:
    path = "domains/example.com/users"
    return {"kind": "secret", "files": {path: {"mode": "0640", "lines": text.splitlines()}}}


def test_secret_files_in_clear_are_told_as_byte_counts_only() -> None:
    found = explain(preview(command("secret", secret_payload("old" + CANARY), secret_payload(CANARY))))
    assert "`domains/example.com/users`: changed, 24 bytes" in found.markdown
    assert CANARY not in json.dumps(found.as_json())
    assert [risk.id for risk in found.risks] == ["secret-in-clear"]


def test_secret_files_marked_and_shown_are_byte_counts_too_and_the_file_itself_a_risk() -> None:
    sides = (in_magic(json.dumps(secret_payload(text))) for text in ("old", CANARY))
    found = explain(preview(command("secret", *sides)))
    assert "`domains/example.com/users`: changed, 24 bytes" in found.markdown
    assert CANARY not in json.dumps(found.as_json())
    assert "`--show-secrets`" in found.risks[0].sentence


def test_an_encrypted_value_tells_its_size_unless_it_is_not_known_yet() -> None:
    def sealed(octets: int) -> dict[str, str]:
        return {MAGIC: SECRET, "ciphertext": f"v1:AAAA:{base64.b64encode(bytes(octets + 16)).decode()}"}

    assert "changed, 5,000 bytes" in explain(preview(command("secret", sealed(1), sealed(5000)))).markdown
    assert "size not in this preview" in explain(preview(command("secret", sealed(1), sealed(38)))).markdown


LEAKS = {
    "a marked token as a record's value": preview(dns("create", "example.com/x", None, None),
                                                  step("create", DNS, "a/b", None, {"type": "TXT", "name": "a",
                                                                                    "content": in_magic(CANARY)})),
    "a marked token shown, again in a record": preview(
        step("create", f"{DYNAMIC}ZoneGate", "0/gate", None, {"token": in_magic(CANARY)}),
        dns("create", "example.com/x", None, CANARY)),
    "a secret file of any name, again in a record": preview(
        command("other", None, {"kind": "secret", "files": {"x": {"lines": [CANARY]}}}, op="create"),
        dns("create", "example.com/x", None, CANARY)),
    "a token in clear, again in a record": preview(
        step("create", f"{DYNAMIC}ZoneGate", "0/gate", None, {"token": CANARY}),
        dns("update", "example.com/x", f'"{CANARY}"', f'"new {CANARY}"')),
    "a token where a long value is cut": preview(
        step("create", f"{DYNAMIC}ZoneGate", "0/gate", None, {"token": CANARY}),
        dns("create", "example.com/x", None, "x" * 125 + CANARY + "y" * 90)),
    "a private key in a plain file": preview(plain(signs(), signs(), **{"chasquid.conf": ("", PEM)})),
    "a hash in a plain file": preview(plain(signs(), signs(), **{"chasquid.conf": ("", f"$scrypt$ln=14$ {CANARY}"
                                                                                   .replace(" ", CANARY))})),
    "users among the plain files": preview(plain(signs(), signs(), domains__d__users=("", CANARY))),
    "passwords of logins": preview(command("logins", {"users": {}}, {"users": {"i@example.com": CANARY}})),
    "a warning with a token": preview(
        step("update", f"{DYNAMIC}ZoneGate", "0/gate", {"token": CANARY}, {"token": "[secret]"}),
        diagnostics=[{"severity": "warning", "message": f"token {CANARY}"}]),
    "an old value in clear": preview(step("update", f"{DYNAMIC}Users", "users", {"passwords": {"a@b": CANARY}},
                                          {"passwords": "[secret]"}), dns("create", "x/y", None, f'"{CANARY}"')),
    "the configuration": preview(dns("create", "x/y", None, f'"{CANARY}"'),
                                 config={"mailroom:passwords": json.dumps({"i@example.com": CANARY})}),
    "an imported DKIM key": preview(step("create", f"{DYNAMIC}DkimKey", "d/dkim-key/m1", None, {"imported": PEM})),
    "another script's payload": preview(command("backup", {"repository": "x"}, {"repository": CANARY})),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
def test_no_secret_is_ever_shown(name: str) -> None:
    found = explain(LEAKS[name])
    shown = found.markdown + json.dumps(found.as_json([ANY]))
    for part in (CANARY, CANARY[:12], base64.b64encode(CANARY.encode() * 6).decode()[:20]):
        assert part not in shown


@pytest.mark.parametrize(
    "secret",
    [
        'can"ary-0123456789',
        "can\\ary-0123456789",
        "can\tary-0123456789",
        "can\u200bary-0123456789",
        "cänary-0123456789",
    ],
)
@pytest.mark.parametrize("pad", [0, 130, 370, 390])
def test_no_spelling_of_a_secret_is_shown_wherever_its_text_is_cut(secret: str, pad: int) -> None:
    long = f"{'x' * pad}{secret}{'y' * 400}"
    text = preview(
        step("create", f"{DYNAMIC}ZoneGate", "0/gate", None, {"token": secret}),
        plain(signs(), signs(), **{"chasquid.conf": (f"z{secret}", long), "x.json": ("", json.dumps({"a": long}))}),
        dns("create", "example.com/x", None, long),
        dns("update", "example.com/y", "x", json.dumps(json.dumps(long))),
        step("create", f"{DYNAMIC}Other", f"named {secret}", None, {}),
    )
    shown = explain(text).markdown
    assert "ary-0" not in shown
    assert "[secret]" in shown


@pytest.mark.parametrize(
    "name", ["users among the plain files", "passwords of logins", "the configuration", "an imported DKIM key"]
)
def test_a_secret_that_nobody_marked_is_a_risk(name: str) -> None:
    assert "secret-in-clear" in ids(LEAKS[name])


def exporting(outputs: Any) -> str:
    """A preview of a stack that exports these."""
    digest = {"op": "same", "urn": STACK, "newState": {"urn": STACK, "custom": False, "outputs": outputs}}
    return preview(digest)


@pytest.mark.parametrize(
    "outputs",
    [
        *({name: CANARY} for name in ("secret", "apiKey", "api-key", "api_token", "apiToken", "api-token",
                                      "clientSecret", "passwd", "password1", "smtpPassword", "privateKeyPem",
                                      "accessToken", "aws_secret_access_key", "ssh-private-key", "Passphrase")),
        {"credentials": {"user": CANARY}},
        {"tokens": [CANARY]},
        {"password": 1234567890},
        {"passwords": {"i@example.com": 1234567890}},
        {"url": f"smtps://i%40example.com:{CANARY}@smtp.example.com:465"},
        {"url": f"redis://:{CANARY}@smtp.example.com"},
        {"x": f"AGE-SECRET-KEY-1{'Q' * 58}"},
        {"x": PEM.replace("\n", "\\n")},
        {"x": PEM.replace("\n", "\\r\\n")},
        {"x": json.dumps({"y": [json.dumps({"password": CANARY})]})},
    ],
    ids=str,
)  # fmt: skip
def test_a_secret_is_known_by_its_name_or_by_its_looks(outputs: Any) -> None:
    found = explain(exporting(outputs))
    assert [risk.id for risk in found.risks] == ["secret-in-clear"]
    assert not {CANARY, "1234567890", "Q" * 58} & set(re.split(r"[^\w-]", found.markdown))


def test_all_of_the_credentials_of_a_dns_plugin_are_secret() -> None:
    acme = {"email": "a@example.com", "credentials": {"dns_rfc2136_name": CANARY, "dns_rfc2136_port": 12345678}}
    found = explain(
        preview(dns("create", "x/y", None, f"{CANARY} 12345678"), config={"mailroom:acme": json.dumps(acme)})
    )
    assert [risk.subject for risk in found.risks] == ["configuration mailroom:acme.credentials"]
    assert "after: `[secret] [secret]`" in found.markdown


@pytest.mark.parametrize(
    "values",
    [
        {"hostKey": "ssh-ed25519 AAAA", "publicKey": "AAAA", "keys": ["m1"], "auth": "none", "submissionAuth": "plain"},
        {"secretsprovider": "awskms://alias/x?region=eu", "passwordless": "x", "tokenNames": ["x"], "export": True},
        {
            "mailroom:domains": [
                {"name": "example.com", "users": [{"name": "i", "tokens": ["shop", "printer-upstairs"]}]}
            ]
        },
        {"logins": ["i@example.com", "i+printer-upstairs@example.com"], "password": "", "token": None, "secret": False},
        {"url": "https://smtp.example.com:8443/a@b", "mail": "mailto:a:b@example.com", "at": "ssh://root@example.com"},
    ],
    ids=str,
)
def test_what_only_sounds_like_a_secret_is_none(values: Any) -> None:
    assert list(in_clear(values)) == []


@pytest.mark.parametrize("file", sorted(ROOT.glob("Pulumi.*.yaml")), ids=lambda file: file.name)
def test_the_shipped_stacks_hold_no_secret_in_clear(file: Path) -> None:
    assert list(in_clear(marked(yaml.safe_load(file.read_text())["config"]))) == []


def test_a_key_pair_whose_private_half_is_no_secret_output_is_a_risk() -> None:
    text = preview(step("create", f"{DYNAMIC}DkimKey", "d/dkim-key/m1", None, {}, additionalSecretOutputs=[]))
    assert "the output `private` of `d/dkim-key/m1` is not marked secret" in sentences(text)


def test_a_failed_previews_error_is_told_without_the_secrets_that_are_known() -> None:
    errors = [{"severity": "error", "message": f"error: the API refused {CANARY}\n  why: x"}]
    with pytest.raises(CouldNotTell, match=r"the API refused \[secret\]$"):
        explain(preview(step("create", f"{DYNAMIC}ZoneGate", "0/gate", None, {"token": CANARY}), diagnostics=errors))


KEPT = "urn:pulumi:prod::mailroom::mailroom:index:Dns$x::example.com/spf"
WAY_OUT = "set `mailroom:protect: off`, `pulumi up`, then make the change"


@pytest.mark.parametrize(
    ("refused", "why", "ways"),
    [
        (
            f'Preview failed: resource "{KEPT}" cannot be deleted',
            "because it is protected",
            f"either remove the `protect` flag, or use the command:\n`pulumi state unprotect '{KEPT}'`",
        ),
        (
            f'unable to replace resource "{KEPT}"',
            "as it is currently marked for protection",
            "remove the `protect` flag from the resource in your Pulumi program and run `pulumi up`",
        ),
    ],
)
def test_why_something_protected_stays_is_told_with_the_way_out(refused: str, why: str, ways: str) -> None:
    message = f"error: {refused}\n{why}. To unprotect the resource, {ways}\n"
    errors = [{"severity": "error", "message": text} for text in (message, "error: preview failed\n")]
    with pytest.raises(CouldNotTell) as trouble:
        explain(preview(diagnostics=errors))
    assert str(trouble.value).splitlines() == [
        "the preview itself failed:",
        f"error: {refused} {why}.",
        "error: preview failed",
        WAY_OUT,
    ]


# --- Markdown -------------------------------------------------------------------------------------------------

MARKDOWN = MarkdownIt("gfm-like", {"linkify": False, "html": True})
EVIL = "a`b``c | d <img src=x onerror=1> [x](http://e) ![y](z) *b* _i_ # h\n\n# heading\n```\n</details> @all \u202e|"


def inline(text: str) -> list[Any]:
    return [child for token in MARKDOWN.parse(text) for child in token.children or []]


def test_values_cannot_break_out_of_the_explanation() -> None:
    evil_alias = EVIL.replace("\n", " ").replace(":", "")
    text = preview(
        step("update", DNS, f"{EVIL}/dmarc", {"name": EVIL, "type": EVIL, "content": EVIL, "comment": EVIL},
             {"name": EVIL, "type": EVIL, "content": EVIL * 2, "comment": EVIL + "2", "ttl": EVIL}),
        plain(signs("m1", users={EVIL: {}}), signs("m1"), **{f"x{EVIL}": (EVIL, EVIL * 2),
              "domains__example.com__aliases": (f"{evil_alias}: {evil_alias}", "")}),
        step("create", f"{DYNAMIC}{EVIL.replace(':', '')}", EVIL, None, {EVIL: EVIL}),
        step("update", f"{DYNAMIC}HostGate", f"{EVIL}/gate", {"settings": json.dumps({"host_key": EVIL})},
             {"settings": json.dumps({"host_key": EVIL * 2})}),
        command("activate", {"a": 1}, {"a": 2}),
        command("install", {"version": "1"}, {"version": EVIL}),
        command("scripts", {"files": {EVIL: "a"}}, {"files": {EVIL: "b"}}),
        diagnostics=[{"severity": "warning", "message": EVIL}],
        config={EVIL: {"token": CANARY}},
    )  # fmt: skip
    shown = explain(text).markdown
    tokens = MARKDOWN.parse(shown)
    kinds = {token.type for token in [*tokens, *inline(shown)]}
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "table_open", "em_open", "code_block"}
    headings = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1:] == ["Risks", "DNS records", "Users and aliases", "Restarts", "Files on the hosts",
                            "Further changes", "Warnings of the program"]  # fmt: skip
    assert "\u202e" not in shown


def test_a_long_explanation_is_cut_between_its_parts_and_says_what_is_missing() -> None:
    records = [dns("create", f"d{at}.example/spf", None, f'"v=spf1 {"a" * 90} -all"') for at in range(2000)]
    found = explain(preview(*records, GONE_MX))
    assert len(found.markdown) < 65_000
    assert "**mail-stops**" in found.markdown
    kept = found.markdown.count("- new: ")
    assert f"**Left out for length:** {2001 - kept - 1} of 2001 DNS records" in found.markdown.replace(
        "deleted: `MX`", ""
    )
    assert found.markdown.endswith("shows everything.\n")
    assert kept > 300


def test_many_records_leave_room_for_the_short_sections() -> None:
    records = [dns("create", f"d{at}.example/spf", None, f'"v=spf1 {"a" * 90} -all"') for at in range(1000)]
    warning = {"severity": "warning", "message": "warning: look here"}
    users = {"i@example.com": {}}
    text = preview(*records, command("activate", {"a": 1}, {"a": 2}), command("secret", "[secret]", "[secret]"),
                   plain(signs("m1"), signs("m1", users=users)), diagnostics=[warning])  # fmt: skip
    shown = explain(text).markdown
    for told in ("chasquid keeps running", "users and DKIM keys: changed", "- look here", "user added"):
        assert told in shown
    titles = [line for line in shown.splitlines() if line.startswith("### ")]
    assert titles == ["### DNS records", "### Users and aliases", "### Restarts", "### Secret files",
                      "### Warnings of the program"]  # fmt: skip
    assert "1 of 1 files on the hosts" in shown.splitlines()[-1]


def test_a_thousand_removed_users_do_not_crowd_out_the_other_risks() -> None:
    users = {f"u{at}@example.com": {} for at in range(1000)}
    shown = explain(preview(plain(signs("m1", users=users), signs("m1", gate=False)))).markdown
    assert "- **user-removed**: and 980 more" in shown
    assert "**gate-off**" in shown


# --- the script -----------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, text: str, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["explain_preview.py", *arguments])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    return script.main()


@pytest.mark.parametrize(
    ("name", "fail_on", "status"),
    [
        ("unchanged.json", [ANY], 0),
        ("edit.json", [ANY], 0),
        ("risky.json", [], 1),
        ("risky.json", ["ssh-moved"], 1),
        ("risky.json", ["ssh-moved", "gate-off"], 2),
        ("risky.json", [ANY], 2),
        ("failed.json", [], 3),
    ],
)
def test_the_exit_status_follows_risks_and_fail_on(
    name: str, fail_on: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [word for risk in fail_on for word in ("--fail-on", risk)]
    assert run(monkeypatch, (SAMPLES / name).read_text(), *options) == status


def nodes(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a document."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [pair for key in keys for pair in [(value, key), *nodes(value[key])]]


JSON = st.recursive(st.none() | st.integers() | st.text(max_size=9) | st.sampled_from(["\ud800", "a/b/c", '{"a": 1}']),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
                    max_leaves=4)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["risky.json", "plan.json"]), st.randoms(use_true_random=False), JSON)
def test_a_preview_of_another_shape_is_explained_or_could_not_be_told(name: str, dice: Any, value: Any) -> None:
    document = json.loads((SAMPLES / name).read_text())
    places = nodes(document)
    for _ in range(3):
        container, key = dice.choice(places)
        container[key] = value
    try:
        explain(json.dumps(document)).markdown.encode()
    except CouldNotTell as trouble:
        str(trouble).encode()


@pytest.mark.parametrize(
    "text",
    ["", " \n", "Previewing update (prod):\n", "[]", "{}", '{"version": 3}', '{"steps": [{"op": "create"}]}',
     '{"changeSummary": {"same": 1e999}, "steps": []}', '{"changeSummary": {"same": NaN}, "steps": []}',
     f'{{"changeSummary": {{}}, "steps": [], "config": {{"a": {"[" * 600}{"]" * 600}}}}}',
     '{"steps": [', '{"changeSummary": 1, "steps": [7]}', '{"resourcePlans": {"urn": []}}', "null\n{}", "[" * 100_000],
)  # fmt: skip
def test_what_is_no_preview_cannot_be_told(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, text) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_the_script_judges_what_the_plan_exports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    digest = preview({"op": "same", "urn": STACK, "newState": {"urn": STACK, "custom": False}})
    (tmp_path / "plan.json").write_text(plan_of({"password": CANARY}))
    options = ["--fail-on", "secret-in-clear", "--plan", str(tmp_path / "plan.json")]
    assert run(monkeypatch, digest, *options[:2]) == 0
    assert run(monkeypatch, digest, *options) == 2
    assert "exported in clear" in capsys.readouterr().out
    (tmp_path / "plan.json").write_text("")
    assert run(monkeypatch, digest, *options) == 3
    (tmp_path / "plan.json").unlink()
    assert run(monkeypatch, (SAMPLES / "failed.json").read_text(), *options) == 3
    assert "the preview itself failed" in capsys.readouterr().err  # not that it saved no plan


def test_json_tells_programs_which_risks_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, (SAMPLES / "risky.json").read_text(), "--json", "--fail-on", "gate-off") == 2
    told = json.loads(capsys.readouterr().out)
    assert told["result"] == "fail"
    assert [risk["id"] for risk in told["risks"] if risk["fails"]] == ["gate-off"]
    assert told["resources"] == {"create": 0, "update": 13, "replace": 0, "delete": 3, "same": 32}


def test_a_risk_that_does_not_exist_could_not_be_told_and_is_not_one_that_was_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, (SAMPLES / "edit.json").read_text(), "--fail-on", "mail-stop")
    assert ended.value.code == 3
    assert "mail-stop" in capsys.readouterr().err
    with pytest.raises(SystemExit) as helped:
        run(monkeypatch, "", "--help")
    assert helped.value.code == 0


def test_the_explanation_is_utf_8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    paper = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(paper, encoding="ascii"))
    assert run(monkeypatch, preview(dns("create", "example.com/x", None, '"Grüße"'))) == 0
    sys.stdout.flush()
    assert "`Grüße`" in paper.getvalue().decode()


def test_a_preview_saved_as_utf_16_is_told_how_to_save_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "preview.json").write_text((SAMPLES / "edit.json").read_text(), encoding="utf-16")
    assert run(monkeypatch, "", str(tmp_path / "preview.json")) == 3
    assert "preview.json is no UTF-8: save it as UTF-8" in capsys.readouterr().err


def test_a_lifetime_that_is_no_number_is_not_told_as_changed() -> None:
    values = {"name": "x", "type": "TXT", "content": "a", "ttl": float("nan")}
    assert "also" not in explain(preview(step("update", DNS, "x/y", values, {**values, "content": "b"}))).markdown


def test_a_file_that_is_missing_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "", "/nowhere/plan.json") == 3
