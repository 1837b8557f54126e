"""README.md and docs/: every link leads somewhere, every command is one that there is, every piece of YAML is taken."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from components.host.systems import SUPPORTED
from components.settings import Settings
from docs.__main__ import made
from docs.settings_reference import anchor
from lab.base import SUITES
from tests.unit.docs.commands import BLOCKS, CHECKOUT, check, commands
from tests.unit.docs.pages import INLINE, LINES, TEXTS
from tests.unit.docs.test_guide import stack_with

if TYPE_CHECKING:
    from pathlib import Path

LINKS = sorted({(name, link) for name, text in TEXTS.items() for link in re.findall(r"\]\(([^)\s]+)\)", text)})
KEYS = sorted({(name, key, inner) for name, text in TEXTS.items()
               for key, inner in re.findall(r"\b((?:mailroom|cloudflare):[A-Za-z]\w*)(?:\.(\w+))?", text)})  # fmt: skip
LISTED = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=CHECKOUT,
                        capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
FILES = {path.rpartition("/")[2] for path in LISTED}
# What looks like a file and is none of this checkout.
NO_FILES = {"ORGANIZATION/mailroom/prod", "organization/", "Europe/Berlin", "policy.json"}
PATHS = sorted({
    (name, path)
    for name, text in TEXTS.items()
    for path in re.findall(r"`([\w.][\w.*-]*(?:/[\w.*/-]*|\.(?:go|json|md|py|sh|svg|toml|txt|ya?ml)))(?:::\w+)?`", text)
    if path not in NO_FILES
})  # fmt: skip
SNIPPETS = [(name, snippet) for name in ("README.md", "docs/operations.md", "docs/faq.md", "docs/architecture.md")
            for snippet in re.findall(r"```yaml\n(.*?)```", TEXTS[name], re.DOTALL)]  # fmt: skip
BOOTED = {"bookworm": "Debian 12", "trixie": "Debian 13"}


@pytest.mark.parametrize(("name", "line"), LINES + INLINE)
def test_each_command_is_one_that_there_is_with_options_that_it_has(name: str, line: str) -> None:
    for words in commands(line):
        check(words)


@pytest.mark.parametrize(
    "line",
    [
        "scripts/status.py --stack prod --folow",
        "scripts/gone.py --stack prod",
        "make dawn",
        "pulumi upp -s prod",
        "pulumi stack outputs -s prod",
        "pulumi up -s prod --refrsh",
        "pulumi stack rm prod -z",
        'echo "$(pulumi stack --show-urn)"',
        "scripts/suspend.py --stack prod",
        ".venv/bin/python -m components.chasquid.build --arc amd64 --go go",
        ".venv/bin/python -m bench.nothing",
    ],
)
def test_a_command_or_option_that_there_is_not_would_be_found(line: str) -> None:
    with pytest.raises((SystemExit, AssertionError, FileNotFoundError)):
        [check(words) for words in commands(line)]


@pytest.mark.parametrize(("name", "link"), LINKS)
def test_each_link_leads_somewhere(name: str, link: str) -> None:
    if link.startswith("https://"):
        return
    path, _, section = link.partition("#")
    target = ((CHECKOUT / name).parent / path).resolve() if path else CHECKOUT / name
    assert target.exists(), name
    if section:
        text = BLOCKS.sub("", target.read_text(encoding="utf-8"))
        assert section in {anchor(head) for head in re.findall(r"(?m)^#+ (.+)$", text)}, name


@pytest.mark.parametrize(("name", "snippet"), SNIPPETS)
def test_each_piece_of_settings_is_taken_as_it_stands(name: str, snippet: str) -> None:
    config = stack_with(yaml.safe_load(snippet))
    assert Settings.load(config.get, "prod", config), name


@pytest.mark.parametrize("path", sorted(made()), ids=lambda path: path.name)
def test_what_is_made_is_committed_as_it_is_made(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == made()[path], "run `make docs` and commit what it writes"


def test_a_picture_loads_nothing_and_shows_no_place_of_the_machine_it_was_made_on() -> None:
    for path in (CHECKOUT / "docs/pictures").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|href=[\"'])(?!#)|/tmp|/root|/home", text.replace('url("#', "url(#")), path.name


def test_the_readme_names_the_systems_that_no_test_boots() -> None:
    told = re.search(r"([^.;]+) are booted in the tests; (.+?) cannot be booted", " ".join(TEXTS["README.md"].split()))
    assert told
    booted, judged = (set(re.findall(r"\w+ \d+(?:\.\d+)?", part)) for part in told.groups())
    assert booted | judged == {known.name for known in SUPPORTED}
    assert booted == {BOOTED[suite] for suite in SUITES}
    ordered = "".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "tests/lab").glob("test_*.py"))
    assert all(f'suite="{suite}"' in ordered for suite in SUITES[1:]), "the first is the default"


@pytest.mark.parametrize(("name", "key", "inner"), KEYS)
def test_each_setting_that_is_named_is_one_that_there_is(name: str, key: str, inner: str) -> None:
    section = re.search(rf"(?ms)^## {key}$(.*?)(?=^## |\Z)", TEXTS["docs/settings.md"])
    assert section, name
    assert not inner or f"| `{inner}` |" in section[1], name


@pytest.mark.parametrize(("name", "path"), PATHS)
def test_each_file_that_is_named_is_one_that_there_is(name: str, path: str) -> None:
    assert any(CHECKOUT.glob(path)) if "/" in path else path in FILES, name
