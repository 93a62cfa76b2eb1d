"""Times that are taken in turn, so that a machine whose speed drifts slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any


def in_turn(work: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds that each takes, of each round; a round before them warms up."""
    times: list[list[float]] = [[] for _ in work]
    for number in range(rounds + 1):
        for place, call in enumerate(work):
            began = time.perf_counter()
            call()
            if number:
                times[place].append(time.perf_counter() - began)
    return times


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that at least this share of them does not exceed."""
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
