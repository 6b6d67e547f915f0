# SPDX-License-Identifier: MIT
"""Percentiles, medians and ratios; pure."""

import math
import statistics
from collections.abc import Iterable, Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """Give the nearest-rank percentile: the least value that at least `percent` of the values do not exceed.

    Raises: ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(1, rank) - 1]


def median(values: Iterable[float | None]) -> float | None:
    """Give the median of the values that are there, None if none is."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def ratio(a: float | None, b: float | None) -> float | None:
    """Give a / b, None if either is unknown or b is 0."""
    return a / b if a is not None and b else None


def paired_ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Give ours / theirs for each round in which both have a figure, by round."""
    return [ours[n] / theirs[n] for n in sorted(ours.keys() & theirs.keys()) if theirs[n]]
