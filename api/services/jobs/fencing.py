"""Fencing: only the job's live attempt may report, so a worker that was given up cannot spoil its successor's work."""

from __future__ import annotations

import hmac
from typing import NamedTuple, TypeVar

from sqlalchemy import bindparam, select

from api.auth import Fence, not_its_own
from api.database import Session
from api.errors import NotFound, StaleAttempt
from api.models import ID, Attempt


def lock_attempt(session: Session, fence: Fence) -> Attempt:
    """The attempt, live or ended, if the token is its own. Locked until the transaction ends, against the reaper.

    Raises:
        Unauthorized: the secret that came along is not the attempt's own.
        NotFound: there is no such attempt.
        StaleAttempt: the token is another attempt's.
    """
    query = select(Attempt).where(Attempt.id == fence.attempt).with_for_update()
    attempt = session.scalar(query) if ID.fullmatch(fence.attempt) else None
    return _checked(attempt, fence)


class AttemptRow(NamedTuple):
    """What most reports need of their attempt; they are frequent, and an object of the session costs more to make."""

    id: str
    number: int
    job_id: str
    status: str
    token_sha256: str | None


_SELECT = select(*(Attempt.__table__.c[name] for name in AttemptRow._fields)).where(
    Attempt.__table__.c.id == bindparam("of_attempt")
)
_SELECT_LOCKED = _SELECT.with_for_update()
A = TypeVar("A", Attempt, AttemptRow)


def running_attempt(session: Session, fence: Fence, *, lock: bool = True) -> AttemptRow:
    """An attempt that still runs; locked unless told otherwise. Raises as `lock_running_attempt` does."""
    row = None
    if ID.fullmatch(fence.attempt):
        row = (
            session.connection()
            .execute(_SELECT_LOCKED if lock else _SELECT, {"of_attempt": fence.attempt})
            .one_or_none()
        )
    attempt = _checked(None if row is None else AttemptRow(*row), fence)
    _check_running(attempt)
    return attempt


def _checked(attempt: A | None, fence: Fence) -> A:
    if fence.secret_sha256 is not None and not _is_own_secret(attempt, fence.secret_sha256):
        raise not_its_own()
    if attempt is None:
        raise NotFound("there is no such attempt", remedy="A claim answers with the attempt's id.")
    if attempt.number != fence.token:
        raise _stale(f"fencing token {fence.token} is not this attempt's")
    return attempt


def _is_own_secret(attempt: Attempt | AttemptRow | None, secret_sha256: str) -> bool:
    kept = attempt.token_sha256 if attempt is not None else None
    return kept is not None and hmac.compare_digest(kept, secret_sha256)


def lock_running_attempt(session: Session, fence: Fence) -> Attempt:
    """The attempt, if it still runs. Raises as `lock_attempt` does, and `StaleAttempt` if it has ended."""
    attempt = lock_attempt(session, fence)
    _check_running(attempt)
    return attempt


def _check_running(attempt: Attempt | AttemptRow) -> None:
    if attempt.status != "running":
        raise _stale(f"attempt {attempt.number} has ended: {attempt.status}")


def _stale(detail: str) -> StaleAttempt:
    return StaleAttempt(detail, remedy="Stop this training: the job may have gone to another worker.")
