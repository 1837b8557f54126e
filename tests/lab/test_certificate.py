"""Real certbot on a real host against the lab's CA and DNS API: facts, preparation, issue, renewal, secrecy."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store

from components.host.bundle import bundle
from components.host.requirements import judge
from components.settings import HostSettings
from lab.internet.names import ACME_TOKEN, CHALLENGE_ZONE, TSIG_ALGORITHM, TSIG_NAME, TSIG_SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.client import Lab, Vps

HOST, DOMAIN = "smtp.example.test", "example.test"
PACKAGES = ["ca-certificates", "certbot", "python3-certbot-dns-cloudflare", "python3-certbot-dns-rfc2136"]
TOKEN_KEY = "dns_cloudflare_api_token"
COPIES = {"folder": "/srv/certificates", "group": "readers"}
RELOAD = 'echo "$RENEWED_LINEAGE $RENEWED_DOMAINS $(id -u)" >> /root/reloaded\n'
# Stands in for chasquid: reads its certificates once, when it starts; first directory without a server name. And for
# the sender policy, which takes notices for the postmaster.
SERVER = """
import os, socket, ssl, threading

def context(directory):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = f"/etc/mailroom/certs/{directory}"
    made.load_cert_chain(f"{pair}/fullchain.pem", f"{pair}/privkey.pem")
    return made

contexts = {each.partition("-")[2]: context(each) for each in sorted(os.listdir("/etc/mailroom/certs"))}
first = next(iter(contexts.values()))

def choose(connection, name, _):
    connection.context = contexts.get(name, first)

first.sni_callback = choose

def serve(port):
    listener = socket.create_server(("", port))
    while True:
        connection = listener.accept()[0]
        try:
            if port != 465:
                connection.sendall(b"220 ready\\r\\n"); connection.recv(100)
                connection.sendall(b"250-hello\\r\\n250 STARTTLS\\r\\n"); connection.recv(100)
                connection.sendall(b"220 go\\r\\n")
            first.wrap_socket(connection, server_side=True).recv(1)
        except OSError:
            pass
        connection.close()

def take_notices():
    os.makedirs("/run/mailroom-policy", exist_ok=True)
    path = "/run/mailroom-policy/socket"
    os.path.exists(path) and os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    while True:
        connection = listener.accept()[0]
        with open("/root/notices", "ab") as file:
            file.write(connection.makefile("rb").read())
        connection.sendall(b"verdict 0\\n")
        connection.close()

threading.Thread(target=take_notices).start()
for port in (25, 465, 587):
    threading.Thread(target=serve, args=(port,)).start()
"""


@dataclass
class Step:
    """How a host script ended."""

    status: int
    stdout: str
    stderr: str
    seconds: float


@dataclass
class Machine:
    """A VPS with our scripts, what it was before them, and the payload of its certificates."""

    vps: Vps
    payload: dict[str, Any]
    facts: dict[str, Any]
    facts_arrived: float
    prepared: Step

    def run(self, script: str, payload: dict[str, Any]) -> Step:
        return run(self.vps, script, payload)

    def certificate(self, **changed: Any) -> Step:
        return self.run("certificate.py", {**self.payload, **changed})

    def text(self, command: str) -> str:
        answer = self.vps.ssh(command)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout


def run(vps: Vps, script: str, payload: dict[str, Any]) -> Step:
    """Run a script the way the program does."""
    command = f"flock -w 300 /run/mailroom.lock timeout 300 {bundle().directory}/{script}"
    start = time.monotonic()
    answer = vps.ssh(command, json.dumps(payload), timeout=400)
    return Step(answer.returncode, answer.stdout, answer.stderr, time.monotonic() - start)


@pytest.fixture(scope="module")
def machine(lab: Lab) -> Iterator[Machine]:
    """One host for the whole module, prepared but without certificates."""
    vps = lab.fresh_vps(octet=74)
    facts = vps.ssh("python3 -", bundle().files["facts.py"])
    arrived = time.time()
    assert facts.returncode == 0, facts.stderr
    # Our scripts are written for a whole python3; the step that uploads them installs it.
    installed = vps.ssh("apt-get -q update && apt-get -q -y install --no-install-recommends python3", timeout=300)
    assert installed.returncode == 0, installed.stderr
    folder = vps.root / bundle().directory.lstrip("/")
    folder.mkdir(parents=True)
    for name, text in bundle().files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder.parent / "current").symlink_to(folder.name)
    settings: Any = lab.stack_config(vps)
    payload = {
        "email": settings["mailroom:acme"]["email"],
        "directory": settings["mailroom:acme"]["directory"],
        "ca_pem": Path(lab.status["ca_file"]).read_text(),
        "api_base": settings["cloudflare:baseUrl"],
        "dns": "cloudflare",
        "credentials": {TOKEN_KEY: ACME_TOKEN},
        "challenge_zone": None,
        "propagation_seconds": 1,
        "copies": COPIES,
        "certificates": [
            {"name": HOST, "names": [HOST], "hooks": [RELOAD]},
            {"name": DOMAIN, "names": [DOMAIN, f"*.{DOMAIN}"]},
        ],
    }
    prepared = run(vps, "prepare.py", {"packages": PACKAGES})
    yield Machine(vps, payload, json.loads(facts.stdout), arrived, prepared)
    lab.remove_vps(vps)


@dataclass
class Issued:
    """The first run of certificate.py, and every command line and environment seen while it ran."""

    machine: Machine
    first: Step
    seen: str


@pytest.fixture(scope="module")
def issued(machine: Machine) -> Issued:
    sampled: list[str] = []
    done = threading.Event()

    def sample() -> None:
        look = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' ' '"
        watch = f"for i in 1 2 3 4 5 6 7 8 9; do {look}; done"
        while not done.is_set():
            sampled.append(machine.vps.ssh(watch).stdout)

    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        first = machine.certificate()
    finally:
        done.set()
        watcher.join()
    assert first.status == 0, first.stderr
    return Issued(machine, first, "".join(sampled))


def leaf(machine: Machine, directory: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(machine.text(f"cat /etc/mailroom/certs/{directory}/fullchain.pem").encode())


def test_a_bare_host_fits(machine: Machine) -> None:
    host = {"name": HOST, "ipv4": machine.vps.ipv4, "ipv6": machine.vps.ipv6, "hostKey": machine.vps.host_key}
    assert judge(machine.facts, HostSettings.model_validate(host), machine.facts_arrived) == []


def test_preparation_installs_what_is_missing_and_says_so(machine: Machine) -> None:
    assert machine.prepared.status == 0, machine.prepared.stderr
    assert re.fullmatch(
        r"changed: installed certbot python3-certbot-dns-cloudflare python3-certbot-dns-rfc2136, "
        r".*made /var/lib/chasquid, .*made /var/lib/mailroom-policy\n",
        machine.prepared.stdout,
    )
    assert machine.text("id -nG chasquid; stat -c '%a %U %G' /var/lib/chasquid") == "chasquid\n750 chasquid chasquid\n"
    assert machine.text("stat -c '%a %U' /var/log/mailroom/apt.log") == "640 root\n"


def test_preparation_starts_no_mail_server(machine: Machine) -> None:
    assert machine.text("ss -H -ltn 'sport = :25 or sport = :465 or sport = :587'") == ""


def test_a_second_preparation_changes_nothing_and_is_quick(machine: Machine) -> None:
    again = machine.run("prepare.py", {"packages": PACKAGES})
    assert (again.status, again.stdout) == (0, "ok: nothing to do\n")
    assert again.seconds < 2


def test_preparation_finishes_a_killed_installation(machine: Machine) -> None:
    machine.text("apt-get -q -y install --download-only tree && dpkg --unpack /var/cache/apt/archives/tree_*.deb")
    again = machine.run("prepare.py", {"packages": ["tree"]})
    assert again.status == 0, again.stderr
    assert "finished an interrupted installation" in again.stdout
    assert machine.text("dpkg-query -W -f '${db:Status-Abbrev}' tree").strip() == "ii"


def test_the_certificates_are_the_cas_for_the_names_and_their_own_keys(issued: Issued) -> None:
    expected = {f"0-{HOST}": [HOST], f"1-{DOMAIN}": [DOMAIN, f"*.{DOMAIN}"]}
    assert issued.machine.text("ls /etc/mailroom/certs").split() == list(expected)
    for directory, names in expected.items():
        certificate = leaf(issued.machine, directory)
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert sorted(listed.get_values_for_type(x509.DNSName)) == sorted(names)
        pem = issued.machine.text(f"cat /etc/mailroom/certs/{directory}/privkey.pem").encode()
        key = serialization.load_pem_private_key(pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert key.curve.name == "secp256r1"
        assert key.public_key() == certificate.public_key()


def test_the_whole_chain_is_deployed(issued: Issued) -> None:
    fullchain = issued.machine.text(f"cat /etc/mailroom/certs/0-{HOST}/fullchain.pem").encode()
    certificate, *intermediates = x509.load_pem_x509_certificates(fullchain)
    assert intermediates
    issuer = Store([intermediates[-1]])
    verifier = PolicyBuilder().store(issuer).build_server_verifier(x509.DNSName(HOST))
    assert verifier.verify(certificate, intermediates)[0] == certificate


def test_keys_are_readable_for_the_mail_server_alone(issued: Issued) -> None:
    modes = issued.machine.text("find -L /etc/mailroom/certs -name '*.pem' -printf '%m %u %g\\n' | sort -u")
    assert modes == "640 root chasquid\n"
    assert (
        issued.machine.text("runuser -u nobody -- cat /etc/mailroom/certs/*/privkey.pem 2>/dev/null | wc -l") == "0\n"
    )
    readable = f"runuser -u chasquid -- cat /etc/mailroom/certs/0-{HOST}/privkey.pem | wc -l"
    assert int(issued.machine.text(readable)) > 0


def copied(machine: Machine, name: str) -> str:
    return machine.text(f"runuser -u daemon -g readers -- cat /srv/certificates/{name}/fullchain.pem")


def test_copies_are_for_the_named_group_alone(issued: Issued) -> None:
    modes = issued.machine.text("find /srv/certificates -name '*.pem' -printf '%m %u %g\\n' | sort | uniq -c")
    assert modes.split() == ["4", "640", "root", "readers"]
    assert copied(issued.machine, HOST) == issued.machine.text(f"cat /etc/mailroom/certs/0-{HOST}/fullchain.pem")
    refused = issued.machine.vps.ssh("runuser -u daemon -- cat /srv/certificates/*/privkey.pem")
    assert "PRIVATE" not in refused.stdout


def test_a_second_run_changes_nothing_within_two_seconds(issued: Issued) -> None:
    again = issued.machine.certificate()
    assert (again.status, again.stdout) == (0, "ok: nothing to do\n")
    assert again.seconds < 2


def test_the_token_is_in_no_process_list_and_no_environment(issued: Issued) -> None:
    assert "certonly" in issued.seen
    assert ACME_TOKEN not in issued.seen


def test_the_token_is_in_one_file_for_root_and_in_no_log(issued: Issued) -> None:
    files = f"grep -rlF {ACME_TOKEN} /etc /var /root /home /tmp /run /usr/local 2>/dev/null; true"
    assert issued.machine.text(files) == "/etc/letsencrypt/mailroom/cloudflare.ini\n"
    assert issued.machine.text("stat -c '%a %U' /etc/letsencrypt/mailroom/cloudflare.ini") == "600 root\n"
    assert ACME_TOKEN not in issued.machine.text("journalctl --no-pager")
    assert ACME_TOKEN not in issued.first.stdout + issued.first.stderr


@pytest.mark.parametrize("name", [HOST, DOMAIN])
def test_challenge_records_are_gone(issued: Issued, lab: Lab, name: str) -> None:
    assert f"issued {name}" in issued.first.stdout
    assert not lab.dns.get(f"_acme-challenge.{name}", "TXT")


def test_renewal_has_one_schedule_that_survives_a_reboot(issued: Issued) -> None:
    assert (
        issued.machine.text("systemctl is-enabled certbot.timer; systemctl is-active certbot.timer")
        == "enabled\nactive\n"
    )
    timers = issued.machine.text(
        "systemctl list-timers --all --no-legend --no-pager | grep -c -i -E 'certbot|mailroom'"
    )
    assert timers == "1\n"


def test_a_token_without_rights_is_a_clear_failure_that_changes_nothing(issued: Issued) -> None:
    before = issued.machine.text("cat /etc/mailroom/certs/*/*.pem | sha256sum")
    more = [*issued.machine.payload["certificates"], {"name": "second.test", "names": ["second.test"]}]
    refused = issued.machine.certificate(credentials={TOKEN_KEY: "x" * 40}, certificates=more)
    assert refused.status == 1
    assert "the certificate second.test" in refused.stderr
    assert "check mailroom:acme token" in refused.stderr
    assert issued.machine.text("cat /etc/mailroom/certs/*/*.pem | sha256sum") == before
    assert issued.machine.certificate().stdout == "changed: stored the DNS credentials\n"


def test_changed_names_give_a_new_certificate_with_the_same_key(issued: Issued) -> None:
    before = leaf(issued.machine, f"1-{DOMAIN}")
    host, domain = issued.machine.payload["certificates"]
    more = {**domain, "names": [*domain["names"], f"*.sub.{DOMAIN}"]}
    answer = issued.machine.certificate(certificates=[host, more])
    said = f"changed: issued {DOMAIN} (its names changed), deployed {DOMAIN}, refreshed the copies\n"
    assert answer.stdout == said, answer.stderr
    after = leaf(issued.machine, f"1-{DOMAIN}")
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key()
    assert issued.machine.certificate().stdout.startswith(f"changed: issued {DOMAIN}")


@pytest.fixture
def server(issued: Issued) -> Iterator[Machine]:
    """A mail server's three ports as the unit chasquid.service."""
    vps = issued.machine.vps
    (vps.root / "root/server.py").write_text(SERVER)
    unit = "[Service]\nExecStart=/usr/bin/python3 /root/server.py\n"
    (vps.root / "etc/systemd/system/chasquid.service").write_text(unit)
    issued.machine.text("systemctl daemon-reload && systemctl start chasquid")
    yield issued.machine
    issued.machine.text("systemctl stop chasquid && rm /etc/systemd/system/chasquid.service && systemctl daemon-reload")


def starts(machine: Machine) -> int:
    return int(machine.text("journalctl -u chasquid --no-pager -o cat | grep -c '^Started '"))


def make_due(machine: Machine, name: str) -> None:
    conf = f"/etc/letsencrypt/renewal/{name}.conf"
    machine.text(f"sed -i 's/^renew_before_expiry = .*/renew_before_expiry = 4000 days/' {conf}")


def troubles(machine: Machine) -> Any:
    return json.loads(machine.text("cat /var/lib/mailroom/certificates.json"))


def test_a_renewal_by_the_timers_service_is_served_after_one_restart(server: Machine) -> None:
    before, started, reloaded = leaf(server, f"0-{HOST}"), starts(server), server.text("cat /root/reloaded")
    conf = f"/etc/letsencrypt/renewal/{HOST}.conf"
    make_due(server, HOST)
    server.text("systemctl start certbot.service || { journalctl -u certbot -o cat --no-pager >&2; false; }")
    after = leaf(server, f"0-{HOST}")
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key()
    assert starts(server) == started + 1
    for port in ("465", "25 -starttls smtp", "587 -starttls smtp"):
        served = server.text(f"openssl s_client -connect localhost:{port} </dev/null 2>/dev/null | openssl x509")
        assert x509.load_pem_x509_certificate(served.encode()).serial_number == after.serial_number
    assert server.text("cat /root/reloaded") == f"{reloaded}/etc/letsencrypt/live/{HOST} {HOST} 0\n"
    assert x509.load_pem_x509_certificate(copied(server, HOST).encode()) == after
    lifetime = after.not_valid_after_utc - after.not_valid_before_utc
    assert f"renew_before_expiry = {round(lifetime.total_seconds() / 3 / 86400)} days\n" in server.text(f"cat {conf}")
    assert server.certificate().stdout == "ok: nothing to do\n"


def test_a_renewal_run_with_nothing_due_restarts_nothing(server: Machine) -> None:
    started = starts(server)
    server.text("systemctl start certbot.service")
    assert starts(server) == started


def test_a_failing_reload_hook_is_reported_and_the_certificate_kept(server: Machine) -> None:
    host, domain = server.payload["certificates"]
    broken = [{**host, "hooks": ["echo cannot reload\nfalse\n", RELOAD]}, domain]
    assert server.certificate(certificates=broken).status == 0
    before, reloaded = leaf(server, f"0-{HOST}"), server.text("wc -l < /root/reloaded")
    make_due(server, HOST)
    assert server.vps.ssh("systemctl start certbot.service", timeout=120).returncode != 0
    served = server.text("openssl s_client -connect localhost:465 </dev/null 2>/dev/null | openssl x509")
    assert x509.load_pem_x509_certificate(served.encode()).serial_number != before.serial_number
    said = f"reload hook 1 of {HOST} ended with 1: cannot reload"
    assert troubles(server)["hooks"][HOST]["failed"] == [said]
    assert not troubles(server).get("renewal")
    assert int(server.text("wc -l < /root/reloaded")) == int(reloaded) + 1  # the second one ran all the same
    server.text("for i in 1 2 3 4 5 6 7 8 9; do grep -qs 'cannot reload' /root/notices && break; sleep 0.5; done")
    assert said in server.text("cat /root/notices")
    assert server.certificate().status == 0
    assert troubles(server)["hooks"][HOST]["failed"] == []


def test_a_server_that_cannot_serve_the_new_certificate_makes_the_renewal_unit_fail(server: Machine) -> None:
    server.text("sed -i 's/, 465, 587/, 587/' /root/server.py && systemctl restart chasquid")
    hook = "/etc/letsencrypt/renewal-hooks/deploy/mailroom-deploy"
    server.text(f"sed -i 's/^START_LIMIT = 30/START_LIMIT = 2/' {hook}")
    assert server.vps.ssh("systemctl start certbot.service", timeout=120).returncode != 0
    said = server.text("journalctl -u certbot -n 30 -o cat --no-pager")
    assert f"port 465 does not serve {HOST}" in said
    server.text("systemctl start mailroom-certificate-report.service")  # done, or at work, already
    assert f"port 465 does not serve {HOST}" in troubles(server)["renewal"]
    assert server.certificate().stdout == "changed: installed the hooks\n"


def test_a_run_killed_while_certbot_works_converges(issued: Issued) -> None:
    machine = issued.machine
    certificates = [*machine.payload["certificates"], {"name": "second.test", "names": ["second.test"]}]
    script = f"{bundle().directory}/certificate.py"
    killed = machine.vps.ssh(
        f"{script} <&0 & script=$!; sleep 2.5; pgrep -a -P $script; kill -9 $(pgrep -P $script) $script",
        json.dumps({**machine.payload, "certificates": certificates}),
    )
    assert "certonly --cert-name second.test" in killed.stdout
    again = machine.certificate(certificates=certificates)
    assert again.status == 0, again.stderr
    assert leaf(machine, "1-second.test")
    assert machine.certificate(certificates=certificates).stdout == "ok: nothing to do\n"


def test_challenges_are_answered_where_the_cname_leads(issued: Issued, lab: Lab) -> None:
    machine, domain = issued.machine, issued.machine.payload["certificates"][1]
    target = f"_acme-challenge.{DOMAIN}.second.test"
    lab.dns.set(f"_acme-challenge.{DOMAIN}", "CNAME", [f"{target}."])
    answer = machine.certificate(challenge_zone="second.test", certificates=[domain])
    assert f"issued {DOMAIN} (the way to answer the CA changed)" in answer.stdout, answer.stderr
    assert not lab.dns.get(target, "TXT")
    files = f"grep -rlF {ACME_TOKEN} /etc /var /root /run 2>/dev/null; true"
    assert machine.text(files) == "/etc/letsencrypt/mailroom/challenge.json\n"
    assert machine.text("stat -c '%a %U' /etc/letsencrypt/mailroom/challenge.json") == "600 root\n"
    lab.dns.delete(f"_acme-challenge.{DOMAIN}", "CNAME")
    missing = machine.certificate(challenge_zone="second.test", certificates=[{"name": HOST, "names": [HOST]}])
    assert f"_acme-challenge.{HOST} has no CNAME record, a CNAME record to _acme-challenge.{HOST}.second.test" in (
        missing.stderr
    )


def test_rfc_2136_answers_challenges_by_the_plugin_and_by_our_hook(issued: Issued, lab: Lab) -> None:
    machine, name = issued.machine, f"mx.{CHALLENGE_ZONE}"
    keys = {"server": lab.plan.ns1.ipv4, "name": TSIG_NAME, "algorithm": TSIG_ALGORITHM.upper(), "secret": TSIG_SECRET}
    wanted: dict[str, Any] = {
        "dns": "rfc2136",
        "credentials": {f"dns_rfc2136_{key}": value for key, value in keys.items()},
        "certificates": [{"name": name, "names": [name]}],
        "copies": None,
    }
    answer = machine.certificate(**wanted)
    assert f"issued {name} (new)" in answer.stdout, answer.stderr
    assert f"removed the copies in {COPIES['folder']}, removed the old DNS credentials" in answer.stdout
    assert machine.text("ls -d /srv/* /etc/letsencrypt/mailroom/*.ini || true") == (
        "/etc/letsencrypt/mailroom/rfc2136.ini\n"
    )
    assert TSIG_SECRET not in machine.text("journalctl --no-pager; cat /var/log/letsencrypt/*")
    lab.dns.set(f"_acme-challenge.{HOST}", "CNAME", [f"_acme-challenge.{HOST}.{CHALLENGE_ZONE}."])
    wanted |= {"challenge_zone": CHALLENGE_ZONE, "certificates": [{"name": HOST, "names": [HOST]}]}
    answer = machine.certificate(**wanted)
    assert f"issued {HOST} (the way to answer the CA changed)" in answer.stdout, answer.stderr
    before = leaf(machine, f"0-{HOST}")
    make_due(machine, HOST)
    machine.text("systemctl start certbot.service || { journalctl -u certbot -o cat --no-pager >&2; false; }")
    assert leaf(machine, f"0-{HOST}").serial_number != before.serial_number
    lab.dns.delete(f"_acme-challenge.{HOST}", "CNAME")
