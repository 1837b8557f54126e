"""The arithmetic of the benchmark that judges what the sender policy costs."""

from __future__ import annotations

import pytest

from bench.hook_cost import Comparison, percentile


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.0),
        ([7.0], 99, 7.0),
        (list(range(1, 101)), 50, 50),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 301)), 99, 297),
    ],
)
def test_a_percentile_is_the_value_that_so_many_do_not_exceed(
    values: list[float], percent: int, expected: float
) -> None:
    assert percentile(values, percent) == expected


def test_the_cost_is_the_difference_of_the_percentiles() -> None:
    comparison = Comparison(1, without=[10.0] * 98 + [20.0] * 2, hooked=[16.0] * 98 + [50.0] * 2)
    assert (comparison.added(50), comparison.added(99)) == (6.0, 30.0)


def test_pairs_are_compared_before_their_median_is_taken() -> None:
    comparison = Comparison(1, without=[1.0, 100.0, 10.0], hooked=[5.0, 101.0, 12.0])
    assert comparison.paired == 2.0
    assert comparison.added(50) == 2.0
    crossed = Comparison(1, without=[1.0, 2.0, 3.0], hooked=[3.0, 1.0, 2.0])
    assert (crossed.paired, crossed.added(50)) == (-1.0, 0.0)


def test_measurements_without_a_partner_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        _ = Comparison(1, without=[1.0], hooked=[1.0, 2.0]).paired


@pytest.mark.parametrize(
    ("typical", "worst", "is_too_dear"), [(15.0, 40.0, False), (15.1, 15.1, True), (15.0, 40.1, True)]
)
def test_the_hook_may_add_15_ms_to_half_of_all_messages_and_40_to_all_but_one_in_a_hundred(
    *, typical: float, worst: float, is_too_dear: bool
) -> None:
    comparison = Comparison(8, without=[0.0] * 100, hooked=[typical] * 98 + [worst] * 2)
    assert comparison.is_too_dear is is_too_dear
