"""What workers report while they train: metric batches and evaluations."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update

from api.auth import Fence
from api.database import Session
from api.models import Evaluation, Job, MetricBatch, MetricPoint
from api.schemas.reports import EvaluationReport
from api.schemas.reports import MetricBatch as Batch
from api.schemas.reports import MetricPoint as Point
from api.services.fencing import live
from api.services.transitions import topic

NON_FINITE = ("NaN", "Infinity", "-Infinity")  # kinds 1, 2, 3 of a metric point; 0 is a finite number


def add_batch(session: Session, fence: Fence, batch: Batch) -> None:
    """Store a batch whole, once: the same sequence again changes nothing. Raises as `live` does."""
    attempt = live(session, fence)
    mark = {"attempt_id": attempt.id, "sequence": batch.sequence}
    if not session.insert_if_absent(MetricBatch, mark):
        return
    if batch.points:
        session.insert_many(MetricPoint, [_row(attempt.id, point) for point in batch.points])
    if batch.progress is not None:
        _update_job(session, attempt.job_id, progress=batch.progress.model_dump())


def _row(attempt_id: str, point: Point) -> dict[str, Any]:
    row = {"attempt_id": attempt_id, "step": point.step, "key": point.key, "at": point.at}
    if isinstance(point.value, str):
        return row | {"value": None, "kind": 1 + NON_FINITE.index(point.value)}
    return row | {"value": point.value, "kind": 0}


def add_evaluation(session: Session, fence: Fence, report: EvaluationReport) -> None:
    """Store an evaluation once per model and step. Raises as `live` does."""
    attempt = live(session, fence)
    row = {
        "attempt_id": attempt.id,
        "model": report.model,
        "step": report.step,
        "at": session.now(),
        "report": report.model_dump(),
    }
    if not session.insert_if_absent(Evaluation, row):
        return
    measured = report.metrics.AP >= 0  # -1: there was nothing to measure
    if measured and report.model == "teacher":
        _update_job(session, attempt.job_id, teacher_ap=report.metrics.AP)
    elif measured and report.best:
        _update_job(session, attempt.job_id, best_ap=report.metrics.AP)


def _update_job(session: Session, job_id: str, **values: Any) -> None:
    session.execute(update(Job).where(Job.id == job_id).values(updated_at=session.now(), **values))
    session.ring(topic(job_id))
