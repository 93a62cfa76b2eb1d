"""The statistics against another's: scipy's own tests and quantiles."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest
from scipy import stats

from report import statistics

PAIRS = [
    ([0.31, 0.29, 0.35, 0.30], [0.25, 0.27, 0.30, 0.26]),
    ([0.10, 0.20], [0.11, 0.18]),
    ([0.5, 0.4, 0.3, 0.2, 0.1, 0.6, 0.7], [0.45, 0.44, 0.25, 0.22, 0.05, 0.61, 0.66]),
]


@pytest.mark.parametrize(("arm", "baseline"), PAIRS)
def test_the_interval_is_that_of_a_paired_t_test(arm: list[float], baseline: list[float]) -> None:
    differences = [one - other for one, other in zip(arm, baseline, strict=True)]
    interval = statistics.t_interval(differences)
    assert interval is not None
    expected = stats.ttest_rel(arm, baseline).confidence_interval(0.95)
    assert interval == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert statistics.standard_error(differences) == pytest.approx(stats.sem(differences), rel=1e-12)


def test_one_value_has_no_error() -> None:
    assert statistics.standard_error([0.3]) is None
    assert statistics.t_interval([0.3]) is None
    assert statistics.t_interval([]) is None


@pytest.mark.parametrize(("mean", "deviation"), [(0.01, 0.02), (-0.01, 0.02), (0.01, 0.001), (0.02, 0.3), (0.001, 0.0)])
def test_so_many_pairs_are_needed_and_no_fewer(mean: float, deviation: float) -> None:
    needed = statistics.pairs_needed(mean, deviation, 1000)

    def shows(n: int) -> bool:
        return bool(stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n) < abs(mean))

    assert needed == next(n for n in range(2, 1001) if shows(n))


def test_beyond_the_bound_it_is_not_said() -> None:
    assert statistics.pairs_needed(0.001, 0.1, 1000) is None
    assert statistics.pairs_needed(0.0, 0.1, 1000) is None
    needed = statistics.pairs_needed(0.01, 0.02, 1000)
    assert needed is not None
    assert statistics.pairs_needed(0.01, 0.02, needed) == needed
    assert statistics.pairs_needed(0.01, 0.02, needed - 1) is None


def test_pairs_that_are_repeated_as_often_as_needed_show_their_difference() -> None:
    """The promise of `pairs_needed` on data with about this scatter."""
    differences = [0.03, -0.01, 0.02, -0.02, 0.03]
    needed = statistics.pairs_needed(fmean(differences), stdev(differences), 1000)
    assert needed is not None
    more = differences * math.ceil(needed / len(differences) + 1)
    interval = statistics.t_interval(more)
    assert interval is not None
    assert interval.low > 0
