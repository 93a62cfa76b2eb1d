"""Jobs as a client sees them: create, read. What may be done to one stands in `control`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, func, or_, select, update

from api.database import Session
from api.errors import NotFound
from api.models import ID, Attempt, DeletedAttemptCount, Job, JobLabel, Outbox, Transition, new_id
from api.services.jobs import dependencies, quotas, waiting
from api.services.jobs.transitions import begin
from api.settings import Settings
from wire import jobs as wire
from wire.tasks import ANY, queue

_LINKS = (
    "metrics",
    "evaluations",
    "events",
    "logs",
    "artifacts",
    "weights",
    "report",
    "cancel",
    "stop",
    "pause",
    "resume",
    "retry",
)
_OF_TRAININGS = frozenset({"weights", "stop", "pause", "resume"})
QUEUES = {"auto": ANY, "cpu": queue("cpu"), "cuda": queue("gpu")}


def create(
    session: Session,
    settings: Settings,
    order: wire.JobCreate,
    spec: dict[str, Any],
    owner: str,
    job_id: str | None = None,
    warnings: Sequence[wire.DataWarning] = (),
) -> Job:
    """Store the job, and its dispatch message unless it waits for weights of other jobs.

    `spec` is the resolved one; `job_id` an id that was made for it before; `warnings` what was found in its data.

    Raises `QuotaExceeded` if as many jobs of `owner` wait as may.
    """
    quotas.admit(session, settings, owner)
    now = session.now()
    job = Job(
        id=job_id or new_id(),
        kind=order.kind,
        name=order.name,
        owner=owner,
        labels=order.labels,
        priority=order.priority,
        spec=spec,
        spec_version=spec["version"],
        warnings=[warning.model_dump(mode="json") for warning in warnings],
        queue=queue_of(spec),
        created_at=now,
        updated_at=now,
    )
    begin(session, job)
    session.add_all(JobLabel(job_id=job.id, key=key, value=value) for key, value in order.labels.items())
    return job


def queue_of(spec: dict[str, Any]) -> str:
    """Where a job waits. Several GPUs are wanted of one worker, also where the spec leaves the device open."""
    gpus: int = spec.get("gpus", 1)
    device = spec.get("device", "auto")  # an import runs on any worker
    return queue("gpu", gpus) if gpus > 1 and device != "cpu" else QUEUES[device]


def find(session: Session, job_id: str, *, lock: bool = False) -> Job:
    """Raises `NotFound`, also for what is no id at all."""
    job = session.get(Job, job_id, with_for_update=lock or None) if ID.fullmatch(job_id) else None
    if job is None:
        raise NotFound("there is no such job", remedy="GET /jobs lists the jobs.")
    return job


def summary(job: Job) -> wire.JobSummary:
    return wire.JobSummary.model_validate(_summary(job))


def detail(session: Session, settings: Settings, job: Job) -> wire.Job:
    """The job with its history."""
    transitions = session.scalars(select(Transition).where(Transition.job_id == job.id).order_by(Transition.seq))
    attempts = session.scalars(select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.number)).all()
    here = f"/jobs/{job.id}"
    told, position = _summary(job), _position(session, job)
    if job.failure is not None and attempts:
        told["failure"] = attempts[-1].failure or job.failure  # with its lines, which a list of jobs leaves out
    return wire.Job(
        **told,
        spec_version=job.spec_version,
        spec=job.spec,
        warnings=job.warnings or [],
        queue_position=position,
        waiting=waiting.reason(session, settings, job, position),
        depends_on=[wire.Dependency(**needed._asdict()) for needed in dependencies.of(session, job.id)],
        request_id=job.request_id,
        last_event=job.last_event,
        cancel_requested_at=job.cancel_requested_at,
        stop_requested_at=job.stop_requested_at,
        pause_requested_at=job.pause_requested_at,
        retried_from=job.retried_from,
        stopped_early=any((attempt.result or {}).get("stopped_early") is True for attempt in attempts),
        transitions=[wire.Transition.model_validate(row, from_attributes=True) for row in transitions],
        attempts=[wire.Attempt.model_validate(row, from_attributes=True) for row in attempts],
        links={"self": here} | {what: f"{here}/{what}" for what in _LINKS if trains(job) or what not in _OF_TRAININGS},
    )


def _position(session: Session, job: Job) -> int | None:
    """1 is next: among the queued jobs of its queue, by priority and then in the order in which they were queued."""
    message = select(Outbox.priority, Outbox.id).where(Outbox.job_id == job.id)  # there as long as the job is queued
    if (own := session.execute(message).first()) is None:
        return None
    before = or_(Outbox.priority < own.priority, and_(Outbox.priority == own.priority, Outbox.id < own.id))
    return 1 + session.scalars(select(func.count()).where(Outbox.queue == job.queue, before)).one()


def trains(job: Job) -> bool:
    """Whether it has checkpoints, and weights of its own in the end."""
    return job.kind in ("train", "distill")


def _summary(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in wire.JobSummary.model_fields}


# --- counters that outlive a job: one that sank with it would look like one that began anew ---------------------------


def count_deleted_attempts(session: Session, job_id: str) -> None:
    """Count the attempts of a job that is about to be deleted."""
    ended = select(Attempt.status, func.count().label("count")).where(Attempt.job_id == job_id).group_by(Attempt.status)
    for row in session.execute(ended.order_by(Attempt.status)).all():  # in one order: or two deletions could deadlock
        if not session.insert_if_absent(DeletedAttemptCount, {"status": row.status, "count": row.count}):
            more = (
                update(DeletedAttemptCount)
                .where(DeletedAttemptCount.status == row.status)
                .values(count=DeletedAttemptCount.count + row.count)
            )
            session.execute(more)


def deleted_attempts(session: Session) -> dict[str, int]:
    """How many attempts of deleted jobs ended in each way."""
    return {row.status: row.count for row in session.scalars(select(DeletedAttemptCount))}
