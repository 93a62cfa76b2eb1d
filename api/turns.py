"""Large bodies are made into values one after the other: each holds the event loop, or Python's lock, for a while.

A megabyte of JSON is parsed and held against its model in up to a tenth of a second, in which nothing else runs. Were
several of them ready at once, whoever else asks would wait for all of them. Between two of them the loop answers what
it can at once: a request takes a step of the loop to be read and one to be answered, and would wait for a body in each.

Cycles are collected before a huge body, and not while there are its hundred thousands of values: to look at all of them
takes longer than to make them.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextvars import ContextVar

LARGE = 64 << 10  # bytes: what is smaller is done within milliseconds
HUGE = 256 << 10  # bytes: a thousand points, the most of a batch, are less, and a collection for each slows reports
GIVE_WAY = 5  # steps of the event loop before a large body goes on: some more than `/health` takes


class Turns:
    """For one event loop. Whoever waits is served in the order of coming."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def take(self, turn: Turn, size: int) -> None:
        """For a body of `size` bytes. Once, and not after its end: a body that comes behind the answer's beginning is
        nothing that is parsed."""
        if turn.over or turn.release is not None:
            return
        await self._lock.acquire()
        turn.hold(self._release)
        for _ in range(GIVE_WAY):
            await asyncio.sleep(0)
        if size > HUGE and not turn.over:
            gc.collect()  # what the one before has left
            gc.disable()

    def _release(self) -> None:
        gc.enable()
        self._lock.release()


class Turn:
    """What a request may hold; ending it more than once, or without having it, does nothing."""

    def __init__(self) -> None:
        self.release: Callable[[], None] | None = None
        self.over = False

    def hold(self, release: Callable[[], None]) -> None:
        if self.over:  # the request was answered meanwhile
            release()
        else:
            self.release = release

    def end(self) -> None:
        self.over = True
        release, self.release = self.release, None
        if release is not None:
            release()


_turn: ContextVar[Turn | None] = ContextVar("turn", default=None)


def begin() -> Turn:
    """The turn of the request that begins here, which it does not have yet."""
    turn = Turn()
    _turn.set(turn)
    return turn


def end() -> None:
    """The body of this request has been read and found right: the next one may be read. What follows may take long."""
    if (turn := _turn.get()) is not None:
        turn.end()
