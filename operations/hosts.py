"""Asks every host of a stack to run one of its own scripts, over the pinned connections the stack uses itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from operations import ssh
from standards.finding import Finding, Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Mapping

    from components.settings import HostSettings, Settings

SCRIPTS = "/usr/local/lib/mailroom/current"


def ask(settings: Settings, script: str, payload: Mapping[str, Any], timeout: float = 60) -> dict[str, str]:
    """Standard output of `script` by host name. Asks all hosts, then raises `Problems` for those that failed."""
    answers, findings = ask_each(settings, script, payload, timeout)
    if findings:
        done_on = f"; done on {', '.join(answers)}" if answers else ""
        raise Problems(f"{script} did not run on every host of stack {settings.stack}{done_on}", findings)
    return answers


def ask_each(
    settings: Settings, script: str, payload: Mapping[str, Any], timeout: float = 60
) -> tuple[dict[str, str], list[Finding]]:
    """Standard output of `script` by host name, and why other hosts have none."""
    answers: dict[str, str] = {}
    findings: list[Finding] = []
    for host in settings.hosts:
        try:
            done = ssh.run(target(settings, host), f"{SCRIPTS}/{script}", json.dumps(payload), timeout)
        except Problems as problems:
            findings += problems.findings
            continue
        if done.exit_status:
            findings.append(failed(host.name, script, done))
        else:
            answers[host.name] = done.stdout.strip()
    return answers, findings


def target(settings: Settings, host: HostSettings) -> ssh.Target:
    """The login of a host with the stack's own key, or the agent's."""
    key = settings.ssh_private_key
    return ssh.Target.of(host, key.get_secret_value() if key else None)


def failed(host: str, script: str, done: ssh.Completed) -> Finding:
    """What a host's script that ended with an error says."""
    said = done.stderr.strip().splitlines()
    missing = done.exit_status == 127  # noqa: PLR2004  (the shell's "not found")
    return error_about(
        f"host {host}",
        "host.script-failed",
        expected=f"{script} to end without an error",
        found="the script is not there" if missing else (said[-1].removeprefix("error: ") if said else "no message"),
        why="what a script does must hold on every host that sends for the stack",
        fix="deploy this version first, with `pulumi up`" if missing else "follow what it says, then run again",
    )
