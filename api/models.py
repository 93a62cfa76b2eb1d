"""Tables. The database is the truth: every other part of the service can be lost and rebuilt from it."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Dialect, Double, ForeignKey, Index, MetaData, SmallInteger, String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import DateTime, TypeDecorator

from api.process_log import current_request_id
from wire import tracing
from wire.tasks import NORMAL_PRIORITY
from wire.tokens import LOCAL_OWNER

ID = re.compile(r"[0-9a-f]{32}")


def new_id() -> str:
    """A UUIDv7 (RFC 9562) as 32 hex digits: ids sort by the time they were made."""
    nanoseconds = time.time_ns()
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = rest * 4096 // 1_000_000  # 12 bits below the millisecond (method 3 of section 6.2)
    noise = int.from_bytes(os.urandom(8)) & (2**62 - 1)
    return f"{milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | noise:032x}"


def id_range(prefix: str) -> tuple[str, str]:
    """The first and the last id that begin with `prefix`, hex digits in small letters."""
    return prefix.ljust(32, "0"), prefix.ljust(32, "f")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, aware on both databases; SQLite keeps it as text of fixed width, which sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - the base's signature
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        datetime: UtcDateTime,
        dict[str, Any]: JSON(none_as_null=True),
        dict[str, str]: JSON(none_as_null=True),
        dict[str, int]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        float: Double,
        int: BigInteger,
    }


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_status_id", "status", "id"),
        Index("uq_jobs_retried_from", "retried_from", unique=True),
        Index("ix_jobs_owner_status_id", "owner", "status", "id"),
        Index("ix_jobs_name_id", "name", "id"),
        Index("ix_jobs_kind_id", "kind", "id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(200))
    owner: Mapped[str] = mapped_column(String(63), default=LOCAL_OWNER, server_default=LOCAL_OWNER)
    labels: Mapped[dict[str, str]]
    status: Mapped[str] = mapped_column(String(16))
    spec: Mapped[dict[str, Any]]
    spec_version: Mapped[int]
    warnings: Mapped[list[Any] | None]  # what was found in its data; not read for lists of jobs
    queue: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    stop_requested_at: Mapped[datetime | None]
    pause_requested_at: Mapped[datetime | None]  # unset by a resume
    resume_requested_at: Mapped[datetime | None]  # unset by a pause
    progress: Mapped[dict[str, Any] | None]
    best_ap: Mapped[float | None]
    teacher_ap: Mapped[float | None]
    failure: Mapped[dict[str, Any] | None]
    attempt: Mapped[int] = mapped_column(default=0)  # the fencing counter: number of the last attempt
    resumes: Mapped[int] = mapped_column(default=0)  # times it was queued again after a loss
    retried_from: Mapped[str | None] = mapped_column(String(32))  # no foreign key: that job may be deleted
    start: Mapped[dict[str, Any] | None]  # of a retry, the checkpoint it begins with: job, step, best_ap until then
    last_event: Mapped[int] = mapped_column(default=0, server_default="0")  # number of the last row of its journal
    priority: Mapped[int] = mapped_column(SmallInteger, default=NORMAL_PRIORITY, server_default=str(NORMAL_PRIORITY))
    request_id: Mapped[str | None] = mapped_column(String(128), default=current_request_id)  # of what has made it
    traceparent: Mapped[str | None] = mapped_column(String(55), default=lambda: tracing.traceparent() or None)


class DeletedJob(Base):
    """What is left of a deleted job or sweep: the answer to whoever deletes it again."""

    __tablename__ = "deleted_jobs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    deleted_at: Mapped[datetime]
    role: Mapped[str | None] = mapped_column(String(8))  # `job` or `sweep`; null: either, deleted before this was kept


class DeletedAttemptCount(Base):
    """Attempts of deleted jobs, by how they ended."""

    __tablename__ = "tallies"

    status: Mapped[str] = mapped_column(String(16), primary_key=True)
    count: Mapped[int]


class Sweep(Base):
    """Several jobs that were ordered together, to be compared."""

    __tablename__ = "sweeps"
    __table_args__ = (Index("ix_sweeps_owner_id", "owner", "id"), Index("ix_sweeps_name_id", "name", "id"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(100))
    owner: Mapped[str] = mapped_column(String(63))
    labels: Mapped[dict[str, str]]
    priority: Mapped[int] = mapped_column(SmallInteger)
    spec: Mapped[dict[str, Any]]  # the order as it was posted
    baseline: Mapped[str] = mapped_column(String(63))  # an arm
    created_at: Mapped[datetime]
    request_id: Mapped[str | None] = mapped_column(String(128), default=current_request_id)


class SweepJob(Base):
    """A job's place in its sweep. After a retry it is that of the retry."""

    __tablename__ = "sweep_jobs"
    __table_args__ = (Index("uq_sweep_jobs_job_id", "job_id", unique=True),)

    sweep_id: Mapped[str] = mapped_column(String(32), ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # from 0; the teacher's training first
    job_id: Mapped[str] = mapped_column(String(32))  # no foreign key: a job that was deleted is named too
    role: Mapped[str] = mapped_column(String(16))
    arm: Mapped[str | None] = mapped_column(String(63))
    seed: Mapped[int]
    point: Mapped[dict[str, Any]]  # values by knob
    name: Mapped[str] = mapped_column(String(200))


class JobLabel(Base):
    """The labels once more, for `GET /jobs?label=`."""

    __tablename__ = "job_labels"
    __table_args__ = (Index("ix_job_labels_key_value_job_id", "key", "value", "job_id"),)

    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(63), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))


class JobDependency(Base):
    """A job whose weights another one's specification names; `role` says what for."""

    __tablename__ = "job_dependencies"
    __table_args__ = (Index("ix_job_dependencies_depends_on", "depends_on"),)

    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(16), primary_key=True)
    depends_on: Mapped[str] = mapped_column(String(32))  # no foreign key: that job may be deleted


class Transition(Base):
    __tablename__ = "transitions"

    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    from_status: Mapped[str | None] = mapped_column(String(16))
    to_status: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str]


class Event(Base):
    """The journal of a job: what happened in which order, without a hole; `ref` says where the rest of it stands."""

    __tablename__ = "events"
    __table_args__ = {"sqlite_with_rowid": False}

    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    size: Mapped[int]  # about how many characters it is on the wire
    ref: Mapped[dict[str, Any]]


class Attempt(Base):
    __tablename__ = "attempts"
    __table_args__ = (
        Index("uq_attempts_job_id_number", "job_id", "number", unique=True),
        Index("ix_attempts_status_lease_expires_at", "status", "lease_expires_at"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id", ondelete="CASCADE"))
    number: Mapped[int]  # the fencing token
    status: Mapped[str] = mapped_column(String(16))
    worker: Mapped[str] = mapped_column(String(200))
    device: Mapped[str] = mapped_column(String(200))
    versions: Mapped[dict[str, str]]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    lease_expires_at: Mapped[datetime]
    resumed_from_step: Mapped[int]
    failure: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]  # the manifest that the worker handed in
    finish: Mapped[dict[str, Any] | None]  # what was reported and answered, for a repeated report
    token_sha256: Mapped[str | None] = mapped_column(String(64))  # of its own secret; see api/auth.py


class Worker(Base):
    """A worker as it was last heard of; its attempts say what it does."""

    __tablename__ = "workers"
    __table_args__ = (Index("ix_workers_last_seen", "last_seen"),)

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    device: Mapped[str] = mapped_column(String(200), primary_key=True)
    devices: Mapped[list[Any]]
    versions: Mapped[dict[str, str]]
    machine: Mapped[dict[str, Any] | None]  # `wire.workers.MachineSeen`; NULL: it did not tell
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]


class Outbox(Base):
    """Dispatch messages to send. A relay takes a row by moving `due_at` on, so a crash only delays it."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_priority_id", "priority", "id", postgresql_where=text("published_at IS NULL"),
              sqlite_where=text("published_at IS NULL")),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    queue: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    published_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="4")  # the broker's: 0 comes first


class IdempotencyKey(Base):
    """A request that came with a key: reserved until `lease_expires_at`, then answered with what it holds."""

    __tablename__ = "idempotency_keys"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # sha256 of who called and the key
    fingerprint: Mapped[str] = mapped_column(String(64))  # sha256 of the request
    token: Mapped[str] = mapped_column(String(32))  # of the reservation that holds
    lease_expires_at: Mapped[datetime]
    at: Mapped[datetime] = mapped_column(index=True)
    answer: Mapped[bytes | None]  # encrypted: status, headers and body


class ApiUptime(Base):
    """One row: when an API process was last alive, and since when without a gap."""

    __tablename__ = "pulse"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    since: Mapped[datetime]


class MetricPoint(Base):
    """`kind`: 0 finite, 1 NaN, 2 Infinity, 3 -Infinity (then `value` is null: SQLite knows no NaN)."""

    __tablename__ = "metric_points"
    __table_args__ = {"sqlite_with_rowid": False}

    attempt_id: Mapped[str] = mapped_column(String(32), ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[float | None]
    kind: Mapped[int] = mapped_column(SmallInteger)
    at: Mapped[datetime]
    sequence: Mapped[int | None]  # the batch that brought it


class MetricSummary(Base):
    """The points of a key with a step in [bucket * width, (bucket + 1) * width): `services/history/summaries.py`."""

    __tablename__ = "metric_summaries"
    __table_args__ = {"sqlite_with_rowid": False}

    attempt_id: Mapped[str] = mapped_column(String(32), ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True)
    width: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # steps
    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    bucket: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    points: Mapped[int]
    low: Mapped[float | None]  # of the finite ones, if there are any
    high: Mapped[float | None]
    kinds: Mapped[int] = mapped_column(SmallInteger)  # a bit for each kind of point that is not finite
    last_step: Mapped[int]


class MetricBatch(Base):
    __tablename__ = "metric_batches"
    __table_args__ = {"sqlite_with_rowid": False}

    attempt_id: Mapped[str] = mapped_column(String(32), ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Evaluation(Base):
    __tablename__ = "evaluations"

    attempt_id: Mapped[str] = mapped_column(String(32), ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True)
    model: Mapped[str] = mapped_column(String(16), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    report: Mapped[dict[str, Any]]  # the EvaluationReport as it came


class LogChunk(Base):
    """Lines `first` … `first + count - 1` of a job's log, as one batch brought them. Only the newest are kept."""

    __tablename__ = "log_chunks"
    __table_args__ = (Index("uq_log_chunks_attempt_id_sequence", "attempt_id", "sequence", unique=True),)

    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    first: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    count: Mapped[int]
    end: Mapped[int]  # characters of the job's log up to and with this chunk
    attempt_id: Mapped[str] = mapped_column(String(32), ForeignKey("attempts.id", ondelete="CASCADE"))
    attempt: Mapped[int]  # its number
    sequence: Mapped[int]
    lines: Mapped[list[Any]]  # of [time, level, text]


class Artifact(Base):
    """A published file. `path` is relative to the storage folder; the bytes under it never change."""

    __tablename__ = "artifacts"
    __table_args__ = (Index("uq_artifacts_job_id_name", "job_id", "name", unique=True),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt_id: Mapped[str] = mapped_column(String(32), ForeignKey("attempts.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(16))
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    step: Mapped[int | None]
    path: Mapped[str] = mapped_column(String(1000))
    created_at: Mapped[datetime]


class ApiToken(Base):
    """A client's token. The secret was shown once and is not kept."""

    __tablename__ = "tokens"
    __table_args__ = (Index("uq_tokens_sha256", "sha256", unique=True),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(100))
    owner: Mapped[str] = mapped_column(String(63))
    scopes: Mapped[list[Any]]
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    def is_live(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)


class BrowserSession(Base):
    """A browser that is signed in with a token. The cookie's secret is not kept."""

    __tablename__ = "browser_sessions"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    token_id: Mapped[str] = mapped_column(String(32), ForeignKey("tokens.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Webhook(Base):
    """Who is told of an owner's jobs. The secret stands here as it is: what signs cannot be a hash."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    owner: Mapped[str] = mapped_column(String(63), index=True)
    url: Mapped[str] = mapped_column(String(2000))
    events: Mapped[list[Any]]
    secret: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]


class WebhookDelivery(Base):
    """One event for one webhook. `due_at` is null once it is delivered or given up."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", "id"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    webhook_id: Mapped[str] = mapped_column(String(32), ForeignKey("webhooks.id", ondelete="CASCADE"))
    event: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    due_at: Mapped[datetime | None] = mapped_column(index=True)
    tries: Mapped[int] = mapped_column(default=0)
    delivered: Mapped[bool] = mapped_column(default=False)
    problem: Mapped[str] = mapped_column(default="")


class NamedDataset(Base):
    """A name under which data sets are imported. It is its first importer's, and may have no version yet."""

    __tablename__ = "named_datasets"
    __table_args__ = (Index("ix_named_datasets_owner_name", "owner", "name"),)

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    owner: Mapped[str] = mapped_column(String(63))
    created_at: Mapped[datetime]


class DatasetVersion(Base):
    """Content that was imported under a name. `job_id` and `result` are of the newest import of this content."""

    __tablename__ = "dataset_versions"
    __table_args__ = (Index("ix_dataset_versions_job_id", "job_id"),)

    name: Mapped[str] = mapped_column(
        String(63), ForeignKey("named_datasets.name", ondelete="CASCADE"), primary_key=True
    )
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(String(32))  # its artifacts are the version's files
    result: Mapped[dict[str, Any]]  # `wire.datasets.ImportResult`
    created_at: Mapped[datetime]
    imported_at: Mapped[datetime]


class JobDataset(Base):
    """The version of a data set that a job reads."""

    __tablename__ = "job_datasets"
    __table_args__ = (Index("ix_job_datasets_name_digest", "name", "digest"),)

    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(63))  # no foreign key: that data set may be deleted
    digest: Mapped[str] = mapped_column(String(64))


class Dataset(Base):
    """What was found in an annotation file, kept by its digest; `path` … `inode` tell an unchanged file at a glance."""

    __tablename__ = "datasets"
    __table_args__ = (Index("ix_datasets_sha256", "sha256"),)

    path: Mapped[str] = mapped_column(String(4096), primary_key=True)
    size: Mapped[int]
    mtime_ns: Mapped[int]
    inode: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    categories: Mapped[list[Any]]
    counts: Mapped[dict[str, Any]]
    faults: Mapped[list[Any]]
    checked_at: Mapped[datetime]
