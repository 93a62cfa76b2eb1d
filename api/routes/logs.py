"""`GET /jobs/{id}/logs`: the last lines of a job's log, and those that come."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from sqlalchemy.exc import SQLAlchemyError

from api.auth import Caller, CallerDep
from api.database import Database, DatabaseDep
from api.http.representations import JSON, PLAIN, negotiate
from api.http.streams import Streams, TextResponse, follow, is_token_valid, streams_of
from api.http.transactional import Transactional
from api.services.history import logs
from wire.events import LogEvent
from wire.logs import LogPage, StoredLine

log = logging.getLogger(__name__)

router = APIRouter(tags=["logs"], route_class=Transactional)

LINES_AT_ONCE = 100

_TEXT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "As `Accept` asks; followed, it is text.",
        "content": {PLAIN: {"schema": {"type": "string"}}},
    }
}


@router.get("/jobs/{job}/logs", response_model=LogPage, responses=_TEXT)
async def read_logs(
    job: str,
    database: DatabaseDep,
    streams: Annotated[Streams, Depends(streams_of)],
    caller: CallerDep,
    tail: Annotated[int, Query(ge=0, le=100_000, description="So many of the last lines.")] = 200,
    follow: Annotated[bool, Query(description="Go on with each line as it comes, until the job ends.")] = False,
    accept: Annotated[str, Header()] = "",
) -> Any:
    """What the training says: the newest lines, of all attempts. The whole log is the artifact `log.txt`."""
    media_type = PLAIN if follow else negotiate(accept, (PLAIN, JSON))
    headers = {"Vary": "Accept"}
    if follow:
        known = await streams.read(_extent, database, job)
        return TextResponse(streams, _followed(streams, database, job, caller, known, tail), headers)
    body = await streams.read(_tail, database, job, tail, media_type)
    return Response(body, media_type=media_type, headers=headers)


def _tail(database: Database, job: str, count: int, media_type: str) -> str:
    """As it is sent: to write down a hundred thousand lines would hold up the event loop."""
    with database.reading() as session:
        page = logs.tail(session, job, count)
    return page.model_dump_json() if media_type == JSON else _text(page.items)


def _extent(database: Database, job: str) -> logs.Extent:
    with database.reading() as session:
        return logs.extent(session, job)


def _part(database: Database, job: str, behind: int, total: int) -> list[StoredLine]:
    with database.reading() as session:
        return logs.part(session, job, behind, total)


def _text(lines: list[StoredLine]) -> str:
    return "".join(f"{line}\n" for line in lines)


async def _followed(
    streams: Streams, database: Database, job: str, caller: Caller, known: logs.Extent, tail: int
) -> AsyncGenerator[str]:
    """Text has no number to come back with, so it does not end with the hour."""
    behind = known.total - tail
    try:
        while lines := await streams.read(_part, database, job, behind, known.total):
            behind = lines[-1].number
            for start in range(0, len(lines), LINES_AT_ONCE):  # who takes nothing is noticed at the next few
                yield _text(lines[start : start + LINES_AT_ONCE])
    except SQLAlchemyError as error:
        log.warning("a stream of job %s ends: %s", job, error)
        return
    still_valid = partial(is_token_valid, database, caller)
    async with aclosing(
        follow(streams, database, job, known.last_event, ["log"], still_valid, resumable=False)
    ) as found:
        async for event in found:
            assert isinstance(event.data, LogEvent)
            # How far the log goes may have been read a moment after the number that it is followed from.
            if new := [line for line in event.data.lines if line.number > known.total]:
                yield _text(new)
