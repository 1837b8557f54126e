"""docs/security.md promises nothing without a test."""

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
