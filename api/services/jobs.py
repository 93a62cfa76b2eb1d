"""Jobs as a client sees them: create, list, read. What may be done to one stands in `control`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import exists, func, select

from api.database import Session
from api.errors import NotFound, invalid_query
from api.models import ID, Attempt, Job, JobLabel, Transition
from api.schemas import jobs as wire
from api.schemas.tasks import ANY, queue
from api.services.transitions import begin

_LINKS = (
    "metrics",
    "evaluations",
    "events",
    "logs",
    "artifacts",
    "weights",
    "cancel",
    "stop",
    "pause",
    "resume",
    "retry",
)
_OF_TRAININGS = frozenset({"weights", "stop", "pause", "resume"})
QUEUES = {"auto": ANY, "cpu": queue("cpu"), "cuda": queue("gpu")}


def create(session: Session, order: wire.JobCreate, spec: dict[str, Any], owner: str) -> Job:
    """Store the job and its doorbell. `spec` is the resolved one."""
    now = session.now()
    job = Job(
        kind=order.kind,
        name=order.name,
        owner=owner,
        labels=order.labels,
        spec=spec,
        spec_version=spec["version"],
        queue=_queue(spec),
        created_at=now,
        updated_at=now,
    )
    begin(session, job)
    session.add_all(JobLabel(job_id=job.id, key=key, value=value) for key, value in order.labels.items())
    return job


def _queue(spec: dict[str, Any]) -> str:
    """Several GPUs are wanted of one worker, also where the spec leaves the device open."""
    gpus: int = spec.get("gpus", 1)
    return queue("gpu", gpus) if gpus > 1 and spec["device"] != "cpu" else QUEUES[spec["device"]]


def find(session: Session, job_id: str, *, lock: bool = False) -> Job:
    """Raises `NotFound`, also for what is no id at all."""
    job = session.get(Job, job_id, with_for_update=lock or None) if ID.fullmatch(job_id) else None
    if job is None:
        raise NotFound("there is no such job", remedy="GET /jobs lists the jobs.")
    return job


def page(
    session: Session,
    *,
    after: str | None,
    limit: int,
    statuses: Sequence[str],
    labels: Sequence[str],
    owner: str | None = None,
) -> wire.JobPage:
    """Newest first, from below the id `after`; owner and every label must fit, and any of the statuses."""
    query = select(Job).order_by(Job.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(Job.id < _checked(after))
    if owner is not None:
        query = query.where(Job.owner == owner)
    if statuses:
        query = query.where(Job.status.in_(statuses))
    for label in labels:
        key, value = _pair(label)
        query = query.where(exists().where(JobLabel.job_id == Job.id, JobLabel.key == key, JobLabel.value == value))
    found = session.scalars(query).all()
    return wire.JobPage(items=[summary(job) for job in found[:limit]], has_more=len(found) > limit)


def summary(job: Job) -> wire.JobSummary:
    return wire.JobSummary.model_validate(_summary(job))


def detail(session: Session, job: Job) -> wire.Job:
    """The job with its history."""
    transitions = session.scalars(select(Transition).where(Transition.job_id == job.id).order_by(Transition.seq))
    attempts = session.scalars(select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.number)).all()
    here = f"/jobs/{job.id}"
    return wire.Job(
        **_summary(job),
        spec_version=job.spec_version,
        spec=job.spec,
        queue_position=_position(session, job),
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
    """1 is next: among the queued jobs of its queue, in the order in which they were posted."""
    if job.status != "queued":
        return None
    before = select(func.count()).where(Job.status == "queued", Job.id < job.id, Job.queue == job.queue)
    return 1 + session.scalars(before).one()


def trains(job: Job) -> bool:
    """Whether it has checkpoints, and weights of its own in the end."""
    return job.kind in ("train", "distill")


def _summary(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in wire.JobSummary.model_fields}


def _checked(after: str) -> str:
    if not ID.fullmatch(after):
        raise invalid_query("after", "is no job's id", "Give the id of the last job of the page before.")
    return after


def _pair(label: str) -> tuple[str, str]:
    key, equals, value = label.partition("=")
    if not equals or not key or "\0" in label:
        raise invalid_query("label", f"{label!r} is no key=value", "Write label=KEY=VALUE; repeat it for several.")
    return key, value
