"""What Ctrl-C, `kill` and a closed terminal do."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType


def on_signals(handler: Callable[[], None]) -> None:
    """Call `handler` for each of them: all three mean that everything shall stop in order."""

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature is Python's
        handler()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handle)
