"""What chasquid reads, as the settings say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from components.chasquid import config
from components.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


def load(change: Callable[[dict[str, Any]], None] = lambda _: None) -> Settings:
    with open("Pulumi.dev.yaml", encoding="utf-8") as file:
        stack: dict[str, Any] = yaml.safe_load(file)["config"]
    stack["mailroom:passwords"] = {"alice@example.test": "CANARY-password"}
    stack["mailroom:acme"]["token"] = "x" * 40
    stack["cloudflare:apiToken"] = "y" * 40
    del stack["mailroom:sshPrivateKey"]
    change(stack)
    return Settings.load(stack.get, "dev")


def plain(settings: Settings) -> config.Files:
    return config.plain_files(settings, settings.hosts[0])


def null_domain(stack: dict[str, Any]) -> None:
    stack["mailroom:domains"][0] = {
        "name": "example.test", "zoneId": stack["mailroom:domains"][0]["zoneId"], "mail": "none",
    }  # fmt: skip
    stack["mailroom:passwords"] = {}


def test_the_server_greets_by_the_name_of_the_host() -> None:
    assert 'hostname: "smtp.example.test"' in plain(load())["chasquid.conf"]["lines"]


def test_monitoring_which_takes_anybodys_exit_command_listens_on_loopback_only() -> None:
    assert 'monitoring_address: "127.0.0.1:1099"' in plain(load())["chasquid.conf"]["lines"]


def test_queue_limits_are_those_of_a_mail_server_not_the_defaults() -> None:
    lines = plain(load())["chasquid.conf"]["lines"]
    assert {"max_queue_items: 5000", 'give_up_send_after: "120h"', "max_data_size_mb: 25"} <= set(lines)


def test_every_served_domain_has_its_aliases() -> None:
    lines = plain(load())["domains/example.test/aliases"]["lines"]
    assert "alice: alice@receiver.test" in lines


def test_a_domain_without_mail_is_not_served() -> None:
    settings = load(null_domain)
    assert config.served_domains(settings) == []
    assert config.active_keys(settings) == []


def test_a_host_that_serves_nobody_still_has_the_one_directory_chasquid_asks_for() -> None:
    directories = [path for path in plain(load(null_domain)) if path.startswith("domains/")]
    assert directories == ["domains/smtp.example.test/aliases"]


@pytest.mark.parametrize("stage", ["active", "published"])
def test_only_keys_in_use_are_put_where_chasquid_signs_with_them(stage: str) -> None:
    def change(stack: dict[str, Any]) -> None:
        stack["mailroom:domains"][0]["dkim"] = [{"selector": "m1"}, {"selector": "m2", "stage": stage}]

    keys = config.active_keys(load(change))
    assert keys == [("example.test", "m1")] + [("example.test", "m2")] * (stage == "active")


def test_secret_files_are_named_as_chasquid_looks_for_them() -> None:
    files = config.secret_files({"example.test": "a\nb\n"}, {("example.test", "m1"): "PEM\n"})
    assert files == {
        "domains/example.test/users": {"mode": "0640", "lines": ["a", "b"]},
        "domains/example.test/dkim:m1.pem": {"mode": "0640", "lines": ["PEM"]},
    }


def test_plain_files_hold_no_password() -> None:
    assert "CANARY" not in str(plain(load()))


def test_the_digest_changes_with_every_part_of_a_file() -> None:
    files = {"a": {"mode": "0640", "lines": ["x"]}}
    others = [
        {"b": files["a"]},
        {"a": {"mode": "0750", "lines": ["x"]}},
        {"a": {"mode": "0640", "lines": ["y"]}},
        {"a": {"mode": "0640", "lines": ["x", ""]}},
    ]
    assert len({config.digest(one) for one in (files, *others)}) == 5


def test_the_unit_survives_any_number_of_kills() -> None:
    unit = plain(load())["chasquid.service"]["lines"]
    assert {"Restart=always", "StartLimitIntervalSec=0"} <= set(unit)
