"""How the Celery parent tells its pool process that the worker is being shut down.

Celery's warm shutdown lets a running task finish and tells it nothing: SIGTERM reaches the parent only. A training
may take days, so the task must hear of it. The parent opens a pipe before it forks the pool; closing its writing end
is the notice. The end of the parent, however it comes, closes it too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


class ShutdownNotice:
    """One bit from the parent to the processes that it forks."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._announced = False
        self._listeners: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def announce(self) -> None:
        """In the parent, once or more, from a signal handler."""
        write, self._write = self._write, -1
        if write >= 0:
            os.close(write)

    def listen(self) -> None:
        """In a pool process, once: give up the inherited writing end and watch the reading one."""
        self.announce()
        threading.Thread(target=self._wait, name="shutdown-notice", daemon=True).start()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the notice comes, or now if it has come already."""
        with self._lock:
            self._listeners.append(listener)
            announced = self._announced
        if announced:
            listener()

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        with self._lock:
            self._listeners.remove(listener)

    @property
    def announced(self) -> bool:
        return self._announced

    def _wait(self) -> None:
        while os.read(self._read, 1):
            pass
        with self._lock:
            self._announced = True
            listeners = list(self._listeners)
        for listener in listeners:
            listener()
