"""A training's own record of what it reports, for an audit: `CROSSKD_AUDIT_LOG` names a folder, unset there is none.

<folder>/<attempt>.jsonl    a record a line, each written before the API hears of it

The spool forgets what is delivered, and the attempt's folder goes with a success; the audit log stays. What the API
has stored can be held against it afterwards: nothing may be missing, and nothing may be there twice. A line is handed
to the system at once, so a killed process loses none; the last may be torn where the disk was full.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter


class _Record(BaseModel):
    # Of the machine, from its start: it goes on evenly when somebody sets the clock.
    monotonic: float = Field(default_factory=time.monotonic)


class Began(_Record):
    """First of all. `resume_step` and `resume_sha256` are those of the checkpoint that the training goes on from."""

    kind: Literal["began"] = "began"
    job: str
    attempt: str
    number: int
    worker: str
    pid: int
    resume_step: int | None = None
    resume_sha256: str | None = None


class Points(_Record):
    """Metrics of a step; each value as `float.hex` writes it, so that no bit is lost."""

    kind: Literal["points"] = "points"
    step: int
    values: dict[str, str]


class Evaluated(_Record):
    kind: Literal["evaluation"] = "evaluation"
    model: str
    step: int
    metrics: dict[str, str]  # as `Points.values`


class Wrote(_Record):
    """A file stands complete and is handed over; `name` is that of its artifact."""

    kind: Literal["file"] = "file"
    name: str
    step: int | None
    size: int
    sha256: str


class Ended(_Record):
    """Last of all, if the process lived to say it. `delivered`: the API has taken every report."""

    kind: Literal["ended"] = "ended"
    outcome: str
    delivered: bool


Record = Annotated[Began | Points | Evaluated | Wrote | Ended, Field(discriminator="kind")]
_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def exact(values: Mapping[str, float]) -> dict[str, str]:
    return {key: float(value).hex() for key, value in values.items()}


class AuditLog:
    """The audit log of one attempt, open for writing."""

    def __init__(self, folder: Path, attempt: str) -> None:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        # Appended to: should two processes ever work on one attempt, the audit log shall show it.
        self._file = (folder / f"{attempt}.jsonl").open("ab", buffering=0)

    def note(self, record: Record) -> None:
        """Write a record. Raises `OSError`: a training whose audit log has holes is worth nothing in an audit."""
        line = memoryview(record.model_dump_json().encode() + b"\n")
        while line:
            line = line[self._file.write(line) :]

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[Record]:
    """The records of a audit log; a line that is not whole, which only the last can be, is left out."""
    lines = path.read_bytes().split(b"\n")
    return [_RECORD.validate_json(line) for line in lines[:-1]]
