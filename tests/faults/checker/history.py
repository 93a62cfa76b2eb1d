"""Reading a history where a service has left it: database, artifacts, audit_logs. Meanwhile it should be quiet."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, select
from sqlalchemy.orm import DeclarativeBase

from api import models
from tests.faults.checker import rows, tensors
from tests.faults.checker.rows import Accepted as Accepted
from tests.faults.checker.rows import Download as Download
from tests.faults.checker.rows import History as History
from tests.faults.checker.rows import Observation as Observation
from tests.faults.checker.rows import Seen as Seen
from worker.training import audit_log

Row = TypeVar("Row")
STAGING = "staging"  # of the artifact folder: parts of uploads, which nobody is ever given


def collect(database_url: str, artifacts: Path, audit_logs: Iterable[Path], seen: Seen) -> History:
    """All tables in one snapshot, every published file read whole, and the audit_logs of all workers.

    Call it when every job is final and no worker is at work, or a file may be replaced between the two looks.

    Args:
        database_url: as `CROSSKD_DATABASE_URL`.
        artifacts: the API's artifact folder, `CROSSKD_STORAGE`.
        audit_logs: the folders that the workers' `CROSSKD_AUDIT_LOG` named; each may lack, and workers may share one.
            Put them where no fault fills the disk.
        seen: what the harness has noted.
    """
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection.execution_options(isolation_level="REPEATABLE READ")
            history = _tables(connection)
    finally:
        engine.dispose()
    history.seen = seen
    history.files = list(_files(artifacts)) if artifacts.is_dir() else []
    history.audit_logs = [
        rows.AuditLog(path.stem, tuple(audit_log.read(path)))
        for folder in sorted(set(audit_logs))
        for path in sorted(folder.glob("*.jsonl"))
    ]
    return history


def _tables(connection: Connection) -> History:
    return History(
        jobs=_table(connection, models.Job, rows.JobRow),
        dependencies=_table(connection, models.JobDependency, rows.DependencyRow),
        transitions=_table(connection, models.Transition, rows.TransitionRow),
        attempts=_table(connection, models.Attempt, rows.AttemptRow),
        points=_table(connection, models.MetricPoint, rows.PointRow),
        summaries=_table(connection, models.MetricSummary, rows.SummaryRow),
        batches=_table(connection, models.MetricBatch, rows.BatchRow),
        evaluations=_table(connection, models.Evaluation, rows.EvaluationRow),
        logs=_table(connection, models.LogChunk, rows.LogRow),
        events=_table(connection, models.Event, rows.EventRow),
        artifacts=_table(connection, models.Artifact, rows.ArtifactRow),
        outbox=_table(connection, models.Outbox, rows.OutboxRow),
        deleted=list(connection.scalars(select(models.DeletedJob.id))),
    )


def _table(connection: Connection, table: type[DeclarativeBase], kind: type[Row]) -> list[Row]:
    """The rows of a table, in the order of its key; `kind` has fields of the names of the columns that matter."""
    columns = [table.__table__.c[field.name] for field in fields(kind)]  # type: ignore[arg-type]
    return [kind(*_aware(row)) for row in connection.execute(select(*columns).order_by(*table.__table__.primary_key))]


def _aware(row: Iterable[Any]) -> list[Any]:
    return [value.astimezone(UTC) if isinstance(value, datetime) else value for value in row]


def _files(folder: Path) -> Iterator[rows.FileRead]:
    now = time.time()
    for path in sorted(path for path in folder.glob("*/*") if path.parent.name != STAGING and path.is_file()):
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        found = path.stat()
        yield rows.FileRead(
            key=path.relative_to(folder).as_posix(),
            size=found.st_size,
            sha256=sha256,
            age=now - found.st_mtime,
            tensors=_tensors(path),
        )


def _tensors(path: Path) -> dict[str, str] | None:
    try:
        return tensors.digests(path) if path.suffix == ".safetensors" else None
    except ValueError:
        return None  # its digest tells of it
