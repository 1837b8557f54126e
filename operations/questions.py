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

    Without a `default` it has to be answered; "" as the default means that it may stay empty. `suits` raises
    `Invalid` for an answer that contradicts the ones before.
    """

    flag: str
    text: str
    check: Callable[[str], str]
    default: Callable[[Mapping[str, str]], str | None] = lambda _: None
    is_secret: bool = False
    example: str = ""
    suits: Callable[[str, Mapping[str, str]], None] = lambda _, __: None

    @property
    def option(self) -> str:
        """How it is answered on the command line: a secret stands in a file, which no process list shows."""
        return f"--{self.flag}{'-file' if self.is_secret else ''}"

    def judged(self, text: str, answers: Mapping[str, str]) -> str:
        """The canonical answer, empty where it may be; raises `Invalid`."""
        if not text:
            if self.default(answers) != "":
                raise _missing(self)
            return ""
        answer = self.check(text)
        self.suits(answer, answers)
        return answer


def ask(questions: Sequence[Question], given: Mapping[str, str | None], *, interactive: bool) -> dict[str, str]:
    """An answer for each question by its flag. Raises `Problems` for what nobody is there to correct."""
    answers: dict[str, str] = {}
    findings: list[Finding] = []
    for question in questions:
        told = given.get(question.flag)
        try:
            if told is None and interactive:
                answers[question.flag] = _until_usable(question, answers)
            else:
                answers[question.flag] = question.judged(
                    (question.default(answers) or "") if told is None else told, answers
                )
        except Invalid as invalid:
            findings.append(invalid.at(question.option))
    if findings:
        raise Problems("some answers are missing or cannot be used; nothing was written", findings)
    return answers


def _missing(question: Question) -> Invalid:
    return Invalid(
        "it is missing",
        id="answer-missing",
        expected=f"{question.text}, such as {question.example}" if question.example else question.text,
        fix=f"give {question.option}{' with a file that holds it' if question.is_secret else ''}, "
        "or answer in a terminal",
    )


def _until_usable(question: Question, answers: Mapping[str, str]) -> str:
    """Ask again until the answer can be used; Ctrl-C ends it."""
    default = question.default(answers)
    hint = f" [{default}]" if default else (" [none]" if default == "" else "")
    example = f", e.g. {question.example}" if question.example and not default else ""
    while True:
        prompt = f"{question.text}{example}{hint}: "
        told = (getpass.getpass(prompt) if question.is_secret else input(prompt)).strip()
        try:
            return question.judged(told or default or "", answers)
        except Invalid as invalid:
            print(error_about("that", invalid.id, expected=invalid.expected, found=invalid.found, why="",
                              fix=invalid.fix))  # fmt: skip
