"""What a reviewer must not overlook in a preview: each risk with its id and one sentence."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any, Final

from operations.explain_preview import dns_risks, engine
from operations.explain_preview import hosts as on_hosts
from operations.explain_preview.catalogue import Risk, risk
from operations.explain_preview.markdown import code

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from operations.explain_preview.engine import Preview
    from operations.explain_preview.hosts import HostChange
    from operations.explain_preview.records import RecordChange

SECRET_OUTPUTS: Final[Mapping[str, frozenset[str]]] = {
    "DkimKey": frozenset({"private"}),
    "Users": frozenset({"passwords", "files", "hashes", "changed"}),
}


def find(preview: Preview, records: Sequence[RecordChange], hosts: Sequence[HostChange]) -> list[Risk]:
    """Every risk of a preview, the worst first, each once."""
    found = [
        *_secrets(preview),
        *dns_risks.find(preview, records, hosts),
        *(risk for host in hosts for risk in _host(host)),
        *_people(preview, hosts),
    ]
    found += [
        risk("spf-taken-over", change.name, f"an SPF record of others at {code(change.name.partition('/')[0])} "
             "is deleted where ours allows the same")
        for change in preview.changes
        if change.type.endswith("mailroom:SpfTakeover") and change.kind in {"create", "update", "replace"}
    ]  # fmt: skip
    if preview.destroys:
        found.append(risk("stack-destroyed", preview.stack, f"the whole stack {code(preview.stack)} is taken down"))
    return sorted(set(found))


def _secrets(preview: Preview) -> Iterator[Risk]:
    for place, key in preview.clear:
        if place == engine.OUTPUTS:
            said = f"exported in clear: the output {code(key)}"
        else:
            said = f"stored in clear: {code(key)} of {code(place)}"
        yield risk("secret-in-clear", f"{place} {key}", f"a secret would be {said} is not marked secret")
    for change in preview.changes:
        marks = SECRET_OUTPUTS.get(change.type.rpartition("mailroom:")[2], frozenset())
        if change.secret_outputs is not None:
            for output in sorted(marks - change.secret_outputs):
                yield risk("secret-in-clear", f"{change.name} {output}",
                           f"a secret would be stored in clear: the output {code(output)} of {code(change.name)} "
                           "is not marked secret")  # fmt: skip
    if preview.shows_secrets:
        yield risk("secret-in-clear", "this file", "this preview holds secrets in clear (`--show-secrets`): delete it")


# --- hosts ----------------------------------------------------------------------------------------------------


def _host(host: HostChange) -> Iterator[Risk]:
    name = code(host.name)
    if host.kind == "delete":
        yield risk("host-removed", host.name, f"host {name} is taken down: its queue is drained, then it is left alone")
    if host.key_changed:
        old, new = (code(_fingerprint(key)) for key in host.key_changed)
        yield risk("host-key-changed", host.name,
                   f"host {name} is trusted with another key: it was {old}, it will be {new}; "
                   "compare it with the provider's console")  # fmt: skip
    if host.kind == "replace":
        yield risk("host-replaced", host.name, f"host {name} is set up anew: every step on it runs from the beginning")
    yield from _switches(host)
    yield from _access(host)


def _fingerprint(key: str) -> str:
    """As `ssh-keygen -l` shows a public key line."""
    try:
        blob = base64.b64decode(key.split()[1], validate=True)
    except (IndexError, ValueError):
        return key
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _switches(host: HostChange) -> Iterator[Risk]:
    if (host.planned or {}).get("gate") is False:
        yield risk("gate-off", host.name,
                   f"the gate is off on {code(host.name)}: forged mail is forwarded in your name "
                   "(a plan does not say whether it was)")  # fmt: skip
    if (policy := host.policy) and host.kind != "delete":
        old, new = policy
        if old.get("gate") is not False and new.get("gate") is False:
            yield risk("gate-off", host.name,
                       f"the gate goes off on {code(host.name)}: forged mail is forwarded in your name")  # fmt: skip
        if old.get("rspamd") is True and not new.get("rspamd"):
            yield risk("rspamd-off", host.name, f"rspamd no longer judges mail on {code(host.name)}")


def _access(host: HostChange) -> Iterator[Risk]:
    name, step = code(host.name), host.steps.get("access")
    if step is not None and step.kind == "delete" and host.kind != "delete":
        yield risk("firewall-opened", host.name, f"the packet filter of {name} is no longer kept by this stack")
    if host.access is None or step is None or step.kind == "delete":
        return
    old, new = host.access
    for key, protocol in (("allow_tcp", "TCP"), ("allow_udp", "UDP")):
        before, after = set(old.get(key) or ()), set(new.get(key) or ())
        if more := sorted(after - before, key=str):
            new_to_us = "" if step.before_known else " (a plan does not say which were open before)"
            ports = ", ".join(map(str, more))
            yield risk("firewall-opened", host.name,
                       f"the firewall of {name} lets in {protocol} {code(ports)}{new_to_us}")  # fmt: skip
    if old and old.get("ssh_port") != new.get("ssh_port"):
        yield risk("ssh-moved", host.name, f"SSH of {name} moves from port {code(old.get('ssh_port'))} "
                                           f"to {code(new.get('ssh_port'))}")  # fmt: skip


# --- people ---------------------------------------------------------------------------------------------------


def _people(preview: Preview, hosts: Iterable[HostChange]) -> Iterator[Risk]:
    if preview.destroys:
        return
    for host in hosts:
        policy = host.policy
        for entry in on_hosts.entries(host):
            if entry.after:
                continue
            if entry.what == "user":
                yield risk("user-removed", entry.name, f"user {code(entry.name)} can no longer log in")
            elif not _caught(entry.name, host, policy):
                yield risk("alias-removed", entry.name, f"mail to {code(entry.name)} is refused from now on")


def _caught(address: str, host: HostChange, policy: tuple[Mapping[str, Any], Mapping[str, Any]] | None) -> bool:
    """Whether mail to an alias that goes is taken by the catch-all, or its domain is served no more (`mail-stops`)."""
    name, _, domain = address.rpartition("@")
    for one in host.files:
        if one.path == f"domains/{domain}/aliases":
            return one.after is None or "*" in on_hosts.aliases(one.after) or name == "*"
    return policy is None
