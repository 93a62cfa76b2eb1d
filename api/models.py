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

ID = re.compile(r"[0-9a-f]{32}")


def new_id() -> str:
    """A UUIDv7 (RFC 9562) as 32 hex digits: ids sort by the time they were made."""
    nanoseconds = time.time_ns()
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = rest * 4096 // 1_000_000  # 12 bits below the millisecond (method 3 of section 6.2)
    noise = int.from_bytes(os.urandom(8)) & (2**62 - 1)
    return f"{milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | noise:032x}"


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
    __table_args__ = (Index("ix_jobs_status_id", "status", "id"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(200))
    labels: Mapped[dict[str, str]]
    status: Mapped[str] = mapped_column(String(16))
    spec: Mapped[dict[str, Any]]
    spec_version: Mapped[int]
    queue: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    progress: Mapped[dict[str, Any] | None]
    best_ap: Mapped[float | None]
    teacher_ap: Mapped[float | None]
    failure: Mapped[dict[str, Any] | None]
    attempt: Mapped[int] = mapped_column(default=0)  # the fencing counter: number of the last attempt
    resumes: Mapped[int] = mapped_column(default=0)  # times it was queued again after a loss


class JobLabel(Base):
    """The labels once more, for `GET /jobs?label=`."""

    __tablename__ = "job_labels"
    __table_args__ = (Index("ix_job_labels_key_value_job_id", "key", "value", "job_id"),)

    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(63), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))


class Transition(Base):
    __tablename__ = "transitions"

    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    from_status: Mapped[str | None] = mapped_column(String(16))
    to_status: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str]


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


class Outbox(Base):
    """Doorbells to ring. A relay takes a row by moving `due_at` on, so a crash only delays it."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_due_at", "due_at", postgresql_where=text("published_at IS NULL"),
              sqlite_where=text("published_at IS NULL")),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    job_id: Mapped[str] = mapped_column(String(32), ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    queue: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    published_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)


class Pulse(Base):
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
    counts: Mapped[dict[str, int]]
    faults: Mapped[list[Any]]
    checked_at: Mapped[datetime]
