"""The action that sets a job's machine up: what it asks of others, and that its own step installs what a job needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import yaml

from lab.engine import pins

CHECKOUT = Path(__file__).parents[3]
USED, ENGINE, RUN = yaml.safe_load((CHECKOUT / ".github/actions/setup/action.yml").read_text())["runs"]["steps"]
PYTHON = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
FILES = ("scripts/setup.sh", "requirements.txt", "policy/requirements.txt", "requirements-go.in", "requirements-go.txt")
# A Python whose environments write down what they are asked to do.
RECORDER = r"""#!/bin/sh
mkdir -p "$3/bin"
printf '#!/bin/sh\necho "$0 $*" >>"$CALLS"\n' | tee "$3/bin/pip" >"$3/bin/python"
chmod +x "$3/bin/pip" "$3/bin/python"
"""


def test_python_is_the_oldest_that_the_project_runs_on() -> None:
    assert USED["uses"].startswith("actions/setup-python@")
    assert USED["with"] == {"python-version": PYTHON}


def test_the_engine_is_installed_and_nothing_more_and_is_the_one_that_the_project_pins_and_requires() -> None:
    required = yaml.safe_load((CHECKOUT / "Pulumi.yaml").read_text())["requiredPulumiVersion"]
    assert ENGINE["uses"].startswith("pulumi/actions@")
    assert ENGINE["with"] == {"pulumi-version": pins.ENGINE}  # with a `command` it would run the program
    assert required == f">={pins.ENGINE}"


def test_its_step_installs_what_the_program_needs_and_builds_for_either_host(tmp_path: Path) -> None:
    """Run by somebody who is not root, whom every other mode of the script refuses, where nothing is installed."""
    programs, checkout, calls = tmp_path / "bin", tmp_path / "checkout", tmp_path / "calls"
    for name in FILES:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, checkout / name)
    programs.mkdir()
    for name, text in {"id": "#!/bin/sh\necho 1001\n", f"python{PYTHON}": RECORDER}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path), "CALLS": str(calls)}
    done = subprocess.run(
        [RUN["shell"], "-eo", "pipefail", "-c", RUN["run"]],
        cwd=checkout, env=variables, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked, go = [line.split() for line in calls.read_text().splitlines()], f"{tmp_path}/mailroom/go-{pins.GO}/bin"
    told = {"-r", "--arch", "--go"}
    assert [(program, [value for flag, value in pairwise(words) if flag in told]) for program, *words in asked] == [
        (".venv/bin/pip", ["requirements.txt"]),
        ("policy/.venv/bin/pip", ["policy/requirements.txt"]),
        (f"{go}/pip", ["requirements-go.txt"]),
        (".venv/bin/python", ["amd64", f"{go}/go"]),
        (".venv/bin/python", ["arm64", f"{go}/go"]),
    ]
