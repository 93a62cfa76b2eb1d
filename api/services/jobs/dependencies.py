"""Which jobs a job needs the weights of: told by its specification, kept in a table, and put into words.

A job whose weights another one needs may still be on its way. The other one is `waiting` then, until
`lifecycle/dependents.py` sees what has become of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from sqlalchemy import select

from api.database import Session
from api.models import Artifact, Job, JobDataset, JobDependency
from wire import jobs as wire

# Where a specification names weights, by what they are for.
PLACES: dict[wire.DependencyRole, tuple[str, ...]] = {
    "teacher": ("teacher", "weights"),
    "weights": ("weights",),
    "init": ("student", "init"),
}
FAILED = ("failed", "cancelled")  # at an end, and without weights that anybody may use


class Dependency(NamedTuple):
    """`status` is that of the job needed; None: it was deleted."""

    role: wire.DependencyRole
    job: str
    status: str | None

    @property
    def failed(self) -> bool:
        return self.status is None or self.status in FAILED


# --- what a specification names -------------------------------------------------------------------------------------


def named(spec: dict[str, Any]) -> dict[wire.DependencyRole, dict[str, Any]]:
    """The weights of jobs that a stored specification names, by what they are for: `job` and `checkpoint`."""
    found = {role: _at(spec, path) for role, path in PLACES.items()}
    return {role: weights for role, weights in found.items() if weights is not None and weights.get("job")}


def dataset(spec: dict[str, Any]) -> tuple[str, str] | None:
    """Name and digest of the version of a data set that a stored specification reads."""
    text = (spec.get("data") or {}).get("dataset")
    name, _, digest = (text or "").partition("@")
    return (name, digest) if digest else None


def _at(spec: dict[str, Any], path: Sequence[str]) -> dict[str, Any] | None:
    node: Any = spec
    for part in path:
        node = (node or {}).get(part)
    return node if isinstance(node, dict) else None


def file_name(weights: dict[str, Any]) -> str:
    """Of the artifact that a reference to a job's weights means."""
    return f"{weights['checkpoint']}.safetensors"


def pointer(role: wire.DependencyRole) -> str:
    """JSON pointer to the job that the posted body names."""
    return "/".join(("/spec", *PLACES[role], "job"))


def renamed(spec: dict[str, Any], jobs: dict[str, str]) -> dict[str, Any]:
    """The specification with other jobs in place of those that it names."""
    for role, weights in named(spec).items():
        spec = _replaced(spec, PLACES[role], weights | {"job": jobs.get(weights["job"], weights["job"])})
    return spec


def _replaced(node: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    first, *rest = path
    return node | {first: _replaced(node[first], rest, value) if rest else value}


# --- how that stands --------------------------------------------------------------------------------------------------


def record(session: Session, job: Job) -> None:
    """Keep what a new job needs."""
    needs = named(job.spec).items()
    session.add_all(JobDependency(job_id=job.id, role=role, depends_on=weights["job"]) for role, weights in needs)
    if (read := dataset(job.spec)) is not None:
        session.add(JobDataset(job_id=job.id, name=read[0], digest=read[1]))
    session.flush()


def of(session: Session, job_id: str) -> list[Dependency]:
    """What a job needs, and what has become of that."""
    query = (
        select(JobDependency.role, JobDependency.depends_on, Job.status)
        .outerjoin(Job, Job.id == JobDependency.depends_on)
        .where(JobDependency.job_id == job_id)
        .order_by(JobDependency.role)
    )
    return [Dependency(cast(wire.DependencyRole, role), job, status) for role, job, status in session.execute(query)]


def has_dependents(session: Session, job_id: str) -> bool:
    """Whether any job, at its end or not, needs weights of this one."""
    return session.scalar(select(JobDependency.job_id).where(JobDependency.depends_on == job_id).limit(1)) is not None


def needed_by(session: Session, job_id: str) -> str | None:
    """A job that is not at its end and needs weights of this one."""
    query = (
        select(Job.id)
        .join(JobDependency, JobDependency.job_id == Job.id)
        .where(JobDependency.depends_on == job_id, Job.status.in_(wire.UNFINISHED))
    )
    return session.scalar(query.order_by(Job.id).limit(1))


def first_status(session: Session, spec: dict[str, Any]) -> str:
    """Of a job that begins, or goes on: it waits unless all that it needs is there."""
    return "queued" if missing(session, spec) is None else "waiting"


def missing(session: Session, spec: dict[str, Any]) -> wire.DependencyRole | None:
    """The first of the weights that are not there: their job has not succeeded, or has no such file."""
    for role, weights in named(spec).items():
        there = select(Artifact.id).join(Job, Job.id == Artifact.job_id).where(Job.status == "succeeded")
        if session.scalar(there.where(Job.id == weights["job"], Artifact.name == file_name(weights))) is None:
            return role
    return None


# --- in words ---------------------------------------------------------------------------------------------------------


def awaited(session: Session, spec: dict[str, Any]) -> str:
    """The jobs on their way whose weights `spec` needs, and how far they are; empty if all weights are there."""
    jobs = dict.fromkeys(weights["job"] for weights in named(spec).values())
    found = {job: session.get(Job, job) for job in jobs}
    told = [f"{job} ({_standing(row)})" for job, row in found.items() if row is None or row.status != "succeeded"]
    return f"it waits for the weights of job {' and of job '.join(told)}" if told else ""


def notes(session: Session, spec: dict[str, Any]) -> list[str]:
    """What a client should know of a job that is about to be posted: that it will not begin at once."""
    text = awaited(session, spec)
    return [f"{text}; it is queued when they are there, and fails if they never will be"] if text else []


def _standing(job: Job | None) -> str:
    if job is None:
        return "deleted"
    if job.status == "paused":
        return f"paused; POST /jobs/{job.id}/resume lets it go on"
    if job.status != "running" or not job.progress:
        return job.status
    progress = wire.Progress.model_validate(job.progress)
    if progress.phase == "preparing" or not progress.total_steps:
        return "running, preparing"
    schedule = job.spec.get("schedule", {})
    if schedule.get("max_steps") is None and (epochs := schedule.get("epochs")):
        return f"running, epoch {min(int(progress.epoch) + 1, epochs)} of {epochs}"
    return f"running, step {progress.step} of {progress.total_steps}"
