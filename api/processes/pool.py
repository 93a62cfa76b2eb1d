"""Processes that look at images: started at first use, one image at a time each, killed where one is too slow."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from anyio import CapacityLimiter, to_thread

from api.errors import NotOffered, TooManyRequests, Unavailable
from api.processes import frames

log = logging.getLogger(__name__)

MAX_PICTURE = 1 << 30  # bytes
# Of the environment of the API: not its secrets, for an image may be hostile.
_VARIABLES = frozenset({"HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV"})


@dataclass(frozen=True)
class Kind:
    """What processes are for, and their limits: they say so in their errors."""

    what: str
    module: str  # `python -m`
    arguments: tuple[str, ...]
    settings: str  # what the names of its settings begin with, behind the prefix of all
    instead: str  # of a service that has none of them
    processes: int
    queue: int  # requests that wait
    seconds: float  # of one image
    memory: int  # bytes of a process


class Refused(Exception):
    """An image without a result: `kind` says why, as `crosskd.spec.results.predictions.FaultKind` does, or `model`."""

    def __init__(self, kind: str, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.remedy = kind, detail, remedy


class Process:
    """One of them. For one thread at a time."""

    def __init__(self, kind: Kind) -> None:
        self.seconds = kind.seconds
        self._process = subprocess.Popen(
            [sys.executable, "-m", kind.module, *kind.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name in _VARIABLES},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, order: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        """The answer about one image.

        Raises `TimeoutError` where the process was killed for its time, and `frames.Closed` where it has died.
        """
        return self.exchange(order, content, self.seconds)

    def exchange(self, order: dict[str, Any], content: bytes, seconds: float) -> tuple[dict[str, Any], bytes]:
        """As `ask`, within `seconds`."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            frames.write(stdin, order, content)
            return frames.read(stdout, max_content=MAX_PICTURE)
        except (OSError, frames.Closed):
            if late.is_set():
                raise TimeoutError from None
            raise frames.Closed from None
        finally:
            timer.cancel()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self, grace: float = 0.0) -> int:
        """End it, at once if it has not ended by itself within `grace` seconds. Returns its exit status."""
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # it had bytes for a process that is dead
                    pipe.close()
        return status


P = TypeVar("P", bound=Process)


class ProcessPool(Generic[P]):
    """All of an API process's. Nobody waits for a process that is hung: it is killed, and a new one takes its place."""

    def __init__(self, kind: Kind, make: type[P]) -> None:
        self.kind = kind
        self._make = make
        self._limiter = CapacityLimiter(max(1, kind.processes))
        self._lock = threading.Lock()
        self._idle: list[P] = []
        self._all: set[P] = set()
        self._closed = False
        self._admitted = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A place among those that are answered or wait, before a body is read. For the event loop's thread.

        Raises:
            NotOffered: there are no processes here.
            TooManyRequests: the queue is full.
        """
        kind = self.kind
        if not kind.processes:
            raise NotOffered(
                f"this service makes no {kind.what}",
                remedy=f"Set CROSSKD_{kind.settings}_PROCESSES to 1 or more, or {kind.instead}.",
            )
        if self._admitted >= kind.processes + kind.queue:
            raise TooManyRequests(
                f"{self._admitted} requests for {kind.what} are being answered or wait already",
                remedy="Wait as long as Retry-After says, or raise "
                f"CROSSKD_{kind.settings}_QUEUE or CROSSKD_{kind.settings}_PROCESSES.",
                retry_after=2,
            )
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def ask(self, order: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        """What a process says of the image. Each waits for its own turn, so that no request keeps all others waiting.

        Raises `Refused`, and `Unavailable` where the service stops.
        """
        return await to_thread.run_sync(self._ask, order, content, limiter=self._limiter)

    def _ask(self, order: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        process = self._take()
        try:
            told, picture = process.ask(order, content)
        except TimeoutError:
            self._end(process)
            limit = f"{self.kind.seconds:g}"
            raise Refused("time", f"the image was given up after {limit} seconds", "Shrink the image.") from None
        except frames.Closed:
            status = self._end(process, grace=1.0)
            log.warning("a process for %s has died with the status %d", self.kind.what, status)
            detail = "the process that read the image has died of it"
            raise Refused("crash", detail, "Save the image anew, smaller if you can.") from None
        except BaseException:
            self._end(process)
            raise
        fault = told.get("fault")
        if fault is None:
            self._give_back(process)
            return told, picture
        if fault["kind"] != "memory":
            self._give_back(process)
            raise Refused(str(fault["kind"]), str(fault["detail"]), str(fault["remedy"]))
        self._end(process)
        limit = f"{self.kind.memory / (1 << 20):.0f} MiB"
        raise Refused("memory", f"the image needs more memory than the {limit} that it may have", "Shrink the image.")

    def _take(self) -> P:
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None:
                break
            if process.alive:
                return process
            self._end(process)
        with self._lock:  # as `close` holds it: what starts is ended by it, or does not start any more
            if self._closed:
                raise Unavailable("the service stops")
            process = self._make(self.kind)
            self._all.add(process)
        return process

    def _give_back(self, process: P) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        self._end(process)

    def _end(self, process: P, grace: float = 0.0) -> int:
        with self._lock:
            self._all.discard(process)
        return process.close(grace)

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            self._closed, left = True, list(self._all)
            self._idle.clear()
            self._all.clear()
        for process in left:
            process.close()
