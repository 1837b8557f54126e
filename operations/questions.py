"""Asks a person for what the command line left out; without a person every missing or wrong answer is told at once."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standards.finding import Finding, Invalid, Problems, error_about

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Question:
    """`flag` is its name on the command line; `check` gives the canonical answer or raises `Invalid`.

    Without a `default` it has to be answered; "" as the default means that it may stay empty.
    """

    flag: str
    text: str
    check: Callable[[str], str]
    default: Callable[[Mapping[str, str]], str | None] = lambda _: None
    is_secret: bool = False
    example: str = ""


def ask(questions: Sequence[Question], given: Mapping[str, str | None], *, interactive: bool) -> dict[str, str]:
    """An answer for each question by its flag. Raises `Problems` for what nobody is there to correct."""
    answers: dict[str, str] = {}
    findings: list[Finding] = []
    for question in questions:
        told = given.get(question.flag)
        try:
            if told is not None:
                answers[question.flag] = question.check(told) if told else _empty(question, answers)
            elif interactive:
                answers[question.flag] = _until_usable(question, answers)
            else:
                answers[question.flag] = _default(question, answers)
        except Invalid as invalid:
            findings.append(invalid.at(f"--{question.flag}"))
    if findings:
        raise Problems("some answers are missing or cannot be used; nothing was written", findings)
    return answers


def _default(question: Question, answers: Mapping[str, str]) -> str:
    value = question.default(answers)
    if value is None:
        raise _missing(question)
    return question.check(value) if value else ""


def _empty(question: Question, answers: Mapping[str, str]) -> str:
    if question.default(answers) != "":
        raise _missing(question)
    return ""


def _missing(question: Question) -> Invalid:
    return Invalid(
        "it is missing",
        id="answer-missing",
        expected=f"{question.text}, such as {question.example}" if question.example else question.text,
        fix=f"give --{question.flag}{'-file with a file that holds it' if question.is_secret else ''}, "
        "or run this in a terminal and answer",
    )


def _until_usable(question: Question, answers: Mapping[str, str]) -> str:
    """Ask again until the answer can be used; Ctrl-C ends it."""
    default = question.default(answers)
    hint = f" [{default}]" if default else (" [none]" if default == "" else "")
    example = f", e.g. {question.example}" if question.example and not default else ""
    while True:
        prompt = f"{question.text}{example}{hint}: "
        told = (getpass.getpass(prompt) if question.is_secret else input(prompt)).strip()
        if not told and default is not None:
            return question.check(default) if default else ""
        try:
            return question.check(told)
        except Invalid as invalid:
            print(error_about("that", invalid.id, expected=invalid.expected, found=invalid.found, why="",
                              fix=invalid.fix))  # fmt: skip
