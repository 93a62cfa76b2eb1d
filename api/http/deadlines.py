"""Connections that take for ever are closed: uvicorn itself waits without end for whoever says nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import h11
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)

LEAST_BYTES = 1000  # of a body, in each `stall_seconds`; one that comes slower is as good as stalled
LOG_SECONDS = 60.0  # between two lines about connections that were refused or cut off
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n"


class Limits(NamedTuple):
    """What a connection may take."""

    connections: int  # at once, of this process
    header_seconds: float  # from its beginning, or the first byte of a further request, to the end of the headers
    stall_seconds: float  # for a thousand bytes of a body, or until the client takes some of an answer


class RareLog:
    """One line for many events of a kind: the first at once, then at most one a minute, which counts the others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def warning(self, event: str) -> None:
        now = self._clock()
        if now < self._due.get(event, 0.0):
            self._left_out[event] = self._left_out.get(event, 0) + 1
            return
        self._due[event] = now + LOG_SECONDS
        more = self._left_out.pop(event, 0)
        log.warning("%s%s", event, f" ({more} more since it was told last)" if more else "")


class DeadlineProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with `limits`. One timer, of what the connection waits for now."""

    def __init__(self, *arguments: Any, limits: Limits, rare: RareLog, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits = limits
        self._rare = rare
        self._timer: asyncio.TimerHandle | None = None
        self._waits_for = ""
        self._received = 0  # bytes since the timer was set

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._rare.warning(f"a connection is refused: {self._limits.connections} are open")
            transport.write(REFUSAL)
            transport.close()
            return
        self._wait_for("headers")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_for("")
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        self._update()

    @override
    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for("reader")

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._wait_for("")
        self._update()

    def _update(self) -> None:
        if self.transport.is_closing() or self._waits_for == "reader":
            return
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self._wait_for("body")
        elif state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait_for("headers")  # the first bytes of a further request are there
        elif state is not h11.IDLE or self.cycle is not None:
            self._wait_for("")  # the application has its turn, or uvicorn's own timer for idle connections

    def _wait_for(self, what: str) -> None:
        """Set the timer for `what`, if it does not run already."""
        if what == self._waits_for:
            return
        self._waits_for = what
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if what:
            self._set_timer()

    def _set_timer(self) -> None:
        self._received = 0
        seconds = self._limits.header_seconds if self._waits_for == "headers" else self._limits.stall_seconds
        self._timer = self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        if self._waits_for == "body" and (self.flow.read_paused or self._received >= LEAST_BYTES):
            self._set_timer()  # it goes on, or it is the application that takes its time
            return
        self._rare.warning(f"a connection is cut off that keeps this server waiting: {self._waits_for}")
        self._waits_for, self._timer = "", None
        self.transport.abort()
