"""What stands in an annotation file: checked in a process of its own, remembered by the file's digest."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from api.database import Database, Session
from api.errors import Unavailable
from api.models import Dataset
from api.services.submission.coco_check import VERSION, CocoFault, Report

COMMAND = [sys.executable, "-m", "api.services.submission.coco_check"]
MAX_REMEMBERED_PATH = 2000  # bytes: Postgres indexes no longer keys, and a path is one
MAX_WAITING = 8  # requests held up by checks; every one of them holds a thread of the API


class CheckFailed(Exception):
    """There is no verdict; `detail` and `remedy` say why, for the client."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy


@dataclass(frozen=True)
class Verdict:
    """`classes` by ascending category id; `boxes` that can train; the first of `fault_count` faults."""

    classes: list[str]
    images: int
    annotations: int
    boxes: int
    faults: list[CocoFault]
    fault_count: int


@dataclass(frozen=True)
class _Glance:
    """What tells at a glance that a file is still the one that was checked."""

    size: int
    mtime_ns: int
    inode: int


def examine(database: Database, path: Path, seconds: float) -> Verdict:
    """The verdict on the annotation file at `path`, from memory where the file was seen before.

    It opens short transactions of its own and holds none while the file is read. One check runs per file at a
    time; whoever else asks for that file waits and finds the verdict.

    Raises:
        CheckFailed: the file cannot be read, or not within `seconds`.
        Unavailable: too many requests are waiting for checks.
    """
    if (known := _recall(database, path)) is not None:
        return known
    with _turns.taken(path, seconds):
        if (known := _recall(database, path)) is not None:
            return known
        deadline = time.monotonic() + seconds
        glance = _glance(path)
        sha256 = _digest(path, deadline, seconds)
        verdict = _recall_digest(database, sha256)
        if verdict is None:
            verdict = _check(path, deadline, seconds)
        if _glance(path) == glance:  # otherwise it was written to meanwhile: true of nothing that is there now
            _remember(database, path, glance, sha256, verdict)
        return verdict


class _Turns:
    """One check per file, and a bound on how many requests wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
        self._waiting: defaultdict[Path, int] = defaultdict(int)

    @contextmanager
    def taken(self, path: Path, seconds: float) -> Iterator[None]:
        with self._lock:
            if sum(self._waiting.values()) >= MAX_WAITING:
                raise Unavailable("too many annotation files are being checked", remedy="Try again in a minute.")
            self._waiting[path] += 1
            turn = self._files[path]
        try:
            if not turn.acquire(timeout=seconds + 1):
                raise Unavailable(f"{path.name} is being checked for another request")
            try:
                yield
            finally:
                turn.release()
        finally:
            with self._lock:
                self._waiting[path] -= 1
                if not self._waiting[path]:
                    del self._waiting[path], self._files[path]


_turns = _Turns()


def _check(path: Path, deadline: float, seconds: float) -> Verdict:
    command = [*COMMAND, os.fspath(path), str(seconds)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=max(deadline - time.monotonic(), 0.1)
        )
    except subprocess.TimeoutExpired:
        raise _too_slow(seconds) from None
    if done.returncode != 0:
        if b"MemoryError" in done.stderr:
            raise CheckFailed("holds more ids than can be checked", "Split the file.")
        if done.returncode < 0:  # by a signal: the limit on its processor time
            raise _too_slow(seconds)
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise CheckFailed(f"cannot be checked: {last}", "Check the file and its permissions.")
    report: Report = json.loads(done.stdout)
    return Verdict(
        classes=report["classes"],
        images=report["images"],
        annotations=report["annotations"],
        boxes=report["boxes"],
        faults=report["faults"],
        fault_count=report["fault_count"],
    )


def _digest(path: Path, deadline: float, seconds: float) -> str:
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
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


def _glance(path: Path) -> _Glance:
    try:
        status = path.stat()
    except OSError as error:
        raise CheckFailed(f"cannot be read: {error.strerror}", "Check the file and its permissions.") from None
    return _Glance(status.st_size, status.st_mtime_ns, status.st_ino)


def _recall(database: Database, path: Path) -> Verdict | None:
    with database.reading() as session:
        row = session.get(Dataset, os.fspath(path))
    if row is None or _Glance(row.size, row.mtime_ns, row.inode) != _glance(path):
        return None
    return _verdict(row)


def _recall_digest(database: Database, sha256: str) -> Verdict | None:
    """The verdict on the same bytes under another path."""
    with database.reading() as session:
        rows = session.scalars(select(Dataset).where(Dataset.sha256 == sha256).order_by(Dataset.checked_at.desc()))
        return next((verdict for row in rows if (verdict := _verdict(row)) is not None), None)


def _verdict(row: Dataset) -> Verdict | None:
    counts = row.counts
    if counts.get("version") != VERSION:
        return None
    return Verdict(
        classes=row.categories,
        images=counts["images"],
        annotations=counts["annotations"],
        boxes=counts["boxes"],
        faults=row.faults,
        fault_count=counts["faults"],
    )


def _remember(database: Database, path: Path, glance: _Glance, sha256: str, verdict: Verdict) -> None:
    key = os.fspath(path)
    if len(key.encode()) > MAX_REMEMBERED_PATH:
        return
    with database.transaction() as session:
        values = _values(session, glance, sha256, verdict)
        row = session.get(Dataset, key)
        if row is None:
            # Another replica may be checking the same file: the row of either will do.
            session.insert_if_absent(Dataset, {"path": key, **values})
            return
        for name, value in values.items():
            setattr(row, name, value)


def _values(session: Session, glance: _Glance, sha256: str, verdict: Verdict) -> dict[str, Any]:
    counts = {
        "version": VERSION,
        "images": verdict.images,
        "annotations": verdict.annotations,
        "boxes": verdict.boxes,
        "faults": verdict.fault_count,
    }
    return {
        "size": glance.size,
        "mtime_ns": glance.mtime_ns,
        "inode": glance.inode,
        "sha256": sha256,
        "categories": verdict.classes,
        "counts": counts,
        "faults": verdict.faults,
        "checked_at": session.now(),
    }
