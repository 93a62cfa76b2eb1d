"""Reports on their way to the API, in order, on disk: an outage costs disk space and neither memory nor reports."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, cast

from pydantic import BaseModel

from wire.logs import LogBatch
from wire.reports import EvaluationReport, MetricBatch

Endpoint = Literal["metrics", "evaluations", "logs"]  # below the attempt's address


class Record(NamedTuple):
    """A report as it is sent. Nobody reads it again on the way: not what takes it off the spool, nor the client."""

    endpoint: Endpoint
    body: bytes  # JSON, which has no line break of its own

    @classmethod
    def of(cls, report: MetricBatch | EvaluationReport | LogBatch) -> Record:
        return cls(_ENDPOINTS[type(report)], report.model_dump_json().encode())


_ENDPOINTS: dict[type[BaseModel], Endpoint] = {
    MetricBatch: "metrics",
    EvaluationReport: "evaluations",
    LogBatch: "logs",
}


class SpoolFull(Exception):
    """The API has been away for so long that its reports fill the space they were given."""


class Spool:
    """A queue of records in a file: a line each, of the endpoint, a blank and the body.

    One thread appends, another takes; both may be the same.
    A record is taken off only after its delivery, so one that fails to be delivered is found again. The file starts
    afresh whenever everything in it is delivered: it grows during an outage, up to `limit` bytes, and shrinks after.
    """

    def __init__(self, path: Path, limit: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w+b")
        self._taken = _taken_path(path).open("w+b", buffering=0)
        self._reported = _reported_path(path).open("w+b", buffering=0)
        self.limit = limit
        self._head = 0  # where the oldest undelivered record begins
        self._end = 0
        self._lock = threading.Lock()

    def append(self, record: Record, share: float = 1.0) -> None:
        """Add a record at the end, if no more than `share` of the space is used then.

        Raises:
            SpoolFull: there is no room for it; nothing was written.
        """
        line = record.endpoint.encode() + b" " + record.body + b"\n"
        with self._lock:
            if self._end - self._head + len(line) > self.limit * share:
                raise SpoolFull(f"{self._end - self._head} bytes of reports wait for the API")
            self._file.seek(self._end)
            self._file.write(line)
            self._file.flush()
            self._end += len(line)

    @contextmanager
    def head(self) -> Iterator[Record | None]:
        """The oldest record, or None; it leaves the spool when the block ends without an exception."""
        with self._lock:
            self._file.seek(self._head)
            line = self._file.readline() if self._head < self._end else b""
        endpoint, _, body = line.rstrip(b"\n").partition(b" ")
        yield Record(cast(Endpoint, endpoint.decode()), body) if line else None
        with self._lock:
            self._head += len(line)
            if self._head == self._end:
                self._file.truncate(0)
                self._head = self._end = 0
            os.pwrite(self._taken.fileno(), self._head.to_bytes(8), 0)

    def note_reported(self, step: int) -> None:
        """Every report that led to the checkpoint of `step` is delivered."""
        os.pwrite(self._reported.fileno(), step.to_bytes(8), 0)

    def __len__(self) -> int:
        """Bytes that wait."""
        with self._lock:
            return self._end - self._head

    def close(self) -> None:
        self._file.close()
        self._taken.close()
        self._reported.close()


def _taken_path(path: Path) -> Path:
    """Beside a spool: how many of its bytes are delivered, for whoever finds it after its process was killed."""
    return path.with_suffix(".taken")


def _reported_path(path: Path) -> Path:
    """Beside a spool: the step of the newest checkpoint whose reports are all delivered."""
    return path.with_suffix(".reported")


def holds_undelivered(path: Path) -> bool:
    """Whether a spool that nobody works with any more has records that were not delivered."""
    return path.is_file() and path.stat().st_size > _number(_taken_path(path))


def reported_step(path: Path) -> int:
    """Of such a spool: the step of the newest checkpoint whose reports are all delivered; 0 if there is none."""
    return _number(_reported_path(path))


def _number(marker: Path) -> int:
    return int.from_bytes(marker.read_bytes()) if marker.is_file() else 0
