"""Fencing: only the job's live attempt may report, so a worker that was given up cannot spoil its successor's work."""

from __future__ import annotations

from sqlalchemy import select

from api.auth import Fence
from api.database import Session
from api.errors import NotFound, Stale
from api.models import ID, Attempt


def known(session: Session, fence: Fence, *, lock: bool = True) -> Attempt:
    """The attempt, live or ended, if the token is its own. Locked until the transaction ends, against the reaper.

    Raises:
        NotFound: there is no such attempt.
        Stale: the token is another attempt's.
    """
    query = select(Attempt).where(Attempt.id == fence.attempt)
    attempt = session.scalar(query.with_for_update() if lock else query) if ID.fullmatch(fence.attempt) else None
    if attempt is None:
        raise NotFound("there is no such attempt", remedy="A claim answers with the attempt's id.")
    if attempt.number != fence.token:
        raise _stale(f"fencing token {fence.token} is not this attempt's")
    return attempt


def live(session: Session, fence: Fence, *, lock: bool = True) -> Attempt:
    """The attempt, if it still runs. Raises as `known` does, and `Stale` if it has ended."""
    attempt = known(session, fence, lock=lock)
    if attempt.status != "running":
        raise _stale(f"attempt {attempt.number} has ended: {attempt.status}")
    return attempt


def _stale(detail: str) -> Stale:
    return Stale(detail, remedy="Stop this training: the job may have gone to another worker.")
