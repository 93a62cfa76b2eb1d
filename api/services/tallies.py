"""How the attempts of deleted jobs ended: a counter that sank with a deletion would look like one that began anew."""

from __future__ import annotations

from sqlalchemy import func, select, update

from api.database import Session
from api.models import Attempt, Tally


def keep(session: Session, job_id: str) -> None:
    """Count the attempts of a job that is about to be deleted."""
    ended = select(Attempt.status, func.count().label("count")).where(Attempt.job_id == job_id).group_by(Attempt.status)
    for row in session.execute(ended.order_by(Attempt.status)).all():  # in one order: or two deletions could deadlock
        if not session.insert_if_absent(Tally, {"status": row.status, "count": row.count}):
            more = update(Tally).where(Tally.status == row.status).values(count=Tally.count + row.count)
            session.execute(more)


def kept(session: Session) -> dict[str, int]:
    """How many attempts of deleted jobs ended in each way."""
    return {row.status: row.count for row in session.scalars(select(Tally))}
