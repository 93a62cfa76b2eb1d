"""How often workers should report: the more there are, the rarer each, so that one process carries them all.

A batch of metrics costs about the same whether it holds ten points or a hundred.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from threading import Lock

SHORTEST = 1.0  # seconds between two batches: what workers do if nothing is said
LONGEST = 10.0  # a curve that is later than that is no live one any more
SPREAD = 0.1  # of an interval: workers that began at the same moment must not stay in step
FORGOTTEN = 2 * LONGEST  # who has not reported for so long is not counted


class Pace:
    """Spreads `per_second` batches over the attempts that report to this process."""

    def __init__(
        self, per_second: float, *, spread: float = SPREAD, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._spread = spread
        self._clock = clock
        self._heard: dict[str, float] = {}  # by attempt, the one that was heard of longest ago first
        self._lock = Lock()

    def interval(self, attempt: str) -> float:
        """The attempt has reported; seconds after which its next batch is welcome."""
        now = self._clock()
        with self._lock:
            self._heard.pop(attempt, None)
            self._heard[attempt] = now
            while (oldest := next(iter(self._heard))) != attempt and now - self._heard[oldest] > FORGOTTEN:
                del self._heard[oldest]
            wanted = len(self._heard) / self._per_second
        jitter = random.uniform(-self._spread, self._spread)  # noqa: S311 - no secret
        return min(wanted * (1 + jitter), LONGEST) if wanted > SHORTEST else SHORTEST
