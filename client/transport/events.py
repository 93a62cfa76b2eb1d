"""Following a job's events over restarts of the service: each event once, none left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import httpx
from httpx_sse import ServerSentEvent
from pydantic import BaseModel

from client.transport.answers import checked, unreachable
from client.transport.connection import Connection
from client.transport.download import UNAVAILABLE
from client.transport.flow import Item, Items, Next, Open, Pause, T
from wire.events import DATA, Event, EventKind
from wire.retry_after import retry_after

# The service gives a sign of life every 15 s; a connection that is silent for longer is dead.
TIMEOUT = httpx.Timeout(45.0, connect=10.0)
PAUSE = 0.5  # before coming back
MODELS: dict[str, type[BaseModel]] = {str(kind): model for kind, model in DATA.items()}


def stream(
    connection: Connection, path: str, kinds: list[EventKind], after: int, items: Callable[[Event], Iterable[T]]
) -> Items[T]:
    """What `items` makes of the events at `path` behind the number `after`, until there will be no more.

    A stream that ends is gone on with behind its last event. No answer, or one of `UNAVAILABLE`, is trouble that
    passes: for the connection's patience. Raises: `Unreachable` then, and `ApiProblem` for an answer that is a refusal.
    """
    since: float | None = None  # when the trouble began
    while True:
        wanted = 0.0
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if after:
            headers["Last-Event-ID"] = str(after)
        options = {"params": {"kind": kinds}, "headers": headers, "timeout": TIMEOUT}
        try:
            answer: httpx.Response = yield Open(path, options, as_events=True)
            if answer.status_code == httpx.codes.NO_CONTENT:
                return
            if answer.status_code in UNAVAILABLE and _left(since, connection.patience) >= 0:
                since, wanted = since or time.monotonic(), retry_after(answer.headers)
            else:
                checked(answer)
                since = None
                while (sent := (yield Next())) is not None:
                    if (event := _event(sent)) is not None:
                        for item in items(event):
                            yield Item(item)
                        after = event.id
        except httpx.TransportError as error:
            since = since or time.monotonic()
            if _left(since, connection.patience) < 0:
                raise unreachable(connection.base_url, error) from error
        yield Pause(max(PAUSE, min(wanted, _left(since, connection.patience))))


def _left(since: float | None, patience: float) -> float:
    """Seconds of patience, of which trouble has taken what has passed since it began."""
    return patience if since is None else since + patience - time.monotonic()


def _event(sent: ServerSentEvent) -> Event | None:
    """None: of a kind that this version does not know, or a sign of life."""
    if (model := MODELS.get(sent.event)) is None:  # by the kind, not by whichever it happens to fit
        return None
    data = model.model_validate_json(sent.data)
    return Event.model_validate({"id": int(sent.id), "kind": sent.event, "data": data})
