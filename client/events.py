"""Following a job's events over restarts of the service: each event once, none left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
from httpx_sse import EventSource, connect_sse
from pydantic import BaseModel

from wire.events import DATA, Event, EventKind
from wire.retry_after import retry_after

# The service gives a sign of life every 15 s; a connection that is silent for longer is dead.
TIMEOUT = httpx.Timeout(45.0, connect=10.0)
PAUSE = 0.5  # before coming back
# What passes by itself: too many requests; an API, or whatever stands before it, that restarts.
UNAVAILABLE = frozenset({429, 502, 503, 504})
MODELS: dict[str, type[BaseModel]] = {str(kind): model for kind, model in DATA.items()}


class StreamLost(Exception):
    """The service has not answered for longer than its reader was willing to wait."""

    def __init__(self, error: httpx.TransportError) -> None:
        super().__init__(str(error))
        self.error = error


def stream(
    http: httpx.Client,
    path: str,
    kinds: list[EventKind],
    after: int,
    *,
    patience: float,
    check: Callable[[httpx.Response], object],
) -> Iterator[Event]:
    """The events at `path` behind the number `after`, until there will be no more.

    A stream that ends is gone on with behind its last event. No answer, or one of `UNAVAILABLE`, is trouble that
    passes: for `patience` seconds. Then `StreamLost` is raised, or the answer is left to `check`, which raises for any
    that is a refusal.
    """
    since: float | None = None  # when the trouble began
    while True:
        wanted = 0.0
        headers = {"Last-Event-ID": str(after)} if after else {}
        try:
            with connect_sse(http, "GET", path, params={"kind": kinds}, headers=headers, timeout=TIMEOUT) as source:
                answer = source.response
                if answer.status_code == httpx.codes.NO_CONTENT:
                    return
                if answer.status_code in UNAVAILABLE and _left(since, patience) >= 0:
                    since, wanted = since or time.monotonic(), retry_after(answer.headers)
                else:
                    if not answer.is_success:
                        answer.read()
                        check(answer)
                    since = None
                    for event in _events(source):
                        yield event
                        after = event.id
        except httpx.TransportError as error:
            since = since or time.monotonic()
            if _left(since, patience) < 0:
                raise StreamLost(error) from error
        time.sleep(max(PAUSE, min(wanted, _left(since, patience))))


def _left(since: float | None, patience: float) -> float:
    """Seconds of patience, of which trouble has taken what has passed since it began."""
    return patience if since is None else since + patience - time.monotonic()


def _events(source: EventSource) -> Iterator[Event]:
    for sent in source.iter_sse():
        if model := MODELS.get(sent.event):  # by the kind, not by whichever it happens to fit
            data = model.model_validate_json(sent.data)
            yield Event.model_validate({"id": int(sent.id), "kind": sent.event, "data": data})
