"""The journal of a job: a number for everything that happens to it, so that a reader can go on where it stopped.

A number is taken by an UPDATE of the job's row, whose lock holds until the commit. Numbers therefore become visible
in their order: whoever has seen one will never find a smaller one later.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.orm.util import identity_key

from api.database import Session
from api.models import Event, Job
from wire.events import EventKind

# Of the names of parameters: the bare names of columns SQLAlchemy takes for its own.
_OF_JOB, _OF_EVENT = "of_job_", "of_event_"


def topic(job_id: str) -> str:
    """The topic of news whenever something about the job has changed."""
    return f"job:{job_id}"


def commands_topic(job_id: str) -> str:
    """The topic of news whenever a worker may have to do something else: far less often."""
    return f"commands:{job_id}"


def append(
    session: Session,
    job_id: str,
    kind: EventKind,
    ref: dict[str, Any],
    size: int = 200,
    *,
    touch: bool = False,
    **values: Any,
) -> None:
    """Note that something has happened, and notify. `values` are columns of the job to set with the same statement.

    `touch` sets the time at which the job was last changed.
    """
    event = {"kind": kind, "size": size, "ref": ref}
    if session.database.dialect == "sqlite" or identity_key(Job, job_id) in session.identity_map:
        # By the session, which keeps a job that it has loaded up to date.
        if touch:
            values["updated_at"] = session.now()
        counted = update(Job).where(Job.id == job_id).values(last_event=Job.last_event + 1, **values)
        seq = session.scalars(counted.returning(Job.last_event)).one()
        session.execute(insert(Event).values(job_id=job_id, seq=seq, **event))
    else:
        session.flush()
        of_job = {_OF_JOB + name: value for name, value in {"id": job_id, **values}.items()}
        of_event = {_OF_EVENT + name: value for name, value in event.items()}
        session.connection().execute(_counted_and_noted(tuple(values), touch), of_job | of_event)
    session.notify(topic(job_id))


@cache
def _counted_and_noted(names: tuple[str, ...], touch: bool) -> Any:
    """Both in one statement: reports come often, and each trip to the server counts."""
    jobs, events = (Job.metadata.tables[table.__tablename__] for table in (Job, Event))
    values: dict[str, Any] = {name: bindparam(_OF_JOB + name, type_=jobs.c[name].type) for name in names}
    if touch:
        values["updated_at"] = func.clock_timestamp()
    counted = (
        update(Job)
        .where(Job.id == bindparam(_OF_JOB + "id"))
        .values(last_event=Job.last_event + 1, **values)
        .returning(Job.id, Job.last_event)
        .cte("counted")
    )
    event = [bindparam(_OF_EVENT + name, type_=events.c[name].type) for name in ("kind", "size", "ref")]
    return insert(events).from_select(["job_id", "seq", "kind", "size", "ref"], select(*counted.c, *event))
