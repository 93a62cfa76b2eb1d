"""What is said of an arm, and what never is."""

from __future__ import annotations

import pytest

from report.verdict import compare, judge


@pytest.mark.parametrize(
    ("differences", "outcome", "more", "words"),
    [
        ([0.03, 0.04, 0.05], "helps", None, "crosskd helps: 4.00 AP points above alone (95 % interval +1.52 to +6.48"),
        ([-0.03, -0.04, -0.05], "hurts", None, "crosskd hurts: 4.00 AP points below alone"),
        ([0.05, -0.01, 0.02], "not shown", 9, "+2.00 AP points on average (95 % interval -5.45 to +9.45, 3 pairs, con"),
        ([0.05, -0.01, 0.02], "not shown", 9, "would need about 9 more seeds"),
        ([0.1, -0.1, 0.001], "not shown", None, "would need more than 1000 seeds"),
        ([0.02, -0.02], "not shown", None, "more than 1000 seeds"),
        ([0.0, 0.0, 0.0], "not shown", None, "3 pairs, contains 0). Both reached the same AP with every seed."),
        ([0.11], "not shown", 1, "there is one pair, and it differs by +11.00 AP points. One pair cannot tell"),
        ([], "not shown", None, "no pair of the same seed has ended well yet"),
        ([0.02, 0.02], "helps", None, "helps: 2.00 AP points above alone"),
    ],
)
def test_the_interval_alone_decides(differences: list[float], outcome: str, more: int | None, words: str) -> None:
    verdict = judge("crosskd", "alone", differences)
    assert (verdict.outcome, verdict.more_seeds) == (outcome, more)
    assert words in verdict.sentence


def test_a_larger_mean_is_no_winner() -> None:
    assert judge("a", "b", [0.5, -0.1, 0.4]).outcome == "not shown"
    assert judge("a", "b", [0.001, 0.0012, 0.0011]).outcome == "helps"


def test_a_seed_that_brings_several_pairs_is_counted_once() -> None:
    assert judge("a", "b", [0.05, -0.01, 0.02], per_seed=3).more_seeds == 3


def test_the_difference_tells_its_pairs() -> None:
    assert compare([]) is None
    one = compare([0.02], unpaired=2)
    assert one is not None
    assert (one.mean, one.standard_error, one.low, one.high, one.pairs, one.unpaired) == (0.02, None, None, None, 1, 2)
