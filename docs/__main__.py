"""Writes every document that is made: settings.md and the pictures."""

from __future__ import annotations

from pathlib import Path

from docs import pictures, settings_reference

HERE = Path(__file__).parent


def made() -> dict[Path, str]:
    """What each of them has to hold."""
    return {
        HERE / "settings.md": settings_reference.text(),
        **{record.with_suffix(".svg"): pictures.svg(record) for record in pictures.records()},
    }


if __name__ == "__main__":
    for path, text in made().items():
        path.write_text(text, encoding="utf-8")
