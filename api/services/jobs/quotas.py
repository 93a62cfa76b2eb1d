"""Quotas: how many jobs of one owner may wait, and how many may run. Without a setting there is none.

What waits is counted when a job is posted, what runs when one is claimed. A job that finds its owner at the quota stays
queued, and is dispatched again when one of the owner's jobs ends. The jobs of one owner are counted one request at a
time: a lock for the owner on Postgres, the database's own single writer on SQLite.
"""

from __future__ import annotations

from sqlalchemy import func, select, update

from api.database import OUTBOX, Session
from api.errors import Conflict, QuotaExceeded
from api.models import Job, Outbox
from api.settings import Settings

WAITING = ("waiting", "queued", "paused")  # paused ones too: else pausing would be a way around the quota


def admit(session: Session, settings: Settings, owner: str) -> None:
    """Raises `QuotaExceeded` if as many jobs of the owner wait as may."""
    quota = settings.max_waiting_per_owner
    if quota is None:
        return
    session.lock(f"quota:{owner}")
    if (waiting := _count(session, owner, *WAITING)) >= quota:
        raise QuotaExceeded(
            f"{waiting} jobs of {owner} are waiting, and {quota} may",
            remedy="Wait until one has been started, or cancel one.",
        )


def allow_run(session: Session, settings: Settings, job_id: str) -> None:
    """Raises `Conflict` if as many jobs of the job's owner run as may."""
    quota = settings.max_running_per_owner
    owner = session.scalar(select(Job.owner).where(Job.id == job_id)) if quota is not None else None
    if quota is None or owner is None:
        return
    session.lock(f"quota:{owner}")
    if held := held_back(session, settings, owner):
        raise Conflict(held, remedy="Leave it: it is dispatched again when one has ended.")


def held_back(session: Session, settings: Settings, owner: str) -> str:
    """Why no further job of the owner may run now; empty if one may."""
    quota = settings.max_running_per_owner
    if quota is None or (running := _count(session, owner, "running")) < quota:
        return ""
    return f"{running} jobs of {owner} run, and {quota} may"


def dispatch_next(session: Session, settings: Settings, owner: str) -> None:
    """A job of the owner runs no longer: dispatch the one that comes first, should the quota have held it back."""
    if settings.max_running_per_owner is None:
        return
    next_in_line = (
        select(Outbox.id)
        .join(Job, Job.id == Outbox.job_id)
        .where(Job.owner == owner, Job.status == "queued", Outbox.published_at.is_not(None))
        .order_by(Outbox.priority, Outbox.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=Outbox)
    )
    message = session.scalar(next_in_line)
    if message is not None:
        session.execute(update(Outbox).where(Outbox.id == message).values(published_at=None, due_at=session.now()))
        session.notify(OUTBOX)


def _count(session: Session, owner: str, *statuses: str) -> int:
    counted = select(func.count()).select_from(Job).where(Job.owner == owner, Job.status.in_(statuses))
    return session.scalars(counted).one()
