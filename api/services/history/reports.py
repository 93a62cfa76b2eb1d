"""What workers report while they train: metric batches and evaluations."""

from __future__ import annotations

from typing import Any

from api.auth import Fence
from api.database import Session
from api.models import Evaluation, MetricBatch, MetricPoint
from api.services.history import summaries
from api.services.history.values import as_stored
from api.services.jobs.fencing import AttemptRow, running_attempt
from api.services.jobs.journal import append
from wire.reports import EvaluationReport
from wire.reports import MetricBatch as Batch
from wire.reports import MetricPoint as Point


def add_batch(session: Session, fence: Fence, batch: Batch) -> None:
    """Store a batch whole, once: the same sequence again changes nothing, and costs two look-ups.

    Raises as `running_attempt` does.
    """
    attempt = running_attempt(session, fence)
    batch_id = {"attempt_id": attempt.id, "sequence": batch.sequence}
    if not session.insert_if_absent(MetricBatch, batch_id):
        return
    if batch.points:
        rows = [_row(batch_id, point) for point in batch.points]
        summaries.add(session, batch_id, rows, stored=session.insert_many(MetricPoint, rows))
    _record_batch(session, attempt, batch)


def _record_batch(session: Session, attempt: AttemptRow, batch: Batch) -> None:
    progress = batch.progress.model_dump() if batch.progress else None
    steps = [point.step for point in batch.points]
    where = {"first": min(steps), "last": max(steps)} if steps else {}
    ref = {"attempt": attempt.number, "attempt_id": attempt.id, "sequence": batch.sequence, "progress": progress}
    values: dict[str, Any] = {} if progress is None else {"progress": progress, "touch": True}
    append(session, attempt.job_id, "metrics", ref | where, size=200 + 120 * len(steps), **values)


def _row(batch_id: dict[str, Any], point: Point) -> dict[str, Any]:
    value, kind = as_stored(point.value)
    return batch_id | {"step": point.step, "key": point.key, "at": point.at, "value": value, "kind": kind}


def add_evaluation(session: Session, fence: Fence, report: EvaluationReport) -> None:
    """Store an evaluation once per model and step. Raises as `running_attempt` does."""
    attempt = running_attempt(session, fence)
    row = {
        "attempt_id": attempt.id,
        "model": report.model,
        "step": report.step,
        "at": session.now(),
        "report": report.model_dump(),
    }
    if not session.insert_if_absent(Evaluation, row):
        return
    known = report.metrics.AP >= 0  # -1: there was no ground truth
    best: dict[str, Any] = {}
    if known and report.model == "teacher":
        best["teacher_ap"] = report.metrics.AP
    elif known and report.best:
        best["best_ap"] = report.metrics.AP
    ref = {"attempt": attempt.number, "attempt_id": attempt.id, "model": report.model, "step": report.step}
    size = 1000 + 200 * len(report.per_class)
    append(session, attempt.job_id, "evaluation", ref, size=size, updated_at=row["at"], **best)
