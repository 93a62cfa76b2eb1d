"""`GET /jobs/{id}/events`: what happens to a job, as it happens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Depends, Header, Query, Response
from sse_starlette.event import ServerSentEvent

from api.auth import Caller, CallerDep
from api.database import Database, DatabaseDep
from api.errors import invalid_query
from api.http.streams import EventResponse, Streams, follow, is_token_valid, streams_of
from api.http.transactional import Transactional
from api.limits import MAX_REPEATS
from api.services.history import events
from wire.events import EventKind

router = APIRouter(tags=["events"], route_class=Transactional)

RETRY_MILLISECONDS = 1000  # after which a browser comes back
_LAST = 2**53
# No line breaks to the standard, but to many a reader: written so that nobody breaks the JSON there.
_BREAKS = str.maketrans({mark: f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"})

_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "Of each event of the stream.",
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "event": {"type": "string", "enum": list(get_args(EventKind))},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`id:`, `event:` (the kind) and `data:` (JSON); it ends with the transition to a final state.",
        "content": {"text/event-stream": {"schema": _EVENT}},
    },
    204: {"description": "The job has ended, and nothing comes behind `Last-Event-ID`: do not come back."},
}


@router.get("/jobs/{job}/events", response_class=EventResponse, status_code=200, responses=_STREAM)
async def stream_events(
    job: str,
    database: DatabaseDep,
    caller: CallerDep,
    streams: Annotated[Streams, Depends(streams_of)],
    kind: Annotated[list[EventKind], Query(default_factory=list, max_length=MAX_REPEATS, description="Only these.")],
    after: Annotated[int, Query(ge=0, le=_LAST, description="The same as `Last-Event-ID`, for a first call.")] = 0,
    last_event_id: Annotated[int | None, Header(ge=0, le=_LAST, description="Go on behind this event.")] = None,
) -> Response:
    """Transitions, metrics, evaluations and log lines of a job: all of them so far, then each as it comes.

    Every event has a number. A reader that comes back with the last one it has seen, to whichever replica, gets what
    came after it: nothing is missing and nothing comes twice.
    """
    start = after if last_event_id is None else last_event_id
    first = await streams.read(events.read, database, job, start, kind)
    if start > first.last_event:
        name = "after" if last_event_id is None else "Last-Event-ID"
        raise invalid_query(name, f"the job has {first.last_event} events so far", "Give the id of one of its events.")
    if first.over and not first.events:
        return Response(status_code=204)
    return EventResponse(streams, _events(streams, database, caller, job, start, kind))


async def _events(
    streams: Streams, database: Database, caller: Caller, job: str, after: int, kinds: list[EventKind]
) -> AsyncGenerator[ServerSentEvent]:
    yield ServerSentEvent(retry=RETRY_MILLISECONDS, comment="the events of a job", sep="\n")
    still_valid = partial(is_token_valid, database, caller)
    async with aclosing(follow(streams, database, job, after, kinds, still_valid, resumable=True)) as found:
        async for event in found:
            data = event.data.model_dump_json().translate(_BREAKS)
            yield ServerSentEvent(data, event=event.kind, id=str(event.id), sep="\n")
