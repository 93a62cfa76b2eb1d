"""Following a job's events over restarts of the service: each event once, none left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
from httpx_sse import connect_sse
from pydantic import BaseModel

from api.schemas.events import DATA, Event, EventKind

# The service gives a sign of life every 15 s; a connection that is silent for longer is dead.
TIMEOUT = httpx.Timeout(45.0, connect=10.0)
PAUSE = 0.5  # before coming back
MODELS: dict[str, type[BaseModel]] = {str(kind): model for kind, model in DATA.items()}


class Away(Exception):
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

    `check` raises for an answer that is a refusal. Raises `Away` after `patience` seconds without an answer.
    """
    trouble: httpx.TransportError | None = None
    since = 0.0  # of the trouble
    while True:
        headers = {"Last-Event-ID": str(after)} if after else {}
        try:
            with connect_sse(http, "GET", path, params={"kind": kinds}, headers=headers, timeout=TIMEOUT) as source:
                answer = source.response
                if answer.status_code == httpx.codes.NO_CONTENT:
                    return
                if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:  # no better than no answer
                    raise httpx.RemoteProtocolError("the service is away")
                if not answer.is_success:
                    answer.read()
                    check(answer)
                trouble = None
                for sent in source.iter_sse():
                    if model := MODELS.get(sent.event):  # by the kind, not by whichever it happens to fit
                        data = model.model_validate_json(sent.data)
                        yield Event.model_validate({"id": int(sent.id), "kind": sent.event, "data": data})
                        after = int(sent.id)
        except httpx.TransportError as error:
            since = time.monotonic() if trouble is None else since
            trouble = error
            if time.monotonic() - since > patience:
                raise Away(error) from error
        time.sleep(PAUSE)
