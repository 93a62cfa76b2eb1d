"""What runs in a process that looks at images: orders in, answers out, within limits that hold without the API.

An image may be hostile, and so the process is bounded in memory and time by the kernel, and the API kills it where it
is too slow (`pool`).
"""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from api.processes import frames

MAX_IMAGE = 1 << 30  # bytes
Answer = tuple[dict[str, Any], bytes]


def fault(kind: str, detail: str = "", remedy: str = "") -> dict[str, Any]:
    """What is answered instead of a result. Of the kind "memory", the process ends with it."""
    return {"fault": {"kind": kind, "detail": detail, "remedy": remedy}}


def run(look: Callable[[dict[str, Any], bytes], Answer], memory: int, seconds: float) -> None:
    """Bound this process, then answer orders about images by `look` until the API closes its end."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # what a library prints is no answer
    os.dup2(nowhere, sys.stderr.fileno())  # nor may a hostile image fill a log
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the API's to hear
    _bound(memory)
    _serve(look, sys.stdin.buffer, answers, seconds)


def _bound(memory: int) -> None:
    """No more memory than this, no core dump, and behind the API where both want the processor."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where the machine's memory is short, this one goes first


def _serve(
    look: Callable[[dict[str, Any], bytes], Answer], orders: IO[bytes], answers: IO[bytes], seconds: float
) -> None:
    """Until memory was short, too: what is left of the process then may be in pieces."""
    while True:
        try:
            order, content = frames.read(orders, max_content=MAX_IMAGE)
        except frames.Closed:
            return
        signal.alarm(math.ceil(seconds) + 2)  # if the API is gone, and nobody kills this process
        told, picture = look(order, content)
        frames.write(answers, told, picture)
        signal.alarm(0)
        if told.get("fault", {}).get("kind") == "memory":
            return
