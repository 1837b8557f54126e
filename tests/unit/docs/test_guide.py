"""The guide: a heading for each of the eighteen steps, and every piece of settings in it is taken as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.settings import DomainSettings, HostSettings, Settings

GUIDE = Path("docs/guide.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
SECRET = "a-secret-of-the-documentation-0123456789"
TSIG_KEY = "YS1zZWNyZXQ="  # the one kind of secret with a form of its own
STEPS = 18


def aliases_of(model: Any) -> set[str]:
    return {str(field.alias) for field in model.model_fields.values()}


def with_secrets(value: Any) -> Any:
    """Encrypted values as the program gets them."""
    if isinstance(value, dict):
        if set(value) == {"secure"}:
            return SECRET
        return {key: TSIG_KEY if key == "dns_rfc2136_secret" else with_secrets(item)
                for key, item in value.items()}  # fmt: skip
    return value


def stack_with(snippet: dict[str, Any]) -> dict[str, Any]:
    """The smallest stack, with each key of the snippet where it belongs."""
    host = {"name": "smtp.example.com", "ipv4": "192.0.2.10", "ipv6": "2001:db8::10"}
    host["hostKey"] = yaml.safe_load(Path("tests/data/Pulumi.prod.yaml").read_text())["config"]["mailroom:hosts"][0][
        "hostKey"
    ]
    domain: dict[str, Any] = {"name": "example.com", "zoneId": "0123456789abcdef0123456789abcdef", "users": ["i"]}
    domain["aliases"] = {"i": ["someone@gmail.com"], "dmarc": ["someone@gmail.com"]}
    config: dict[str, Any] = {
        "mailroom:acme": {"email": "someone@gmail.com", "directory": "letsencrypt", "token": SECRET},
        "mailroom:passwords": {"i@example.com": SECRET},
        "cloudflare:apiToken": f"{SECRET}-of-the-operator",
    }
    for key, value in with_secrets(snippet).items():
        place = config if ":" in key else host if key in aliases_of(HostSettings) and key != "reloadHooks" else domain
        assert place is not domain or key in aliases_of(DomainSettings), f"no setting is called {key}"
        place[key] = value
    return {**config, "mailroom:hosts": [host], "mailroom:domains": [domain]}


def test_each_step_of_the_manual_way_has_its_numbered_heading() -> None:
    assert [int(number) for number in re.findall(r"^## (\d+)\. ", GUIDE, re.MULTILINE)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[snippet.split(":")[0] for snippet in SNIPPETS])
def test_settings_of_the_guide_are_taken_as_they_stand(snippet: str) -> None:
    config = stack_with(yaml.safe_load(snippet))
    Settings.load(config.get, "prod", config)
