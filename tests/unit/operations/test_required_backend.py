"""A stack that names its backend is refused in every other one, however the two are written."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from operations import backend
from standards.finding import Problems

if TYPE_CHECKING:
    from pathlib import Path


def environment(home: Path, url: str = "") -> dict[str, str]:
    return {"HOME": str(home), **({"PULUMI_BACKEND_URL": url} if url else {})}


def login(home: Path, url: str, folder: str = ".pulumi") -> None:
    file = home / folder / "credentials.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"current": url, "accessTokens": {url: "CANARY"}}))


@pytest.mark.parametrize(
    ("required", "used"),
    [
        ("s3://state", "s3://state/"),
        ("s3://state", "s3://state?region=eu-central-1&awssdk=v2"),
        ("s3://state?endpoint=s3.example.net", "s3://state?endpoint=s3.example.net&region=x"),
        ("azblob://state?storage_account=a", "azblob://state?storage_account=a&protocol=https"),
        ("azblob://state?domain=blob.core.windows.net", "azblob://state"),
        ("https://api.pulumi.com", "https://api.pulumi.com/"),
        ("https://api.pulumi.com", "https://you@api.pulumi.com:443"),
        ("file://~", "file://HOME"),
        ("file://", "file://~"),
        ("file://~/state", "file://HOME/state/?metadata=skip"),
        ("file://HOME/link", "file://HOME/state"),
    ],
)
def test_two_ways_to_write_one_backend_are_the_same(required: str, used: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "state")
    required, used = (url.replace("HOME", str(tmp_path)) for url in (required, used))
    backend.require(required, "prod", environment(tmp_path, used))
    backend.require(used, "prod", environment(tmp_path, required))


@pytest.mark.parametrize(
    ("required", "used"),
    [
        ("s3://state", "s3://other"),
        ("s3://state/prod", "s3://state/staging"),
        (
            "s3://state?region=eu-central-1&endpoint=s3.example.net&s3ForcePathStyle=true&awssdk=v2",
            "s3://state?use_path_style=true&disableSSL=true&metadata=skip",
        ),
        ("azblob://state?domain=blob.example.net", "azblob://state"),
        ("s3://state", "gs://state"),
        ("s3://state?endpoint=a.example.net", "s3://state?endpoint=b.example.net"),
        ("azblob://state?storage_account=a", "azblob://state?storage_account=b"),
        ("azblob://state?storage_account=a", "azblob://state"),
        ("azblob://state?storage_account=a", "azblob://state?storage_account=a&domain=blob.example.net"),
        ("azblob://state?storage_account=a&domain=blob.example.net", "azblob://state?storage_account=a"),
        ("https://pulumi.internal:8443", "https://pulumi.internal:9443"),
        ("https://pulumi.internal", "https://pulumi.internal:8443"),
        ("s3://state", "file://~"),
        ("file://~/state", "file://~/State"),
        ("file:///srv/~", "file://~"),
    ],
)
def test_another_backend_is_refused_and_the_way_on_is_told(required: str, used: str, tmp_path: Path) -> None:
    with pytest.raises(Problems, match="stack prod is kept elsewhere; nothing was changed") as refused:
        backend.require(required, "prod", environment(tmp_path, used))
    (finding,) = refused.value.findings
    assert (finding.expected, finding.found.split()[-1]) == (f"the backend {required}", used)
    assert finding.fix.startswith(f"`export PULUMI_BACKEND_URL={shlex.quote(required)}`")


def test_an_account_of_the_environment_is_the_one_that_a_url_leaves_out(tmp_path: Path) -> None:
    used = environment(tmp_path, "azblob://state")
    backend.require("azblob://state?storage_account=a", "prod", used | {"AZURE_STORAGE_ACCOUNT": "a"})
    with pytest.raises(Problems, match="kept elsewhere"):
        backend.require("azblob://state?storage_account=a", "prod", used | {"AZURE_STORAGE_ACCOUNT": "b"})


def test_the_project_goes_before_the_login_and_the_environment_before_both(tmp_path: Path) -> None:
    project = tmp_path / "Pulumi.yaml"
    login(tmp_path, "s3://login")
    project.write_text("name: mailroom\nbackend: {url: s3://project}\n")
    assert backend.in_use(environment(tmp_path), project) == "s3://project"
    assert backend.in_use(environment(tmp_path, "s3://exported"), project) == "s3://exported"


@pytest.mark.parametrize(
    "text", ["name: mailroom", "backend: {}", "backend: {url: ''}", "backend: {url: }", "backend: s3://x", "a: [", ""]
)
def test_a_project_without_a_backend_leaves_it_to_the_login(text: str, tmp_path: Path) -> None:
    project = tmp_path / "Pulumi.yaml"
    login(tmp_path, "s3://login")
    project.write_text(text)
    assert backend.in_use(environment(tmp_path), project) == "s3://login"


def test_a_login_counts_where_nothing_is_exported(tmp_path: Path) -> None:
    login(tmp_path, "s3://other")
    with pytest.raises(Problems, match="this run keeps its state in s3://other") as refused:
        backend.require("s3://state", "prod", environment(tmp_path))
    assert "CANARY" not in str(refused.value)
    backend.require("s3://state", "prod", environment(tmp_path, "s3://state"))


@pytest.mark.parametrize("variable", ["PULUMI_HOME", "PULUMI_CREDENTIALS_PATH"])
def test_a_login_is_found_where_pulumi_keeps_it(variable: str, tmp_path: Path) -> None:
    login(tmp_path, "s3://other")
    login(tmp_path, "s3://state", "elsewhere")
    assert backend.in_use({"HOME": str(tmp_path), variable: str(tmp_path / "elsewhere")}) == "s3://state"


def test_no_word_is_said_where_no_backend_is_required_or_none_is_known(tmp_path: Path) -> None:
    backend.require(None, "prod", environment(tmp_path, "s3://other"))
    backend.require("s3://state", "prod", environment(tmp_path))
    for text in ("", "[]", "{}", '{"current": ""}', '{"current": null}'):
        login(tmp_path, "x")
        (tmp_path / ".pulumi" / "credentials.json").write_text(text)
        backend.require("s3://state", "prod", environment(tmp_path))


def test_a_secret_in_a_url_is_not_shown(tmp_path: Path) -> None:
    one, other = "https://user:CANARY@pulumi.example.net?token=CANARY", "s3://state?region=x&hmac=CANARY#CANARY"
    for required, used in ((one, other), (other, one)):
        with pytest.raises(Problems) as refused:
            backend.require(required, "prod", environment(tmp_path, used))
        assert "https://pulumi.example.net" in str(refused.value)
        assert "s3://state?region=x" in str(refused.value)
        assert "CANARY" not in str(refused.value)
