"""Fencing: only the job's live attempt may report, so a worker that was given up cannot spoil its successor's work."""

from __future__ import annotations

import hmac
from typing import NamedTuple, TypeVar

from sqlalchemy import bindparam, select

from api.auth import Fence
from api.database import Session
from api.errors import NotFound, Stale, Unauthorized
from api.models import ID, Attempt


def known(session: Session, fence: Fence) -> Attempt:
    """The attempt, live or ended, if the token is its own. Locked until the transaction ends, against the reaper.

    Raises:
        Unauthorized: the secret that came along is not the attempt's own.
        NotFound: there is no such attempt.
        Stale: the token is another attempt's.
    """
    query = select(Attempt).where(Attempt.id == fence.attempt).with_for_update()
    attempt = session.scalar(query) if ID.fullmatch(fence.attempt) else None
    return _checked(attempt, fence)


class Fenced(NamedTuple):
    """What most reports need of their attempt; they are frequent, and an object of the session costs more to make."""

    id: str
    number: int
    job_id: str
    status: str
    token_sha256: str | None


_FENCED = select(*(Attempt.__table__.c[name] for name in Fenced._fields)).where(
    Attempt.__table__.c.id == bindparam("of_attempt")
)
_LOCKED = _FENCED.with_for_update()
A = TypeVar("A", Attempt, Fenced)


def fenced(session: Session, fence: Fence, *, lock: bool = True) -> Fenced:
    """An attempt that still runs; locked as by `known`, unless told otherwise. Raises as `live` does."""
    row = None
    if ID.fullmatch(fence.attempt):
        row = session.connection().execute(_LOCKED if lock else _FENCED, {"of_attempt": fence.attempt}).one_or_none()
    attempt = _checked(None if row is None else Fenced(*row), fence)
    _check_live(attempt)
    return attempt


def _checked(attempt: A | None, fence: Fence) -> A:
    if fence.secret_sha256 is not None and not _own(attempt, fence.secret_sha256):
        raise Unauthorized("the token is not this attempt's", remedy="Use the one that the claim answered with.")
    if attempt is None:
        raise NotFound("there is no such attempt", remedy="A claim answers with the attempt's id.")
    if attempt.number != fence.token:
        raise _stale(f"fencing token {fence.token} is not this attempt's")
    return attempt


def _own(attempt: Attempt | Fenced | None, secret_sha256: str) -> bool:
    kept = attempt.token_sha256 if attempt is not None else None
    return kept is not None and hmac.compare_digest(kept, secret_sha256)


def live(session: Session, fence: Fence) -> Attempt:
    """The attempt, if it still runs. Raises as `known` does, and `Stale` if it has ended."""
    attempt = known(session, fence)
    _check_live(attempt)
    return attempt


def _check_live(attempt: Attempt | Fenced) -> None:
    if attempt.status != "running":
        raise _stale(f"attempt {attempt.number} has ended: {attempt.status}")


def _stale(detail: str) -> Stale:
    return Stale(detail, remedy="Stop this training: the job may have gone to another worker.")
