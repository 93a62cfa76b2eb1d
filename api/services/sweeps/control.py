"""What a client may do to a whole sweep: what may be done to a job, to each of its jobs that it can be done to.

Jobs at their end stay as they are, so that each call may be repeated. The jobs are taken in one order, so that two
calls wait for each other and do not deadlock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from sqlalchemy import select

from api.database import Session
from api.errors import Conflict, NotFound
from api.models import DeletedJob, Job, Sweep, SweepJob
from api.services.answers import sweeps as answers
from api.services.lifecycle import control
from api.settings import Settings
from api.storage import Storage
from wire.jobs import FINAL


def cancel(session: Session, sweep_id: str) -> Sweep:
    """Discard all jobs that have not ended.

    Raises:
        Conflict: all have ended, and not one was cancelled.
    """
    return _each(session, sweep_id, control.cancel, "cancelled")


def pause(session: Session, sweep_id: str) -> Sweep:
    """Free the devices; running trainings publish a checkpoint first.

    Raises:
        Conflict: there is nothing to pause.
    """
    return _each(session, sweep_id, control.pause, "paused")


def resume(session: Session, sweep_id: str) -> Sweep:
    """Let the paused jobs go on.

    Raises:
        Conflict: none was paused.
    """
    return _each(session, sweep_id, control.resume, "resumed")


def retry(session: Session, settings: Settings, sweep_id: str, owner: str) -> tuple[Sweep, int]:
    """A new job in place of each that failed or was cancelled; the teacher's first, for the others need its weights.

    Also how many jobs that made.

    Raises:
        Conflict: none failed or was cancelled, or weights of a former job that one needs are gone.
        QuotaExceeded: `owner` would have too many jobs waiting.
    """
    sweep = answers.find(session, sweep_id, lock=True)
    places = _places(session, sweep)
    statuses = _statuses(session, places)
    again = [place for place in places if statuses.get(place.job_id) in control.RETRIED]
    if not again and not _retried(session, places):
        raise _refused(statuses, "no job of it has failed or was cancelled")
    for place in again:
        control.retry(session, settings, place.job_id, owner)  # it puts the new job into the old one's place
    session.expire_all()
    return sweep, len(again)


def remove(session: Session, storage: Storage, sweep_id: str) -> None:
    """Delete a sweep whose jobs have all ended, and the jobs, and those that they are retries of, with all their files.

    Raises:
        Conflict: a job has not ended, or another job that has not needs a file of one.
    """
    if control.was_deleted(session, sweep_id, "sweep"):
        return
    sweep = answers.find(session, sweep_id, lock=True)
    places = _places(session, sweep)
    statuses = _statuses(session, places)
    if left := [place for place in places if statuses.get(place.job_id, "deleted") not in FINAL | {"deleted"}]:
        number = "one job" if len(left) == 1 else f"{len(left)} jobs"
        raise Conflict(
            f"{number} of the sweep {'has' if len(left) == 1 else 'have'} not ended",
            remedy=f"Wait, or cancel the sweep first: POST /sweeps/{sweep.id}/cancel.",
        )
    for job_id in [place.job_id for place in places]:
        for of_place in _with_former(session, job_id):
            control.remove(session, storage, of_place)
    session.delete(sweep)
    session.add(DeletedJob(id=sweep.id, deleted_at=session.now(), role="sweep"))  # no job has the same id


def _each(session: Session, sweep_id: str, act: Callable[[Session, str], Job], done: str) -> Sweep:
    """Do to each job what can be done to it; one to which it was done before counts too."""
    sweep = answers.find(session, sweep_id, lock=True)
    places = _places(session, sweep)
    acted = 0
    for place in places:
        try:
            act(session, place.job_id)
            acted += 1
        except (Conflict, NotFound):  # it has ended, or was deleted
            continue
    if not acted:
        raise _refused(_statuses(session, places), f"no job of it can be {done}")
    return sweep


def _with_former(session: Session, job_id: str) -> list[str]:
    """The job and those that it is a retry of, the latest first, as far as they are there."""
    found: list[str] = []
    former: str | None = job_id
    while former is not None and (job := session.get(Job, former)) is not None:
        found.append(job.id)
        former = job.retried_from
    return found


def _places(session: Session, sweep: Sweep) -> list[SweepJob]:
    query = select(SweepJob).where(SweepJob.sweep_id == sweep.id).order_by(SweepJob.place)
    return list(session.scalars(query))


def _retried(session: Session, places: list[SweepJob]) -> bool:
    """Whether a former call did what is asked for."""
    again = select(Job.id).where(Job.id.in_([place.job_id for place in places]), Job.retried_from.is_not(None))
    return session.scalar(again.limit(1)) is not None


def _statuses(session: Session, places: list[SweepJob]) -> dict[str, str]:
    query = select(Job.id, Job.status).where(Job.id.in_([place.job_id for place in places]))
    found: dict[str, str] = {row.id: row.status for row in session.execute(query)}
    return found


def _refused(statuses: dict[str, str], what: str) -> Conflict:
    counts = Counter(statuses.values())
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "all deleted"
    return Conflict(f"{what}: {told}", remedy="GET the sweep: it shows each job with its state.")
