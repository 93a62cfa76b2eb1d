"""The files by which a training, its supervisor and the processes of trackers speak: nobody waits for anybody.

tracking/
    job.json        what is tracked; written before the training starts
    records.jsonl   what the training tells, a line each: how many points it has, a blank, JSON
    end.json        how the training ended; nothing comes behind it
    NAME.json       how far a tracker is, as it says itself
    NAME.txt        what its process prints
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from wire.scalars import Spelt

Ended = Literal["succeeded", "failed", "cancelled", "released"]


class Job(BaseModel):
    """What is tracked."""

    job: str
    kind: str
    attempt: int  # number of the attempt, from 1
    resume_step: int  # the step, from 0, that the attempt goes on from
    spec: dict[str, Any]
    url: str  # of the job, as people reach it
    home: Path  # the worker's: relative folders of settings lie in it


class Points(BaseModel):
    """What was measured at a step, by name. A value that is not finite is spelt."""

    kind: Literal["points"] = "points"
    step: int
    at: datetime
    values: dict[str, Spelt]


class Link(BaseModel):
    """A file of the job stands complete; the API has it, or will have it soon."""

    kind: Literal["link"] = "link"
    name: str  # of the artifact


class Told(BaseModel):
    """A line of the records."""

    record: Points | Link

    @property
    def points(self) -> int:
        return len(self.record.values) if isinstance(self.record, Points) else 0


class State(BaseModel):
    """How far a tracker is. `error`: why it is no further, without secrets; empty: it never failed since."""

    delivered: int = 0  # points
    refused: int = 0  # points that the tracker will never take
    where: str = ""  # the run, as one finds it
    error: str = ""
    finished: bool = False


class Ending(BaseModel):
    outcome: Ended


class TrackingFolder:
    """Paths and files below an attempt's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = path / "records.jsonl"

    def create(self, job: Job) -> None:
        self.path.mkdir(exist_ok=True)
        _write(self.path / "job.json", job)

    def job(self) -> Job:
        return Job.model_validate_json((self.path / "job.json").read_bytes())

    def end(self, outcome: Ended) -> None:
        _write(self.path / "end.json", Ending(outcome=outcome))

    def ended(self) -> Ended | None:
        """How the training ended; None while it runs."""
        try:
            return Ending.model_validate_json((self.path / "end.json").read_bytes()).outcome
        except FileNotFoundError:
            return None

    def write_state(self, tracker: str, state: State) -> None:
        _write(self.path / f"{tracker}.json", state)

    def state(self, tracker: str) -> State:
        """As the tracker wrote it last; a fresh one where it never did."""
        try:
            return State.model_validate_json((self.path / f"{tracker}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return State()

    def output(self, tracker: str) -> Path:
        return self.path / f"{tracker}.txt"

    def points(self) -> int:
        """How many points the training has told. Lines are counted by what stands before their JSON."""
        if not self.records.exists():
            return 0
        with self.records.open("rb") as file:
            return sum(int(line.partition(b" ")[0]) for line in file if line.endswith(b"\n"))


class Writer:
    """The records, as the training writes them: up to `limit` bytes, and whatever the disk says, without an error."""

    def __init__(self, path: Path, limit: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size
        self._limit = limit
        self.left_out = 0  # points that found no room

    def write(self, record: Points | Link) -> None:
        """Append a record, whole or not at all: then its points are counted."""
        points = Told(record=record).points
        line = f"{points} ".encode() + record.model_dump_json().encode() + b"\n"
        try:
            if self._size + len(line) <= self._limit and os.write(self._file, line) == len(line):
                self._size += len(line)
                return
            os.ftruncate(self._file, self._size)  # of a line that found no room on the disk
        except OSError:
            self._undo()
        self.left_out += points

    def _undo(self) -> None:
        try:
            os.ftruncate(self._file, self._size)
        except OSError:  # then readers meet half a line, which they pass over
            self._size = self._limit

    def close(self) -> None:
        os.close(self._file)


class Reader:
    """The records, as a tracker follows them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken = 0  # bytes

    def next(self, most: int) -> tuple[list[Told], int]:
        """Up to `most` records behind those that were taken, and what to `take` for them. Never waits."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._taken)
                lines: list[bytes] = []
                while len(lines) < most and (line := file.readline()).endswith(b"\n"):
                    lines.append(line)
        except FileNotFoundError:
            return [], 0
        records = [Told.model_validate_json(b'{"record":' + line.partition(b" ")[2] + b"}") for line in lines]
        return records, sum(map(len, lines))

    def take(self, size: int) -> None:
        self._taken += size


def _write(path: Path, model: BaseModel) -> None:
    """Write so that a reader sees all of it or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_text(model.model_dump_json(), encoding="utf-8")
    part.replace(path)
