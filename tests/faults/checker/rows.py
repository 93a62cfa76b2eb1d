"""A history: all that the service has stored, what its workers noted themselves, and what clients saw. Plain data.

Times of the database are aware and by its clock; `asked` and `answered` are `time.monotonic()` of the harness.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from worker.training.audit_log import Record

Json = dict[str, Any]


# ---- what clients saw: the harness fills these in ----


@dataclass(frozen=True)
class Accepted:
    """A 201 (or its replay) that a client got for `POST /jobs`. `body` is the answer; `key` the Idempotency-Key.

    Each submission must have a `name` of its own: by it, a job that was made twice is found out even if the client
    saw only one of the two answers.
    """

    job_id: str
    body: Json
    key: str | None = None


@dataclass(frozen=True)
class Observation:
    """A status that `GET /jobs/{id}` (or a list, or an event) told, of a request between `asked` and `answered`."""

    job_id: str
    status: str
    asked: float
    answered: float


@dataclass(frozen=True)
class Download:
    """A download that came to its end. `promised`: the sha256 that `Repr-Digest` named, in hex; `sha256`, `size`: of
    the bytes that came. `final`: the job had been seen in a final state before it was asked for."""

    job_id: str
    name: str
    promised: str
    sha256: str
    size: int
    final: bool = False


@dataclass
class Seen:
    """What the harness knows and the database does not.

    `references`: by a job's name, the tensors of the files that the same spec leaves when nothing interrupts it:
    `{"last.safetensors": digests(path), "best.safetensors": digests(path)}` (`tensors.digests`).
    """

    accepted: list[Accepted] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    downloads: list[Download] = field(default_factory=list)
    references: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    max_resumes: int = 3  # CROSSKD_MAX_RESUMES of the APIs
    sweep_seconds: float = 6 * 3600.0  # a file that no row names may be so old


# ---- what is stored ----


@dataclass(frozen=True)
class JobRow:
    id: str
    kind: str
    name: str
    labels: Json
    status: str
    spec: Json
    attempt: int
    resumes: int
    last_event: int
    cancel_requested_at: datetime | None
    retried_from: str | None
    start: Json | None
    failure: Json | None


@dataclass(frozen=True)
class DependencyRow:
    """A job whose weights another one's specification names."""

    job_id: str
    role: str
    depends_on: str


@dataclass(frozen=True)
class TransitionRow:
    job_id: str
    seq: int
    at: datetime
    from_status: str | None
    to_status: str
    reason: str


@dataclass(frozen=True)
class AttemptRow:
    id: str
    job_id: str
    number: int
    status: str
    worker: str
    device: str
    started_at: datetime
    ended_at: datetime | None
    lease_expires_at: datetime
    resumed_from_step: int
    failure: Json | None
    result: Json | None


@dataclass(frozen=True)
class PointRow:
    attempt_id: str
    step: int
    key: str
    value: float | None
    kind: int  # 0 finite, 1 NaN, 2 Infinity, 3 -Infinity
    sequence: int | None


@dataclass(frozen=True)
class SummaryRow:
    """The points of a key in a bucket of steps; see `api/services/history/summaries.py`."""

    attempt_id: str
    width: int
    key: str
    bucket: int
    points: int
    low: float | None
    high: float | None
    kinds: int
    last_step: int


@dataclass(frozen=True)
class BatchRow:
    attempt_id: str
    sequence: int


@dataclass(frozen=True)
class EvaluationRow:
    attempt_id: str
    model: str
    step: int
    at: datetime
    report: Json


@dataclass(frozen=True)
class LogRow:
    job_id: str
    first: int
    count: int
    attempt_id: str
    attempt: int
    sequence: int


@dataclass(frozen=True)
class EventRow:
    job_id: str
    seq: int
    kind: str
    ref: Json


@dataclass(frozen=True)
class ArtifactRow:
    id: str
    job_id: str
    attempt_id: str
    name: str
    kind: str
    size: int
    sha256: str
    step: int | None
    path: str
    created_at: datetime


@dataclass(frozen=True)
class OutboxRow:
    id: str
    job_id: str


@dataclass(frozen=True)
class FileRead:
    """A published file as it lies in the storage, read whole. `tensors`: of a safetensors file, else None."""

    key: str
    size: int
    sha256: str
    age: float  # seconds
    tensors: dict[str, str] | None = None


# ---- what the trainings noted themselves ----


@dataclass(frozen=True)
class AuditLog:
    """The audit_log of one training process, in the order in which it was written (`worker/training/audit_log.py`)."""

    attempt_id: str
    records: tuple[Record, ...]


@dataclass
class History:
    """Everything. `jobs` lacks deleted ones, of which `deleted` has the ids."""

    seen: Seen = field(default_factory=Seen)
    jobs: list[JobRow] = field(default_factory=list)
    dependencies: list[DependencyRow] = field(default_factory=list)
    transitions: list[TransitionRow] = field(default_factory=list)
    attempts: list[AttemptRow] = field(default_factory=list)
    points: list[PointRow] = field(default_factory=list)
    summaries: list[SummaryRow] = field(default_factory=list)
    batches: list[BatchRow] = field(default_factory=list)
    evaluations: list[EvaluationRow] = field(default_factory=list)
    logs: list[LogRow] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    artifacts: list[ArtifactRow] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    files: list[FileRead] = field(default_factory=list)
    audit_logs: list[AuditLog] = field(default_factory=list)
