"""What a client may do to a job: cancel, stop, pause, resume, retry, delete.

A running job is only asked: its worker hears of it by `GET /worker/attempts/{attempt}/commands`, and how its attempt
ends decides what becomes of the job (`attempts`). Each function locks the job's row, and repeated it changes nothing:
an answer that got lost may be asked for again.

            cancel     stop                 pause     resume    retry    delete
waiting     at once                         at once
queued      at once    with a checkpoint    at once
running     asked      asked                asked     takes the pause back
paused      at once                                   queued, or waiting for weights
failed                                                          new      gone
cancelled                                                       new      gone
succeeded                                                                gone
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from sqlalchemy import delete, select, update

from api.database import Session
from api.errors import Conflict
from api.models import ID, Artifact, DeletedJob, Job, JobLabel, SweepJob
from api.services.datasets import versions
from api.services.files import artifacts
from api.services.history import evaluations
from api.services.jobs import dependencies, quotas, store
from api.services.jobs.journal import commands_topic
from api.services.jobs.transitions import begin, move
from api.settings import Settings
from api.storage import Storage
from wire.jobs import FINAL, UNFINISHED

RETRIED = ("failed", "cancelled")
# From a job to its retry.
_CARRIED = ("kind", "name", "labels", "priority", "spec_version", "warnings", "queue")


def cancel(session: Session, job_id: str) -> Job:
    """Discard a job: at once if nobody works on it, else as soon as its worker has stopped.

    Raises:
        Conflict: it has succeeded or failed.
    """
    job = store.find(session, job_id, lock=True)
    if job.status == "running":
        if job.cancel_requested_at is None:
            _ask(session, job, cancel_requested_at=session.now())
    elif job.status in ("waiting", "queued", "paused"):
        move(session, job.id, job.status, "cancelled", "cancelled by the user")
        session.refresh(job)
    elif job.status != "cancelled":
        raise _refused(session, job)
    return job


def stop(session: Session, job_id: str) -> Job:
    """End a training early and keep its best: it is evaluated once more, delivered, and succeeds.

    Raises:
        Conflict: it is no training, does not run (nor is queued with a checkpoint), or is being cancelled or paused.
    """
    job = store.find(session, job_id, lock=True)
    if job.stop_requested_at is not None and job.status in ("queued", "running", "succeeded"):
        return job
    if "stop" not in _possible(session, job):
        raise _refused(session, job)
    _ask(session, job, stop_requested_at=session.now())
    return job


def pause(session: Session, job_id: str) -> Job:
    """Give the device free and keep the place: a running training publishes a checkpoint first.

    Raises:
        Conflict: it is no training, is at its end, or is about to be cancelled.
    """
    job = store.find(session, job_id, lock=True)
    if job.pause_requested_at is not None and job.status in ("running", "paused") and not _cancelling(job):
        return job
    if "pause" not in _possible(session, job):
        raise _refused(session, job)
    asked = {"pause_requested_at": session.now(), "resume_requested_at": None}
    if job.status == "running":
        _ask(session, job, **asked)
    else:
        move(session, job.id, job.status, "paused", "paused by the user", **asked)
        session.refresh(job)
    return job


def resume(session: Session, job_id: str) -> Job:
    """Queue a paused job again, or let it wait for the weights that it needs; a pause that its worker has not carried
    out yet is taken back.

    Raises:
        Conflict: it was not paused.
    """
    job = store.find(session, job_id, lock=True)
    if job.resume_requested_at is not None:
        return job
    if "resume" not in _possible(session, job):
        raise _refused(session, job)
    asked = {"pause_requested_at": None, "resume_requested_at": session.now()}
    if job.status == "running":
        _ask(session, job, **asked)
    else:
        # Where the weights will never be there, it waits for a moment too: `dependents` says so.
        to_status = dependencies.first_status(session, job.spec)
        move(session, job.id, "paused", to_status, "resumed by the user", **asked)
        session.refresh(job)
    return job


def retry(session: Session, settings: Settings, job_id: str, owner: str) -> Job:
    """A new job like a failed or cancelled one, which starts from its last checkpoint. There is one retry of a job.

    Where a job whose weights it needs has failed or was cancelled, it needs those of that one's retry.

    Raises:
        Conflict: it has not failed and was not cancelled, or weights of another job that it needs are gone.
        QuotaExceeded: `owner`, who asks for it, has too many jobs waiting.
    """
    former = store.find(session, job_id, lock=True)
    known = session.scalar(select(Job).where(Job.retried_from == former.id))
    if known is not None:
        return known
    if former.status not in RETRIED:
        raise _refused(session, former)
    spec = _with_retries(session, former.spec)
    artifacts.lock_weights(session, spec)
    versions.lock_use(session, spec)
    if former.kind == "import":
        versions.claim_name(session, former.name, owner)
    quotas.admit(session, settings, owner)
    start, now = _start(session, former), session.now()
    job = Job(
        **{name: getattr(former, name) for name in _CARRIED},
        spec=spec,
        owner=owner,
        created_at=now,
        updated_at=now,
        retried_from=former.id,
        start=start,
        best_ap=start and start["best_ap"],
        teacher_ap=former.teacher_ap if start else None,
    )
    place = f"from step {start['step']}" if start else "from the beginning"
    begin(session, job, f"retry of {former.id}, {place}")
    session.add_all(JobLabel(job_id=job.id, key=key, value=value) for key, value in job.labels.items())
    session.execute(update(SweepJob).where(SweepJob.job_id == former.id).values(job_id=job.id))  # it takes its place
    return job


def _with_retries(session: Session, spec: dict[str, Any]) -> dict[str, Any]:
    """`spec` with the retry in place of each job that has come to nothing."""
    jobs = {weights["job"] for weights in dependencies.named(spec).values()}
    return dependencies.renamed(spec, {job: _last_retry(session, job) for job in jobs})


def _last_retry(session: Session, job_id: str) -> str:
    """The job, or the last of its retries if it has failed, was cancelled or is gone."""
    while True:
        status = session.scalar(select(Job.status).where(Job.id == job_id))
        if status is not None and status not in dependencies.FAILED:
            return job_id
        again = session.scalar(select(Job.id).where(Job.retried_from == job_id))
        if again is None:
            return job_id
        job_id = again


def remove(session: Session, storage: Storage, job_id: str) -> None:
    """Delete a job that is at its end, with all that it has reported and published.

    Raises:
        Conflict: it is not at its end, another job that is not yet needs a file of it, or it is a data set's.
    """
    if was_deleted(session, job_id, "job"):
        return
    job = store.find(session, job_id, lock=True)
    if job.status not in FINAL:
        raise _refused(session, job)
    if (user := _needed_by(session, job.id)) is not None:
        raise Conflict(
            f"the job {user} still needs a file of this one",
            remedy=f"Delete it when that one has ended, or cancel that one: POST /jobs/{user}/cancel.",
        )
    if (version := versions.held_by(session, job.id)) is not None:
        raise Conflict(
            f"the files of this job are version {version.digest[:12]} of the data set {version.name}",
            remedy=f"Delete that first: DELETE /datasets/{version.name}. Or import the same content again.",
        )
    for path in session.scalars(select(Artifact.path).where(Artifact.job_id == job.id)):
        session.after_commit(partial(storage.delete, path))
    store.count_deleted_attempts(session, job.id)
    _give_back_place(session, job)
    session.execute(delete(Job).where(Job.id == job.id))  # everything else of it goes by ON DELETE CASCADE
    session.add(DeletedJob(id=job.id, deleted_at=session.now(), role="job"))


def was_deleted(session: Session, identifier: str, role: Literal["job", "sweep"]) -> bool:
    """Whether this id was that of a job, or of a sweep, which has been deleted."""
    found = session.get(DeletedJob, identifier) if ID.fullmatch(identifier) else None
    return found is not None and found.role in (None, role)


def _give_back_place(session: Session, job: Job) -> None:
    """The place in a sweep that a retry took is its former job's again, while that is there: it may be retried anew."""
    if job.retried_from is not None:
        there = select(Job.id).where(Job.id == job.retried_from).exists()
        place = update(SweepJob).where(SweepJob.job_id == job.id, there)
        session.execute(place.values(job_id=job.retried_from).execution_options(synchronize_session=False))


def _ask(session: Session, job: Job, **columns: Any) -> None:
    """Note what is wanted of a job, and tell the worker that waits for it."""
    for name, value in columns.items():
        setattr(job, name, value)
    job.updated_at = session.now()
    session.flush()
    session.notify(commands_topic(job.id))


def _cancelling(job: Job) -> bool:
    return job.status == "running" and job.cancel_requested_at is not None


def _possible(session: Session, job: Job) -> list[str]:
    """What may be done to the job as it is."""
    if _cancelling(job):
        return []
    trains = store.trains(job)
    match job.status:
        case "waiting":
            return ["cancel", *(["pause"] if trains else [])]
        case "queued":
            keeps = trains and artifacts.resume_point(session, job) is not None
            return ["cancel", *(["pause"] if trains else []), *(["stop"] if keeps else [])]
        case "running" if job.pause_requested_at is not None:
            return ["cancel", "resume"]
        case "running":
            return ["cancel", *(["pause", "stop"] if trains else [])]
        case "paused":
            return ["cancel", "resume"]
        case "succeeded":
            return ["delete"]
        case _:
            return ["retry", "delete"]


def _refused(session: Session, job: Job) -> Conflict:
    states = {"succeeded": "has succeeded", "failed": "has failed", "cancelled": "was cancelled"}
    state = states.get(job.status, f"is {job.status}")
    if _cancelling(job):
        state = "is being cancelled"
    elif job.status == "running" and job.pause_requested_at is not None:
        state = "is being paused"
    kind = "" if store.trains(job) or job.status in FINAL else f", and of kind {job.kind}: it has no checkpoints"
    possible = _possible(session, job)
    remedy = f"Possible now: {', '.join(possible)}." if possible else "Wait until it has ended."
    return Conflict(f"the job {state}{kind}", remedy=remedy)


def _start(session: Session, former: Job) -> dict[str, Any] | None:
    """The checkpoint that a retry of `former` begins with; None: it has none, nor had what it was a retry of."""
    checkpoint = artifacts.latest_checkpoint(session, former.id)
    if checkpoint is not None:
        step = checkpoint.step or 0
        return {"job": former.id, "step": step, "best_ap": evaluations.best_ap(session, former, step)}
    if former.start is None:
        return None
    # Locked, so that nobody deletes it before this retry stands.
    source = session.get(Job, former.start["job"], with_for_update=True)
    return None if source is None else former.start


def _needed_by(session: Session, job_id: str) -> str | None:
    """A job that is not at its end and starts from, learns from or evaluates what this one has made."""
    if (user := dependencies.needed_by(session, job_id)) is not None:
        return user
    starts = select(Job.id).where(Job.status.in_(UNFINISHED), Job.start["job"].as_string() == job_id)
    return session.scalar(starts.limit(1))
