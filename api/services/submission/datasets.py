"""What stands in an annotation file: checked in a process of its own, cached by the file's digest."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from api.database import Database, Session
from api.errors import Unavailable
from api.models import Dataset
from api.processes import bounded
from api.processes.bounded import Failed, TooMuchMemory, TooSlow
from api.services.submission.coco_check import VERSION, Report, UseReport
from crosskd.spec.coco.fields import CocoFault
from crosskd.spec.coco.survey import Use
from crosskd.spec.inputs import Input

COMMAND = [sys.executable, "-m", "api.services.submission.coco_check"]
MAX_CACHED_PATH = 2000  # bytes: Postgres indexes no longer keys, and a path is one
MAX_USES = 8  # of one file whose results are kept
MAX_WAITING = 8  # requests held up by checks; every one of them holds a thread of the API


class CheckFailed(Exception):
    """There is no result; `detail` and `remedy` say why, for the client."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy


@dataclass(frozen=True)
class CheckResult:
    """`classes` by ascending category id; the first of `fault_count` faults; without any, what is taken."""

    classes: list[str]
    images: int
    annotations: int
    faults: list[CocoFault]
    fault_count: int
    use: UseReport | None


@dataclass(frozen=True)
class _FileStat:
    """What tells at a glance that a file is still the one that was checked."""

    size: int
    mtime_ns: int
    inode: int


def examine(database: Database, file: Input, seconds: float, use: Use) -> CheckResult:
    """The check of an annotation file for `use`, from the cache where the file was seen so before.

    It opens short transactions of its own and holds none while the file is read. One check runs per file at a
    time; whoever else asks for that file waits and finds the result.

    Raises:
        CheckFailed: the file cannot be read, or not within `seconds`.
        Unavailable: too many requests are waiting for checks.
    """
    if (cached := _cached(database, file, use)) is not None:
        return cached
    with _check_locks.held(file.path, seconds):
        if (cached := _cached(database, file, use)) is not None:
            return cached
        deadline = time.monotonic() + seconds
        stat = _file_stat(file)
        sha256 = _digest(file, deadline, seconds)
        result = _cached_by_digest(database, sha256, use)
        if result is None:
            result = _check(file, use, deadline, seconds)
        if _file_stat(file) == stat:  # otherwise it was written to meanwhile: true of nothing that is there now
            _store(database, file.path, stat, sha256, use, result)
        return result


@dataclass(frozen=True)
class Stored:
    """A file that this service keeps: its bytes are known by their digest, and fetched only where they are unknown."""

    path: Path  # as it is called; no file on any disk
    sha256: str
    fetch: Callable[[], AbstractContextManager[Input]]


def examine_stored(database: Database, stored: Stored, seconds: float, use: Use) -> CheckResult:
    """As `examine`, of a file that cannot change."""
    if (cached := _cached_by_digest(database, stored.sha256, use)) is not None:
        return cached
    with _check_locks.held(stored.path, seconds):
        if (cached := _cached_by_digest(database, stored.sha256, use)) is not None:
            return cached
        deadline = time.monotonic() + seconds
        with stored.fetch() as file:
            if _digest(file, deadline, seconds) != stored.sha256:
                raise CheckFailed("is damaged in the storage", "Restore the storage, or import the data set again.")
            result = _check(file, use, deadline, seconds)
            _store(database, stored.path, _file_stat(file), stored.sha256, use, result)
        return result


class _CheckLocks:
    """One check per file, and a bound on how many requests wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
        self._waiting: defaultdict[Path, int] = defaultdict(int)

    @contextmanager
    def held(self, path: Path, seconds: float) -> Iterator[None]:
        with self._lock:
            if sum(self._waiting.values()) >= MAX_WAITING:
                raise Unavailable("too many annotation files are being checked", remedy="Try again in a minute.")
            self._waiting[path] += 1
            lock = self._files[path]
        try:
            if not lock.acquire(timeout=seconds + 1):
                raise Unavailable(f"{path.name} is being checked for another request")
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._lock:
                self._waiting[path] -= 1
                if not self._waiting[path]:
                    del self._waiting[path], self._files[path]


_check_locks = _CheckLocks()


def _check(file: Input, use: Use, deadline: float, seconds: float) -> CheckResult:
    # The open file, not its path: that may lead elsewhere by now.
    try:
        with file.reader() as reader:
            command = [*COMMAND, str(reader.fileno()), str(seconds)]
            left = max(deadline - time.monotonic(), 0.1)
            report: Report = bounded.ask(command, use.values(), [reader], left)
    except TooSlow:
        raise _too_slow(seconds) from None
    except TooMuchMemory:
        raise CheckFailed("holds more ids than can be checked", "Split the file.") from None
    except Failed as error:
        raise CheckFailed(f"cannot be checked: {error}", "Check the file and its permissions.") from error
    return CheckResult(
        classes=report["classes"],
        images=report["images"],
        annotations=report["annotations"],
        faults=report["faults"],
        fault_count=report["fault_count"],
        use=report["use"],
    )


def _digest(file: Input, deadline: float, seconds: float) -> str:
    sha256 = hashlib.sha256()
    try:
        with file.reader() as reader:
            while chunk := reader.read(1 << 20):
                sha256.update(chunk)
                if time.monotonic() > deadline:
                    raise _too_slow(seconds)
    except OSError as error:
        raise CheckFailed(f"cannot be read: {error.strerror}", "Check the file and its permissions.") from None
    return sha256.hexdigest()


def _too_slow(seconds: float) -> CheckFailed:
    return CheckFailed(
        f"could not be checked within {seconds:g} s",
        "Set CROSSKD_COCO_CHECK_SECONDS of the API higher, or give a smaller file.",
    )


def _file_stat(file: Input) -> _FileStat:
    try:
        status = os.fstat(file.descriptor)
    except OSError as error:  # a network file system may have lost it
        raise CheckFailed(f"cannot be read: {error.strerror}", "Check the file and its permissions.") from None
    return _FileStat(status.st_size, status.st_mtime_ns, status.st_ino)


def _cached(database: Database, file: Input, use: Use) -> CheckResult | None:
    with database.reading() as session:
        row = session.get(Dataset, os.fspath(file.path))
    if row is None or _FileStat(row.size, row.mtime_ns, row.inode) != _file_stat(file):
        return None
    return _result_of_row(row, use)


def _cached_by_digest(database: Database, sha256: str, use: Use) -> CheckResult | None:
    """The result of the same bytes under another path."""
    with database.reading() as session:
        rows = session.scalars(select(Dataset).where(Dataset.sha256 == sha256).order_by(Dataset.checked_at.desc()))
        return next((result for row in rows if (result := _result_of_row(row, use)) is not None), None)


def _key(use: Use) -> str:
    return hashlib.sha256(json.dumps(use.values(), sort_keys=True).encode()).hexdigest()


def _result_of_row(row: Dataset, use: Use) -> CheckResult | None:
    counts = row.counts
    if counts.get("version") != VERSION or not (counts["faults"] or _key(use) in counts["uses"]):
        return None
    return CheckResult(
        classes=row.categories,
        images=counts["images"],
        annotations=counts["annotations"],
        faults=row.faults,
        fault_count=counts["faults"],
        use=counts["uses"].get(_key(use)),
    )


def _store(database: Database, path: Path, stat: _FileStat, sha256: str, use: Use, result: CheckResult) -> None:
    key = os.fspath(path)
    if len(key.encode()) > MAX_CACHED_PATH:
        return
    with database.transaction() as session:
        row = session.get(Dataset, key)
        uses = {} if result.use is None else {_key(use): result.use}
        if row is not None and row.sha256 == sha256 and row.counts.get("version") == VERSION:
            # One file may serve training and validation, or several jobs with knobs of their own.
            uses = dict([*row.counts["uses"].items(), *uses.items()][-MAX_USES:])
        values = _values(session, stat, sha256, result) | {"counts": _counts(result, uses)}
        if row is None:
            # Another replica may be checking the same file: the row of either will do.
            session.insert_if_absent(Dataset, {"path": key, **values})
            return
        for name, value in values.items():
            setattr(row, name, value)


def _values(session: Session, stat: _FileStat, sha256: str, result: CheckResult) -> dict[str, Any]:
    return {
        "size": stat.size,
        "mtime_ns": stat.mtime_ns,
        "inode": stat.inode,
        "sha256": sha256,
        "categories": result.classes,
        "faults": result.faults,
        "checked_at": session.now(),
    }


def _counts(result: CheckResult, uses: dict[str, UseReport]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "images": result.images,
        "annotations": result.annotations,
        "faults": result.fault_count,
        "uses": uses,
    }
