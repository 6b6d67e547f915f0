# SPDX-License-Identifier: MIT
"""Percentiles, medians and ratios."""

import pytest
from bench.statistic import median, paired_ratios, percentile, ratio
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (99, 99), (99.1, 100), (100, 100)]
)
def test_percentile_of_one_to_a_hundred_is_the_nearest_rank(percent: float, expected: float) -> None:
    """The p99 of a hundred latencies is the ninety-ninth, never a value that nobody saw."""
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_percentile_of_one_value_is_that_value() -> None:
    """One sample is its own p50 and p99."""
    assert percentile([7.5], 50) == percentile([7.5], 99) == 7.5


def test_percentile_of_nothing_is_refused() -> None:
    """No figure is invented where nothing was measured."""
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@given(st.lists(st.floats(0, 1e9), min_size=1), st.floats(0, 100))
def test_percentile_is_a_seen_value_that_enough_others_do_not_exceed(values: list[float], percent: float) -> None:
    """Whatever was measured, at least that part of it is no slower."""
    found = percentile(values, percent)

    assert found in values
    assert sum(value <= found for value in values) >= percent / 100 * len(values) - 1e-9 * len(values)


def test_median_leaves_out_what_is_not_known() -> None:
    """A round without a figure does not pull the median down."""
    assert median([3.0, None, 1.0, 2.0]) == 2.0
    assert median([1.0, 2.0]) == 1.5
    assert median([None]) is None


def test_ratio_is_unknown_where_either_is() -> None:
    """No ratio to nothing."""
    assert ratio(6.0, 2.0) == 3.0
    assert ratio(None, 2.0) is None
    assert ratio(6.0, None) is None
    assert ratio(6.0, 0.0) is None


def test_paired_ratios_take_only_rounds_that_both_have() -> None:
    """A round in which Postfix failed is compared with nothing."""
    assert paired_ratios({1: 4.0, 2: 9.0, 3: 5.0}, {1: 2.0, 3: 1.0, 4: 8.0}) == [2.0, 5.0]
