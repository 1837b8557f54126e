"""The one exception a person sees from the lab; its text says what is wrong and what to do."""

from __future__ import annotations


class LabError(Exception):
    """Something the lab cannot go on with; `str()` is the whole message, no traceback is needed."""
