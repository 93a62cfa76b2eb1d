"""The processes that make predictions: started at first use, one image at a time each, killed where one is too slow."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from anyio import CapacityLimiter, to_thread

from api.errors import NotOffered, TooManyRequests, Unavailable
from api.predict import frames
from api.settings import Settings

log = logging.getLogger(__name__)

MAX_PICTURE = 1 << 30  # bytes
START_SECONDS = 60.0  # that a process has to import what it needs and to load a graph
# Of the environment of the API: not its secrets, for an image may be hostile.
_VARIABLES = frozenset({"HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV"})


class Order(NamedTuple):
    """What is asked of a process about one image."""

    path: Path  # of the graph
    sha256: str  # of the graph
    number: int  # of the image in its request
    name: str
    score: float
    most: int
    picture: bool


class Refused(Exception):
    """An image without a result: `kind` says why, as `crosskd.spec.predictions.FaultKind` does, or `model`."""

    def __init__(self, kind: str, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.remedy = kind, detail, remedy


class Process:
    """One of them. For one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._seconds = settings.predict_seconds
        longest = max(settings.predict_seconds, START_SECONDS)
        limits = (settings.predict_memory, longest, settings.predict_threads)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__.replace("pool", "process"), *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name in _VARIABLES},
        )
        self._known: set[str] = set()  # graphs that it has loaded once

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, order: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        """The answer about one image, whose time begins when the graph has been loaded.

        Raises `TimeoutError` where the process was killed for its time, and `frames.Closed` where it has died.
        """
        if order["sha256"] not in self._known:
            told = self._exchange({name: order[name] for name in ("path", "sha256")}, b"", START_SECONDS)
            if "fault" in told[0]:
                return told
            self._known.add(order["sha256"])
        return self._exchange(order, content, self._seconds)

    def _exchange(self, order: dict[str, Any], content: bytes, seconds: float) -> tuple[dict[str, Any], bytes]:
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


class Pool:
    """All of an API process's. Nobody waits for a process that is hung: it is killed, and a new one takes its place."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limiter = CapacityLimiter(max(1, settings.predict_processes))
        self._lock = threading.Lock()
        self._idle: list[Process] = []
        self._all: set[Process] = set()
        self._closed = False
        self._admitted = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A place among those that are answered or wait, before a body is read. For the event loop's thread.

        Raises:
            NotOffered: there are no processes here.
            TooManyRequests: the queue is full.
        """
        settings = self._settings
        if not settings.predict_processes:
            raise NotOffered(
                "this service makes no predictions",
                remedy="Set CROSSKD_PREDICT_PROCESSES to 1 or more, or predict without it: crosskd predict FILE IMAGE.",
            )
        if self._admitted >= settings.predict_processes + settings.predict_queue:
            raise TooManyRequests(
                f"{self._admitted} requests for predictions are being answered or wait already",
                remedy="Wait as long as Retry-After says, or raise CROSSKD_PREDICT_QUEUE or CROSSKD_PREDICT_PROCESSES.",
                retry_after=2,
            )
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def predict(self, order: Order, content: bytes) -> tuple[dict[str, Any], bytes]:
        """What a process says of the image. Each waits for its own turn, so that no request keeps all others waiting.

        Raises `Refused`, and `Unavailable` where the service stops.
        """
        return await to_thread.run_sync(self._predict, order, content, limiter=self._limiter)

    def _predict(self, order: Order, content: bytes) -> tuple[dict[str, Any], bytes]:
        values = {**order._asdict(), "path": str(order.path), "pixels": self._settings.predict_pixels}
        process = self._take()
        try:
            told, picture = process.ask(values, content)
        except TimeoutError:
            self._end(process)
            limit = f"{self._settings.predict_seconds:g}"
            raise Refused("time", f"the image was given up after {limit} seconds", "Shrink the image.") from None
        except frames.Closed:
            status = self._end(process, grace=1.0)
            log.warning("a process for predictions has died with the status %d", status)
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
        limit = f"{self._settings.predict_memory / (1 << 20):.0f} MiB"
        raise Refused("memory", f"the image needs more memory than the {limit} that it may have", "Shrink the image.")

    def _take(self) -> Process:
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
            process = Process(self._settings)
            self._all.add(process)
        return process

    def _give_back(self, process: Process) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        self._end(process)

    def _end(self, process: Process, grace: float = 0.0) -> int:
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
