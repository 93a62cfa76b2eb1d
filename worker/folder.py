"""The folder of one attempt: all that the supervisor and the training process say to each other.

<home>/work/<attempt>/
    claim.json     the claim and where its downloads lie; written before the training starts
    output.txt     what the training prints
    outcome.json   how it ended, as it says itself; missing when it was killed
    output-1.txt, outcome-0.json ...   the same of each rank, where several processes train; rank 0 prints above
    dataset/       annotation files of an imported data set
    run/           the training's own files: weights, checkpoints, log, manifest
    spool/         reports that the API has not taken yet
    staging/       files that wait for their upload
    inherited/     what a former attempt of the job could not deliver: the checkpoint that this one goes on from, and
                   files of evaluations
    tracking/      what trackers are told, and how far each is (`worker/tracking/files.py`)
    undelivered    empty; the attempt has ended with files that the API has not taken: they are kept for long
    pause, stop    empty; the supervisor asks by them for an end that is no kill
    lock           held (flock) while a supervisor works here
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel

from wire.jobs import Failure
from wire.process_log import readable
from wire.reports import Claim

logger = logging.getLogger(__name__)

TAIL_LINES = 200
TAIL_CHARACTERS = 500  # of one line: even if all are escaped, the report stays below the API's limit of 1 MB
UNDELIVERED = "undelivered"
REPORTS = "reports.jsonl"  # in the spool
Request = Literal["pause", "stop"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Order(BaseModel):
    """What the supervisor wants trained."""

    claim: Claim
    supervisor: int  # process id: the training ends when it is gone
    resume: Path | None = None
    teacher: Path | None = None
    weights: Path | None = None
    init: Path | None = None
    annotations: dict[str, Path] = {}  # by split, of an imported data set
    traceparent: str = ""
    tracked: bool = False  # whether the training shall keep records for trackers
    notes: list[str] = []  # what its log shall say first, as warnings


class Outcome(BaseModel):
    """What the training says of its end. `stale`: the API has given the job to someone else.

    `delivered`: the API has taken all reports and files, as far as the training knows.
    """

    outcome: Literal["succeeded", "failed", "released", "stale"]
    delivered: bool = True
    failure: Failure | None = None
    result: dict[str, Any] = {}


class WorkFolder:
    """Paths and files of one attempt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run"
        self.spool = path / "spool"
        self.staging = path / "staging"
        self.inherited = path / "inherited"
        self.tracking = path / "tracking"
        self.output = path / "output.txt"
        self.resume = path / "resume.pt"
        self.teacher = path / "teacher.safetensors"
        self.weights = path / "weights.safetensors"
        self.init = path / "init.safetensors"
        self.dataset = path / "dataset"
        self._lock: IO[bytes] | None = None

    @classmethod
    def create(cls, work: Path, attempt: str) -> WorkFolder:
        """A fresh folder below `work`, locked.

        Raises:
            ValueError: `attempt` cannot be the name of a folder.
            OSError: it exists already, or the disk refuses.
        """
        if not _NAME.fullmatch(attempt):
            raise ValueError(f"{attempt!r} is no attempt's id")
        folder = cls(work / attempt)
        folder.path.mkdir(mode=0o700, parents=True)
        folder._lock = _locked(folder.path)
        return folder

    def release(self, *, keep: bool, undelivered: bool = False) -> None:
        """Give the folder up; with `keep` its files stay until `sweep` finds them old.

        `undelivered`: they are wanted by the next attempt of the job, and kept for longer.
        """
        if keep:
            os.utime(self.path)
            if undelivered:
                (self.path / UNDELIVERED).touch()
        else:
            shutil.rmtree(self.path, ignore_errors=True)
        self.leave()

    def leave(self) -> None:
        """Let go of the folder, as it is."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write_order(self, order: Order) -> None:
        _write(self.path / "claim.json", order, exclude={"claim": {"attempt_token"}})  # the environment has it

    def read_order(self) -> Order:
        return Order.model_validate_json((self.path / "claim.json").read_bytes())

    def request(self, request: Request) -> None:
        """Ask the training for an end that takes its time. A file, not a signal: torchrun passes none of these on."""
        (self.path / request).touch()

    def is_requested(self, request: Request) -> bool:
        return (self.path / request).exists()

    def write_outcome(self, outcome: Outcome, rank: int | None = None) -> None:
        """How the training ended, or one rank of it."""
        _write(self._outcome(rank), outcome)

    def read_outcome(self, rank: int | None = None) -> Outcome | None:
        """How the training ended, or one rank of it; None if it did not live to say it."""
        try:
            return Outcome.model_validate_json(self._outcome(rank).read_bytes())
        except FileNotFoundError:
            return None

    def _outcome(self, rank: int | None) -> Path:
        return self.path / ("outcome.json" if rank is None else f"outcome-{rank}.json")

    def rank_output(self, rank: int) -> Path:
        """Where a rank prints to."""
        return self.output if rank == 0 else self.path / f"output-{rank}.txt"

    def log_tail(self, rank: int = 0) -> list[str]:
        """The last lines of what the training printed, or one rank of it."""
        try:
            with self.rank_output(rank).open(encoding="utf-8", errors="replace") as file:
                lines = deque(file, maxlen=TAIL_LINES)
        except FileNotFoundError:
            return []
        return [readable(line.rstrip("\n")).replace("\0", "")[:TAIL_CHARACTERS] for line in lines]


def link_or_copy(path: Path, target: Path) -> None:
    """The same bytes under another name. For a file that is replaced when it changes, never written to."""
    try:
        os.link(path, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, target)


def _write(path: Path, model: BaseModel, exclude: dict[str, set[str]] | None = None) -> None:
    """Write so that a reader sees all of it or nothing, also after a power cut."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(model.model_dump_json(indent=1, exclude=exclude))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _locked(path: Path) -> IO[bytes] | None:
    """The folder's lock, or None while a supervisor holds it. The kernel drops it with its process."""
    file = (path / "lock").open("ab")  # which leaves its age alone
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _touched(path: Path) -> float:
    """When something last appeared in, or was written to, the folder's top level."""
    return max([path.stat().st_mtime, *(entry.stat().st_mtime for entry in path.iterdir())])


def _folders(work: Path) -> list[Path]:
    return [path for path in sorted(work.iterdir()) if path.is_dir() and not path.is_symlink()] if work.is_dir() else []


def open_kept(work: Path) -> Iterator[WorkFolder]:
    """The folders below `work` that nobody works in, locked."""
    for path in _folders(work):
        folder = WorkFolder(path)
        try:
            folder._lock = _locked(path)
        except OSError as exc:
            logger.warning("%s could not be looked into: %s", path, exc)
        if folder._lock is not None:
            yield folder


def sweep(work: Path, hours: float, undelivered_hours: float) -> list[Path]:
    """Remove the folders that nobody works in and that were left more than `hours` ago.

    `undelivered_hours`: of those with files that the API has not taken.
    """
    removed = []
    for path in _folders(work):
        try:
            bound = undelivered_hours if (path / UNDELIVERED).exists() else hours
            if time.time() - _touched(path) < bound * 3600 or (lock := _locked(path)) is None:
                continue
            with lock:
                shutil.rmtree(path)
        except OSError as exc:
            logger.warning("%s could not be swept: %s", path, exc)
            continue
        removed.append(path)
    return removed
