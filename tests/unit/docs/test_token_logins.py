"""The arithmetic of the benchmark that compares logins by password and by token."""

from __future__ import annotations

import pytest

from bench.token_logins import Rates


def test_the_ratio_is_of_messages_over_time_not_of_the_turns() -> None:
    rates = Rates(password=[10.0, 30.0], token=[60.0, 60.0])
    assert rates.ratio == pytest.approx(60 / 15)
    assert "  password 15.0" in rates.lines()


def test_a_token_that_is_no_faster_has_the_ratio_1() -> None:
    assert Rates(password=[5.0], token=[5.0]).ratio == 1.0
