"""The processes of this machine, as /proc shows them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import until


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still until the block ends.

    The block begins only once it does: of two signals that wait for a busy process the one with the lower number is
    taken first, so a SIGTERM would be gone before the SIGSTOP.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: _status(pid, "State").startswith("T"))
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def pending(pid: int, number: signal.Signals) -> bool:
    """Whether a stopped process will get this signal when it runs again."""
    return bool(int(_status(pid, "ShdPnd"), 16) >> (number - 1) & 1)


def _status(pid: int, name: str) -> str:
    found = re.search(rf"(?m)^{name}:\s+(.*)$", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return found[1]


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    try:
        return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    return [pid for child in children(pid) for pid in [child, *descendants(child)]]


def processes_of(home: Path) -> list[int]:
    """Living processes that have anything to do with a home."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            told = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue  # it has just ended, or is another user's
        if str(home).encode() in told and int(entry.name) != os.getpid() and alive(int(entry.name)):
            found.append(int(entry.name))
    return found
