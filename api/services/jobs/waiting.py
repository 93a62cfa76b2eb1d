"""Why a waiting or a queued job still waits, in words. It is worked out when somebody asks: nothing of it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import select

from api.database import Session
from api.models import Attempt, Job, Outbox, Worker
from api.services.jobs import capable, dependencies, quotas
from api.settings import Settings

_SOON = timedelta(seconds=10)  # until which a message is on its way; longer, and the broker or the relay is away


def reason(session: Session, settings: Settings, job: Job, position: int | None) -> str | None:
    """All that the job waits for; None for one that does not. `position` is its place in the queue, from 1."""
    if job.status == "waiting":
        return dependencies.awaited(session, job.spec) or "the weights are there: it is about to be queued"
    if job.status != "queued":
        return None
    reasons = []
    if held := quotas.held_back(session, settings, job.owner):
        reasons.append(f"{held}: it is dispatched when one of them has ended")
    workers = capable.heard_of(session)
    takers = capable.able(workers, job.queue)
    if not takers:
        reasons.append(capable.nobody(workers, job.queue))
    if position is not None and position > 1:
        reasons.append(f"{position - 1} {'job comes' if position == 2 else 'jobs come'} first in its queue")
    if takers and (busy := _all_busy(session, takers)):
        reasons.append(busy)
    if not held and _unsent(session, job):
        reasons.append("its message has not reached the broker yet; GET /ready says whether the broker is there")
    return "; ".join(reasons) or _next(takers[0])


def _all_busy(session: Session, takers: Sequence[Worker]) -> str:
    """That none of the workers is free; empty if one is."""
    running = session.execute(select(Attempt.worker, Attempt.device).where(Attempt.status == "running"))
    at_work = {(row.worker, row.device) for row in running}
    if any((worker.name, worker.device) not in at_work for worker in takers):
        return ""
    one = f"the one worker that could take it, {takers[0].name}, is at work"
    return one if len(takers) == 1 else f"all {len(takers)} workers that could take it are at work"


def _unsent(session: Session, job: Job) -> bool:
    message = select(Outbox.created_at).where(Outbox.job_id == job.id, Outbox.published_at.is_(None))
    created = session.scalar(message)
    return created is not None and session.now() - created > _SOON


def _next(worker: Worker) -> str:
    """Nothing is known to be in the way. A worker that has gone for good would leave it at that."""
    heard = f"{worker.last_seen:%Y-%m-%d %H:%M} UTC"
    return f"it is next; worker {worker.name} could take it, and was last heard of at {heard}"
