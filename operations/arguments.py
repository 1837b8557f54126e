"""Values on the command line, judged before anything is done and refused in argparse's words, with an example."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import TYPE_CHECKING, TypeVar

from standards.finding import Invalid
from standards.names import shown

if TYPE_CHECKING:
    from collections.abc import Callable

Number = TypeVar("Number", int, float)


def checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """A check of ours, which raises `Invalid`, as the `type` of an argument."""

    def convert(text: str) -> str:
        try:
            return check(text)
        except Invalid as invalid:
            raise ArgumentTypeError(str(invalid)) from None

    return convert


def within(kind: type[Number], lowest: Number, highest: Number, example: Number) -> Callable[[str], Number]:
    """A number of this kind between two, both included, as the `type` of an argument."""

    def convert(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not lowest <= value <= highest:
            raise ArgumentTypeError(f"{shown(text)} cannot be used; expected {lowest} to {highest}, such as {example}")
        return value

    return convert
