"""Waiting for the worker processes of a `DataLoader`, so that a stop is heard meanwhile.

A worker that reads from a dead mount never answers, and PyTorch waits for it without end. Its own `timeout` is of no
use here: it counts a slow batch as a failure, and the begin of an epoch, too.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

from crosskd.errors import NoAnswer

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 5.0  # for a batch, once a stop was asked for: one that is only slow still comes


def heed_stop(iterator: Any, stopping: Callable[[], bool]) -> None:
    """Make an `iterator` of a `DataLoader` with worker processes ask for a stop while it waits for one of them.

    Where `stopping` is true and nothing comes for `PATIENCE_SECONDS`, it kills its workers and raises `NoAnswer`. An
    iterator that already does so, because its workers live on from epoch to epoch, is left as it is.
    """
    if getattr(iterator, "heeds_stop", False):
        return
    # Weakly: an iterator that held itself would wait for the garbage collector, and that closes its queues before it
    # can tell its workers to end; five seconds would pass for each of them.
    fetch, own = type(iterator)._try_get_data, weakref.ref(iterator)
    asked_at: float | None = None

    def fetch_or_stop(*_timeout: float) -> Any:
        nonlocal asked_at
        used: Any = own()
        answer = fetch(used, POLL_SECONDS)
        if answer[0] or not stopping():
            asked_at = None
        elif asked_at is None:
            asked_at = time.monotonic()
        elif time.monotonic() - asked_at >= PATIENCE_SECONDS:
            for worker in used._workers:
                worker.kill()  # at once: what waits for a dead mount hears of no other signal
            raise NoAnswer("a stop was asked for, and the loader's processes do not answer")
        return answer

    iterator._try_get_data, iterator.heeds_stop = fetch_or_stop, True
