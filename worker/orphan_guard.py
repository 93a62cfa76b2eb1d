"""No training outlives its supervisor, nor does a tracker, and nothing that one of them started outlives it.

Three measures, each for what the others cannot see. The kernel kills the training when its supervisor dies (Linux).
Everywhere, a thread waits for the end of the standard input, whose other end the supervisor holds. And a reaper, a
process of almost no size, waits for the training's own end, however that comes, and takes its group along: loader
processes that fork from a server of their own would not notice.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

EXIT_ORPHANED = 3
_PR_SET_PDEATHSIG = 1


def tie_to(supervisor: int) -> None:
    """Tie this process to its supervisor, and to itself whatever it will start. Call it before there are threads."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:  # it died before the kernel was asked to watch
        os._exit(EXIT_ORPHANED)
    if _leads_group():
        _start_reaper()
    threading.Thread(target=_wait_for_end_of_input, name="orphan-guard", daemon=True).start()


def end_at_once(status: int) -> None:
    """Leave without clean-up, together with every process of this one's group."""
    if _leads_group():
        os.killpg(0, signal.SIGKILL)
    os._exit(status)


def _leads_group() -> bool:
    """Whether the group is ours to kill; run by hand from a script, it may be the script's."""
    return os.getpgrp() == os.getpid()


def _start_reaper() -> None:
    read, write = os.pipe()  # the writing end stays open, in this process alone, as long as it lives
    if os.fork() == 0:
        os.close(write)
        os.read(read, 1)
        os.killpg(0, signal.SIGKILL)
    os.close(read)


def _wait_for_end_of_input() -> None:
    while os.read(0, 1):
        pass
    end_at_once(EXIT_ORPHANED)
