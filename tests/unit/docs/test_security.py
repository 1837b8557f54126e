"""docs/security.md promises nothing without a test, and tells nobody to run what does not exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
TEXT = (CHECKOUT / "docs/security.md").read_text()
CLAIMS, PROOFS = TEXT.split("\n## Proofs\n")
LABELS = {
    label: re.findall(r"`([^`]+::[^`]+)`", tests)
    for label, tests in re.findall(r"(?ms)^- `([a-z-]+)`:(.*?)(?=^- |\Z)", PROOFS)
}


def rows() -> list[list[str]]:
    """Every row of a table of claims: its cells, the last of which names proofs."""
    found = []
    for table in re.findall(r"(?m)(?:^\|.*\n)+", CLAIMS):
        head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
        assert head[-1] == "Proof", head
        found += body
    return found


def test_each_claim_names_its_proofs() -> None:
    claims = rows()
    assert len(claims) > 50
    assert [row for row in claims if not re.fullmatch(r"`[a-z-]+`(, `[a-z-]+`)*", row[-1])] == []
    assert {label for row in claims for label in re.findall("[a-z-]+", row[-1])} <= set(LABELS)


def test_each_proof_is_used_and_has_tests() -> None:
    assert [label for label in LABELS if f"`{label}`" not in CLAIMS] == []
    assert [label for label, tests in LABELS.items() if not tests] == []


@pytest.mark.parametrize("named", sorted({named for tests in LABELS.values() for named in tests}))
def test_each_named_test_exists(named: str) -> None:
    file, _, name = named.partition("::")
    text = (CHECKOUT / file).read_text()
    if file.endswith(".smtp"):
        found = re.findall(r"(?m)^== (.+)$", text)
    else:
        found = [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
        assert name.startswith("test_")
    assert name in found


def commands(start: str) -> set[str]:
    """Commands between backticks that begin so."""
    return set(re.findall(rf"`({start}[^`]*)`", " ".join(CLAIMS.split())))


def test_each_script_that_is_named_exists_with_its_options() -> None:
    named = commands("scripts/")
    assert {command.split()[0] for command in named} >= {"scripts/suspend.py", "scripts/status.py"}
    for command in named:
        script, *options = command.split()
        code = (CHECKOUT / script).read_text()
        assert [option for option in options if option.startswith("--") and f'"{option}"' not in code] == [], command


def test_each_target_of_make_that_is_named_exists() -> None:
    targets = re.findall(r"(?m)^([a-z-]+):", (CHECKOUT / "Makefile").read_text())
    assert {command.split()[1] for command in commands("make ")} <= set(targets)


def test_each_pulumi_command_that_is_named_is_one_the_engine_has() -> None:
    known = {"up", "preview", "destroy", "config set", "stack change-secrets-provider"}
    named = {re.sub(r" (-|').*| passphrase.*", "", command.removeprefix("pulumi ")) for command in commands("pulumi ")}
    assert named <= known


def test_each_link_to_a_section_finds_it() -> None:
    heads = {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"(?m)^##+ (.+)$", TEXT)}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= heads
