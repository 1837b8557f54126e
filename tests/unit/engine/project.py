"""A small project for the real engine of this checkout, with a backend of its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from lab.engine import build

CHECKOUT = Path(__file__).parents[3]
PASSPHRASE = "not a secret"


def laid_out(folder: Path, name: str, program: str) -> tuple[str, dict[str, str]]:
    """Write the project; the engine's program, and the environment in which it finds everything there."""
    engine = build.find(CHECKOUT)
    runtime = {"name": "python", "options": {"toolchain": "pip", "virtualenv": sys.prefix}}
    (folder / "Pulumi.yaml").write_text(json.dumps({"name": name, "runtime": runtime}))
    (folder / "__main__.py").write_text(program)
    (folder / "state").mkdir()
    own = {"PULUMI_BACKEND_URL": f"file://{folder / 'state'}", "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE}
    return str(engine.pulumi), {**os.environ, **engine.environment(), **own}
