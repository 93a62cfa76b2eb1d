"""The outbox: doorbells that are to be rung. The relay takes rows, sends them, and marks them.

A row is taken by moving its `due_at` on, in a transaction of its own: no lock is held while the broker is spoken
to, and a relay that dies gives its rows back when they fall due.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import func, select, update

from api.database import Session
from api.models import Job, Outbox

TAKEN_FOR = timedelta(seconds=30)


class Doorbell(NamedTuple):
    id: str
    job_id: str
    queue: str


def any_due(session: Session) -> bool:
    due = select(Outbox.id).where(Outbox.published_at.is_(None), Outbox.due_at <= session.now()).limit(1)
    return session.scalar(due) is not None


def take(session: Session, limit: int = 100) -> list[Doorbell]:
    """Due rows, oldest first; another relay does not see them meanwhile."""
    now = session.now()
    due = select(Outbox).where(Outbox.published_at.is_(None), Outbox.due_at <= now).order_by(Outbox.due_at, Outbox.id)
    rows = session.scalars(due.limit(limit).with_for_update(skip_locked=True)).all()
    for row in rows:
        row.due_at = now + TAKEN_FOR
        row.attempts += 1
    return [Doorbell(row.id, row.job_id, row.queue) for row in rows]


def mark_published(session: Session, ids: list[str]) -> None:
    session.execute(update(Outbox).where(Outbox.id.in_(ids)).values(published_at=session.now()))


def give_back(session: Session, ids: list[str]) -> None:
    """They could not be sent."""
    session.execute(update(Outbox).where(Outbox.id.in_(ids)).values(due_at=session.now()))


def unheard(session: Session, older_than: float) -> dict[str, int]:
    """Queues with a job that still waits although its bell rang so many seconds ago → rung jobs that wait there."""
    limit = session.now() - timedelta(seconds=older_than)
    query = (
        select(Outbox.queue, func.count().label("rung"))
        .join(Job, Job.id == Outbox.job_id)
        .where(Job.status == "queued", Outbox.published_at.is_not(None))
        .group_by(Outbox.queue)
        .having(func.min(Outbox.published_at) < limit)
    )
    return {row.queue: row.rung for row in session.execute(query)}


def ring_again(session: Session, queue: str, count: int, older_than: float) -> None:
    """Make the `count` bells of a queue due that rang longest ago."""
    now = session.now()
    oldest = (
        select(Outbox.id)
        .join(Job, Job.id == Outbox.job_id)
        .where(Job.status == "queued", Outbox.queue == queue)
        .where(Outbox.published_at < now - timedelta(seconds=older_than))
        .order_by(Outbox.published_at)
        .limit(count)
    )
    session.execute(update(Outbox).where(Outbox.id.in_(oldest.scalar_subquery())).values(published_at=None, due_at=now))
