"""Metrics, progress, evaluations and log lines to the API, from a thread of their own, in order, each exactly once.

The training thread only appends to a list, and every 500 points to a file. How slow the API is, or whether it is
there at all, makes no difference to a training step.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from wire.jobs import Progress
from wire.logs import LINE_CHARACTERS, MAX_LINES, LogBatch, LogLine
from wire.reports import EvaluationReport, MetricBatch, MetricPoint
from worker.deliver.client import AttemptClient
from worker.deliver.retry import Abandoned, Refused, Retry, StaleAttempt
from worker.deliver.spool import Record, Spool, SpoolFull

logger = logging.getLogger(__name__)

BATCH_POINTS = 500
BATCH_CHARACTERS = 100_000  # of log lines: even if all are escaped, the request stays below the API's limit of 1 MB
MOST_LINES = 2000  # between two batches
# Of the spool, how much may be full: a training that talks while the API is away must not crowd out its metrics, nor
# these the few evaluations, which are what the training is for.
LOG_SHARE = 0.5
METRICS_SHARE = 0.9
INTERVAL = 1.0  # seconds between two batches
LONGEST_INTERVAL = 60.0  # whatever the API asks for


class Undelivered(Exception):
    """The API did not take everything in the time it was given."""


class Mark(NamedTuple):
    """A checkpoint: `taken` is set once the API has the first `records` of the spool, which led to it."""

    records: int
    step: int
    taken: threading.Event


@dataclass
class Gap:
    """What found no room in the spool and will be missing for ever. It is told in the job's log."""

    points: int = 0
    evaluations: int = 0
    first: int | None = None  # step
    last: int | None = None

    def add(self, report: MetricBatch | EvaluationReport) -> None:
        if isinstance(report, EvaluationReport):
            self.evaluations += 1
            steps = [report.step]
        else:
            self.points += len(report.points)
            steps = [point.step for point in report.points]
        self.first = min([*steps, *([] if self.first is None else [self.first])], default=None)
        self.last = max([*steps, *([] if self.last is None else [self.last])], default=None)

    def __str__(self) -> str:
        what = [f"{self.points} metric points"] if self.points else []
        what += [f"{self.evaluations} evaluations"] if self.evaluations else []
        return (
            f"{' and '.join(what)} between the steps {self.first} and {self.last} are missing: the API was away until "
            "the spool was full (CROSSKD_SPOOL_MEGABYTES of the worker)"
        )


class Delivery:
    """Batches what it is told, spools it, and sends the spool's records one after the other.

    A batch gets its sequence number when it is written to the spool, never again: the API drops a batch that it has
    seen, so one whose answer was lost is sent twice and stored once.
    """

    def __init__(
        self, api: AttemptClient, spool: Spool, on_stale: Callable[[], None], *, interval: float = INTERVAL
    ) -> None:
        self._api = api
        self._on_stale = on_stale
        self._spool = spool
        self._shortest = interval
        self._interval = interval  # what the API asks for, if that is longer
        self._points: list[MetricPoint] = []
        self._progress: Progress | None = None
        self._sequence = 0
        self._lines: list[LogLine] = []
        self._lines_left_out = 0
        self._log_sequence = 0
        self._spooled = 0  # records so far
        self._taken = 0  # of these, by the API
        self._marks: deque[Mark] = deque()
        self._full = False
        self._gap = Gap()
        self._lock = threading.Lock()  # of everything above: the training thread and ours both seal batches
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._abandon = threading.Event()
        self.error: Exception | None = None  # why the thread has ended early
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._thread.start()

    def metrics(self, points: list[MetricPoint], progress: Progress) -> None:
        """Points and the progress they came with. Never waits for the network."""
        with self._lock:
            self._points.extend(points)
            self._progress = progress
            if len(self._points) >= BATCH_POINTS:
                self._seal()

    def progress(self, progress: Progress) -> None:
        """Progress without points: a new phase. Sent at once."""
        with self._lock:
            self._progress = progress
        self._wake.set()

    def evaluation(self, report: EvaluationReport) -> None:
        """An evaluation, behind the points that came before it. Sent at once."""
        with self._lock:
            self._seal()
            self._append(report)
        self._wake.set()

    def log(self, lines: list[LogLine]) -> None:
        """Lines of the log, in order among themselves. Never waits for the network."""
        with self._lock:
            room = max(MOST_LINES - len(self._lines), 0)
            self._lines.extend(lines[:room])
            self._lines_left_out += len(lines[room:])

    def mark(self, step: int) -> threading.Event:
        """An event that is set when the API has taken all that was told until now, which led to the checkpoint of
        `step`. Then the spool says so, too, for whoever finds it. Never waits for the network."""
        taken = threading.Event()
        with self._lock:
            self._seal()
            self._marks.append(Mark(self._spooled, step, taken))
            self._settle()
        self._wake.set()
        return taken

    def close(self, timeout: float) -> None:
        """Send what is left and end the thread.

        Raises:
            StaleAttempt: the attempt is another's.
            Undelivered: the API did not take everything within `timeout` seconds.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._abandon.set()
            raise Undelivered(f"metrics and evaluations were not taken within {timeout:.0f} s")
        self._spool.close()
        if self.error is not None:
            raise self.error

    def _seal(self) -> None:
        """Turn what has gathered into numbered batches in the spool. The caller holds the lock."""
        points, self._points = self._points, []
        progress, self._progress = self._progress, None
        if points or progress is not None:
            for start in range(0, max(len(points), 1), BATCH_POINTS):
                some = points[start : start + BATCH_POINTS]
                batch = MetricBatch(sequence=self._sequence, points=some, progress=progress)
                if self._append(batch, METRICS_SHARE):
                    self._sequence += 1
        self._seal_log()

    def _seal_log(self) -> None:
        """The lines that have gathered, and what is to be said of reports that found no room, once there is some."""
        lines, self._lines = self._lines, []
        room = len(self._spool) < self._spool.limit * LOG_SHARE / 2
        if self._lines_left_out and (lines or room):
            text = f"({self._lines_left_out} lines are left out here: there were too many; log.txt has them all)"
            lines.append(_warning(text))
            self._lines_left_out = 0
        if self._gap.first is not None and room:
            logger.error("%s", self._gap)
            lines.append(_warning(str(self._gap)))
            self._gap = Gap()
        for some in _bounded(lines):
            try:
                self._spool.append(Record.of(LogBatch(sequence=self._log_sequence, lines=some)), LOG_SHARE)
            except SpoolFull:
                self._lines_left_out += len(some)
                continue
            self._log_sequence += 1
            self._spooled += 1

    def _append(self, report: MetricBatch | EvaluationReport, share: float = 1.0) -> bool:
        try:
            self._spool.append(Record.of(report), share)
        except SpoolFull as exc:
            # Stopping a training for the sake of its curve would be worse than a hole in the curve.
            if not self._full:
                logger.error("reports are left out until the API takes some: %s", exc)
            self._full = True
            self._gap.add(report)
            return False
        self._full = False
        self._spooled += 1
        return True

    def _settle(self) -> None:
        """Set the events whose time has come. The caller holds the lock."""
        while self._marks and self._marks[0].records <= self._taken:
            mark = self._marks.popleft()
            self._spool.note_reported(mark.step)
            mark.taken.set()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._wake.wait(self._interval)
                self._wake.clear()
                self._flush()
            self._flush()
        except Abandoned:
            logger.warning("%d bytes of reports were given up", len(self._spool))
            self._spool.close()
        except StaleAttempt as exc:
            self.error = exc
            self._on_stale()
        except Exception as exc:  # noqa: BLE001 - carried to the training thread
            self.error = exc

    def _flush(self) -> None:
        """Send until nothing is left, sealing what gathers meanwhile."""
        sealed = -self._interval
        while True:
            if time.monotonic() - sealed >= self._interval:
                with self._lock:
                    self._seal()
                sealed = time.monotonic()
            if not self._send_head():
                with self._lock:
                    self._seal_log()  # there is room now, if there was none before
                if len(self._spool) == 0:
                    return

    def _send_head(self) -> bool:
        """Deliver the oldest record; false when there is none."""
        retry = Retry(stop=self._abandon)
        with self._spool.head() as record:
            if record is None:
                return False
            try:
                asked = self._api.report(record, retry)
                if record.endpoint == "metrics":
                    self._interval = max(self._shortest, min(asked, LONGEST_INTERVAL))
            except Refused as exc:
                # Repeating it would block everything behind it for ever.
                logger.exception("the API refuses a report; it is left out")
                if record.endpoint != "logs":
                    self.log([_warning(f"the API refuses a report, which is left out: {exc}")])
        with self._lock:
            self._taken += 1
            self._settle()
        return True


def _warning(text: str) -> LogLine:
    return LogLine(at=datetime.now(UTC), level="warning", text=text[:LINE_CHARACTERS])


def _bounded(lines: list[LogLine]) -> Iterator[list[LogLine]]:
    """The lines in batches that the API takes."""
    batch: list[LogLine] = []
    characters = 0
    for line in lines:
        if batch and (len(batch) == MAX_LINES or characters + len(line.text) > BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(line)
        characters += len(line.text)
    if batch:
        yield batch
