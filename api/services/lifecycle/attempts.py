"""Attempts: a worker's tries at a job, from the claim to what becomes of the job."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, NamedTuple, cast

from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from api.auth import ATTEMPT_PREFIX, Fence, digest, new_secret
from api.database import Database, Session
from api.errors import Conflict
from api.infrastructure_errors import is_lock_conflict
from api.models import ID, ApiUptime, Attempt, Job
from api.services.datasets import versions
from api.services.files import artifacts
from api.services.history import evaluations, series
from api.services.jobs import dependencies, quotas, store
from api.services.jobs.fencing import lock_attempt, lock_running_attempt, running_attempt
from api.services.jobs.manifest import missing_onnx
from api.services.jobs.transitions import move
from api.services.lifecycle import failures, workers
from api.settings import Settings
from wire.jobs import Failure, Kind, Progress
from wire.reports import Claim, ClaimRequest, Command, Finish, FinishReport, Heartbeat
from wire.scalars import without_non_finite
from wire.workers import HeartbeatReport

log = logging.getLogger(__name__)

RETRIED = frozenset({"infrastructure", "lost"})
REAPED_AT_ONCE = 100


def claim(
    session: Session, settings: Settings, job_id: str, request: ClaimRequest, lost: frozenset[str] = frozenset()
) -> Claim:
    """Make an attempt of a queued job. `lost`: keys of checkpoints that it cannot resume from.

    Raises:
        NotFound: there is no such job.
        Conflict: it is not queued, another claim was first, or its owner has as many running as may.
    """
    counted = {"attempt": Job.attempt + 1}
    possible = ID.fullmatch(job_id) is not None
    if possible:
        quotas.allow_run(session, settings, job_id)
    claimed = possible and move(session, job_id, "queued", "running", f"claimed by {request.worker}", **counted)
    job = store.find(session, job_id)
    if not claimed:
        raise Conflict(f"the job is {job.status}, not queued", remedy="Leave it: only a queued job can be claimed.")
    now = session.now()  # only now: until it had the job's row, the attempt before may not have ended
    job.started_at = job.started_at or now
    resume = artifacts.resume_point(session, job, lost)
    secret = new_secret(ATTEMPT_PREFIX)
    attempt = Attempt(
        job_id=job.id,
        number=job.attempt,
        status="running",
        worker=request.worker,
        device=request.device,
        versions=request.versions,
        started_at=now,
        lease_expires_at=now + timedelta(seconds=settings.lease_seconds),
        resumed_from_step=max(resume.step or 0 if resume else 0, _own_checkpoint(session, job_id, request)),
        token_sha256=digest(secret),
    )
    session.add(attempt)
    session.flush()
    workers.record_seen(session, now, request.worker, request.device, request.devices, versions=request.versions)
    _rewind(session, job, attempt.resumed_from_step)
    version = versions.version_of(session, job.spec)
    return Claim(
        attempt=attempt.id,
        fencing_token=attempt.number,
        attempt_token=secret,
        lease_seconds=settings.lease_seconds,
        job=job.id,
        kind=cast(Kind, job.kind),
        spec=versions.placed(job.spec, version),
        annotations=versions.annotation_files(session, version),
        request_id=job.request_id or "",
        traceparent=job.traceparent or "",
        resume=resume,
        resume_step=attempt.resumed_from_step,
        **{role: artifacts.weights_ref(session, weights) for role, weights in dependencies.named(job.spec).items()},
    )


def _own_checkpoint(session: Session, job_id: str, request: ClaimRequest) -> int:
    """The step of the checkpoint that the worker has itself; 0 if the job cannot go on from it.

    What led to it was reported by the attempt that wrote it and by those before. Of a later attempt that began at an
    earlier step, the reports have replaced these, and nobody knows how far they came: the series would have a hole.
    A worker from before `checkpoint_attempt` goes on from it all the same.
    """
    step, number = request.checkpoint_step or 0, request.checkpoint_attempt
    if number is None or not step:
        return step
    starts = select(Attempt.number, Attempt.resumed_from_step).where(Attempt.job_id == job_id)
    began = {row.number: row.resumed_from_step for row in session.execute(starts)}
    fits = number in began and all(start >= step for later, start in began.items() if later > number)
    return step if fits else 0


def _rewind(session: Session, job: Job, step: int) -> None:
    """Take the job's figures back to the step that a new attempt goes on from: what lies behind it is made anew."""
    job.best_ap = evaluations.best_ap(session, job, series.LAST)
    if job.progress is not None:
        before = Progress.model_validate(job.progress)
        epoch = before.epoch * step / before.step if before.step else 0.0
        job.progress = Progress(step=step, total_steps=before.total_steps, epoch=epoch).model_dump()


def heartbeat(session: Session, settings: Settings, fence: Fence, report: HeartbeatReport | None) -> Heartbeat:
    """Renew the lease."""
    attempt = lock_running_attempt(session, fence)
    now = session.now()
    workers.record_seen(session, now, attempt.worker, attempt.device, report.devices if report else [])
    attempt.lease_expires_at = now + timedelta(seconds=settings.lease_seconds)
    return Heartbeat(lease_expires_at=attempt.lease_expires_at, command=_command(session, attempt.job_id).command)


class PendingCommand(NamedTuple):
    job_id: str
    command: Command


def read_command(database: Database, fence: Fence) -> PendingCommand:
    """What the worker should do now. Raises as `running_attempt` does."""
    with database.reading() as session:
        attempt = running_attempt(session, fence, lock=False)
        return PendingCommand(attempt.job_id, _command(session, attempt.job_id))


def _command(session: Session, job_id: str) -> Command:
    columns = (Job.cancel_requested_at, Job.pause_requested_at, Job.stop_requested_at)
    cancel, pause, stop = session.execute(select(*columns).where(Job.id == job_id)).one()
    return Command(command="cancel" if cancel else "pause" if pause else "stop" if stop else None)


def finish(session: Session, settings: Settings, fence: Fence, report: FinishReport) -> Finish:
    """End the attempt as the worker reports; the same report again gets the same answer.

    Raises:
        StaleAttempt: the attempt has ended otherwise.
    """
    attempt = lock_attempt(session, fence)
    if attempt.finish is not None and attempt.finish["outcome"] == report.outcome:
        return Finish.model_validate(attempt.finish["answer"])
    lock_running_attempt(session, fence)
    attempt.result = without_non_finite(report.result)
    unfit = _unfit(session, attempt, report)
    failure = _failure(session, attempt, report) if unfit is None else failures.complete(session, attempt, unfit)
    answer = _end(session, settings, attempt, report.outcome if unfit is None else "failed", failure)
    attempt.finish = {"outcome": report.outcome, "answer": answer.model_dump()}
    return answer


def _unfit(session: Session, attempt: Attempt, report: FinishReport) -> Failure | None:
    """Why a success that is reported is none."""
    job = store.find(session, attempt.job_id)
    if report.outcome != "succeeded" or job.kind != "import":
        return None
    return versions.unfit(session, job, report.result)


def _failure(session: Session, attempt: Attempt, report: FinishReport) -> Failure | None:
    if report.outcome != "failed":
        return None
    failure = report.failure or Failure(failure_class="infrastructure", message="the worker gave no reason")
    return failures.complete(session, attempt, failure, report.log_tail)


def reap(session: Session, settings: Settings) -> int:
    """End every attempt whose lease has lapsed as `lost`; how many there were. One that cannot be ended is logged.

    While the API was away no worker could renew its lease, so nothing is reaped until the API has been up for one
    whole lease.
    """
    now = session.now()
    lease = timedelta(seconds=settings.lease_seconds)
    uptime = session.get(ApiUptime, 1)
    if uptime is None or now - uptime.at > lease / 2 or now - uptime.since < lease:
        return 0
    lapsed = (
        select(Attempt)
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.status == "running", Attempt.lease_expires_at < now)
        .limit(REAPED_AT_ONCE)
        .with_for_update(
            skip_locked=True, of=(Attempt, Job)
        )  # the job's row is wanted next: whoever has it comes first
    )
    attempts = session.scalars(lapsed).all()
    return sum(_end_as_lost(session, settings, attempt) for attempt in attempts)


def _end_as_lost(session: Session, settings: Settings, attempt: Attempt) -> bool:
    """End a lapsed attempt; whether it could be done. What fails is undone alone: the others must not wait for it."""
    attempt_id = attempt.id
    failure = Failure(
        failure_class="lost",
        message=f"worker {attempt.worker} was not heard of for {settings.lease_seconds:g} s",
    )
    try:
        with session.begin_nested():
            _end(session, settings, attempt, "lost", failures.complete(session, attempt, failure))
    except OperationalError as error:
        if not is_lock_conflict(error):  # the database is away: that concerns them all
            raise
        log.warning("attempt %s has lapsed, and is ended in a later round: %s", attempt_id, error.orig)
        return False
    except Exception:
        log.exception("attempt %s has lapsed and cannot be ended", attempt_id)
        return False
    return True


def _end(session: Session, settings: Settings, attempt: Attempt, outcome: str, failure: Failure | None) -> Finish:
    job = store.find(session, attempt.job_id, lock=True)
    attempt.status = "released" if outcome == "cancelled" and job.cancel_requested_at is None else outcome
    attempt.ended_at = session.now()
    attempt.failure = failure.model_dump() if failure else None
    session.flush()
    next_state = _next_state(job, attempt, failure, settings.max_resumes)
    if not move(session, job.id, "running", next_state.status, next_state.reason, **next_state.values):
        raise Conflict(f"the job is {job.status}, not running")
    if next_state.status == "succeeded" and job.kind == "import":
        versions.register(session, job, attempt.result or {})
    quotas.dispatch_next(session, settings, job.owner)
    return Finish(job=job.id, status=next_state.status, retried=next_state.status == "queued")


class NextState(NamedTuple):
    """What becomes of the job."""

    status: str
    reason: str
    values: dict[str, Any] = {}


def _how_it_ended(manifest: dict[str, Any]) -> str:
    how = "finished"
    if manifest.get("stopped_early") is True:
        how = f"stopped early after step {manifest.get('steps')}: {manifest.get('stop_reason')}"[:500]
    missing = missing_onnx(manifest)
    return f"{how}; no ONNX is written: {missing}"[:1000] if missing else how


def _next_state(job: Job, attempt: Attempt, failure: Failure | None, max_resumes: int) -> NextState:
    who = f"attempt {attempt.number}"
    if attempt.status == "succeeded":
        return NextState("succeeded", f"{who} {_how_it_ended(attempt.result or {})}")
    if job.cancel_requested_at is not None:
        return NextState("cancelled", "cancelled by the user")
    if failure is None and job.pause_requested_at is not None:
        return NextState("paused", "paused by the user")
    if failure is None:
        return NextState("queued", f"worker {attempt.worker} gave the job back")
    what = f"{who} failed ({failure.failure_class}): {failure.message}"
    stored = {"failure": failures.brief(failure).model_dump()}
    if failure.failure_class not in RETRIED:
        return NextState("failed", what, stored)
    if job.pause_requested_at is not None:
        return NextState("paused", f"{what}; paused by the user")
    if job.resumes >= max_resumes:
        return NextState("failed", f"{what}; it was resumed {job.resumes} times, and not again", stored)
    return NextState("queued", f"{what}; resume {job.resumes + 1} of {max_resumes}", {"resumes": job.resumes + 1})
