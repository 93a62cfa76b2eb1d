"""`GET /jobs/{id}/logs`: the last lines of a job's log, and those that come."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response

from api.database import Database, DatabaseDep
from api.routes.in_one_go import InOneGo
from api.routes.representations import JSON, PLAIN, choose
from api.routes.streams import Streams, TextResponse, follow, streams_of
from api.schemas.events import LogEvent
from api.schemas.logs import LogPage, StoredLine
from api.services import logs

router = APIRouter(tags=["logs"], route_class=InOneGo)

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
    tail: Annotated[int, Query(ge=0, le=100_000, description="So many of the last lines.")] = 200,
    follow: Annotated[bool, Query(description="Go on with each line as it comes, until the job ends.")] = False,
    accept: Annotated[str, Header()] = "",
) -> Any:
    """What the training says: the newest lines, of all attempts. The whole log is the artifact `log.txt`."""
    media_type = PLAIN if follow else choose(accept, (PLAIN, JSON))
    page = await streams.read(_tail, database, job, tail)
    headers = {"Vary": "Accept"}
    if follow:
        return TextResponse(streams, _followed(streams, database, job, page), headers)
    body = page.model_dump_json() if media_type == JSON else _text(page.items)
    return Response(body, media_type=media_type, headers=headers)


def _tail(database: Database, job: str, count: int) -> LogPage:
    with database.reading() as session:
        return logs.tail(session, job, count)


def _text(lines: list[StoredLine]) -> str:
    return "".join(f"{line}\n" for line in lines)


async def _followed(streams: Streams, database: Database, job: str, page: LogPage) -> AsyncGenerator[str]:
    for start in range(0, len(page.items), LINES_AT_ONCE):  # a reader that takes nothing is noticed at the next part
        yield _text(page.items[start : start + LINES_AT_ONCE])
    async with aclosing(follow(streams, database, job, page.last_event, ["log"])) as found:
        async for event in found:
            assert isinstance(event.data, LogEvent)
            # The tail may have been read a moment after the number that it is followed from.
            if lines := [line for line in event.data.lines if line.number > page.total]:
                yield _text(lines)
