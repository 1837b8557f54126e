#!/usr/bin/env python3
"""Write what the program and its server are made of (CycloneDX 1.6, JSON); `make sbom` installs the tools first."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scripts.interpreter  # noqa: F401  (first: what follows needs the checkout's packages)
from components.chasquid.build import BuildError
from operations import sbom


def main() -> int:
    """0 when every file was written and is valid, 1 when a tool failed."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="exit status: 0 all written, 1 a tool failed")
    parser.add_argument(
        "--output", type=Path, default=Path("build/sbom"), metavar="FOLDER", help="where to; default: build/sbom"
    )
    parser.add_argument("--arch", action="append", choices=["amd64", "arm64"], help="server's processor; default: both")
    chosen = parser.parse_args()
    try:
        written = sbom.write(chosen.output, chosen.arch or ["amd64", "arm64"])
    except (BuildError, sbom.SbomError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(*written, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
