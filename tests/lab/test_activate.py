"""The host scripts of chasquid on a real machine with systemd: what restarts, what is refused, what survives."""

from __future__ import annotations

import copy
import datetime as dt
import json
import platform
import smtplib
import socket
import ssl
import time
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from components.chasquid import build, config
from components.host.bundle import bundle
from components.settings import Settings
from lab.shell import wait_until
from standards import passwords
from tests.lab.program import INSTALLED

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from lab.client import Lab, Vps

HOSTNAME, DOMAIN = "smtp.example.test", "example.test"
SCRIPTS = "usr/local/lib/mailroom/scripts"
# In place of the sender policy: hears each request to its end, says `reply` and hangs up.
IMPOSTOR = """import socket
listener = socket.socket(fileno=3)
while True:
    with listener.accept()[0] as client:
        while client.recv(65536):
            pass
        client.sendall({reply!r}.encode())
"""
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
PASSWORD = "CANARY-of-alice"  # a canary, too: no script may print it
USER_FILE, ALIASES = f"domains/{DOMAIN}/users", f"domains/{DOMAIN}/aliases"
DKIM = f"domains/{DOMAIN}/dkim:m1.pem"


def settings() -> Settings:
    with open("Pulumi.dev.yaml", encoding="utf-8") as file:
        stack = yaml.safe_load(file)["config"]
    stack["mailroom:passwords"] = {f"alice@{DOMAIN}": PASSWORD}
    stack["mailroom:acme"]["token"] = "x" * 40
    stack["cloudflare:apiToken"] = "y" * 40
    del stack["mailroom:sshPrivateKey"]
    return Settings.load(stack.get, "dev")


def lines_of_users(users: dict[str, str]) -> list[str]:
    hashed = {user: passwords.scrypt_hash(password, b"0123456789abcdef") for user, password in users.items()}
    return passwords.users_file(hashed).splitlines()


def dkim_key() -> str:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def self_made(names: list[str]) -> tuple[bytes, bytes]:
    """A certificate for `names` and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


@dataclass
class Server:
    """One VPS and what is meant to run on it."""

    vps: Vps
    plain: dict[str, Any] = field(default_factory=dict)
    secret: dict[str, Any] = field(default_factory=dict)

    def run(self, script: str, payload: dict[str, Any], folder: str = SCRIPTS) -> subprocess.CompletedProcess[str]:
        answer = self.vps.ssh(f"/{folder}/{script}", json.dumps(payload), timeout=120)
        assert PASSWORD not in answer.stdout + answer.stderr
        return answer

    def must(self, command: str, stdin: str | None = None) -> str:
        answer = self.vps.ssh(command, stdin, timeout=300)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout.strip()

    def reset(self) -> None:
        """The files of the dev stack."""
        self.plain = config.plain_files(settings(), settings().hosts[0])
        self.secret = config.secret_files(
            {DOMAIN: "\n".join(lines_of_users({"alice": PASSWORD}))}, {(DOMAIN, "m1"): DKIM_KEY}
        )

    def activate(self, scripts: str = SCRIPTS) -> subprocess.CompletedProcess[str]:
        for kind, files in (("plain", self.plain), ("secret", self.secret)):
            staged = self.run("stage.py", {"kind": kind, "files": files})
            assert staged.returncode == 0, staged.stderr
        return self.run("activate.py", self.payload(), scripts)

    def payload(self) -> dict[str, Any]:
        return {
            "plain": config.digest(self.plain),
            "secret": config.digest(self.secret),
            "binary": build.release(ARCH).directory_name,
            "hostname": HOSTNAME,
            "domains": [DOMAIN],
            "certificates": {HOSTNAME: [HOSTNAME], DOMAIN: [DOMAIN, f"*.{DOMAIN}"]},
        }

    def pid(self) -> str:
        return self.must("systemctl show chasquid -p MainPID --value")

    def put_certificate(self, name: str, chain: bytes, key: bytes) -> None:
        folder = f"/etc/mailroom/certs/{'0' if name == HOSTNAME else '1'}-{name}"
        self.must(f"install -d -m 750 -g chasquid {folder}")
        for file, data in (("fullchain.pem", chain), ("privkey.pem", key)):
            path = f"{folder}/{file}"
            self.must(f"cat >{path} && chgrp chasquid {path} && chmod 640 {path}", data.decode())


DKIM_KEY = dkim_key()


@pytest.fixture(scope="module")
def installed(lab: Lab) -> Iterator[Server]:
    """A machine with Python, the service's user, our scripts, self-made certificates and the pinned program."""
    vps = lab.fresh_vps(installed=INSTALLED)
    server = Server(vps)
    for user in ("chasquid", "mailroom-policy"):
        home = f"/var/lib/{user}"
        server.must(f"useradd --system --user-group --home-dir {home} --shell /usr/sbin/nologin {user}")
        server.must(f"install -d -o {user} -g {user} -m 750 {home}")
    server.must("install -d -g chasquid -m 750 /etc/mailroom")
    server.must("install -d -g chasquid -m 750 /etc/mailroom/certs")
    folder = vps.root / SCRIPTS
    folder.mkdir(parents=True)
    for name, text in bundle().files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    server.put_certificate(HOSTNAME, *self_made([HOSTNAME]))
    server.put_certificate(DOMAIN, *self_made([DOMAIN, f"*.{DOMAIN}"]))
    release = build.release(ARCH)
    (vps.root / "root" / release.remote_path).write_bytes(release.tar.read_bytes())
    unpacked = server.run(
        "install_binary.py", {"tar": release.remote_path, "sha256": release.sha256, "version": release.version}
    )
    assert unpacked.stdout.startswith("changed: "), unpacked.stderr
    yield server
    lab.remove_vps(vps)


@pytest.fixture
def server(installed: Server) -> Server:
    """The installed machine with the files of the dev stack running."""
    installed.reset()
    answer = installed.activate()
    assert answer.returncode == 0, answer.stderr
    return installed


def test_a_second_activation_finds_nothing_to_do(server: Server) -> None:
    pid = server.pid()
    assert server.activate().stdout == "ok: nothing to do\n"
    assert server.pid() == pid


@pytest.mark.parametrize("unit", ["chasquid", "mailroom-policy"])
def test_the_services_are_confined(server: Server, unit: str) -> None:
    said = server.must(f"systemd-analyze security {unit}.service --no-pager | tail -1")
    assert float(said.split(":")[1].split()[0]) <= 3.0, said


def test_no_authentication_is_offered_or_taken_before_tls(server: Server) -> None:
    for port in (25, 587):
        with socket.create_connection((server.vps.ipv4, port), timeout=10) as plain, plain.makefile("rb") as lines:
            assert lines.readline().startswith(f"220 {HOSTNAME} ".encode())
            plain.sendall(b"EHLO client.test\r\n")
            offered = b""
            while (line := lines.readline())[3:4] == b"-":
                offered += line
            plain.sendall(b"AUTH PLAIN AGFsaWNlAHg=\r\n")
            assert b"STARTTLS" in offered + line
            assert b"AUTH" not in offered + line
            assert lines.readline().startswith(b"503")


def test_a_new_user_logs_in_without_a_restart(server: Server) -> None:
    pid = server.pid()
    server.secret[USER_FILE]["lines"] = lines_of_users({"alice": PASSWORD, "bob": "bobs secret"})
    server.plain[ALIASES]["lines"] += ["bob: bob@receiver.test"]
    answer = server.activate()
    assert "without a restart" in answer.stdout, answer.stderr
    users = {f"alice@{DOMAIN}": PASSWORD, f"bob@{DOMAIN}": "bobs secret"}
    began = time.monotonic()
    proven = server.run("verify_users.py", {"hostname": HOSTNAME, "users": users})
    assert (proven.returncode, proven.stdout) == (0, "ok: 2 logins proven\n"), proven.stderr
    assert time.monotonic() - began < 10, "the users were read by chance, at chasquid's own 30-second tick"
    assert server.pid() == pid


def test_a_removed_user_and_its_alias_are_unknown_at_once_without_a_restart(server: Server) -> None:
    server.secret[USER_FILE]["lines"] = lines_of_users({"alice": PASSWORD, "bob": "bobs secret"})
    server.plain[ALIASES]["lines"] += ["bob: bob@receiver.test"]
    assert server.activate().returncode == 0
    assert wait_until(lambda: known(server, "alice", "bob") == [250, 250], timeout=10)
    pid = server.pid()
    server.reset()
    assert "without a restart" in (answer := server.activate()).stdout, answer.stderr
    assert wait_until(lambda: known(server, "alice", "bob") == [250, 550], timeout=10)
    with (
        smtplib.SMTP_SSL(server.vps.ipv4, 465, local_hostname="client.test", context=trusting()) as client,
        pytest.raises(smtplib.SMTPAuthenticationError),
    ):
        client.login(f"bob@{DOMAIN}", "bobs secret")
    assert server.pid() == pid


def known(server: Server, *users: str) -> list[int]:
    """What a stranger is told of each address."""
    with smtplib.SMTP(server.vps.ipv4, 25, local_hostname="client.test", timeout=20) as stranger:
        stranger.ehlo()
        stranger.mail("")
        return [stranger.rcpt(f"{user}@{DOMAIN}")[0] for user in users]


def test_changes_count_when_the_release_that_the_process_started_from_is_gone(server: Server) -> None:
    """The process lives on in the release it started from; that must not be removed below it."""
    for number in range(3):
        server.plain[ALIASES]["lines"] = [f"alice: alice{number}@receiver.test"]
        assert server.activate().returncode == 0
    resolved = server.must(
        f"/etc/mailroom/current/bin/chasquid-util -C=/etc/mailroom/current aliases-resolve alice@{DOMAIN}"
    )
    assert "alice2@receiver.test" in resolved
    assert server.must("readlink -e /proc/$(systemctl show chasquid -p MainPID --value)/cwd")


def test_a_new_signing_key_restarts_once(server: Server) -> None:
    before = server.pid()
    server.secret[f"domains/{DOMAIN}/dkim:m2.pem"] = {"mode": "0640", "lines": dkim_key().splitlines()}
    answer = server.activate()
    assert "restarted once" in answer.stdout, answer.stderr
    assert server.pid() != before
    assert server.activate().stdout == "ok: nothing to do\n"


@pytest.mark.parametrize(
    ("path", "lines", "said"),
    [
        ("chasquid.conf", ["no such key: 1"], "parsing config"),
        (ALIASES, ["a line without a colon"], "aliases file error"),
        (USER_FILE, ['users: { key: "alice" value: { scrypt: { salt: CANARY } } }'], "users file error"),
        (DKIM, ["no key"], "DKIM loading error"),
    ],
)
def test_broken_files_are_refused_and_the_old_ones_run_on(
    server: Server, path: str, lines: list[str], said: str
) -> None:
    pid, release = server.pid(), server.must("readlink -e /etc/mailroom/current")
    before = copy.deepcopy((server.plain, server.secret))
    (server.plain if path in server.plain else server.secret)[path]["lines"] = lines
    answer = server.activate()
    assert answer.returncode == 1
    assert said in answer.stderr
    assert "CANARY" not in answer.stderr
    assert (server.pid(), server.must("readlink -e /etc/mailroom/current")) == (pid, release)
    server.plain, server.secret = before
    assert server.activate().stdout == "ok: nothing to do\n"


def test_a_release_that_fails_its_probe_is_rolled_back(server: Server) -> None:
    """Port 465 gone: the trial cannot see it, the probe does."""
    server.must(f"sed -i 's/^START_LIMIT = .*/START_LIMIT = 4/' /{SCRIPTS}/activate.py")
    release = server.must("readlink -e /etc/mailroom/current")
    lines = [line for line in server.plain["chasquid.conf"]["lines"] if not line.startswith("submission_over_tls")]
    server.plain["chasquid.conf"]["lines"] = [*lines, 'submission_over_tls_address: ":4650"']
    answer = server.activate()
    assert answer.returncode == 1
    assert "465" in answer.stderr
    assert "is back and serves" in answer.stderr
    assert server.must("readlink -e /etc/mailroom/current") == release
    server.reset()
    assert server.activate().stdout == "ok: nothing to do\n"


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("verdict 0\n", "a forged sender is answered with '250"),
        ("X-Nonsense: 1\n", "a forged sender is answered with '451"),
        ("", "a forged sender is answered with '451"),
    ],
    ids=["takes-all", "no-verdict", "says-nothing"],
)
def test_without_a_policy_that_refuses_forged_senders_the_release_before_comes_back(
    server: Server, reply: str, says: str
) -> None:
    before = server.must("readlink /etc/mailroom/current")
    impostors = "usr/local/lib/mailroom/impostors"
    server.must(f"rm -rf /{impostors}; cp -a /{SCRIPTS} /{impostors}")
    server.must(f"cat >/{impostors}/policy/__main__.py", IMPOSTOR.format(reply=reply))
    answer = server.activate(impostors)
    assert answer.returncode == 1
    assert says in answer.stderr
    assert "the release before it is back and serves" in answer.stderr
    assert server.must("readlink /etc/mailroom/current") == before


def test_a_renewed_certificate_is_served_and_a_bad_one_refused(server: Server) -> None:
    server.put_certificate(DOMAIN, *self_made([DOMAIN, f"*.{DOMAIN}"]))
    assert "restarted once" in server.activate().stdout
    pid = server.pid()
    chain, key = self_made([HOSTNAME])
    good = server.must(
        f"cat /etc/mailroom/certs/0-{HOSTNAME}/fullchain.pem; cat /etc/mailroom/certs/0-{HOSTNAME}/privkey.pem"
    )
    server.put_certificate(HOSTNAME, chain, self_made([HOSTNAME])[1])
    answer = server.activate()
    assert answer.returncode == 1
    assert "private key" in answer.stderr
    assert server.pid() == pid
    split = good.index("-----BEGIN PRIVATE")
    server.put_certificate(HOSTNAME, good[:split].encode(), good[split:].encode() + b"\n")
    assert server.activate().stdout == "ok: nothing to do\n"
    assert key


def test_twenty_kills_in_a_row_do_not_stop_it(server: Server) -> None:
    server.must(
        "for i in $(seq 20); do systemctl kill -s KILL chasquid; "
        "until systemctl is-active -q chasquid; do sleep 0.1; done; done"
    )
    assert server.activate().stdout == "ok: nothing to do\n"


def test_an_activation_that_is_killed_is_finished_by_the_next(server: Server) -> None:
    for number, wait in enumerate((0.1, 0.2, 0.4, 0.7, 1.0)):
        server.plain["chasquid.conf"]["lines"] = [
            line.replace("5000", str(5001 + number)) for line in config.chasquid_conf(settings().hosts[0])
        ]
        server.run("stage.py", {"kind": "plain", "files": server.plain})
        server.vps.ssh(f"timeout -s KILL {wait} /{SCRIPTS}/activate.py", json.dumps(server.payload()))
        answer = server.activate()
        assert answer.returncode == 0, answer.stderr
        said = server.must("grep max_queue /proc/$(systemctl show chasquid -p MainPID --value)/cwd/chasquid.conf")
        assert said == f"max_queue_items: {5001 + number}"
    assert server.must("pgrep -c chasquid") == "1"


def test_wrong_passwords_are_named_by_user_alone(server: Server) -> None:
    server.must(f"sed -i 's/^RELOAD_LIMIT = .*/RELOAD_LIMIT = 1/' /{SCRIPTS}/verify_users.py")
    users = {f"alice@{DOMAIN}": PASSWORD, f"mallory@{DOMAIN}": "CANARY-of-mallory"}
    answer = server.run("verify_users.py", {"hostname": HOSTNAME, "users": users})
    assert answer.returncode == 1
    assert f"mallory@{DOMAIN}" in answer.stderr
    assert "alice" not in answer.stderr
    assert "CANARY" not in answer.stderr


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # self-made; others test the certificate
    return context


def submit(server: Server, subject: str) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = f"alice@{DOMAIN}", "check@receiver.test", subject
    message.set_content("Hello\n")
    with smtplib.SMTP_SSL(server.vps.ipv4, 465, local_hostname="client.test", context=trusting()) as client:
        client.login(f"alice@{DOMAIN}", PASSWORD)
        client.send_message(message)


def test_queued_mail_leaves_before_the_server_does(lab: Lab, server: Server) -> None:
    receiver = lab.plan.address(25)
    for address in receiver:
        server.must(f"ip route add unreachable {address}")
    submit(server, "drained")
    server.must("until ls /var/lib/chasquid/queue/m:*; do sleep 0.1; done; systemctl stop chasquid")
    for address in receiver:
        server.must(f"ip route del unreachable {address}")
    code = f"import sys; sys.path.insert(0, '/{SCRIPTS}'); import uninstall; uninstall.drain(30)"
    server.must(f'python3 -c "{code}"')
    assert server.must("ls /var/lib/chasquid/queue") == ""
    assert lab.wait_message(lambda message: message["subject"] == "drained")["dkim"]
    server.must("rm -r /run/systemd/system/chasquid.service.d; systemctl daemon-reload")


def test_after_uninstalling_only_the_queue_and_certificates_are_left(server: Server) -> None:
    server.must(
        "install -d /etc/letsencrypt/renewal-hooks/deploy; touch /etc/letsencrypt/renewal-hooks/deploy/mailroom-deploy"
    )
    server.must("touch /etc/letsencrypt/renewal-hooks/deploy/other")
    scripts = server.vps.root / SCRIPTS
    answer = server.run("uninstall.py", {"hostname": HOSTNAME, "drain_seconds": 5})
    assert answer.returncode == 0, answer.stderr
    assert "queue in /var/lib/chasquid/queue (0 messages undelivered)" in answer.stdout
    left = server.must(
        "find /etc/mailroom /usr/local/lib/mailroom /etc/systemd/system/chasquid.service "
        "/etc/letsencrypt/renewal-hooks /var/lib/chasquid/queue -maxdepth 2 2>/dev/null; true"
    )
    assert left.split() == [
        "/etc/letsencrypt/renewal-hooks", "/etc/letsencrypt/renewal-hooks/deploy",
        "/etc/letsencrypt/renewal-hooks/deploy/other", "/var/lib/chasquid/queue",
    ]  # fmt: skip
    assert server.vps.ssh("pgrep chasquid").returncode == 1
    for name, text in bundle().files.items():
        (scripts / name).parent.mkdir(parents=True, exist_ok=True)
        (scripts / name).write_text(text)
        (scripts / name).chmod(0o755)
    again = server.run("uninstall.py", {"hostname": HOSTNAME, "drain_seconds": 5})
    assert again.returncode == 0, again.stderr
