"""The script that makes hashes and tokens: only a hash on stdout, the password nowhere."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest

from scripts import hash_password
from standards import passwords

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., tuple[int, str, str]]


class Terminal(io.StringIO):
    """A standard input that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str, stdin: str = "", typed: tuple[str, ...] = ()) -> tuple[int, str, str]:
        answers = iter(typed)
        monkeypatch.setattr(sys, "stdin", Terminal() if typed else io.StringIO(stdin))
        monkeypatch.setattr(sys, "argv", ["hash_password.py", *arguments])
        monkeypatch.setattr(hash_password.getpass, "getpass", lambda _: next(answers))
        status = hash_password.main()
        return status, *capsys.readouterr()

    return call


def is_hash_of(text: str, password: str) -> bool:
    made = passwords.parse(text)
    return passwords.scrypt_hash(password, made.salt) == made


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\nanother line\n"])
def test_a_password_from_standard_input_gives_its_hash_alone(run: Run, end: str) -> None:
    status, out, err = run(stdin=f"correct horse battery{end}")
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert is_hash_of(out, "correct horse battery")


def test_a_typed_password_is_asked_for_twice(run: Run) -> None:
    status, out, _ = run(typed=("correct horse battery",) * 2)
    assert status == 0
    assert is_hash_of(out, "correct horse battery")
    status, out, err = run(typed=("correct horse battery", "correct horse batter"))
    assert (status, out) == (2, "")
    assert "the two differ" in err


def test_a_short_password_is_hashed_with_a_warning(run: Run) -> None:
    status, out, err = run(stdin="elevenchars")
    assert (status, is_hash_of(out, "elevenchars")) == (1, True)
    assert "fewer than 12 characters" in err


@pytest.mark.parametrize(
    "wrong",
    ["", " leading", "nul\0inside", "no text \udcff", "$scrypt$ln=15", f"$scrypt$ln=14,r=8,p=1${'A' * 22}${'A' * 43}"],
)
def test_what_is_no_password_gives_no_hash_and_is_not_repeated(run: Run, wrong: str) -> None:
    status, out, err = run(stdin=wrong)
    assert (status, out) == (2, "")
    assert not wrong or wrong not in err


def test_a_token_is_shown_once_for_a_person_and_its_cheap_hash_is_for_the_pipe(run: Run) -> None:
    status, out, err = run("--token")
    token = err.split()[-1]
    assert status == 0
    assert passwords.is_token(token)
    assert token not in out
    assert is_hash_of(out, token)
    assert token != run("--token")[2].split()[-1]


def test_no_argument_takes_a_password(run: Run) -> None:
    with pytest.raises(SystemExit) as end:
        run("correct horse battery")
    assert end.value.code == 2
