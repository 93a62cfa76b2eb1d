"""Jobs that wait for the weights of others: each is queued, or fails, once it is known what has become of those.

The relay calls this when a job has come to its end, and every second besides: so it does not matter whether a process
dies in between, nor whether the end of one job and the submission of another crossed each other. Each waiting job has
a transaction of its own that locks it alone, and the end of a job is reported without having to move all those that
wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import case, func, or_, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import aliased

from api.database import Database, Session
from api.infrastructure_errors import is_lock_conflict
from api.models import Job, JobDependency
from api.services.jobs import dependencies
from api.services.jobs.dependencies import Dependency
from api.services.jobs.transitions import move
from wire.jobs import UNFINISHED, DependencyRole, Failure

log = logging.getLogger(__name__)

AT_ONCE = 100  # jobs looked up at once
QUOTED = 1000  # characters of another job's failure


def settle(database: Database) -> int:
    """Move every waiting job that need not wait any longer, and what waits for one that fails so; how many."""
    moved = 0
    while moved_now := _settle_known(database):
        moved += moved_now
    return moved


def _settle_known(database: Database) -> int:
    """Once through all that are decided now."""
    moved, after = 0, ""
    while True:
        with database.reading() as session:  # an idle relay writes nothing
            jobs = _decided(session, after)
        moved += sum(_settle_one(database, job) for job in jobs)
        if len(jobs) < AT_ONCE:
            return moved
        after = jobs[-1]


def _decided(session: Session, after: str) -> Sequence[str]:
    """The first waiting jobs after an id that have all that they need, or that will never have it."""
    needed = aliased(Job)
    there = or_(JobDependency.job_id.is_(None), needed.status == "succeeded")
    outcome = case((there, 0), (needed.status.in_(UNFINISHED), 1), else_=2)
    query = (
        select(Job.id)
        .outerjoin(JobDependency, JobDependency.job_id == Job.id)
        .outerjoin(needed, needed.id == JobDependency.depends_on)
        .where(Job.status == "waiting", Job.id > after)
        .group_by(Job.id)
        .having(func.max(outcome) != 1)
        .order_by(Job.id)
        .limit(AT_ONCE)
    )
    return session.scalars(query).all()


def _settle_one(database: Database, job_id: str) -> bool:
    """Whether the job was moved. What fails is logged and undone alone: the others must not wait for it."""
    try:
        with database.transaction() as session:
            return _move_on(session, job_id)
    except OperationalError as error:
        if not is_lock_conflict(error):  # the database is away: that concerns them all
            raise
        log.warning("job %s waits for nothing any more, and is moved in a later round: %s", job_id, error.orig)
    except Exception:
        log.exception("job %s waits for nothing any more, and cannot be moved", job_id, extra={"job": job_id})
    return False


def _move_on(session: Session, job_id: str) -> bool:
    free = select(Job).where(Job.id == job_id, Job.status == "waiting").with_for_update(skip_locked=True)
    job = session.scalar(free)
    if job is None:  # another relay has it, or a client
        return False
    needs = dependencies.of(session, job.id)
    if (failed := next((needed for needed in needs if needed.failed), None)) is not None:
        return _fail(session, job, _in_vain(session, job, failed))
    if any(needed.status in UNFINISHED for needed in needs):
        return False
    if (role := dependencies.missing(session, job.spec)) is not None:
        return _fail(session, job, _without_file(job, role))
    names = " and ".join(dict.fromkeys(needed.job for needed in needs))
    return move(session, job.id, "waiting", "queued", f"the weights of {names} are there")


def _fail(session: Session, job: Job, failure: Failure) -> bool:
    reason = f"not started ({failure.failure_class}): {failure.message}"
    return move(session, job.id, "waiting", "failed", reason, failure=failure.model_dump())


def _in_vain(session: Session, job: Job, needed: Dependency) -> Failure:
    """The job that was needed has come to nothing."""
    other = session.get(Job, needed.job)
    where = dependencies.pointer(needed.role)
    if other is None:
        message = f"it needs the weights of job {needed.job}, which was deleted"
        remedy = "Post the job again with the weights of another one."
        return Failure(failure_class="dependency", message=message, where=where, remedy=remedy)
    became = "was cancelled"
    if other.status == "failed":
        told = Failure.model_validate(other.failure) if other.failure else None
        became = f"failed ({told.failure_class}): {told.message[:QUOTED]}" if told else "failed"
    message = f"it needs the weights of job {other.id} ({other.name}), which {became}"
    remedy = f"Retry that one (POST /jobs/{other.id}/retry), then this one: POST /jobs/{job.id}/retry."
    return Failure(failure_class="dependency", message=message, where=where, remedy=remedy)


def _without_file(job: Job, role: DependencyRole) -> Failure:
    """The job that was needed has succeeded, but never wrote the file that the specification asks for."""
    weights = dependencies.named(job.spec)[role]
    message = f"job {weights['job']} has succeeded, and has no {dependencies.file_name(weights)}"
    remedy = f"GET /jobs/{weights['job']}/artifacts lists what it has; post the job again with other weights."
    return Failure(failure_class="user", message=message, where=dependencies.pointer(role), remedy=remedy)
