"""What scripts/setup.sh prepares for a target is what the target's tests need."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]
RECIPES = dict(re.findall(r"(?m)^([a-z-]+):.*\n((?:\t.*\n)+)", (CHECKOUT / "Makefile").read_text()))
SCRIPT = (CHECKOUT / "scripts" / "setup.sh").read_text()


def test_a_target_that_runs_tests_of_the_lab_prepares_the_policies_that_previews_there_are_judged_by() -> None:
    (without,) = re.findall(r'(?m)^\[ "\$\{1:-setup\}" = (\S+) \] \|\| make_venv policy/\.venv ', SCRIPT)
    modes = {
        target: re.findall(r"scripts/setup\.sh (\S+)", recipe)
        for target, recipe in RECIPES.items()
        if re.search(r"pytest .*\btests/lab\b", recipe)
    }
    assert modes == {"test": ["test"], "preview-check": ["preview-check"]}
    assert [without] not in modes.values()
