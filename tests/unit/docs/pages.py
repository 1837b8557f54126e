"""The pages, and every command in them: of blocks, and of sentences."""

from __future__ import annotations

from tests.unit.docs.commands import CHECKOUT, blocks, spans

DOCUMENTS = [CHECKOUT / "README.md", CHECKOUT / "policy/README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(CHECKOUT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}
LINES = sorted({(name, line) for name, text in TEXTS.items() for block in blocks(text) for line in block.lines})
INLINE = sorted({(name, code) for name, text in TEXTS.items() for code in spans(text)})


def everywhere(*starts: str) -> list[str]:
    """Every command of the pages that begins so, in a block or in a sentence; there is one for each start."""
    lines = {line for _, line in LINES + INLINE}
    assert not (gone := [start for start in starts if not any(line.startswith(start) for line in lines)]), gone
    return sorted(line for line in lines if line.startswith(starts))
