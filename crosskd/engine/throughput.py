"""How fast a run goes, what it uses of the machine and when it will end, measured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from crosskd.engine.callbacks import Run
from crosskd.engine.device import peak_memory, utilisation

T = TypeVar("T")


class ThroughputMeter:
    """Counts steps, images and waiting between two readings. Pauses do not count as training time."""

    def __init__(self, run: Run, device: torch.device) -> None:
        self._run, self._device = run, device
        self._seconds_per_pause: float | None = None
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._computed_since = time.process_time()
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
        """Figures since the last reading; sets the run's `steps_per_second` and `eta_seconds`.

        `data_wait`: the share of the time in which the next batch was waited for. `memory_mib`: the most that this
        process has held so far, of the GPU's memory or, on a CPU, of the machine's. `utilisation`: the share of the
        time in which the GPU computed, left out where its driver does not tell; on a CPU, the processor time of this
        process per second, so that two busy cores are 2.
        """
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        rate = self._steps / elapsed
        values = {
            "steps_per_second": rate,
            "images_per_second": self._images / elapsed,
            "data_wait": min(self._waited / elapsed, 1.0),
            "memory_mib": peak_memory(self._device) / 2**20,
        }
        busy = utilisation(self._device, (time.process_time() - self._computed_since) / elapsed)
        if busy is not None:
            values["utilisation"] = busy
        self._run.steps_per_second = rate
        self._run.eta_seconds = self._eta(rate)
        self._reset()
        return values

    def _eta(self, rate: float) -> float:
        """Steps at the present rate, and the evaluations to come at the price of the last one."""
        run = self._run
        remaining = run.total_steps - run.step
        between: int = max(run.steps_per_epoch * run.config.evaluation.every_epochs, 1)
        evaluations = remaining // between + (1 if remaining else 0)
        return remaining / rate + evaluations * (self._seconds_per_pause or 0.0)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time spent in here is an evaluation's, not training's."""
        start, computed = time.perf_counter(), time.process_time()
        yield
        self._seconds_per_pause = time.perf_counter() - start
        self._since += self._seconds_per_pause
        self._computed_since += time.process_time() - computed
