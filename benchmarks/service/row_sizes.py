"""Bytes that a training leaves in Postgres, table by table, and what they come to for a fleet of GPUs.

    python -m benchmarks.service.row_sizes [--jobs 4] [--batches 400] [--gpus 1000]

It reports trainings through the service's own functions, as a worker does that logs ten figures a second, then asks
Postgres how large its tables are, indices and all. The figures of a day are those bytes times the rates of `RATES`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import func, select, text

from api.auth import Fence
from api.database import Database, Session
from api.models import Attempt, Base, Job, LogChunk
from api.services.history import logs, reports
from benchmarks.service.stack import Postgres
from wire.jobs import Progress
from wire.logs import LogBatch, LogLine
from wire.reports import ClassMetrics, CocoMetrics, EvaluationReport, MetricBatch, MetricPoint

KEYS = (
    "loss",
    "loss_cls",
    "loss_box",
    "loss_dfl",
    "loss_kd",
    "lr",
    "grad_norm",
    "data_wait",
    "steps_per_second",
    "mem",
)
SECONDS = 86_400
STEPS = 10  # between two batches: `log_every`
CLASSES = 80  # of COCO
LINE = "epoch 3/12 step 1230/4920 loss 1.2345 lr 0.0100 AP 0.312 AP50 0.498 AP75 0.331"
DAY = datetime(2026, 1, 1, tzinfo=UTC)
LINES_IN_BATCH = 5


class Size(NamedTuple):
    """Of a table."""

    rows: int
    own: int  # bytes, with what is kept out of line
    indices: int  # bytes

    @property
    def bytes(self) -> int:
        return self.own + self.indices


class Measured(NamedTuple):
    tables: dict[str, Size]
    units: dict[str, int]  # how much was reported, by `Rate.what`
    wal: int  # bytes of the write-ahead log


@dataclass(frozen=True)
class Rate:
    """How often a GPU at work brings something in a day."""

    what: str
    a_day: float
    tables: tuple[str, ...]


RATES = (
    Rate("metric points", SECONDS * len(KEYS), ("metric_points", "metric_summaries")),
    Rate("metric batches", SECONDS, ("metric_batches", "events")),
    Rate("evaluations", 24, ("evaluations",)),
    Rate("log lines", 24 * 60, ("log_chunks",)),
)


def train(session: Session, number: int, batches: int) -> None:
    """Report a training of so many batches, an evaluation for every hundred of them, and a line for every ten."""
    attempt = _started(session, number)
    fence = Fence(attempt.id, attempt.number, None)
    for batch in range(batches):
        step, at = (batch + 1) * STEPS, DAY + timedelta(seconds=batch)
        points = [MetricPoint(key=key, step=step, value=1 / (step + place), at=at) for place, key in enumerate(KEYS)]
        progress = Progress(phase="training", step=step, total_steps=batches * STEPS, epoch=step / 100, loss=1.0)
        reports.add_batch(session, fence, MetricBatch(sequence=batch, points=points, progress=progress))
        if batch % 100 == 99:
            reports.add_evaluation(session, fence, _evaluation(step))
        if batch % (10 * LINES_IN_BATCH) == 0:
            lines = [LogLine(at=at, level="info", text=LINE)] * LINES_IN_BATCH
            logs.add(session, fence, LogBatch(sequence=batch, lines=lines), 4_000_000)
        session.commit()  # as each report is a request


def _started(session: Session, number: int) -> Attempt:
    rest: dict[str, Any] = {"labels": {}, "spec": {}, "spec_version": 1, "queue": "gpu"}
    job = Job(kind="distill", name=f"job {number}", status="running", created_at=DAY, updated_at=DAY, **rest)
    session.add(job)
    session.flush()
    attempt = Attempt(
        job_id=job.id, number=1, status="running", worker="w", device="0", versions={}, started_at=DAY,
        lease_expires_at=DAY, resumed_from_step=0,
    )  # fmt: skip
    session.add(attempt)
    session.commit()
    return attempt


def _evaluation(step: int) -> EvaluationReport:
    names = [f"class {number:02}" for number in range(CLASSES)]
    figures = CocoMetrics(**dict.fromkeys(CocoMetrics.model_fields, 0.31234))
    each = ClassMetrics(AP50=0.41234, AP75=0.31234, AR100=0.51234)
    return EvaluationReport(
        model="student", step=step, metrics=figures, per_class=dict.fromkeys(names, 0.31234),
        class_metrics=dict.fromkeys(names, each), images=5000, best=True,
    )  # fmt: skip


def sizes(session: Session) -> dict[str, Size]:
    """Of each table that has rows."""
    query = text("SELECT pg_table_size(:name), pg_indexes_size(:name)")
    found = {}
    for table in Base.metadata.sorted_tables:
        if rows := session.scalars(select(func.count()).select_from(table)).one():
            found[table.name] = Size(rows, *session.execute(query, {"name": table.name}).one())
    return found


def measure(url: str, jobs: int, batches: int) -> Measured:
    """Report so many trainings into an empty database."""
    database = Database(url)
    written = select(text("pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))
    Base.metadata.create_all(database.engine)
    with database.transaction() as session:
        session.execute(text("SET synchronous_commit TO off"))  # sizes are the same, and nobody waits for the disk
        began = session.scalars(written).one()
        for number in range(jobs):
            train(session, number, batches)
        wal = int(session.scalars(written).one() - began)
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("VACUUM")  # the autovacuum's work: dead rows are room for the next
    with database.reading() as session:
        found = sizes(session)
        lines = session.scalars(select(func.sum(LogChunk.count))).one()
    database.close()
    units = {
        "metric points": found["metric_points"].rows,
        "metric batches": found["metric_batches"].rows,
        "evaluations": found["evaluations"].rows,
        "log lines": int(lines),
    }
    return Measured(found, units, wal)


def main() -> None:
    """Report, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--batches", type=int, default=400, help="of ten points each, for each job")
    parser.add_argument("--gpus", type=int, default=1000)
    arguments = parser.parse_args()
    postgres = Postgres()
    try:
        measured = measure(postgres.url("row_sizes"), arguments.jobs, arguments.batches)
    finally:
        postgres.close()
    print(f"{'table':<18} {'rows':>8} {'bytes a row':>12} {'of it index':>12}")
    for name, size in measured.tables.items():
        print(f"{name:<18} {size.rows:>8} {size.bytes / size.rows:>12.0f} {size.indices / size.rows:>12.0f}")
    print(f"\nwrite-ahead log: {measured.wal / measured.units['metric points']:.0f} bytes a metric point\n")
    print(f"{arguments.gpus} GPUs at work, a day:")
    total = 0.0
    for rate in RATES:
        rows = arguments.gpus * rate.a_day
        each = sum(measured.tables[name].bytes for name in rate.tables) / measured.units[rate.what]
        total += rows * each
        print(f"{rate.what:<18} {rows:>15,.0f}  x {each:>6.0f} bytes = {rows * each / 1e9:>8.1f} GB")
    print(f"{'all':<18} {'':>15}    {'':>6}         {total / 1e9:>8.1f} GB")


if __name__ == "__main__":
    main()
