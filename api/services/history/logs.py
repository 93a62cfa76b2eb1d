"""The log of a job while it runs: lines in, the last ones out. The whole of it is the artifact `log.txt`."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import delete, func, select

from api.auth import Fence
from api.database import Session
from api.models import LogChunk
from api.services.jobs import store
from api.services.jobs.fencing import running_attempt
from api.services.jobs.journal import append
from wire.logs import MAX_LINES, LogBatch, LogPage, StoredLine

CHUNKS_AT_ONCE = 20  # so many has a reader in memory who follows slowly


def add(session: Session, fence: Fence, batch: LogBatch, limit: int) -> None:
    """Store a batch once, and drop what is older than the last `limit` characters. Raises as `running_attempt` does.

    An attempt's batches come one after the other, so one that is not newer than the last has been stored before.
    """
    attempt = running_attempt(session, fence)
    known = session.scalar(select(func.max(LogChunk.sequence)).where(LogChunk.attempt_id == attempt.id))
    if known is not None and batch.sequence <= known:
        return
    newest = select(LogChunk.first + LogChunk.count, LogChunk.end).where(LogChunk.job_id == attempt.job_id)
    last = session.execute(newest.order_by(LogChunk.first.desc()).limit(1)).one_or_none()
    first, start = (last[0], last[1]) if last else (1, 0)
    size = sum(len(line.text) + 1 for line in batch.lines)
    chunk = LogChunk(
        job_id=attempt.job_id,
        first=first,
        count=len(batch.lines),
        end=start + size,
        attempt_id=attempt.id,
        attempt=attempt.number,
        sequence=batch.sequence,
        lines=[[line.at.isoformat(), line.level, line.text] for line in batch.lines],
    )
    session.add(chunk)
    session.flush()
    old = delete(LogChunk).where(LogChunk.job_id == attempt.job_id, LogChunk.first < first)
    session.execute(old.where(LogChunk.end <= chunk.end - limit))
    ref = {"attempt": attempt.number, "first": first, "count": chunk.count}
    append(session, attempt.job_id, "log", ref, size=size + 100 * chunk.count)


def lines_of(chunk: LogChunk) -> list[StoredLine]:
    return [
        StoredLine.model_validate(
            {"number": chunk.first + place, "attempt": chunk.attempt, "at": at, "level": level, "text": text}
        )
        for place, (at, level, text) in enumerate(chunk.lines)
    ]


class Extent(NamedTuple):
    """How far the log of a job goes."""

    oldest: int  # number of the oldest line that is kept
    total: int  # and of the newest
    last_event: int


def extent(session: Session, job_id: str) -> Extent:
    """Raises `NotFound`."""
    job = store.find(session, job_id)
    last_event = job.last_event  # before the lines: what comes in between is told twice rather than never
    ends: Any = session.execute(
        select(func.min(LogChunk.first), func.max(LogChunk.first + LogChunk.count - 1)).where(LogChunk.job_id == job.id)
    ).one()
    return Extent(ends[0] or 1, ends[1] or 0, last_event)


def part(session: Session, job_id: str, behind: int, total: int) -> list[StoredLine]:
    """Some of the lines behind the number `behind` and up to the number `total`, the first ones; none: no more."""
    # A chunk that begins before the wanted lines may reach into them.
    query = select(LogChunk).where(LogChunk.job_id == job_id, LogChunk.first > behind - MAX_LINES)
    query = query.where(LogChunk.first + LogChunk.count - 1 > behind, LogChunk.first <= total)
    chunks = session.scalars(query.order_by(LogChunk.first).limit(CHUNKS_AT_ONCE)).all()
    session.expunge_all()  # the lines are what is wanted: not the chunks too, as long as the session lives
    # A line that has come since `total` was read is an event to follow: not to be told here too.
    return [line for chunk in chunks for line in lines_of(chunk) if behind < line.number <= total]


def tail(session: Session, job_id: str, count: int) -> LogPage:
    """The last `count` lines that are kept."""
    known = extent(session, job_id)
    found: list[StoredLine] = []
    behind = known.total - count
    while lines := part(session, job_id, behind, known.total):
        behind = lines[-1].number
        found += lines
    return LogPage(items=found, oldest=known.oldest, total=known.total, last_event=known.last_event)
