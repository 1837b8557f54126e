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
PASSWORDS: Final = "passwords"  # the output with those of users with `export: true` (components/outputs.py)
LIMITS: Final = ("minute", "hour", "day", "newRecipients", "recipientsPerMessage", "warmUp")
FAR: Final = 10  # times as much


def find(preview: Preview, records: Sequence[RecordChange], hosts: Sequence[HostChange]) -> list[Risk]:
    """Every risk of a preview, the worst first, each once."""
    found = [
        *_secrets(preview),
        *dns_risks.find(preview, records, hosts),
        *(risk for host in hosts for risk in _host(host)),
        *_people(preview, hosts),
    ]
    found += _taken_over(preview)
    resting = dns_risks.resting_keys(preview)
    found += [
        risk("unprotected", change.name, f"{code(change.name)} is no longer protected from being deleted")
        for change in preview.changes
        if change.protected == (True, False) and change.name not in resting
    ]
    if preview.destroys:
        found.append(risk("stack-destroyed", preview.stack, f"the whole stack {code(preview.stack)} is taken down"))
    return sorted(set(found))


def _taken_over(preview: Preview) -> Iterator[Risk]:
    """Each SPF record of others that goes for ours; one that was imported is changed in place, and shown as that."""
    imported = {change.name.partition("/")[0] for change in preview.changes if dns_risks.was_others_spf(change)}
    for change in preview.changes:
        name = change.name.partition("/")[0]
        happens = change.type.endswith("mailroom:SpfTakeover") and change.kind in {"create", "update", "replace"}
        if happens and name not in imported:
            said = f"an SPF record of others at {code(name)} is replaced by ours, which allows the same"
            yield risk("spf-taken-over", change.name, said)


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
    if any(output.how == "new" and output.name == PASSWORDS and output.secret for output in preview.outputs):
        yield risk("password-exported", PASSWORDS,
                   f"a password becomes readable for who can read the stack's outputs: {code(PASSWORDS)} is new "
                   "there")  # fmt: skip
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
        if policy and host.kind != "delete":
            yield from _users(*policy)
            yield from _more(host.name, policy, f"{code(host.name)} may")
        for entry in on_hosts.entries(host):
            if entry.after:
                continue
            if entry.what == "user":
                yield risk("user-removed", entry.name, f"user {code(entry.name)} can no longer log in")
            elif not _caught(entry.name, host):
                yield risk("alias-removed", entry.name, f"mail to {code(entry.name)} is refused from now on")


def _caught(address: str, host: HostChange) -> bool:
    """Whether mail to an alias that goes is taken by the catch-all, or its domain is served no more (`mail-stops`)."""
    name, _, domain = address.rpartition("@")
    if all(_of(side, "domains", domain).get("mail") == "external" for side in host.policies):
        return True  # nothing of the domain arrives here, before and after
    for one in host.files:
        if one.path == f"domains/{domain}/aliases":
            return one.after is None or "*" in on_hosts.aliases(one.after) or name == "*"
    return host.policy is None


def _of(policy: Mapping[str, Any], part: str, name: str) -> Mapping[str, Any]:
    """What a policy.json says of a user or domain."""
    found = (policy.get(part) or {}).get(name)
    return found if isinstance(found, dict) else {}


def _users(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Risk]:
    """Users that stay and may do more than before."""
    for user in sorted(set(old.get("users") or ()) & set(new.get("users") or ())):
        before, after = _of(old, "users", user), _of(new, "users", user)
        more = {*(after.get("identities") or ())} - {*(before.get("identities") or ())}
        if named := sorted(one for one in more if not _receives(user, one, new)):
            addresses = ", ".join(map(code, named))
            yield risk("may-send-as", user, f"user {code(user)} may send as {addresses} from now on")
        yield from _more(user, (before.get("limits") or {}, after.get("limits") or {}), f"user {code(user)} may")


def _receives(user: str, address: str, policy: Mapping[str, Any]) -> bool:
    """Whether an address is the user's because its alias leads there: the alias is told by itself."""
    name, _, domain = address.rpartition("@")
    local, _, at = user.rpartition("@")
    targets = (_of(policy, "domains", domain).get("aliases") or {}).get(name) or ()
    return user in targets or (at == domain and local in targets)


def _more(subject: str, limits: tuple[Mapping[str, Any], Mapping[str, Any]], who: str) -> Iterator[Risk]:
    """Limits that rise so far that a stolen password does other harm, and a warm-up that is switched off."""
    for name in LIMITS:
        old, new = (side.get(name) for side in limits)
        if isinstance(old, int) and isinstance(new, int) and old > 0:
            if new >= FAR * old:
                yield risk("limits-raised", f"{subject} {name}",
                           f"{who} send far more: {code(name)} rises from {old:,} to {new:,}")  # fmt: skip
            elif name == "warmUp" and new == 0:
                yield risk("limits-raised", f"{subject} {name}", f"{who} send without a warm-up from now on")
