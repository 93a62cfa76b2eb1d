"""Threads for slow work, mostly on the storage, apart from those that requests run on: a disk or a bucket that takes
its time must not keep the API from hearing heartbeats.

No transaction is open on them: the database has as many connections as there are threads for requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync

from api.errors import Unavailable

T = TypeVar("T")


class Threads:
    """So many of one kind of work run at once, and so many wait."""

    def __init__(
        self, kind: str, running: int, waiting: int, busy: str = "the storage is slower than files come"
    ) -> None:
        self.busy = busy
        self.running = running
        self.waiting = waiting
        self._limiters: RunVar[CapacityLimiter] = RunVar(kind)  # one for each event loop: tests have many

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        return await run_sync(work, *arguments, limiter=self._limiter())

    async def run_if_soon(self, work: Callable[..., T], *arguments: object) -> T:
        """Raises `Unavailable` if too many wait: whoever asks would not hear of it before it has given up."""
        if self._limiter().statistics().tasks_waiting >= self.waiting:
            raise Unavailable(self.busy)
        return await self.run(work, *arguments)

    def _limiter(self) -> CapacityLimiter:
        try:
            return self._limiters.get()
        except LookupError:
            limiter = CapacityLimiter(self.running)
            self._limiters.set(limiter)
            return limiter


# Two kinds, for to publish a large file may take minutes: pieces of others that wait behind it would break off.
STAGING = Threads("staging", running=8, waiting=64)
PUBLISHING = Threads("publishing", running=8, waiting=64)
# One at a time, as `ModelCache` does it anyhow: a graph that takes minutes to come must not hold the others' threads.
FETCHING = Threads("fetching", running=1, waiting=64, busy="too many requests wait for a graph from the storage")
# One process at a time, for ten seconds where there are a million detections.
INDEXING = Threads("indexing", running=1, waiting=16, busy="the boxes of too many jobs are being matched")
# One process of two threads at a time, for a few seconds each: it must leave the machine to others.
COMPARING = Threads("comparing", running=1, waiting=8, busy="too many comparisons are being computed")
