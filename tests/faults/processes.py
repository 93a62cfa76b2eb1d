"""Processes from outside: found, told apart, signalled, limited."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.processes import alive


def until(condition: Callable[[], Any], seconds: float, what: str = "it") -> Any:
    """The condition's first true value; fails when it does not come."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.05)
    return value


def leads(pid: int) -> bool:
    """Whether the process lives and is the first of its group: no helper that a training has forked."""
    with suppress(ProcessLookupError):
        return os.getpgid(pid) == pid and alive(pid)
    return False


def marked(needle: bytes) -> Iterator[int]:
    """All living processes with this variable, as `NAME=value`, in their environment."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it has just ended, or is another user's
            if entry.name.isdigit() and needle in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)


def send(pids: Iterable[int], number: int) -> None:
    """A signal to each; one that has ended needs none."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def limit_files(pids: Iterable[int], limit: int) -> None:
    """Let the kernel refuse these processes every byte of a file beyond `limit`, as a full disk does (EFBIG)."""
    for pid in pids:
        with suppress(ProcessLookupError):
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, hard))  # the soft one alone may be raised again
