#!/usr/bin/python3
"""Obtains the host's certificates by ACME DNS-01 and arranges their renewal; restarts nothing.

Payload: {"email", "directory", "ca_pem" or null, "api_base" or null, "dns": "cloudflare", "credentials": {ini key:
value}, "challenge_zone" or null, "propagation_seconds", "copies": {"folder", "group"} or null, "certificates":
[{"name": "smtp.example.com", "names": ["smtp.example.com"], "hooks": ["systemctl reload nginx"]}, ...]}; the first is
the host's, and only those with reload hooks have "hooks". With a challenge zone our own hook answers the CA, else
certbot's plugin `dns-<dns>`.

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
    from components.certificates import challenge_hook, deploy_hook, reload_hook
    from components.host import hostlib
else:
    import challenge_hook
    import deploy_hook
    import hostlib
    import reload_hook

MAILROOM = Path("/etc/mailroom")
LETSENCRYPT = Path("/etc/letsencrypt")
SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
UNITS = Path("/etc/systemd/system")
RELOAD = "/usr/local/lib/mailroom/current/reload_hook.py"  # the newest one
REPORT = "mailroom-certificate-report.service"
TIMER = "certbot.timer"
LIVE_FILES = ("cert.pem", "chain.pem", "fullchain.pem", "privkey.pem")
BUSY = "Another instance of Certbot is already running"
BUSY_LIMIT = 60  # seconds; far below the deploy hook's own limit, see deploy_hook.wait_for_program
ISSUE_LIMIT = 300  # seconds besides the propagation time
# How certbot's DNS plugin reads another API address: python3-cloudflare from 2.9, before, and certbot from 5.
API_VARIABLES = ("CLOUDFLARE_API_URL", "CF_API_URL", "CLOUDFLARE_BASE_URL")
CONFINED = """\
NoNewPrivileges=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM"""
# certbot speaks to the network as root. It keeps its way to all files: other certificates of this host, and their
# hooks, are renewed by the same unit.
SANDBOX = f"""\
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_NET_BIND_SERVICE
ProtectSystem=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
{CONFINED}"""
# The policy's socket, where the notice goes, belongs to chasquid's group.
REPORT_UNIT = f"""\
[Unit]
Description=Mailroom: report that certificates were not renewed or not handed on

[Service]
Type=oneshot
ExecStart={{program}} --report
UMask=0077
StateDirectory=mailroom
CapabilityBoundingSet=CAP_DAC_OVERRIDE
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateNetwork=yes
RestrictAddressFamilies=AF_UNIX
MemoryDenyWriteExecute=yes
{CONFINED}
"""
SHOWN_LINES, SHOWN_WIDTH = 12, 400
SECRET_SIZE = 8  # characters; what is shorter is a port or the like
NOISE = ("Saving debug log", "Ask for help", "Requesting a certificate", "Renewing an existing certificate", "- - -")
# What certbot says -> what to do about it.
ADVICE = (
    (r"challenge hook: ", "correct what the challenge hook says below"),
    (r"The requested dns-\S+ plugin does not|unrecognized arguments: --dns-", "correct mailroom:acme dns"),
    (
        r"9109|6003|10000|Invalid access token|Authentication error|valid Cloudflare API credentials",
        "check mailroom:acme token: it needs Zone DNS Edit and Zone Zone Read for the zone of the name",
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
    try:
        changes = reload_hook.make_folder(wanted["copies"])  # refuses before anything changes
    except (reload_hook.CopyError, OSError) as error:
        hostlib.fail(str(error), "expected a folder of its own", "change certificateCopies of the host")
    changes += [*write_settings(wanted), *arrange_renewal(wanted), *update_account(wanted)]
    for certificate in wanted["certificates"]:
        name = certificate["name"]
        changes += obtain(name, certificate["names"], wanted)
        try:
            if deploy_hook.deploy(LETSENCRYPT / "live" / name, host):
                changes.append(f"deployed {name}")
        except deploy_hook.DeployError as error:
            hostlib.fail(str(error), "expected a certificate that can be deployed", "run it again")
    changes += [*retire(wanted), *forget_credentials(wanted), *hand_on()]
    hostlib.finish(changes)


# --- settings of certbot ------------------------------------------------------------------------------------


def write_settings(wanted: dict[str, Any]) -> list[str]:
    """The credentials, for root alone and nowhere else, and the CAs to trust the directory with."""
    if not all(re.fullmatch(r"""[^'\n]+|[^"\n]+""", value) for value in wanted["credentials"].values()):
        hostlib.fail(
            "the credentials of mailroom:acme do not fit into certbot's file",
            "expected values of one line without both kinds of quotes (they are not shown here)",
            "copy them again",
        )
    folder = LETSENCRYPT / "mailroom"
    hostlib.make_directory(folder, 0o700)
    hostlib.make_directory(MAILROOM, 0o750, group=deploy_hook.GROUP)
    changes = []
    if hostlib.write_file(credentials(wanted), credentials_text(wanted), 0o600):
        changes.append("stored the DNS credentials")
    own, bundle = folder / "acme-ca.pem", folder / "ca-bundle.pem"
    if wanted["ca_pem"] is None:
        own.unlink(missing_ok=True)
        bundle.unlink(missing_ok=True)
    else:
        hostlib.write_file(own, wanted["ca_pem"].rstrip() + "\n", 0o600)
        hostlib.write_file(bundle, SYSTEM_BUNDLE.read_bytes() + own.read_bytes(), 0o600)
    return changes + write_hooks(wanted)


def write_hooks(wanted: dict[str, Any]) -> list[str]:
    """The reload hooks as programs, one file each, in the order they are run."""
    folder = LETSENCRYPT / "mailroom" / "hooks"
    hostlib.make_directory(folder, 0o700)
    changed = False
    kept = set()
    for certificate in wanted["certificates"]:
        for number, text in enumerate(certificate.get("hooks", ())):
            path = folder / f"{certificate['name']}:{number:02}"
            changed |= hostlib.write_file(path, text if text.startswith("#!") else f"#!/bin/sh -e\n{text}", 0o700)
            kept.add(path)
    for path in set(folder.iterdir()) - kept:
        path.unlink()
        changed = True
    return ["wrote the reload hooks"] if changed else []


def credentials(wanted: dict[str, Any]) -> Path:
    """Where the DNS credentials are."""
    return LETSENCRYPT / "mailroom" / ("challenge.json" if wanted["challenge_zone"] else f"{wanted['dns']}.ini")


def credentials_text(wanted: dict[str, Any]) -> str:
    """The file as its reader wants it: our challenge hook, or certbot's plugin by way of ConfigObj."""
    if wanted["challenge_zone"]:
        keys = ("dns", "challenge_zone", "propagation_seconds", "api_base", "credentials")
        return json.dumps({key: wanted[key] for key in keys}, indent=1) + "\n"
    return "".join(f"{key} = {ini_value(value)}\n" for key, value in sorted(wanted["credentials"].items()))


def ini_value(value: str) -> str:
    """In quotes where a comma would make a list of it, or # a comment."""
    if re.fullmatch(r"[\w.+/=:@-]+", value, re.ASCII):
        return value
    return f"'{value}'" if '"' in value else f'"{value}"'


def forget_credentials(wanted: dict[str, Any]) -> list[str]:
    """Remove those of a plugin that is not used any more, once no renewal reads them."""
    folder, kept = LETSENCRYPT / "mailroom", credentials(wanted)
    old = [path for path in (*folder.glob("*.ini"), folder / "challenge.json") if path != kept and path.exists()]
    for path in old:
        path.unlink()
    return ["removed the old DNS credentials"] if old else []


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
    """Install the hooks and units, and see that the timer runs."""
    hooks = LETSENCRYPT / "renewal-hooks/deploy"
    hostlib.make_directory(hooks)
    drop_in = UNITS / "certbot.service.d/mailroom.conf"
    hostlib.make_directory(drop_in.parent)
    changes = []
    programs = {hooks / "mailroom-deploy": (deploy_hook, 0o755), challenge_program(): (challenge_hook, 0o700)}
    written = [
        hostlib.write_file(path, Path(module.__file__ or "").read_bytes(), mode)
        for path, (module, mode) in programs.items()
    ]
    written.append(hostlib.point(hooks / "mailroom-reload", RELOAD))  # after mailroom-deploy: certbot goes by name
    if any(written):
        changes.append("installed the hooks")
    written = [hostlib.write_file(drop_in, renewal_unit(wanted, hooks))]
    written.append(hostlib.write_file(UNITS / REPORT, REPORT_UNIT.format(program=RELOAD)))
    if any(written):
        systemctl("daemon-reload")
        changes.append("set up renewal")
    if hostlib.run(["systemctl", "is-enabled", "--quiet", TIMER]).returncode or (
        hostlib.run(["systemctl", "is-active", "--quiet", TIMER]).returncode
    ):
        systemctl("enable", "--now", TIMER)
        changes.append(f"enabled {TIMER}")
    return changes


def challenge_program() -> Path:
    """Our own hook that answers challenges in a zone of their own."""
    return LETSENCRYPT / "mailroom" / "challenge"


def renewal_unit(wanted: dict[str, Any], hooks: Path) -> str:
    """What the distribution's certbot.service needs in addition."""
    lines = ["# Written by Mailroom; a change here is undone by the next `pulumi up`."]
    lines += ["[Unit]", f"OnFailure={REPORT}", "[Service]", SANDBOX]
    for key, value in sorted(environment(wanted).items()):
        quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
        lines.append(f'Environment="{key}={quoted}"')
    if wanted["ca_pem"] is not None:  # the system's CAs change with updates of ca-certificates
        folder = LETSENCRYPT / "mailroom"
        lines.append(
            f"ExecStartPre=/bin/sh -c 'umask 077; cat {SYSTEM_BUNDLE} {folder}/acme-ca.pem > {folder}/ca-bundle.pem'"
        )
    lines.append("# Also after a failed run: they finish what a killed hook left undone.")
    lines += [f"ExecStopPost={hooks}/{program} --all" for program in ("mailroom-deploy", "mailroom-reload")]
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
    leave_challenge_zone(renewal, wanted)
    reason = reason_to_issue(name, names, wanted)
    if reason is None:
        return []
    if reason == "damaged":
        set_aside(name)
    certbot(
        [
            *("certonly", "--cert-name", name, "--force-renewal", "--no-directory-hooks"),
            *("--key-type", "ecdsa", "--elliptic-curve", "secp256r1", "--reuse-key"),
            *("--agree-tos", "--no-eff-email", "--email", wanted["email"]),
            *authenticator(wanted),
            *(argument for dns_name in names for argument in ("-d", dns_name)),
        ],
        wanted,
        f"the certificate {name} ({', '.join(names)})",
    )
    return [f"issued {name} ({reason})"]


def authenticator(wanted: dict[str, Any]) -> list[str]:
    """How certbot is to answer the CA."""
    if wanted["challenge_zone"]:
        program = challenge_program()
        hooks = ["--manual-auth-hook", f"{program} auth", "--manual-cleanup-hook", f"{program} cleanup"]
        return ["--authenticator", "manual", "--preferred-challenges", "dns", *hooks]
    plugin = f"dns-{wanted['dns']}"
    return [
        *("--authenticator", plugin, f"--{plugin}-credentials", str(credentials(wanted))),
        *(f"--{plugin}-propagation-seconds", str(wanted["propagation_seconds"])),
    ]


def leave_challenge_zone(renewal: Path, wanted: dict[str, Any]) -> None:
    """Have certbot's plugin renew what our challenge hook obtained, without a new certificate now.

    There cannot be one: the CNAME record, which the plugin would not follow, goes only at the end of the `up`.
    """
    if wanted["challenge_zone"] or authenticator_of(renewal) != "manual":
        return
    plugin = f"dns_{wanted['dns'].replace('-', '_')}"
    ours = {
        "authenticator": f"dns-{wanted['dns']}",
        f"{plugin}_credentials": str(credentials(wanted)),
        f"{plugin}_propagation_seconds": str(wanted["propagation_seconds"]),
    }
    gone = re.compile(r"(authenticator|manual_\w+|pref_challs|dns_\w+)\s*=")
    lines = []
    for line in renewal.read_text(encoding="utf-8").splitlines():
        if not gone.match(line):
            lines.append(line)
        if line.strip() == "[renewalparams]":
            lines += [f"{key} = {value}" for key, value in ours.items()]
    hostlib.write_file(renewal, "\n".join([*lines, ""]), renewal.stat().st_mode & 0o777)


def authenticator_of(renewal: Path) -> str | None:
    """What certbot noted as the way to answer the CA for a lineage."""
    text = renewal.read_text(encoding="utf-8") if renewal.exists() else ""
    found = re.search(r"^authenticator\s*=\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else None


def reason_to_issue(name: str, names: list[str], wanted: dict[str, Any]) -> str | None:
    """Why a new certificate is needed, or None."""
    live, _, renewal = parts(name)
    if not any(path.exists() for path in parts(name)):
        return "new"
    if not is_sound(live, renewal):
        return "damaged"
    if names_of(live / "cert.pem") != set(names):
        return "its names changed"
    server = re.search(r"^server\s*=\s*(\S+)", renewal.read_text(encoding="utf-8"), re.MULTILINE)
    if server is None or server.group(1) != wanted["directory"]:
        return "the ACME directory changed"
    if authenticator_of(renewal) != authenticator(wanted)[1]:
        return "the way to answer the CA changed"  # proves the new credentials, too
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


def set_aside(name: str, reason: str = "damaged") -> None:
    """Move what is left of a lineage where certbot does not see it; keys are never deleted."""
    place = LETSENCRYPT / "mailroom" / reason / f"{name}-{int(time.time())}"
    hostlib.make_directory(place, 0o700)
    for path in parts(name):
        if os.path.lexists(path):
            path.rename(place / path.parent.name)


def parts(name: str) -> tuple[Path, Path, Path]:
    """Where certbot keeps a lineage."""
    return LETSENCRYPT / "live" / name, LETSENCRYPT / "archive" / name, LETSENCRYPT / "renewal" / f"{name}.conf"


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
    for secret in wanted["credentials"].values():
        said = said.replace(secret, "***") if len(secret) >= SECRET_SIZE else said
    give_up(purpose, said, wanted["directory"])


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
    before = read_state().get("copies")
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
    hostlib.write_file(
        MAILROOM / "certificates.json",
        json.dumps(
            {
                "host": host,
                "names": names,
                "account": account,
                "copies": wanted["copies"],
                "certificates": {
                    each["name"]: {
                        "directory": deploy_hook.directory_of(each["name"], host),
                        "names": each["names"],
                        "hooks": len(each.get("hooks", ())),
                    }
                    for each in wanted["certificates"]
                },
            },
            indent=1,
        )
        + "\n",
    )
    kept = wanted["copies"] and wanted["copies"]["folder"]
    if before and before["folder"] != kept and reload_hook.remove_folder(before["folder"]):
        changes.append(f"removed the copies in {before['folder']}")
    return changes


def hand_on() -> list[str]:
    """Copies and reload hooks. What fails there is reported, and the mail server comes up all the same."""
    done, failed = reload_hook.hand_on()
    if failed:
        hostlib.run(["systemctl", "start", "--no-block", REPORT])
    return [*done, *(f"FAILED: {problem}" for problem in failed)]


if __name__ == "__main__":
    main()
