"""The order of waves, what is secret, and what a change touches: the program under a recording mock engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pulumi
import pytest

from components import mail_server
from components.dkim.provider import DkimKeyProvider
from mailroom_policy import rules
from mailroom_policy.view import Resource
from standards import passwords

HOST = "smtp.example.test"
COMMAND = "command:remote:Command"
RECORD = "cloudflare:index/dnsRecord:DnsRecord"
ZONE_GATE = "4042f2716e2b3eb0422b8e0c79e64db0/gate"
KEY = {"domain": "example.test", "selector": "m2"}
SECRET = "4dabf18193072939515e22adb298388d"


def revealed(value: Any) -> Any:
    return value["value"] if isinstance(value, dict) and SECRET in value else value


@pytest.mark.parametrize("preview", [True, False])
def test_the_dev_stack_registers_every_record_of_the_standards(run_program: Any, preview: bool) -> None:
    host = {f"{HOST}/{kind}" for kind in ("a", "aaaa", "spf")}
    domain = {f"example.test/{kind}" for kind in ("spf", "spf-hosts", "dkim/m1", f"mx/{HOST}", "dmarc")}
    assert run_program(preview=preview).names(RECORD) == host | domain


def test_every_record_waits_for_every_gate(run_program: Any) -> None:
    run = run_program()
    for record in run.names(RECORD):
        assert {ZONE_GATE, f"{HOST}/gate"} <= run.waits_for(record), record


def test_no_step_changes_a_host_before_every_gate_has_passed(run_program: Any) -> None:
    run = run_program()
    for command in run.names(COMMAND):
        assert {ZONE_GATE, f"{HOST}/gate"} <= run.waits_for(command), command


def test_the_dkim_key_reaches_the_host_only_after_its_record_is_visible(run_program: Any) -> None:
    run = run_program()
    assert "identity/propagated" in run.waits_for(f"{HOST}/secret")
    dkim_records = {name for name in run.names(RECORD) if "/dkim/" in name}
    assert dkim_records
    assert dkim_records <= run.waits_for("identity/propagated")


def test_mx_and_dmarc_wait_for_the_service_and_for_reverse_dns(run_program: Any) -> None:
    run = run_program()
    last = {name for name in run.names(RECORD) if "/mx" in name or "/dmarc" in name}
    assert len(last) == 2
    for name in last:
        assert {f"{HOST}/activate", f"{HOST}/logins", f"{HOST}/ptr", f"{HOST}/uninstall"} <= run.waits_for(name)
        assert f"{HOST}/reachable" in run.waits_for(name)
    assert {f"{HOST}/activate", f"{HOST}/logins"} <= run.waits_for(f"{HOST}/reachable")


def test_addresses_do_not_wait_for_the_service(run_program: Any) -> None:
    run = run_program()
    for name in run.names(RECORD):
        if name.startswith(f"{HOST}/a"):
            assert f"{HOST}/activate" not in run.waits_for(name)


def test_steps_of_one_host_never_overlap(run_program: Any) -> None:
    run = run_program()
    steps = [*run.names(COMMAND), *run.names("command:remote:CopyToRemote"), f"{HOST}/access"]
    for one in steps:
        for other in steps:
            assert one == other or one in run.waits_for(other) or other in run.waits_for(one), (one, other)


def test_nothing_is_uploaded_to_where_others_on_the_host_may_put_a_link(run_program: Any) -> None:
    run = run_program()
    copies = run.names("command:remote:CopyToRemote")
    assert len(copies) == 2
    for copy in copies:
        path = run.inputs(copy)["remotePath"]
        assert not path.startswith(("/", "~"))
        assert "/" not in path, "home itself, which only its owner writes"


def test_a_host_is_closed_before_it_gets_a_secret_or_serves_anybody(run_program: Any) -> None:
    run = run_program()
    assert {ZONE_GATE, f"{HOST}/gate"} <= run.waits_for(f"{HOST}/access")
    for name in ("certificate", "secret", "activate"):
        assert {f"{HOST}/access", f"{HOST}/guard"} <= run.waits_for(f"{HOST}/{name}")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, {"allow_tcp": [], "allow_udp": [], "ipv6_mail": True, "ssh_port": 22}),
        ({"firewall": {"allowTcp": [443], "allowUdp": [51820]}}, {"allow_tcp": [443], "allow_udp": [51820]}),
        ({"ssh": {"port": 2222}}, {"ssh_port": 2222}),
        ({"ipv6Outbound": False}, {"ipv6_mail": False}),
        ({"ipv6": None}, {"ipv6_mail": False}),
    ],
)
def test_the_packet_filter_follows_the_settings(run_program: Any, changes: dict[str, Any], told: Any) -> None:
    def change(config: dict[str, Any]) -> None:
        host = config["mailroom:hosts"][0] | changes
        config["mailroom:hosts"][0] = {key: value for key, value in host.items() if value is not None}

    payload = json.loads(run_program(change).inputs(f"{HOST}/access")["payload"])
    assert {key: payload[key] for key in told} == told
    assert set(payload["units"]) == {
        "mailroom-firewall.service", "mailroom-rollback.service", "mailroom-rollback.timer",
    }  # fmt: skip


def test_network_and_bootstrap_travel_with_the_steps_there_are_and_only_when_they_are_set(run_program: Any) -> None:
    plain = run_program()

    def change(config: dict[str, Any]) -> None:
        config["mailroom:hosts"][0] |= {
            "ipv6": "2001:db8::10",
            "network": {"ipv6": {"gateway": "fe80::1"}, "addresses": ["2001:db8::11"]},
            "bootstrap": {"aptMirror": "https://deb.example.net/debian", "packages": ["htop"]},
        }

    run = run_program(change)
    assert run.names(COMMAND) == plain.names(COMMAND)
    assert "network" not in json.loads(plain.inputs(f"{HOST}/access")["payload"])
    assert set(json.loads(plain.inputs(f"{HOST}/prepare")["stdin"])) == {"packages"}
    assert json.loads(run.inputs(f"{HOST}/access")["payload"])["network"] == {
        "address": "2001:db8::10", "prefix": 64, "gateway": "fe80::1", "addresses": ["2001:db8::11"], "echo": None,
    }  # fmt: skip
    assert json.loads(run.inputs(f"{HOST}/prepare")["stdin"])["bootstrap"] == {
        "apt_mirror": "https://deb.example.net/debian", "packages": ["htop"],
    }  # fmt: skip


def test_what_steps_print_is_secret_and_not_logged(run_program: Any) -> None:
    run = run_program()
    for name in run.names(COMMAND):
        assert {"stdout", "stderr", "connection"} <= set(run.requests[name].additionalSecretOutputs), name
        said = "stdoutAndStderr" if name == f"{HOST}/uninstall" else "none"
        assert run.inputs(name)["logging"] == said
        assert run.inputs(name)["addPreviousOutputInEnv"] is False


@pytest.mark.parametrize("user", ["root", "admin"])
def test_the_one_step_that_logs_is_the_one_that_the_policies_let(run_program: Any, user: str) -> None:
    run = run_program(lambda config: config["mailroom:hosts"][0].setdefault("ssh", {}).update(user=user))
    steps = [Resource(type=COMMAND, name=name, props=run.inputs(name)) for name in run.names(COMMAND)]
    assert [finding.subject for _, finding in rules.quiet_commands(steps)] == []
    logging = [step for step in steps if step.props["logging"] != "none"]
    assert [step.name for step in logging] == [f"{HOST}/uninstall"]
    assert logging[0].props["delete"].startswith("flock " if user == "root" else "sudo -n flock ")


def test_secrets_reach_hosts_by_secret_stdin_alone(run_program: Any) -> None:
    run = run_program()
    for name in run.names(COMMAND):
        inputs = run.inputs(name)
        assert "CANARY" not in str(inputs["create"]) + str(inputs.get("delete")), name
        assert "environment" not in inputs
        stdin = inputs["stdin"]
        if "CANARY" in json.dumps(stdin) or "PRIVATE-KEY" in json.dumps(stdin):
            assert stdin[SECRET], f"{name} shows its stdin"


def test_the_cloudflare_token_never_reaches_a_host(run_program: Any) -> None:
    run = run_program()
    for name in run.names(COMMAND):
        assert "CANARY-cloudflare" not in json.dumps(run.inputs(name)["stdin"]), name


def test_a_reviewer_sees_the_plain_files(run_program: Any) -> None:
    stdin = run_program().inputs(f"{HOST}/plain")["stdin"]
    assert isinstance(stdin, str)
    assert "alice@receiver.test" in stdin


def test_another_machine_runs_every_step_again_but_the_uninstall(run_program: Any) -> None:
    run = run_program()
    for name in run.names(COMMAND):
        has_trigger = run.requests[name].HasField("replacement_trigger")
        assert has_trigger == (name != f"{HOST}/uninstall"), name


def protected(run: Any) -> set[str]:
    return {name for name, request in run.requests.items() if request.protect}


def test_in_production_what_mail_and_trust_hang_on_is_protected_from_deletion(run_program: Any) -> None:
    run = run_program(lambda config: config.update({"mailroom:protect": True}))
    assert protected(run) == {
        f"{HOST}/uninstall", f"{HOST}/a", f"{HOST}/spf", "example.test/dkim-key/m1", "example.test/dkim/m1",
        "example.test/spf", "example.test/spf-hosts", f"example.test/mx/{HOST}", "example.test/dmarc",
    }  # fmt: skip


def test_a_stack_to_throw_away_protects_nothing(run_program: Any) -> None:
    assert protected(run_program()) == set()


def test_a_dkim_key_that_signs_no_more_may_be_deleted(run_program: Any) -> None:
    def rotate(config: dict[str, Any]) -> None:
        stages = {"m1": "retiring", "m2": "active", "m3": "published"}
        config["mailroom:protect"] = True
        config["mailroom:domains"][0]["dkim"] = [{"selector": name, "stage": stage} for name, stage in stages.items()]

    kept = {name for name in protected(run_program(rotate)) if "dkim" in name}
    assert kept == {"example.test/dkim-key/m2", "example.test/dkim/m2"}


def test_a_destroy_meets_something_protected_before_it_deletes_anything(run_program: Any) -> None:
    """It begins with what nothing depends on: were that not protected, much would be gone when it is refused."""
    run = run_program(lambda config: config.update({"mailroom:protect": True}))
    kept = protected(run)
    needed = {name for one in kept for name in run.waits_for(one)}
    custom = {name for name, request in run.requests.items() if request.custom}
    assert custom - kept - needed == set()


def test_only_the_uninstall_acts_when_deleted(run_program: Any) -> None:
    run = run_program()
    assert {name for name in run.names(COMMAND) if run.inputs(name).get("delete")} == {f"{HOST}/uninstall"}


def test_hosts_are_pinned_and_dialled_once(run_program: Any) -> None:
    run = run_program()
    for name in run.names(COMMAND):
        connection = revealed(run.inputs(name)["connection"])
        assert connection["hostKey"].startswith("ssh-ed25519 ")
        assert connection["dialErrorLimit"] == 0


def test_mail_none_publishes_that_the_domain_never_mails(run_program: Any) -> None:
    def silence(config: dict[str, Any]) -> None:
        config["mailroom:domains"].append({"name": "quiet.test", "zoneId": "f" * 32, "mail": "none"})

    run = run_program(silence)
    contents = {revealed(run.inputs(name)["content"]) for name in run.names(RECORD) if "quiet.test" in name}
    assert '"v=spf1 -all"' in contents
    assert "." in contents
    assert any("p=reject" in content for content in contents)
    assert not any("DKIM" in content for content in contents)


def test_a_mail_server_makes_no_resource_a_user(run_program: Any) -> None:
    def many(config: dict[str, Any]) -> None:
        names = [f"user{number}" for number in range(30)]
        config["mailroom:domains"][0]["users"] += names
        config["mailroom:domains"][0]["aliases"] |= {key: ["someone@receiver.test"] for key in names}
        config["mailroom:passwords"] |= {f"{name}@example.test": "pw-0123456789" for name in names}

    assert set(run_program(many).resources) == set(run_program().resources)


def test_gates_keys_and_users_keep_their_secrets(run_program: Any) -> None:
    run = run_program()
    secrets = {ZONE_GATE: "token", f"{HOST}/gate": "private_key", f"{HOST}/access": "private_key", "users": "passwords"}
    for name, key in secrets.items():
        assert run.inputs(name)[key][SECRET], f"{name} shows {key}"
    assert {"private", "imported"} <= set(run.requests["example.test/dkim-key/m1"].additionalSecretOutputs)
    assert {"passwords", "files", "hashes", "changed"} <= set(run.requests["users"].additionalSecretOutputs)


def test_an_spf_record_of_others_goes_only_after_every_gate_and_right_before_ours(run_program: Any) -> None:
    def adopting(config: dict[str, Any]) -> None:
        config["mailroom:domains"][0]["spf"] = {"adopt": True}

    run = run_program(adopting)
    assert {ZONE_GATE, f"{HOST}/gate"} <= run.waits_for("example.test/spf-takeover")
    assert "example.test/spf-takeover" in run.waits_for("example.test/spf")
    assert run.inputs("example.test/spf-takeover")["token"][SECRET]
    assert "example.test/spf-takeover" not in run_program().resources


def test_the_gate_gets_each_spf_record_with_ours_that_it_includes(run_program: Any) -> None:
    inputs = run_program().inputs(ZONE_GATE)
    assert [sender["domain"] for sender in inputs["senders"]] == ["example.test"]
    assert {(one["name"], one["type"]) for one in inputs["published"]} >= {("_spf.example.test", "TXT"), (HOST, "A")}
    assert all(not one["value"].startswith('"') for one in inputs["published"])


def test_the_gate_gets_the_mx_hosts_that_a_policy_of_the_domain_has_to_allow(run_program: Any) -> None:
    published = run_program().inputs(ZONE_GATE)["published"]
    assert {"name": "example.test", "type": "MX", "value": f"10 {HOST}"} in published


def test_only_reports_to_domains_of_others_are_asked_about(run_program: Any) -> None:
    def reporting(config: dict[str, Any]) -> None:
        config["mailroom:domains"][0]["dmarc"] = {"rua": ["a@in.example.test", "b@reports.example"]}

    wanted = [{"domain": "example.test", "receiver": "reports.example"}]
    assert run_program(reporting).inputs(ZONE_GATE)["reports"] == wanted


def test_an_imported_dkim_key_reaches_its_own_selector_alone_and_stays_secret(run_program: Any) -> None:
    def imported(config: dict[str, Any]) -> None:
        config["mailroom:domains"][0]["dkim"] = [{"selector": "m1"}, {"selector": "m2", "stage": "published"}]
        config["mailroom:dkimKeys"] = {
            "m2._domainkey.example.test": DkimKeyProvider().create(dict(KEY)).outs["private"]
        }

    run = run_program(imported)
    assert run.inputs("example.test/dkim-key/m2")["imported"][SECRET]
    assert "imported" not in run.inputs("example.test/dkim-key/m1")


def test_the_zone_is_read_again_before_mx_and_dmarc(run_program: Any) -> None:
    run = run_program()
    again = ZONE_GATE.replace("/gate", "/mail-gate")
    assert f"{HOST}/activate" in run.waits_for(again)
    for name in ("example.test/dmarc", f"example.test/mx/{HOST}"):
        assert again in run.waits_for(name)


def test_one_gate_verifies_every_owner_of_its_zone(run_program: Any) -> None:
    def share(config: dict[str, Any]) -> None:
        zone = config["mailroom:domains"][0]["zoneId"]
        config["mailroom:domains"].append({"name": "news.example.test", "zoneId": zone, "mail": "none"})
        config["mailroom:hosts"][0]["name"] = "smtp.infra.test"
        config["mailroom:hosts"][0]["zoneId"] = "a" * 32

    run = run_program(share)
    assert run.inputs(ZONE_GATE)["names"] == ["example.test", "news.example.test"]
    assert run.inputs(f"{'a' * 32}/gate")["names"] == ["smtp.infra.test"]


def test_two_hosts_and_two_domains_have_steps_and_records_of_their_own(run_program: Any) -> None:
    def double(config: dict[str, Any]) -> None:
        host, domain = config["mailroom:hosts"][0], config["mailroom:domains"][0]
        config["mailroom:hosts"].append(
            host | {"name": "smtp2.example.test", "ipv4": "198.51.100.11", "ipv6": "2001:db8:99::11"}
        )
        config["mailroom:domains"].append(
            domain | {"name": "second.test", "zoneId": "b" * 32, "users": [], "aliases": {"info": "a@receiver.test"}}
        )

    run = run_program(double)
    assert {f"{HOST}/activate", "smtp2.example.test/activate"} <= run.names(COMMAND)
    for mx in (name for name in run.names(RECORD) if "/mx/" in name):
        assert {f"{HOST}/uninstall", "smtp2.example.test/uninstall"} <= run.waits_for(mx)
    spf = revealed(run.inputs("second.test/spf-hosts")["content"])
    assert all(address in spf for address in ("198.51.100.10", "198.51.100.11", "2001:db8:99::11"))


def test_a_host_that_is_taken_out_takes_what_is_its_own_and_no_step_runs_on_the_other(run_program: Any) -> None:
    def double(config: dict[str, Any]) -> None:
        other = {"name": "smtp2.example.test", "ipv4": "198.51.100.11", "ipv6": "2001:db8:99::11"}
        config["mailroom:hosts"].append(config["mailroom:hosts"][0] | other)

    before, after = run_program(double), run_program()
    gone = set(before.resources) - set(after.resources)
    assert {"smtp2.example.test/uninstall", "smtp2.example.test/a", "example.test/mx/smtp2.example.test"} <= gone
    assert all("smtp2.example.test" in name for name in gone)
    steps = after.names(COMMAND)
    assert f"{HOST}/activate" in steps
    assert [name for name in steps if before.inputs(name) != after.inputs(name)] == []
    assert "198.51.100.11" not in revealed(after.inputs("example.test/spf-hosts")["content"])


def test_another_certificate_authority_is_served_at_once(run_program: Any) -> None:
    def other(config: dict[str, Any]) -> None:
        config["mailroom:acme"]["directory"] = "letsencrypt"

    name = f"{HOST}/activate"
    assert revealed(run_program().inputs(name)["stdin"]) != revealed(run_program(other).inputs(name)["stdin"])


def test_a_provider_sets_the_pointers_with_secret_access_before_the_service(run_program: Any) -> None:
    def rented(config: dict[str, Any]) -> None:
        config["mailroom:hosts"][0]["reverseDns"] = {"provider": "hetzner"}
        config["mailroom:hetzner"] = {"token": "CANARY-hetzner"}

    run, pointer = run_program(rented), f"{HOST}/ptr"
    inputs = run.inputs(pointer)
    assert inputs["access"][SECRET]
    assert revealed(inputs["access"]) == {"token": "CANARY-hetzner"}
    assert "access" in run.requests[pointer].additionalSecretOutputs
    assert inputs["addresses"] == ["198.51.100.10", "2001:db8:99::10"]
    assert {f"{HOST}/a", f"{HOST}/aaaa"} <= run.waits_for(pointer)
    assert pointer in run.waits_for(f"{HOST}/activate")
    everything = {name: json.dumps(args.inputs, default=str) for name, args in run.resources.items()}
    assert [name for name, text in everything.items() if "CANARY-hetzner" in text] == [pointer]


def test_a_thousand_users_are_one_resource_and_no_step_more_than_one_user(run_program: Any) -> None:
    def thousand(config: dict[str, Any]) -> None:
        names = [f"u{number}" for number in range(1000)]
        config["mailroom:domains"][0] |= {"users": names, "aliases": {"*": ["x@receiver.test"]}}
        config["mailroom:passwords"] = {f"{name}@example.test": f"CANARY-password-{name}" for name in names}

    one, many = run_program(preview=True), run_program(thousand, preview=True)
    assert set(many.resources) == set(one.resources)
    assert len(revealed(many.inputs("users")["passwords"])) == 1000


def test_only_logins_get_a_password_into_the_users_file(run_program: Any) -> None:
    token = passwords.token(bytes(24))

    def change(config: dict[str, Any]) -> None:
        config["mailroom:domains"][0] |= {
            "users": [{"name": "alice", "tokens": ["shop"]}, {"name": "bob", "send": False}],
            "aliases": {"*": ["x@receiver.test"]},
        }
        config["mailroom:passwords"] |= {"alice+shop@example.test": token, "bob@example.test": "CANARY-kept-for-later"}

    stored = revealed(run_program(change).inputs("users")["passwords"])
    assert {address: revealed(value) for address, value in stored.items()} == {
        "alice@example.test": "CANARY-password-1",
        "alice+shop@example.test": token,
    }


def other_plugin(config: dict[str, Any]) -> None:
    del config["mailroom:acme"]["token"]
    keys = {"server": "192.0.2.53", "name": "key", "secret": "Q0FOQVJZLXRzaWc=", "algorithm": "HMAC-SHA256"}
    config["mailroom:acme"] |= {
        "dns": "rfc2136",
        "credentials": {f"dns_rfc2136_{key}": value for key, value in keys.items()},
    }


def test_the_packages_follow_the_dns_plugin(run_program: Any) -> None:
    def packages(change: Any) -> list[str]:
        wanted = json.loads(run_program(change).inputs(f"{HOST}/prepare")["stdin"])["packages"]
        return [package for package in wanted if "certbot-dns" in package]

    def challenge_zone(config: dict[str, Any]) -> None:
        config["mailroom:acme"]["challengeZone"] = "acme.example.net"

    assert packages(lambda _: None) == ["python3-certbot-dns-cloudflare"]
    assert packages(other_plugin) == ["python3-certbot-dns-rfc2136"]
    assert packages(challenge_zone) == []


def test_credentials_of_a_dns_plugin_reach_the_host_by_secret_stdin_alone(run_program: Any) -> None:
    run = run_program(other_plugin)
    assert "Q0FOQVJZLXRzaWc=" in revealed(run.inputs(f"{HOST}/certificate")["stdin"])
    for name in run.names(COMMAND):
        assert "Q0FOQVJZ" not in str(run.inputs(name)["create"])
        shown = run.inputs(name)["stdin"]
        assert "Q0FOQVJZ" not in str(shown) or shown[SECRET], name


def test_the_certificate_waits_for_the_cname_of_its_challenge(run_program: Any) -> None:
    def challenge_zone(config: dict[str, Any]) -> None:
        config["mailroom:acme"]["challengeZone"] = "acme.example.net"

    run = run_program(challenge_zone)
    assert run.inputs(f"{HOST}/acme-challenge")["type"] == "CNAME"
    assert f"{HOST}/acme-challenge" in run.waits_for("identity/propagated")
    assert "identity/propagated" in run.waits_for(f"{HOST}/certificate")


def test_reload_hooks_go_with_the_certificate_they_are_for(run_program: Any) -> None:
    def hooks(config: dict[str, Any]) -> None:
        config["mailroom:hosts"][0]["reloadHooks"] = ["true"]
        config["mailroom:domains"][0] |= {"certificate": "wildcard", "reloadHooks": ["a", "b"]}

    payload = json.loads(revealed(run_program(hooks).inputs(f"{HOST}/certificate")["stdin"]))
    assert {each["name"]: each["hooks"] for each in payload["certificates"]} == {
        HOST: ["true\n"], "example.test": ["a\n", "b\n"],
    }  # fmt: skip


@pytest.mark.parametrize("is_large", [True, False])
def test_a_stack_that_will_be_slow_is_told_so_and_what_to_do(
    run_program: Any, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    said: list[str] = []
    assert f"Up to {mail_server.MANY} resources" in Path("docs/operations.md").read_text(encoding="utf-8")
    monkeypatch.setattr(pulumi.log, "warn", lambda text, *_: said.append(text))
    registered = len(run_program().resources)
    monkeypatch.setattr(mail_server, "MANY", registered - 1 if is_large else registered + 9)
    run_program()
    large = [text for text in said if "PULUMI_SKIP_CHECKPOINTS" in text]
    assert len(large) == is_large


def test_hosts_domains_and_keys_are_as_many_resources_as_the_operations_page_says(run_program: Any) -> None:
    def grown(config: dict[str, Any], *parts: str) -> None:
        host, domain = config["mailroom:hosts"][0], config["mailroom:domains"][0]
        if "host" in parts:
            other = {"name": "smtp2.example.test", "ipv4": "198.51.100.11", "ipv6": "2001:db8:99::11"}
            config["mailroom:hosts"].append(host | other)
        if "domain" in parts:
            other = {"name": "second.test", "zoneId": "b" * 32, "users": [], "aliases": {"i": "a@receiver.test"}}
            config["mailroom:domains"].append(domain | other | {"dmarc": {"policy": "quarantine"}})
        if "key" in parts:
            domain["dkim"] = [*domain["dkim"], {"selector": "m2", "stage": "published"}]

    page = " ".join(Path("docs/operations.md").read_text(encoding="utf-8").split())
    told = re.search(r"A host is (\d+) resources .*? zone of its own (\d+), each further DKIM key (\d+), "
                     r"each further host of a domain (\d+)", page)  # fmt: skip
    assert told is not None
    of_host, of_domain, of_key, of_mx = map(int, told.groups())

    def size(*parts: str) -> int:
        return int(run_program(lambda config: grown(config, *parts)).total)

    alone = size()
    assert size("host") - alone == of_host + of_mx
    assert size("domain") - alone == of_domain
    assert size("key") - alone == of_key
