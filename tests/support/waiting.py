"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.1  # seconds


def until(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """The condition's first true value; fails when it does not come.

    What comes soon is seen soon. What takes long is asked for seldom: a look may be a request to a process, and costs
    it more than the work that is waited for.
    """
    deadline, pause = time.monotonic() + seconds, FIRST_PAUSE
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(pause)
        pause = min(1.1 * pause, LONGEST_PAUSE)
    raise AssertionError(f"it did not happen within {seconds} s")
