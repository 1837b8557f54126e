#!/usr/bin/python3
"""Obtains the host's certificates by ACME DNS-01 and arranges their renewal; restarts nothing.

Payload: {"email", "directory", "ca_pem" or null, "api_base" or null, "token", "propagation_seconds",
"certificates": [{"name": "smtp.example.com", "names": ["smtp.example.com"]}, ...]}; the first is the host's.

Renewal is the distribution's own certbot.timer (twice a day at a random minute, made up for after downtime),
so there is one schedule and one lock; a drop-in of certbot.service adds what our runs need. A certificate
that is no longer listed is taken away from the mail server and not renewed; certbot's files of it stay.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.certificates import deploy_hook
    from components.host import hostlib
else:
    import deploy_hook
    import hostlib

MAILROOM = Path("/etc/mailroom")
LETSENCRYPT = Path("/etc/letsencrypt")
SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
DROP_IN = Path("/etc/systemd/system/certbot.service.d/mailroom.conf")
TIMER = "certbot.timer"
LIVE_FILES = ("cert.pem", "chain.pem", "fullchain.pem", "privkey.pem")
BUSY = "Another instance of Certbot is already running"
BUSY_LIMIT = 60  # seconds; far below the deploy hook's own limit, see deploy_hook.wait_for_program
ISSUE_LIMIT = 300  # seconds besides the propagation time
# How certbot's DNS plugin reads another API address: python3-cloudflare from 2.9, before, and certbot from 5.
API_VARIABLES = ("CLOUDFLARE_API_URL", "CF_API_URL", "CLOUDFLARE_BASE_URL")
# certbot speaks to the network as root. It keeps its way to all files: other certificates of this host, and their
# hooks, are renewed by the same unit.
SANDBOX = """\
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
ProtectSystem=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM"""
SHOWN_LINES, SHOWN_WIDTH = 12, 400
NOISE = ("Saving debug log", "Ask for help", "Requesting a certificate", "Renewing an existing certificate", "- - -")
# What certbot says -> what to do about it.
ADVICE = (
    (
        r"9109|6003|10000|Invalid access token|Authentication error|valid Cloudflare API credentials",
        "check mailroom:acme token: it needs Zone:Read and DNS:Edit for the zone of the name",
    ),
    (r"Unable to determine zone_id", "give the token of mailroom:acme access to the zone of the name"),
    (r"rateLimited|too many", "wait as long as the CA says, or try with directory: letsencrypt-staging"),
    (r"CERTIFICATE_VERIFY_FAILED", "set mailroom:acme caFile to the CA that signs the directory's certificate"),
    (r"CAA", "allow this CA in the domain's CAA records"),
    (r"NameResolution|Connection refused|timed out|Max retries", "check that the host reaches the directory"),
    (r"DNS problem|Incorrect TXT|NXDOMAIN", "raise mailroom:acme propagationSeconds, the TXT came too late"),
)


def main() -> None:
    """Bring certificates, renewal and copies to the wanted state and say what changed."""
    wanted = hostlib.read_payload()
    host = wanted["certificates"][0]["name"]
    changes = [*write_settings(wanted), *arrange_renewal(wanted), *update_account(wanted)]
    for certificate in wanted["certificates"]:
        name = certificate["name"]
        changes += obtain(name, certificate["names"], wanted)
        try:
            if deploy_hook.deploy(LETSENCRYPT / "live" / name, host):
                changes.append(f"deployed {name}")
        except deploy_hook.DeployError as error:
            hostlib.fail(str(error), "expected a certificate that can be deployed", "run it again")
    changes += retire(wanted)
    hostlib.finish(changes)


# --- settings of certbot ------------------------------------------------------------------------------------


def write_settings(wanted: dict[str, Any]) -> list[str]:
    """The token, for root alone and nowhere else, and the CAs to trust the directory with."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", wanted["token"]):
        hostlib.fail(
            "the token of mailroom:acme has characters no API token has",
            "expected letters, digits, - and _ (its value is not shown here)",
            "copy the token again",
        )
    folder = LETSENCRYPT / "mailroom"
    hostlib.make_directory(folder, 0o700)
    hostlib.make_directory(MAILROOM, 0o750, group=deploy_hook.GROUP)
    changes = []
    if hostlib.write_file(credentials(), f"dns_cloudflare_api_token = {wanted['token']}\n", 0o600):
        changes.append("stored the DNS token")
    own, bundle = folder / "acme-ca.pem", folder / "ca-bundle.pem"
    if wanted["ca_pem"] is None:
        own.unlink(missing_ok=True)
        bundle.unlink(missing_ok=True)
    else:
        hostlib.write_file(own, wanted["ca_pem"].rstrip() + "\n", 0o600)
        hostlib.write_file(bundle, SYSTEM_BUNDLE.read_bytes() + own.read_bytes(), 0o600)
    return changes


def credentials() -> Path:
    """Where the DNS token is."""
    return LETSENCRYPT / "mailroom" / "cloudflare.ini"


def environment(wanted: dict[str, Any]) -> dict[str, str]:
    """What certbot needs in its environment, in our runs and in the timer's."""
    variables = {}
    if wanted["api_base"] is not None:
        variables.update(dict.fromkeys(API_VARIABLES, wanted["api_base"]))
    if wanted["ca_pem"] is not None:
        variables["REQUESTS_CA_BUNDLE"] = str(LETSENCRYPT / "mailroom" / "ca-bundle.pem")
    return variables


# --- renewal ------------------------------------------------------------------------------------------------


def arrange_renewal(wanted: dict[str, Any]) -> list[str]:
    """Install the deploy hook, the drop-in, and see that the timer runs."""
    hook = LETSENCRYPT / "renewal-hooks/deploy/mailroom-deploy"
    hostlib.make_directory(hook.parent)
    hostlib.make_directory(DROP_IN.parent)
    changes = []
    if hostlib.write_file(hook, Path(deploy_hook.__file__).read_bytes(), 0o755):
        changes.append("installed the deploy hook")
    if hostlib.write_file(DROP_IN, drop_in(wanted, hook)):
        systemctl("daemon-reload")
        changes.append("set up renewal")
    if hostlib.run(["systemctl", "is-enabled", "--quiet", TIMER]).returncode or (
        hostlib.run(["systemctl", "is-active", "--quiet", TIMER]).returncode
    ):
        systemctl("enable", "--now", TIMER)
        changes.append(f"enabled {TIMER}")
    return changes


def drop_in(wanted: dict[str, Any], hook: Path) -> str:
    """What the distribution's certbot.service needs in addition."""
    lines = ["# Written by Mailroom; a change here is undone by the next `pulumi up`.", "[Service]", SANDBOX]
    for key, value in sorted(environment(wanted).items()):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
        lines.append(f'Environment="{key}={quoted}"')
    if wanted["ca_pem"] is not None:  # the system's CAs change with updates of ca-certificates
        folder = LETSENCRYPT / "mailroom"
        lines.append(
            f"ExecStartPre=/bin/sh -c 'umask 077; cat {SYSTEM_BUNDLE} {folder}/acme-ca.pem > {folder}/ca-bundle.pem'"
        )
    lines += ["# Also after a failed run: it finishes what a killed hook left undone.", f"ExecStopPost={hook} --all"]
    return "\n".join(lines) + "\n"


def systemctl(*arguments: str) -> None:
    """Run systemctl, which must succeed."""
    answer = hostlib.run(["systemctl", *arguments])
    if answer.returncode:
        hostlib.fail(
            f"`systemctl {' '.join(arguments)}` failed: {answer.stderr.strip()[:SHOWN_WIDTH]}",
            "expected the units of the package certbot",
            "on the host: apt-get install --reinstall certbot",
        )


# --- account ------------------------------------------------------------------------------------------------


def update_account(wanted: dict[str, Any]) -> list[str]:
    """Tell the CA a new address of an account that exists; a new account gets it when it is made."""
    account = {"directory": wanted["directory"], "email": wanted["email"]}
    before = read_state().get("account", account)
    if before == account or before["directory"] != account["directory"]:
        return []
    certbot(["update_account", "--email", wanted["email"]], wanted, "the address of the ACME account")
    return [f"changed the ACME account's address to {wanted['email']}"]


def read_state() -> dict[str, Any]:
    """What the last complete run deployed, as the deploy hook reads it."""
    try:
        state: dict[str, Any] = json.loads((MAILROOM / "certificates.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return state


# --- issuing ------------------------------------------------------------------------------------------------


def obtain(name: str, names: list[str], wanted: dict[str, Any]) -> list[str]:
    """Issue the certificate `name` when there is a reason to."""
    renewal = LETSENCRYPT / "renewal" / f"{name}.conf"
    retired = renewal.with_name(f"{renewal.name}.retired")
    if retired.exists() and not renewal.exists():
        retired.rename(renewal)
    reason = reason_to_issue(name, names, wanted["directory"])
    if reason is None:
        return []
    if reason == "damaged":
        set_aside(name)
    certbot(
        [
            *("certonly", "--cert-name", name, "--force-renewal", "--no-directory-hooks"),
            *("--key-type", "ecdsa", "--elliptic-curve", "secp256r1", "--reuse-key"),
            *("--agree-tos", "--no-eff-email", "--email", wanted["email"]),
            *("--dns-cloudflare", "--dns-cloudflare-credentials", str(credentials())),
            *("--dns-cloudflare-propagation-seconds", str(wanted["propagation_seconds"])),
            *(argument for dns_name in names for argument in ("-d", dns_name)),
        ],
        wanted,
        f"the certificate {name} ({', '.join(names)})",
    )
    return [f"issued {name} ({reason})"]


def reason_to_issue(name: str, names: list[str], directory: str) -> str | None:
    """Why a new certificate is needed, or None."""
    renewal, live = LETSENCRYPT / "renewal" / f"{name}.conf", LETSENCRYPT / "live" / name
    if not any(path.exists() for path in (renewal, live, LETSENCRYPT / "archive" / name)):
        return "new"
    if not is_sound(live, renewal):
        return "damaged"
    if names_of(live / "cert.pem") != set(names):
        return "its names changed"
    server = re.search(r"^server\s*=\s*(\S+)", renewal.read_text(encoding="utf-8"), re.MULTILINE)
    if server is None or server.group(1) != directory:
        return "the ACME directory changed"
    begin, end = deploy_hook.validity(live / "cert.pem")
    return "a third of its life is left" if time.time() > end - (end - begin) / 3 else None


def is_sound(live: Path, renewal: Path) -> bool:
    """Whether certbot's files of a lineage are complete and belong together, as certbot itself demands."""
    if not renewal.exists() or not all((live / name).is_symlink() and (live / name).exists() for name in LIVE_FILES):
        return False
    try:
        deploy_hook.check_pair(live / "fullchain.pem", live / "privkey.pem")
        deploy_hook.validity(live / "cert.pem")
    except deploy_hook.DeployError:
        return False
    return True


def names_of(certificate: Path) -> set[str]:
    """The DNS names a certificate lists."""
    answer = hostlib.run(["openssl", "x509", "-in", str(certificate), "-noout", "-ext", "subjectAltName"])
    return set(re.findall(r"DNS:([^,\s]+)", answer.stdout))


def set_aside(name: str) -> None:
    """Move what is left of a lineage where certbot does not see it; keys are never deleted."""
    place = LETSENCRYPT / "mailroom" / "damaged" / f"{name}-{int(time.time())}"
    hostlib.make_directory(place, 0o700)
    for path in (Path("live") / name, Path("archive") / name, Path("renewal") / f"{name}.conf"):
        if os.path.lexists(LETSENCRYPT / path):
            (LETSENCRYPT / path).rename(place / path.parts[0])


def certbot(arguments: list[str], wanted: dict[str, Any], purpose: str) -> None:
    """Run certbot, waiting for another one that is at work, for example a renewal by the timer."""
    argv = ["certbot", *arguments, "--non-interactive", "--server", wanted["directory"]]
    limit = ISSUE_LIMIT + wanted["propagation_seconds"]
    end = time.monotonic() + BUSY_LIMIT
    while True:
        try:
            answer = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=limit,
                env={**os.environ, "LC_ALL": "C.UTF-8", **environment(wanted)},
            )
        except subprocess.TimeoutExpired:
            hostlib.fail(
                f"certbot did not get {purpose} within {limit} s",
                "expected an answer of the ACME directory and of the DNS provider's API",
                "see /var/log/letsencrypt/letsencrypt.log on the host and run again",
            )
        said = answer.stdout + answer.stderr
        if answer.returncode == 0:
            return
        if BUSY not in said or time.monotonic() > end:
            break
        time.sleep(2)
    give_up(purpose, said.replace(wanted["token"], "***"), wanted["directory"])


def give_up(purpose: str, said: str, directory: str) -> None:
    """Fail with certbot's own words and with what they usually mean."""
    if BUSY in said:
        advice = f"a renewal has been running for {BUSY_LIMIT} s: run again when it is done"
    else:
        advice = next((todo for sign, todo in ADVICE if re.search(sign, said, re.IGNORECASE)), "see below")
    lines = [line.strip()[:SHOWN_WIDTH] for line in said.splitlines()]
    shown = [f"  {line}" for line in lines if line and not line.startswith(NOISE)][:SHOWN_LINES]
    hostlib.fail(
        f"certbot could not get {purpose} from {directory}",
        "expected the CA to find the _acme-challenge TXT record that the token's owner may write",
        "\n".join([advice, *shown]),
    )


# --- what is no longer wanted -------------------------------------------------------------------------------


def retire(wanted: dict[str, Any]) -> list[str]:
    """Take away certificates that are not listed any more, then note what is deployed, for the hook."""
    host = wanted["certificates"][0]["name"]
    names = [certificate["name"] for certificate in wanted["certificates"]]
    changes = []
    for name in read_state().get("names", []):
        renewal = LETSENCRYPT / "renewal" / f"{name}.conf"
        if name not in names and renewal.exists():
            renewal.rename(renewal.with_name(f"{renewal.name}.retired"))  # certbot reads *.conf only
            changes.append(f"stopped renewing {name}")
    directories = {deploy_hook.directory_of(name, host) for name in names}
    for entry in (*(MAILROOM / "certs").iterdir(), *(MAILROOM / "pairs").iterdir()):
        if entry.name not in directories:
            entry.unlink() if entry.is_symlink() else shutil.rmtree(entry)
    account = {"directory": wanted["directory"], "email": wanted["email"]}
    state = {"host": host, "names": names, "account": account}
    hostlib.write_file(MAILROOM / "certificates.json", json.dumps(state, indent=1) + "\n")
    return changes


if __name__ == "__main__":
    main()
