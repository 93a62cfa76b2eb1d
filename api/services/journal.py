"""The journal of a job: a number for everything that happens to it, so that a reader can go on where it stopped.

A number is taken by an UPDATE of the job's row, whose lock holds until the commit. Numbers therefore become visible
in their order: whoever has seen one will never find a smaller one later.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, update

from api.database import Session
from api.models import Event, Job
from api.schemas.events import EventKind


def topic(job_id: str) -> str:
    """What the bell rings for whenever something about the job has changed."""
    return f"job:{job_id}"


def append(session: Session, job_id: str, kind: EventKind, ref: dict[str, Any], size: int = 200, **values: Any) -> None:
    """Note that something has happened, and ring. `values` are columns of the job to set with the same statement."""
    counted = update(Job).where(Job.id == job_id).values(last_event=Job.last_event + 1, **values)
    seq = session.scalars(counted.returning(Job.last_event)).one()
    session.execute(insert(Event).values(job_id=job_id, seq=seq, kind=kind, size=size, ref=ref))
    session.ring(topic(job_id))
