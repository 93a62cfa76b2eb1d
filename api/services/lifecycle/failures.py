"""What is kept of an attempt's failure: its class, what happened, a remedy, and the last lines of the log.

The lines stand beside the attempt alone. A job tells the failure that it ended with, and its lines are those of its
last attempt: lists of jobs stay small.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from api.database import Session
from api.models import Attempt, LogChunk
from api.services.history.logs import lines_of
from wire.jobs import Failure
from wire.remedies import with_remedy

TAIL_LINES = 200
TAIL_CHARACTERS = 500  # of one line
TEXT_CHARACTERS = 4000  # of the message, and of each of its companions


def complete(session: Session, attempt: Attempt, failure: Failure, log_tail: Sequence[str] = ()) -> Failure:
    """The failure with a remedy and its last `TAIL_LINES` lines, in bounds.

    Lines that the worker gives stand for what the training printed. Where it gives none, perhaps because it is gone,
    they are the last ones of the log that it reported while it lived.
    """
    lines = failure.log_tail or log_tail or _reported(session, attempt)
    texts = {name: getattr(failure, name)[:TEXT_CHARACTERS] for name in ("message", "where", "remedy")}
    tail = [line[:TAIL_CHARACTERS] for line in lines[-TAIL_LINES:]]
    return with_remedy(failure.model_copy(update=texts | {"log_tail": tail}))


def brief(failure: Failure) -> Failure:
    """Without its lines."""
    return failure.model_copy(update={"log_tail": []})


def _reported(session: Session, attempt: Attempt) -> list[str]:
    found: list[str] = []
    chunks = select(LogChunk).where(LogChunk.attempt_id == attempt.id).order_by(LogChunk.sequence.desc())
    for chunk in session.scalars(chunks.limit(TAIL_LINES)):  # each has a line at least
        found = [str(line) for line in lines_of(chunk)] + found
        if len(found) >= TAIL_LINES:
            break
    return found[-TAIL_LINES:]
