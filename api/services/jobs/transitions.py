"""The state machine: one function through which every change of a job's status passes.

(new) ──▶ queued ──▶ running ──▶ succeeded | failed | cancelled
  │        ▲ ▲ ▲ │        │ │
  │        │ │ └─┼────────┘ │        given back or lost
  │        │ │   ▼          │
  │        │ └─ paused ◀────┘        and cancelled, from waiting, from queued and from paused
  │        │    │    ▲
  │        │    ▼    │
  └──────▶ waiting ──┘               for weights of other jobs; and failed, when there will be none
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from api.database import DEPENDENTS, OUTBOX, Session
from api.models import Job, Outbox, Transition
from api.services.jobs import dependencies
from api.services.jobs.journal import append, commands_topic
from api.services.webhooks import store
from wire.jobs import FINAL
from wire.tasks import broker_priority

log = logging.getLogger(__name__)

ALLOWED: dict[str, frozenset[str]] = {
    "waiting": frozenset({"queued", "paused", "failed", "cancelled"}),
    "queued": frozenset({"running", "paused", "cancelled"}),
    "running": FINAL | {"queued", "paused"},
    "paused": frozenset({"waiting", "queued", "cancelled"}),
}


def begin(session: Session, job: Job, reason: str = "submitted") -> None:
    """Store a new job: queued, or waiting for the weights of jobs that are still on their way."""
    job.status = dependencies.first_status(session, job.spec)
    session.add(job)
    session.flush()
    dependencies.record(session, job)
    _record(session, job.id, None, job.status, reason)
    if job.status == "queued":
        _enqueue(session, job.id)


def move(session: Session, job_id: str, from_status: str, to_status: str, reason: str, **values: Any) -> bool:
    """Change the status if it is still `from_status`; whether it was.

    One conditional UPDATE: of two callers who want the same change, one wins. `values` are further columns to set.
    """
    assert to_status in ALLOWED.get(from_status, ()), f"a job never goes from {from_status} to {to_status}"
    now = session.now()
    if to_status in FINAL:
        values["finished_at"] = now
    change = update(Job).where(Job.id == job_id, Job.status == from_status)
    moving = change.values(status=to_status, updated_at=now, **values).returning(Job.request_id)
    moved = session.execute(moving).first()
    if moved is None:
        return False
    _record(session, job_id, from_status, to_status, reason)
    # The job's own id, not that of the request which moves it: by it everything that became of a job is found.
    about = {"job": job_id, "request_id": moved.request_id}
    session.after_commit(partial(log.info, "%s → %s: %s", from_status, to_status, reason, extra=about))
    if from_status == "queued":
        session.execute(delete(Outbox).where(Outbox.job_id == job_id))
    if to_status == "queued":
        _enqueue(session, job_id)
    if to_status in FINAL and dependencies.has_dependents(session, job_id):
        session.notify(DEPENDENTS)
    session.notify(commands_topic(job_id))  # `append` has told the others
    return True


def _record(session: Session, job_id: str, from_status: str | None, to_status: str, reason: str) -> None:
    # The job's row is locked by the update before, so nobody else counts at the same time.
    count = select(func.coalesce(func.max(Transition.seq), 0) + 1).where(Transition.job_id == job_id)
    seq = session.scalars(
        insert(Transition)
        .values(
            job_id=job_id,
            seq=count.scalar_subquery(),
            at=session.now(),
            from_status=from_status,
            to_status=to_status,
            reason=reason.replace("\0", ""),  # Postgres keeps no NUL; a reason may quote what a worker sent
        )
        .returning(Transition.seq)
    ).one()
    append(session, job_id, "transition", {"seq": seq})
    store.enqueue_deliveries(session, job_id, from_status, to_status, reason)


def _enqueue(session: Session, job_id: str) -> None:
    """The dispatch message's row, in the same transaction as the job: neither is ever there without the other."""
    now = session.now()
    queue, priority = session.execute(select(Job.queue, Job.priority).where(Job.id == job_id)).one()
    session.add(Outbox(job_id=job_id, queue=queue, priority=broker_priority(priority), created_at=now, due_at=now))
    session.notify(OUTBOX)
