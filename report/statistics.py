"""Means, their errors, and the interval of a paired difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

LEVEL = 0.95  # of intervals


class Interval(NamedTuple):
    """The two-sided t-interval of a mean."""

    low: float
    high: float


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean: standard deviation (n - 1) over the root of n. None below two values."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def t_quantile(degrees: int, level: float = LEVEL) -> float:
    """The t within which a Student's t of `degrees` of freedom falls with probability `level`, on both sides of 0."""
    from scipy.special import stdtrit  # here: half a second, that a process which asks for no verdict need not wait

    return float(stdtrit(degrees, (1 + level) / 2))


def t_interval(differences: Sequence[float], level: float = LEVEL) -> Interval | None:
    """mean ± t(n - 1) · sd / √n of paired differences. None below two."""
    error = standard_error(differences)
    if error is None:
        return None
    mean, reach = fmean(differences), t_quantile(len(differences) - 1, level) * error
    return Interval(mean - reach, mean + reach)


def pairs_needed(mean: float, deviation: float, most: int) -> int | None:
    """The smallest n with t(n - 1) · deviation / √n < |mean|: so many pairs show a difference of this size, should
    the further ones scatter as those so far. None: more than `most`.
    """
    low, high = 2, most + 1  # t / √n falls with n, so the first that fits is found by halving
    while low < high:
        middle = (low + high) // 2
        if t_quantile(middle - 1) * deviation / math.sqrt(middle) < abs(mean):
            high = middle
        else:
            low = middle + 1
    return low if low <= most else None
