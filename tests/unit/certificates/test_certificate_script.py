"""certificate.py on a host made of folders: when it calls certbot, with what, and what it leaves behind."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import FakeHost

TOKEN = "canary-token-0123456789-0123456789-0123456"
KEY = "dns_cloudflare_api_token"
NOTHING = "ok: nothing to do\n"


def names_asked(run: dict[str, list[str]]) -> list[str]:
    argv = run["argv"]
    return [argv[index + 1] for index, word in enumerate(argv) if word == "-d"]


def test_a_first_run_issues_each_certificate_with_its_names_and_deploys_it(host: FakeHost) -> None:
    answer = host.run()
    assert answer.status == 0, answer.stderr
    assert answer.stdout.startswith("changed: ")
    assert answer.stdout.count("\n") == 1
    assert [names_asked(run) for run in host.certbot_runs()] == [
        ["smtp.example.com"],
        ["example.com", "*.example.com"],
    ]
    assert sorted(entry.name for entry in host.certs.iterdir()) == ["0-smtp.example.com", "1-example.com"]


def test_the_key_is_ecdsa_and_kept_at_renewal(host: FakeHost) -> None:
    host.run()
    argv = " ".join(host.certbot_runs()[0]["argv"])
    assert "--key-type ecdsa --elliptic-curve secp256r1 --reuse-key" in argv


def test_directory_hooks_do_not_run_in_an_up_so_that_nothing_restarts_twice(host: FakeHost) -> None:
    host.run()
    assert all("--no-directory-hooks" in run["argv"] for run in host.certbot_runs())


def test_a_second_run_changes_nothing_and_does_not_call_certbot(host: FakeHost) -> None:
    host.run()
    host.certbot_runs()
    assert host.run().stdout == NOTHING
    assert host.certbot_runs() == []


def test_only_the_certificate_whose_names_changed_is_issued_again(host: FakeHost) -> None:
    host.run()
    host.certbot_runs()
    answer = host.run(
        certificates=[
            {"name": "smtp.example.com", "names": ["smtp.example.com", "mail.example.com"]},
            {"name": "example.com", "names": ["*.example.com", "example.com"]},
        ]
    )
    assert [names_asked(run) for run in host.certbot_runs()] == [["smtp.example.com", "mail.example.com"]]
    assert "issued smtp.example.com (its names changed), deployed smtp.example.com" in answer.stdout
    assert host.run().stdout == NOTHING


def test_another_directory_means_new_certificates(host: FakeHost) -> None:
    host.run()
    host.certbot_runs()
    host.run(directory="https://staging.example/directory")
    assert ["https://staging.example/directory" in run["argv"] for run in host.certbot_runs()] == [True, True]
    assert host.run().stdout == NOTHING


@pytest.mark.parametrize(("age", "due"), [(59, False), (61, True), (91, True)])
def test_a_certificate_is_issued_again_in_the_last_third_of_its_life(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, age: int, *, due: bool
) -> None:
    host.run()
    import certificate

    later = time.time() + age * 86400
    monkeypatch.setattr(certificate, "time", SimpleNamespace(time=lambda: later, monotonic=time.monotonic))
    assert ("a third of its life is left" in host.run().stdout) is due


@pytest.mark.parametrize("lost", ["live/example.com/privkey.pem", "renewal/example.com.conf", "live/example.com"])
def test_a_damaged_lineage_is_set_aside_with_its_keys_and_issued_again(host: FakeHost, lost: str) -> None:
    host.run()
    key = (host.letsencrypt / "archive/example.com/privkey1.pem").read_bytes()
    gone = host.letsencrypt / lost
    gone.rename(host.root / "gone") if gone.is_dir() else gone.unlink()
    assert "issued example.com (damaged)" in host.run().stdout
    assert key in [path.read_bytes() for path in host.letsencrypt.glob("mailroom/damaged/*/archive/privkey1.pem")]
    assert host.run().stdout == NOTHING


def test_a_key_of_another_certificate_counts_as_damage(host: FakeHost) -> None:
    host.run()
    other = (host.letsencrypt / "archive/smtp.example.com/privkey1.pem").read_bytes()
    (host.letsencrypt / "archive/example.com/privkey1.pem").write_bytes(other)
    assert "issued example.com (damaged)" in host.run().stdout


def test_the_token_is_in_one_file_for_root_alone(host: FakeHost) -> None:
    host.run(api_base="https://api.example/client/v4")
    holders = [path for path in host.root.rglob("*") if path.is_file() and TOKEN in path.read_text()]
    assert holders == [host.letsencrypt / "mailroom/cloudflare.ini"]
    assert holders[0].stat().st_mode & 0o777 == 0o600
    assert holders[0].parent.stat().st_mode & 0o777 == 0o700


def test_certbot_is_given_the_tokens_file_and_never_the_token(host: FakeHost) -> None:
    host.run()
    runs = host.certbot_runs()
    assert all(str(host.letsencrypt / "mailroom/cloudflare.ini") in run["argv"] for run in runs)
    assert TOKEN not in json.dumps(runs)


def test_a_changed_token_is_stored_without_issuing_anything(host: FakeHost) -> None:
    host.run()
    host.certbot_runs()
    assert host.run(credentials={KEY: TOKEN + "2"}).stdout == "changed: stored the DNS credentials\n"
    assert host.certbot_runs() == []


@pytest.mark.parametrize("token", ["", "two\nlines", "quote\"and'"])
def test_a_token_that_could_not_be_one_is_refused_without_showing_it(host: FakeHost, token: str) -> None:
    answer = host.run(credentials={KEY: token})
    assert answer.status == 1
    assert "mailroom:acme" in answer.stderr
    assert not token or token not in answer.stderr
    assert host.certbot_runs() == []


def test_another_api_address_reaches_every_generation_of_the_plugin_also_at_renewal(host: FakeHost) -> None:
    host.run(api_base="http://api.example:8080/client/v4")
    drop_in = (host.root / "certbot.service.d/mailroom.conf").read_text()
    for variable in ("CLOUDFLARE_API_URL", "CF_API_URL", "CLOUDFLARE_BASE_URL"):
        assert host.certbot_runs_env(variable) == {"http://api.example:8080/client/v4"}
        assert f'Environment="{variable}=http://api.example:8080/client/v4"' in drop_in.splitlines()


def test_without_another_api_address_the_plugin_keeps_its_own(host: FakeHost) -> None:
    host.run()
    assert host.certbot_runs_env("CLOUDFLARE_BASE_URL") == {None}
    assert "Environment" not in (host.root / "certbot.service.d/mailroom.conf").read_text()


def test_a_private_ca_is_trusted_beside_the_systems(host: FakeHost) -> None:
    host.run(ca_pem="a private CA")
    bundle = host.letsencrypt / "mailroom/ca-bundle.pem"
    assert host.certbot_runs_env("REQUESTS_CA_BUNDLE") == {str(bundle)}
    assert bundle.read_text() == "the system's CAs\na private CA\n"
    host.run(ca_pem=None)
    assert not bundle.exists()
    assert "REQUESTS_CA_BUNDLE" not in (host.root / "certbot.service.d/mailroom.conf").read_text()


def test_a_percent_sign_survives_systemd(host: FakeHost) -> None:
    host.run(api_base="http://api.example/a%20b")
    assert "a%%20b" in (host.root / "certbot.service.d/mailroom.conf").read_text()


def test_the_timer_is_switched_on_when_it_is_off(host: FakeHost) -> None:
    host.flag("timer-is-off")
    assert "enabled certbot.timer" in host.run().stdout
    assert "enable --now certbot.timer" in host.systemctl_runs()


def test_the_hook_certbot_calls_is_executable_and_runs_after_every_renewal_run(host: FakeHost) -> None:
    host.run()
    hook = host.letsencrypt / "renewal-hooks/deploy/mailroom-deploy"
    assert hook.stat().st_mode & 0o777 == 0o755
    assert hook.read_text().startswith("#!/usr/bin/python3\n")
    unit = (host.root / "certbot.service.d/mailroom.conf").read_text()
    assert f"ExecStopPost={hook} --all\nExecStopPost={hook.with_name('mailroom-reload')} --all\n" in unit
    assert "[Unit]\nOnFailure=mailroom-certificate-report.service\n[Service]\n" in unit
    assert hook.with_name("mailroom-reload").readlink().name == "reload_hook.py"
    in_certbots_order = [each.name for each in sorted(hook.parent.iterdir())]
    assert in_certbots_order == ["mailroom-deploy", "mailroom-reload"], "a service would reload the old certificate"
    assert "daemon-reload" in host.systemctl_runs()


def test_certificate_never_restarts_the_mail_server(host: FakeHost) -> None:
    host.flag("chasquid-runs")
    host.run()
    assert not [call for call in host.systemctl_runs() if "restart" in call]


def test_a_certificate_no_longer_listed_is_not_served_nor_renewed_and_its_key_stays(host: FakeHost) -> None:
    host.run()
    both = host.payload["certificates"]
    answer = host.run(certificates=both[:1])
    assert answer.stdout == "changed: stopped renewing example.com\n"
    assert [entry.name for entry in host.certs.iterdir()] == ["0-smtp.example.com"]
    assert [entry.name for entry in (host.root / "mailroom/pairs").iterdir()] == ["0-smtp.example.com"]
    assert sorted(path.name for path in (host.letsencrypt / "renewal").glob("*.conf")) == ["smtp.example.com.conf"]
    assert (host.letsencrypt / "archive/example.com/privkey1.pem").exists()
    host.certbot_runs()
    assert host.run(certificates=both).stdout == "changed: deployed example.com\n"
    assert host.certbot_runs() == []


def test_a_new_host_name_moves_its_certificate_to_the_first_place(host: FakeHost) -> None:
    host.run()
    host.run(certificates=[{"name": "mx.example.com", "names": ["mx.example.com"]}])
    assert [entry.name for entry in host.certs.iterdir()] == ["0-mx.example.com"]


def test_a_lineage_of_somebody_else_keeps_being_renewed(host: FakeHost) -> None:
    host.issue("other.example.net")
    host.run()
    assert (host.letsencrypt / "renewal/other.example.net.conf").exists()
    assert "renew_before_expiry = 30 days" in (host.letsencrypt / "renewal/other.example.net.conf").read_text()


def test_a_renewal_at_work_is_waited_for(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    import certificate

    monkeypatch.setattr(
        certificate, "time", SimpleNamespace(sleep=lambda _: None, time=time.time, monotonic=time.monotonic)
    )
    host.flag("busy", text="2")
    assert host.run().status == 0
    assert len(host.certbot_runs()) == 4


def test_a_renewal_that_does_not_end_is_named_after_the_limit(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    import certificate

    monkeypatch.setattr(certificate, "BUSY_LIMIT", -1)
    host.flag("busy", text="9")
    answer = host.run()
    assert answer.status == 1
    assert "a renewal has been running" in answer.stderr


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Error determining zone_id: 9109 Invalid access token", "mailroom:acme token"),
        ("Unable to determine zone_id for example.com", "access to the zone"),
        ("urn:ietf:params:acme:error:rateLimited :: too many certificates", "letsencrypt-staging"),
        ("SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]')", "caFile"),
        ("Failed to resolve 'acme.example' ([Errno -2] NameResolutionError)", "reaches the directory"),
        ("Incorrect TXT record found at _acme-challenge.example.com", "propagationSeconds"),
    ],
)
def test_a_refusal_is_shown_in_certbots_words_with_what_to_do(host: FakeHost, said: str, advice: str) -> None:
    host.flag("fails", text=f"Saving debug log to /var/log/x\n{said} {TOKEN}")
    answer = host.run()
    assert answer.status == 1
    assert advice in answer.stderr
    assert said in answer.stderr
    assert "smtp.example.com" in answer.stderr.splitlines()[0]
    assert TOKEN not in answer.stderr
    assert "Saving debug log" not in answer.stderr


def test_a_failed_issue_leaves_what_is_deployed_alone(host: FakeHost) -> None:
    host.run()
    before = {path: path.read_bytes() for path in host.certs.glob("*/*.pem")}
    assert len(before) == 4
    host.flag("fails", text="no")
    assert host.run(directory="https://staging.example/directory").status == 1
    assert {path: path.read_bytes() for path in host.certs.glob("*/*.pem")} == before


def test_another_contact_address_is_told_to_the_ca_once(host: FakeHost) -> None:
    host.run()
    host.certbot_runs()
    host.run(email="other@example.com")
    assert [run["argv"][:3] for run in host.certbot_runs()] == [["update_account", "--email", "other@example.com"]]
    host.run()
    assert host.certbot_runs() == []


def test_the_hook_learns_which_certificates_are_ours(host: FakeHost) -> None:
    host.run()
    state = json.loads((host.root / "mailroom/certificates.json").read_text())
    assert state["host"] == "smtp.example.com"
    assert state["names"] == ["smtp.example.com", "example.com"]


RFC2136 = {"dns_rfc2136_server": "192.0.2.53", "dns_rfc2136_secret": "c2VjcmV0LXRzaWc="}


def test_another_dns_plugin_gets_a_certificate_before_the_old_credentials_go(host: FakeHost) -> None:
    host.run()
    host.certbot_runs()
    host.flag("fails", text="refused: c2VjcmV0LXRzaWc=")
    refused = host.run(dns="rfc2136", credentials=RFC2136)
    assert refused.status == 1
    assert "c2VjcmV0" not in refused.stderr
    assert (host.letsencrypt / "mailroom/cloudflare.ini").exists()
    host.flag("fails")
    host.certbot_runs()
    answer = host.run()
    assert "issued smtp.example.com (the way to answer the CA changed)" in answer.stdout
    assert answer.stdout.endswith("removed the old DNS credentials\n")
    argv = " ".join(host.certbot_runs()[0]["argv"])
    path = host.letsencrypt / "mailroom/rfc2136.ini"
    assert f"--authenticator dns-rfc2136 --dns-rfc2136-credentials {path} --dns-rfc2136-propagation-seconds 10" in argv
    assert "c2VjcmV0" not in argv
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.glob("*.ini")] == ["rfc2136.ini"]
    assert host.run().stdout == NOTHING


def test_credentials_are_in_quotes_where_a_comma_would_make_a_list_or_a_sign_a_comment(host: FakeHost) -> None:
    host.run(dns="x", credentials={"dns_x_a": "a, b", "dns_x_b": 'say "x" # y', "dns_x_c": "it's", "dns_x_d": "a/+=="})
    lines = ['dns_x_a = "a, b"', """dns_x_b = 'say "x" # y'""", 'dns_x_c = "it\'s"', "dns_x_d = a/+=="]
    assert (host.letsencrypt / "mailroom/x.ini").read_text().splitlines() == lines


def test_a_zone_for_challenges_is_served_by_our_own_hook(host: FakeHost) -> None:
    host.run()
    host.certbot_runs()
    host.run(challenge_zone="acme.example.net")
    argv = " ".join(host.certbot_runs()[0]["argv"])
    hook = host.letsencrypt / "mailroom/challenge"
    assert f"--authenticator manual --preferred-challenges dns --manual-auth-hook {hook} auth" in argv
    assert hook.stat().st_mode & 0o777 == 0o700
    config = hook.with_name("challenge.json")
    assert config.stat().st_mode & 0o777 == 0o600
    assert json.loads(config.read_text())["credentials"] == {KEY: TOKEN}
    holders = [path for path in host.root.rglob("*") if path.is_file() and TOKEN in path.read_text()]
    assert holders == [config]
    assert host.run().stdout == NOTHING


def test_leaving_the_zone_for_challenges_needs_no_certificate_while_the_cname_still_stands(host: FakeHost) -> None:
    host.run(challenge_zone="acme.example.net")
    renewal = host.letsencrypt / "renewal/example.com.conf"
    params = "[renewalparams]\nmanual_auth_hook = x\npref_challs = dns-01,\n"
    renewal.write_text(renewal.read_text().replace("[renewalparams]\n", params))
    host.certbot_runs()
    assert host.run(challenge_zone=None).stdout.endswith("removed the old DNS credentials\n")
    assert host.certbot_runs() == []
    text = renewal.read_text()
    assert text.count("authenticator = dns-cloudflare\n") == 1
    assert f"dns_cloudflare_credentials = {host.letsencrypt}/mailroom/cloudflare.ini\n" in text
    assert "manual" not in text
    assert "pref_challs" not in text
