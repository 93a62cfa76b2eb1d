"""A process that outlives its starter for one moment, to kill what the starter would leave behind.

It holds the reading end of a pipe. When the writing end closes, which the kernel sees to however the starter dies,
every process group that it has been told of gets SIGKILL. (PR_SET_PDEATHSIG would reach only a group's first process,
depend on threads, and exist on Linux alone.)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress


class Reaper:
    """Keeps process groups from outliving this process. `close` lets go of them unharmed."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process = self._spawn()

    def add(self, group: int) -> None:
        self._groups.add(group)
        self._tell(f"+{group}")

    def remove(self, group: int) -> None:
        self._groups.discard(group)
        self._tell(f"-{group}")

    def close(self) -> None:
        self._tell("quit")
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # somebody killed the reaper: the next one learns all that it knew
            self._process.wait()
            self._process = self._spawn()
            for group in self._groups:
                self._tell(f"+{group}")

    @staticmethod
    def _spawn() -> subprocess.Popen[bytes]:
        # A session of its own: what is sent to the terminal's or the starter's group does not reach it.
        command = [sys.executable, "-I", "-S", __file__]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/", start_new_session=True
        )


def main() -> None:
    """The reaper's own program."""
    groups: set[int] = set()
    for line in sys.stdin:
        if line.strip() == "quit":
            return
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
