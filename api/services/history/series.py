"""Reading what was reported, as one series over all attempts of a job.

An attempt that resumes from the checkpoint of step r continues the series behind r: what earlier attempts
reported for later steps is replaced. Each attempt therefore owns a range of steps, and the ranges lie one
behind the other, so a page is a few range scans over the primary key (attempt, step, key).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select

from api.database import Session
from api.errors import NotFound
from api.models import Attempt, MetricPoint
from api.services.history.values import as_wire
from api.services.jobs import store
from wire import reports as wire

LAST = 2**53  # no step lies behind it


class StepRange(NamedTuple):
    """The steps of an attempt that count: `first` <= step <= `last`."""

    attempt_id: str
    number: int
    first: int
    last: int


def step_ranges(session: Session, job_id: str, attempt: int | None = None) -> list[StepRange]:
    """In the order of steps; or the whole of one attempt. Raises `NotFound` for an attempt that there is not."""
    job = store.find(session, job_id)
    query = select(Attempt.id, Attempt.number, Attempt.resumed_from_step).where(Attempt.job_id == job.id)
    rows = list(session.execute(query.order_by(Attempt.number)))
    if attempt is not None:
        whole = [StepRange(row.id, row.number, 0, LAST) for row in rows if row.number == attempt]
        if not whole:
            raise NotFound(f"the job has no attempt {attempt}", remedy=f"It has {len(rows)}; they count from 1.")
        return whole
    found: list[StepRange] = []
    last = LAST
    for row in reversed(rows):
        first = row.resumed_from_step + 1 if row.resumed_from_step else 0
        if first <= last:
            found.append(StepRange(row.id, row.number, first, last))
        last = min(last, first - 1)
    return found[::-1]


def page(
    session: Session, job_id: str, *, keys: Sequence[str], since_step: int, limit: int, attempt: int | None
) -> wire.MetricPage:
    """Points by step and key, whole steps only: at most `limit`, or one step if that alone has more."""
    found: list[wire.MetricRow] = []
    parts = step_ranges(session, job_id, attempt)
    for part in parts:
        found += _points(session, part, keys, since_step, limit + 1 - len(found))
        if len(found) > limit:
            return _whole_steps(session, parts, keys, found)
    return wire.MetricPage(items=found, has_more=False)


def _whole_steps(
    session: Session, parts: Sequence[StepRange], keys: Sequence[str], found: list[wire.MetricRow]
) -> wire.MetricPage:
    """Cut the page before the step that does not fit; a step that alone is more than a page is given whole."""
    step = found[-1].step
    items = [row for row in found if row.step < step]
    if items:
        return wire.MetricPage(items=items, has_more=True, next_step=step)
    part = next(part for part in parts if part.first <= step <= part.last)
    items = _points(session, part._replace(last=step), keys, step, None)
    rest = any(_points(session, part, keys, step + 1, 1) for part in parts)
    return wire.MetricPage(items=items, has_more=rest, next_step=step + 1 if rest else None)


def _points(
    session: Session, part: StepRange, keys: Sequence[str], since_step: int, limit: int | None
) -> list[wire.MetricRow]:
    query = (
        select(MetricPoint.key, MetricPoint.step, MetricPoint.value, MetricPoint.kind, MetricPoint.at)
        .where(MetricPoint.attempt_id == part.attempt_id)
        .where(MetricPoint.step >= max(part.first, since_step), MetricPoint.step <= part.last)
        .order_by(MetricPoint.step, MetricPoint.key)
        .limit(limit)
    )
    if keys:
        query = query.where(MetricPoint.key.in_(keys))
    return [
        wire.MetricRow(
            key=row.key,
            step=row.step,
            value=as_wire(row.value, row.kind),
            at=row.at,
            attempt=part.number,
        )
        for row in session.execute(query)
    ]
