"""Why a process ended without an outcome. The supervisor asks of a training, and a training of its ranks."""

from __future__ import annotations

import signal
from pathlib import Path

from wire.jobs import Failure


def abnormal_exit(who: str, status: int, oom_kills_before: int) -> Failure:
    """Why `who` ended without an outcome; `status` is minus the signal's number, if one killed it."""
    if status >= 0:
        message = f"{who} exited with status {status} and left no outcome"
        return Failure(failure_class="infrastructure", message=message, remedy="Read the end of its log.")
    message = f"{who} was killed by signal {-status} ({signal.Signals(-status).name})"
    remedy = ""
    if -status == signal.SIGKILL:
        message += ": the kernel's out-of-memory killer was at work" if oom_kills() > oom_kills_before else ""
        remedy = "If nobody did that by hand, memory ran out: use fewer loader workers or smaller batches."
    return Failure(failure_class="infrastructure", message=message, remedy=remedy)


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since it booted; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
