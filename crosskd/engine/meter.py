"""How fast a run goes and when it will end, measured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from crosskd.engine.callbacks import Run

T = TypeVar("T")


class Meter:
    """Counts steps, images and waiting between two readings. Pauses do not count as training time."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seconds_per_pause: float | None = None
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._steps = 0
        self._images = 0
        self._waited = 0.0

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """`items`, with the time until each one arrives counted as waiting for data."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield item

    def count(self, *, images: int) -> None:
        """One optimizer step over so many images is done."""
        self._steps += 1
        self._images += images

    def read(self) -> dict[str, float]:
        """Speeds since the last reading; sets the run's `steps_per_second` and `eta_seconds`."""
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        rate = self._steps / elapsed
        values = {
            "steps_per_second": rate,
            "images_per_second": self._images / elapsed,
            "data_wait": min(self._waited / elapsed, 1.0),
        }
        self._run.steps_per_second = rate
        self._run.eta_seconds = self._eta(rate)
        self._reset()
        return values

    def _eta(self, rate: float) -> float:
        """Steps at the present rate, and the evaluations to come at the price of the last one."""
        run = self._run
        remaining = run.total_steps - run.step
        between = max(run.steps_per_epoch * run.config.evaluation.every_epochs, 1)
        evaluations = remaining // between + (1 if remaining else 0)
        return remaining / rate + evaluations * (self._seconds_per_pause or 0.0)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time spent in here is an evaluation's, not training's."""
        start = time.perf_counter()
        yield
        self._seconds_per_pause = time.perf_counter() - start
        self._since += self._seconds_per_pause
