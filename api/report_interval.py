"""How often workers should report: the more there are, the rarer each, so that one process carries them all.

A batch of metrics costs about the same whether it holds ten points or a hundred.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from threading import Lock

MIN_SECONDS = 1.0  # seconds between two batches: what workers do if nothing is said
MAX_SECONDS = 10.0  # a curve that is later than that is no live one any more
JITTER = 0.1  # of an interval: workers that began at the same moment must not stay in step
FORGET_SECONDS = 2 * MAX_SECONDS  # who has not reported for so long is not counted


class ReportIntervals:
    """Spreads `per_second` batches over the attempts that report to this process."""

    def __init__(
        self, per_second: float, *, jitter: float = JITTER, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._jitter = jitter
        self._clock = clock
        self._reported_at: dict[str, float] = {}  # by attempt, the one that was heard of longest ago first
        self._lock = Lock()

    def next_interval(self, attempt: str) -> float:
        """The attempt has reported; seconds after which its next batch is welcome."""
        now = self._clock()
        with self._lock:
            self._reported_at.pop(attempt, None)
            self._reported_at[attempt] = now
            while (oldest := next(iter(self._reported_at))) != attempt and now - self._reported_at[
                oldest
            ] > FORGET_SECONDS:
                del self._reported_at[oldest]
            wanted = len(self._reported_at) / self._per_second
        jitter = random.uniform(-self._jitter, self._jitter)  # noqa: S311 - no secret
        return min(wanted * (1 + jitter), MAX_SECONDS) if wanted > MIN_SECONDS else MIN_SECONDS
