"""Imports that take seconds, torch's above all, while the garbage collector waits."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import in here: nothing is collected meanwhile, and what is there in the end is never gone through again.

    Else the collector goes through all that is imported, over and over: a quarter of the time of an import of torch,
    and a fifth of a second now and then in the training after it.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()
