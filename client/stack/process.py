"""A child process of the local stack: started in a session of its own, logged to a file, stopped or killed whole."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from client.stack.home import private
from client.stack.reaper import Reaper

FIRST_PAUSE = 0.5  # seconds before the first restart; doubles with each further one
LONGEST_PAUSE = 15.0
SETTLED = 30.0  # seconds after which a process counts as well again
TAIL = 30  # lines
POLL = 0.05
OLD_LOG = 10 << 20  # bytes; a longer log starts anew


@dataclass
class Child:
    """One program. With a `reaper` it cannot outlive this process, not even one that is killed."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    folder: Path
    grace: float = 5.0  # seconds between SIGTERM and SIGKILL
    prepare: Callable[[], None] = lambda: None  # called before every start
    reaper: Reaper | None = None
    restarts: int = 0
    exit_code: int | None = None  # of the last one that ended
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _started: float = 0.0
    _due: float = 0.0
    _log_start: int = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self.prepare()
        if self.log.exists() and self.log.stat().st_size > OLD_LOG:
            self.log.replace(self.log.with_suffix(".old.log"))
        with open(self.log, "ab", opener=private) as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self.command,
                umask=0o077,  # what lies below a home is its user's alone
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=dict(self.environment),
                start_new_session=True,  # the terminal's Ctrl-C reaches us alone: we stop the services in order
            )
        self._started = time.monotonic()
        if self.reaper is not None:
            self.reaper.add(self._process.pid)

    def restart_when_due(self) -> bool:
        """Start a process that died again, after a pause that grows while it keeps dying. True when it was started."""
        if self.running:
            return False
        now = time.monotonic()
        if not self._due:
            self.kill()  # what it left behind in its session
            if now - self._started > SETTLED:
                self.restarts = 0
            self._due = now + min(FIRST_PAUSE * 2**self.restarts, LONGEST_PAUSE)
        if now < self._due:
            return False
        self._due = 0.0
        self.restarts += 1
        self.start()
        return True

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """SIGTERM, then SIGKILL after the grace, or at once when `hurry` says so. Nothing of its session remains."""
        if self._process is not None and self.running:
            self._process.terminate()
            deadline = time.monotonic() + self.grace
            while self.running and time.monotonic() < deadline and not hurry():
                time.sleep(POLL)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole process group, whether or not its first process still lives."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):  # nobody is left
            os.killpg(self._process.pid, signal.SIGKILL)
        if self.reaper is not None:
            self.reaper.remove(self._process.pid)
        self.exit_code = self._process.wait()
        self._process = None  # its number may be another's from now on

    def run(self, timeout: float, interrupted: Callable[[], bool]) -> bool:
        """Start it and wait for its end; whether it ended well. On an interruption or a timeout it is stopped."""
        self.start()
        deadline = time.monotonic() + timeout
        while self.running and not interrupted() and time.monotonic() < deadline:
            time.sleep(POLL)
        finished = not self.running
        self.stop()
        return finished and self.exit_code == 0

    def tail(self, lines: int = TAIL) -> list[str]:
        """The last lines it has logged since its last start."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                return log.read().decode(errors="replace").splitlines()[-lines:]
        except OSError:
            return []
