"""The same labs and machines as in tests/lab."""

from __future__ import annotations

from tests.lab.conftest import lab, lab_name, vps

__all__ = ["lab", "lab_name", "vps"]
