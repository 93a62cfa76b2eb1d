"""The outbox: dispatch messages to send to workers. The relay takes rows, sends them, and marks them.

A row is taken by moving its `due_at` on, in a transaction of its own: no lock is held while the broker is spoken
to, and a relay that dies gives its rows back when they fall due.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Select, and_, func, select, update
from sqlalchemy.orm import aliased

from api.database import Session
from api.models import Job, Outbox

VISIBILITY_TIMEOUT = timedelta(seconds=30)


class DispatchMessage(NamedTuple):
    id: str
    job_id: str
    queue: str
    priority: int
    request_id: str | None
    traceparent: str | None


def any_due(session: Session) -> bool:
    due = select(Outbox.id).where(Outbox.published_at.is_(None), Outbox.due_at <= session.now()).limit(1)
    return session.scalar(due) is not None


def take(session: Session, limit: int = 100) -> list[DispatchMessage]:
    """Due rows, by priority and then by age; another relay does not see them meanwhile."""
    now = session.now()
    due = select(Outbox).where(Outbox.published_at.is_(None), Outbox.due_at <= now)
    due = due.order_by(Outbox.priority, Outbox.id).limit(limit)
    rows = session.scalars(due.with_for_update(skip_locked=True)).all()
    for row in rows:
        row.due_at = now + VISIBILITY_TIMEOUT
        row.attempts += 1
    asked = select(Job.id, Job.request_id, Job.traceparent).where(Job.id.in_([row.job_id for row in rows]))
    origins = {job: origin for job, *origin in session.execute(asked)}
    return [DispatchMessage(row.id, row.job_id, row.queue, row.priority, *origins[row.job_id]) for row in rows]


def mark_published(session: Session, ids: list[str]) -> None:
    session.execute(update(Outbox).where(Outbox.id.in_(ids)).values(published_at=session.now()))


def release(session: Session, ids: list[str]) -> None:
    """They could not be sent."""
    session.execute(update(Outbox).where(Outbox.id.in_(ids)).values(due_at=session.now()))


class Unclaimed(NamedTuple):
    """The jobs of a queue that were dispatched and that no worker has claimed."""

    queue: str
    messages: int
    last: (
        datetime | None
    )  # when the last message was sent; as the database types it: where there is a message it is set


def unclaimed(session: Session, older_than: float, running_quota: int | None = None) -> list[Unclaimed]:
    """Of each queue with a job that still waits although its message was sent so many seconds ago.

    What `running_quota` (of an owner) holds back waits for no message: every one of them would cost a claim in vain.
    """
    limit = session.now() - timedelta(seconds=older_than)
    query = _dispatched(running_quota).having(func.min(Outbox.published_at) < limit)
    return [Unclaimed(*row) for row in session.execute(query)]


def _dispatched(running_quota: int | None) -> Select[str, int, datetime | None]:
    columns = Outbox.queue, func.count(), func.max(Outbox.published_at, type_=Outbox.published_at.type)
    return select(*columns).join(Job, Job.id == Outbox.job_id).where(_waits(running_quota)).group_by(Outbox.queue)


def _waits(running_quota: int | None) -> ColumnElement[bool]:
    """Of a message and its job: it was sent, and the job could be claimed."""
    waits = and_(Job.status == "queued", Outbox.published_at.is_not(None))
    if running_quota is None:
        return waits
    queued, running = aliased(Job), aliased(Job)
    message = aliased(Outbox)
    place = func.row_number().over(partition_by=queued.owner, order_by=(message.priority, message.id)).label("place")
    line = (
        select(message.id, queued.owner, place)
        .join(queued, queued.id == message.job_id)
        .where(queued.status == "queued")
    )
    first = line.subquery()
    at_work = select(func.count()).where(running.owner == first.c.owner, running.status == "running").scalar_subquery()
    return and_(waits, Outbox.id.in_(select(first.c.id).where(first.c.place <= running_quota - at_work)))


def dispatch_again(
    session: Session, seen: Unclaimed, count: int, older_than: float, running_quota: int | None = None
) -> None:
    """Make `count` messages of a queue due: those of the first priorities, of these the ones sent longest ago.

    None if the queue is not as it was `seen` any more: then another relay may have done so just now.
    """
    session.lock(f"outbox:{seen.queue}")
    if session.execute(_dispatched(running_quota).where(Outbox.queue == seen.queue)).one_or_none() != seen:
        return
    now, queue = session.now(), seen.queue
    oldest = (
        select(Outbox.id)
        .join(Job, Job.id == Outbox.job_id)
        .where(_waits(running_quota), Outbox.queue == queue)
        .where(Outbox.published_at < now - timedelta(seconds=older_than))
        .order_by(Outbox.priority, Outbox.published_at, Outbox.id)
        .limit(count)
        .with_for_update(skip_locked=True, of=Outbox)
    )
    session.execute(
        update(Outbox).where(Outbox.id.in_(session.scalars(oldest).all())).values(published_at=None, due_at=now)
    )
