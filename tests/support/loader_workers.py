"""Loader processes that go wrong. Each of them imports this file: with torchvision it would be a second of a core."""

from __future__ import annotations

import resource
import signal
import time
from itertools import count
from typing import Any

from crosskd.data.coco import CocoDataset
from crosskd.data.loader import _start_worker
from crosskd.data.packed_batch import PackedBatch


def limited(what: str, worker: int) -> None:
    """A worker that can share nothing of a batch's size, or whose queue cannot send what it is given."""
    _start_worker(worker)
    if what == "memory":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # shared memory is a file
    else:
        PackedBatch.__reduce__ = lambda _: unpicklable()  # type: ignore[method-assign, assignment]


def unpicklable() -> Any:
    raise RuntimeError("this cannot be sent")


def stuck_worker(worker: int) -> None:
    """One whose images after the first batch lie on a mount that is dead."""
    _start_worker(worker)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    read, seen = CocoDataset.__getitem__, count(1)

    def stuck(dataset: CocoDataset, index: int) -> Any:
        return read(dataset, index) if next(seen) <= 4 else time.sleep(600)

    CocoDataset.__getitem__ = stuck  # type: ignore[method-assign]
