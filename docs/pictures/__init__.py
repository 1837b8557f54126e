"""Pictures of a terminal, drawn from what commands really printed: records of runs, `*.txt` with their colours.

How a record is made anew: `COLUMNS=100 FORCE_COLOR=1 PULUMI_OPTION_COLOR=always make up >run.txt`. A record leaves out
what a terminal overwrites (`creating`, `updating`) and says with `...` where it leaves out more.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

HERE: Final = Path(__file__).parent
WIDTH: Final = 110  # columns
# A picture loads nothing from elsewhere: the reader's own font is good enough.
FORMAT: Final = re.sub(r"@font-face {{.*?}}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def records() -> list[Path]:
    """Every record of a run; its first line is the picture's title."""
    return sorted(HERE.glob("*.txt"))


def svg(record: Path) -> str:
    """The picture of a record."""
    title, _, said = record.read_text(encoding="utf-8").partition("\n")
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(said.rstrip("\n")))
    return console.export_svg(title=title, code_format=FORMAT, unique_id=record.stem)
