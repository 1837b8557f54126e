"""The arithmetic of the benchmark that judges what a run costs beside an empty program."""

from __future__ import annotations

import pytest

from bench.run_cost import ALLOWED, Comparison


def test_the_ratio_is_of_the_runs_of_one_pair_so_that_a_busy_moment_slows_down_both() -> None:
    assert Comparison().ratio([(1.0, 1.5), (10.0, 15.0), (2.0, 8.0)]) == pytest.approx(1.5)


@pytest.mark.parametrize(("wall", "processor", "is_too_dear"), [(2.0, 2.0, False), (2.1, 1.0, True), (1.0, 2.1, True)])
def test_neither_time_nor_processor_may_cost_more_than_twice_an_empty_program(
    wall: float, processor: float, *, is_too_dear: bool
) -> None:
    assert ALLOWED == 2.0
    found = Comparison(wall=[(1.0, wall)], processor=[(1.0, processor)])
    assert found.is_too_dear is is_too_dear
    assert f"ratio {processor:.2f} (at most 2.0)" in found.lines()[1]
