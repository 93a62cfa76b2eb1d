"""What may be said of an arm against the baseline: by the interval of the paired differences, never by a mean alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from report import statistics
from wire.sweeps import MAX_SEEDS_NEEDED, Difference, Verdict

FEWEST = 2  # pairs below which there is no interval


def compare(differences: Sequence[float], unpaired: int = 0) -> Difference | None:
    """The paired differences in AP (0..1), as one. None without a pair."""
    if not differences:
        return None
    interval = statistics.t_interval(differences)
    return Difference(
        mean=fmean(differences),
        standard_error=statistics.standard_error(differences),
        low=interval and interval.low,
        high=interval and interval.high,
        pairs=len(differences),
        unpaired=unpaired,
    )


def judge(arm: str, baseline: str, differences: Sequence[float], per_seed: int = 1) -> Verdict:
    """helps: the 95 % t-interval of the mean difference lies above 0; hurts: below it; else not shown.

    `per_seed`: how many pairs one more seed would bring, of a grid whose points the baseline has too.
    """
    found = compare(differences)
    if found is None:
        text = f"{arm} is not shown to differ from {baseline}: no pair of the same seed has ended well yet."
        return Verdict(outcome="not shown", sentence=text)
    if found.low is None or found.high is None:
        text = (
            f"{arm} is not shown to differ from {baseline}: there is one pair, and it differs by {points(found.mean)}. "
            f"One pair cannot tell a difference from chance; give at least one more seed."
        )
        return Verdict(outcome="not shown", more_seeds=FEWEST - found.pairs, sentence=text)
    interval = f"95 % interval {_signed(found.low)} to {_signed(found.high)}, {found.pairs} pairs"
    if found.low > 0 or found.high < 0:
        outcome, side = ("helps", "above") if found.low > 0 else ("hurts", "below")
        text = f"{arm} {outcome}: {points(abs(found.mean), sign=False)} {side} {baseline} ({interval})."
        return Verdict(outcome="helps" if found.low > 0 else "hurts", sentence=text)
    begin = f"{arm} is not shown to differ from {baseline}: {points(found.mean)} on average ({interval}, contains 0)."
    needed = statistics.pairs_needed(found.mean, stdev(differences), MAX_SEEDS_NEEDED) if found.mean else None
    if not any(differences):
        return Verdict(outcome="not shown", sentence=f"{begin} Both reached the same AP with every seed.")
    if needed is None:
        text = f"{begin} A difference of this size would need more than {MAX_SEEDS_NEEDED} seeds."
        return Verdict(outcome="not shown", sentence=text)
    more = max(math.ceil((needed - found.pairs) / per_seed), 1)
    text = f"{begin} A difference of this size would need about {more} more {'seed' if more == 1 else 'seeds'}."
    return Verdict(outcome="not shown", more_seeds=more, sentence=text)


def points(difference: float, *, sign: bool = True) -> str:
    """A difference in AP, 0..1, as AP points."""
    return f"{_signed(difference) if sign else f'{100 * difference:.2f}'} AP points"


def _signed(difference: float) -> str:
    return f"{100 * difference:+.2f}"
