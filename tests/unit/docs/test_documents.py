"""README.md and docs/: every link leads somewhere, every command is one that there is, every piece of YAML is taken."""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING

import pytest
import yaml

from components.host.systems import SUPPORTED
from components.settings import Settings
from docs.__main__ import made
from docs.settings_reference import anchor
from lab.base import SUITES
from tests.unit.docs.commands import CHECKOUT, blocks, commands, parse, plain
from tests.unit.docs.test_guide import stack_with

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENTS = [CHECKOUT / "README.md", CHECKOUT / "policy/README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(CHECKOUT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}
LINES = sorted({(name, line) for name, text in TEXTS.items() for block in blocks(text) for line in block.lines})
BLOCKS = re.compile(r"```.*?```", re.DOTALL)
INLINE = sorted({
    (name, " ".join(code.split()))
    for name, text in TEXTS.items()
    for code in re.findall(r"`((?:scripts/\w+\.py|make|pulumi) [^`]+)`", BLOCKS.sub("", text))
})  # fmt: skip
LINKS = sorted({(name, link) for name, text in TEXTS.items() for link in re.findall(r"\]\(([^)\s]+)\)", text)})
SNIPPETS = [(name, snippet) for name in ("README.md", "docs/operations.md", "docs/faq.md", "docs/architecture.md")
            for snippet in re.findall(r"```yaml\n(.*?)```", TEXTS[name], re.DOTALL)]  # fmt: skip
TARGETS = set(re.findall(r"(?m)^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8")))
BOOTED = {"bookworm": "Debian 12", "trixie": "Debian 13"}
PULUMI = {"cancel", "config", "destroy", "import", "login", "preview", "refresh", "stack", "state", "up"}


@pytest.mark.parametrize(("name", "line"), LINES)
def test_each_command_of_a_block_is_one_that_there_is(name: str, line: str) -> None:
    for words in map(plain, commands(line)):
        program = words[0] if words else ""
        if program.startswith("scripts/"):
            assert (CHECKOUT / program).stat().st_mode & 0o111, f"{name}: {program} cannot be run"
            parse(program, words[1:])
        elif program == "make":
            assert set(words[1:]) <= TARGETS, name
        elif program == "pulumi":
            assert words[1] in PULUMI, name
        elif program.endswith("python") and words[1] == "-m":
            assert importlib.util.find_spec(words[2]), name


def test_an_option_that_a_script_does_not_have_would_be_found() -> None:
    with pytest.raises(SystemExit):
        parse("scripts/status.py", ["--stack", "prod", "--folow"])
    assert "--folow" not in parse("scripts/status.py", None)


@pytest.mark.parametrize(("name", "code"), INLINE)
def test_each_command_in_a_sentence_has_the_options_it_names(name: str, code: str) -> None:
    program, *rest = code.partition(" | ")[0].split()
    if program in {"make", "pulumi"}:
        assert rest[0] in (TARGETS if program == "make" else PULUMI), name
        return
    assert {word for word in rest if word.startswith("--")} <= parse(program, None), name


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


def test_each_block_of_operations_names_tests_that_there_are() -> None:
    found = blocks(TEXTS["docs/operations.md"])
    assert len(found) > 8
    for block in found:
        assert block.tests, block.lines
        assert [test for test in block.tests if not (CHECKOUT / test).is_file()] == []


def test_what_the_readme_says_to_type_is_typed_by_the_tests_of_guide_and_operations() -> None:
    def kinds(*names: str) -> set[str]:
        lines = (line for name in names for block in blocks(TEXTS[name]) for line in block.lines)
        words = (plain(list(each)) for line in lines for each in commands(line))
        return {" ".join(each[:2]) if each[0] in {"pulumi", "make"} else each[0] for each in words if each}

    assert kinds("README.md") - kinds("docs/guide.md", "docs/operations.md") == {"make up", "make test"}
