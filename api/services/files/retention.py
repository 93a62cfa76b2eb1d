"""Which checkpoints stay: a job's best one and its last few. All other kinds are no matter of this.

While a job lives, its own `checkpoint.keep_last` says how many are the last few, at each publication. Once it is at its
end, `CROSSKD_KEEP_CHECKPOINTS` bounds that too; the API's hourly look finds such jobs. The newest always stays: it is
what the next attempt goes on from, and what a retry of the job starts from.

The row goes in a transaction, the file after its commit. A crash in between leaves a file that nobody names, which
`artifacts.sweep` removes; never a row without its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from sqlalchemy import delete, func, select

from api.database import Database, Session
from api.errors import NotFound
from api.models import Artifact, Evaluation, Job
from api.services.files.artifacts import newest_checkpoints
from api.services.history import series
from api.storage import Storage
from wire.jobs import FINAL

PAGE = 500  # jobs looked up at once


def trim(session: Session, storage: Storage, job_id: str, most: int | None = None) -> int:
    """Remove what a job keeps too much of; how many that were. `most` bounds what its specification asks for.

    It waits for nobody: a row that another transaction holds is left for the next time. So it can be called with
    any lock held.
    """
    spec = session.scalars(select(Job.spec).where(Job.id == job_id)).one()
    last: int = spec.get("checkpoint", {}).get("keep_last", 1)
    surplus = surplus_checkpoints(session, job_id, last if most is None else min(last, most))
    if not surplus:
        return 0
    # As it was seen: a name that was published anew meanwhile has another path, and is another checkpoint.
    seen = select(Artifact.id, Artifact.path).where(
        Artifact.id.in_([found.id for found in surplus]), Artifact.path.in_([found.path for found in surplus])
    )
    rows = session.execute(seen.with_for_update(skip_locked=True)).all()
    session.execute(delete(Artifact).where(Artifact.id.in_([row.id for row in rows])))
    for row in rows:
        session.after_commit(partial(storage.delete, row.path))
    return len(rows)


def trim_ended_jobs(database: Database, storage: Storage, most: int) -> int:
    """Trim every job that is at its end; how many checkpoints went. Any number of replicas may do so at once."""
    return sum(_trim_ended(database, storage, job_id, most) for job_id in _ended_jobs(database, most))


def surplus_checkpoints(session: Session, job_id: str, last: int) -> Sequence[Artifact]:
    """A job's checkpoints but its newest `last`, and its best."""
    checkpoints = [row.Artifact for row in session.execute(newest_checkpoints(job_id))]
    older = checkpoints[last:]
    best = _best_step(session, job_id) if older else None
    if best is None or any(kept.step == best for kept in checkpoints[:last]):
        return older
    kept = next((found for found in older if found.step == best), None)
    return [found for found in older if found is not kept]


def _best_step(session: Session, job_id: str) -> int | None:
    """The step of the best student, as the attempts have told it; None: none was evaluated."""
    for part in reversed(series.step_ranges(session, job_id)):
        evaluated = select(Evaluation.step).where(
            Evaluation.attempt_id == part.attempt_id,
            Evaluation.model == "student",
            Evaluation.step <= part.last,  # from 0: what was evaluated at the very step of a resume is evaluated again
            Evaluation.report["best"].as_boolean(),
        )
        step = session.scalar(evaluated.order_by(Evaluation.step.desc()).limit(1))
        if step is not None:
            return step
    return None


def _ended_jobs(database: Database, most: int) -> Iterator[str]:
    """Jobs at their end with more checkpoints than that, page by page: no transaction stays open meanwhile."""
    after = ""
    counted = (
        select(Artifact.job_id)
        .join(Job, Job.id == Artifact.job_id)
        .where(Artifact.kind == "checkpoint", Job.status.in_(FINAL))
        .group_by(Artifact.job_id)
        .having(func.count() > most)
        .order_by(Artifact.job_id)
        .limit(PAGE)
    )
    while True:
        with database.reading() as session:
            page = session.scalars(counted.where(Artifact.job_id > after)).all()
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1]


def _trim_ended(database: Database, storage: Storage, job_id: str, most: int) -> int:
    try:
        with database.reading() as session:  # its best may be the one too many, which stays: nothing is written then
            if not surplus_checkpoints(session, job_id, most):
                return 0
    except NotFound:  # deleted meanwhile
        return 0
    with database.transaction() as session:
        # One replica at a time; against a deletion or a retry, which lock the job too.
        free = select(Job.id).where(Job.id == job_id).with_for_update(skip_locked=True, key_share=True)
        return 0 if session.scalar(free) is None else trim(session, storage, job_id, most)
