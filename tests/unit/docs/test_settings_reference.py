"""docs/settings.md is what the models say now, and each example in it is taken as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from components.settings import CloudflareSettings, Options, Settings
from docs import settings_reference
from tests.unit.docs.test_guide import aliases_of, stack_with

TEXT = Path("docs/settings.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
BASE = stack_with({})
SECRET = "a-secret-of-the-documentation-0123456789"


def private_key() -> str:
    made = generate_private_key(public_exponent=65537, key_size=2048)
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


# What a secret has to look like; all others are any text.
FORMS = {
    "cloudflare:apiToken": f"{SECRET}-of-the-operator",
    "mailroom:dkimKeys": private_key(),
    "mailroom:sshPrivateKey": "-----BEGIN OPENSSH PRIVATE KEY-----\nA",
}


def whole(value: Any, secret: Any) -> Any:
    """An example with what it leaves out: the rest of a host key, the secrets."""
    if isinstance(value, dict):
        if set(value) == {"secure"}:
            return secret
        return {key: whole(item, secret) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item, secret) for item in value]
    return BASE["mailroom:hosts"][0]["hostKey"] if str(value).startswith("ssh-ed25519 ") else value


def test_the_reference_is_what_the_models_say() -> None:
    assert settings_reference.text() == TEXT, "run `make docs` and commit what it writes"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split(": ")[0].split("\n")[0])
def test_each_example_is_taken_as_it_stands(example: str) -> None:
    key, value = next(iter(yaml.safe_load(example).items()))
    config = {**BASE, key: whole(value, FORMS.get(key, SECRET))}
    if key in {"mailroom:contabo", "mailroom:hetzner"}:
        config["mailroom:hosts"] = [{**BASE["mailroom:hosts"][0], "reverseDns": {"provider": key.partition(":")[2]}}]
    Settings.load(config.get, "prod", config)


def test_each_key_of_the_file_has_a_section_with_an_example() -> None:
    keys = {*settings_reference.LISTS, "mailroom:acme", *(f"mailroom:{name}" for name in aliases_of(Options)),
            *(f"cloudflare:{name}" for name in aliases_of(CloudflareSettings))}  # fmt: skip
    assert set(re.findall(r"(?m)^## (\S+:\S+)$", TEXT)) == keys
    assert {example.split(":", 2)[0] + ":" + example.split(":", 2)[1] for example in EXAMPLES} == keys


def test_each_secret_is_stored_by_a_command_that_hides_it() -> None:
    listed = re.findall(r"(?m)^- `pulumi config set -s prod --secret (?:--path )?'?([^'`]+)'?`$", TEXT)
    for name in ("cloudflare:apiToken", "mailroom:acme.token", 'mailroom:passwords["i@example.com"]',
                 "mailroom:sshPrivateKey", "mailroom:contabo.apiPassword", "mailroom:hetzner.token"):  # fmt: skip
        assert name in listed
