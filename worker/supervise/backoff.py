"""A worker whose machine fails every attempt must not work its way through the whole queue.

A full disk, a broken GPU or a mount that is gone fails each attempt within seconds, so this very worker would be the
one that is always idle, and take every job until none has a resume left. So it waits before it takes the next one: not
after the first such failure, which may have had its own reason, but longer after each further one.
"""

from __future__ import annotations

import logging
from threading import Event

logger = logging.getLogger(__name__)

FIRST_SECONDS, LONGEST_SECONDS = 5.0, 300.0
AT_WORK_SECONDS = 60.0  # an attempt that lived for so long shows that the machine can work


class Backoff:
    """How long this process should keep from claiming, by how its latest attempts ended."""

    def __init__(self, first: float = FIRST_SECONDS, longest: float = LONGEST_SECONDS) -> None:
        self._first = first
        self._longest = longest
        self._failures = 0

    def record(self, *, machine_failed: bool, seconds: float) -> None:
        """An attempt ended after `seconds`; `machine_failed` if it failed for no reason that lies in its job."""
        self._failures = self._failures + 1 if machine_failed and seconds < AT_WORK_SECONDS else 0

    @property
    def seconds(self) -> float:
        return min(self._longest, self._first * 2.0 ** (self._failures - 2)) if self._failures > 1 else 0.0

    def wait(self, stop: Event) -> None:
        """Until it is time to claim, or `stop` is set. The job is dispatched to others meanwhile."""
        if self.seconds:
            logger.warning(
                "the last %d attempts failed here at once: this worker takes no job for %g s",
                self._failures,
                self.seconds,
            )
            stop.wait(self.seconds)
