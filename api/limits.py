"""Bounds on requests: JSON bodies, before anything reads them; how often a query repeats a parameter; how many come.

A worker's uploads (PUT, PATCH) stream and are bounded where they are written.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import turns
from api.errors import BadRequest, PayloadTooLarge, TooManyRequests, problem_response
from wire.reports import MAX_BATCH_BYTES

_STREAMED = re.compile(r"(PUT|PATCH) /worker/attempts/[^/]+/artifacts/.*")
_PREDICT = re.compile(r"/jobs/[^/]+/predict")
_BATCH = re.compile(r"/worker/attempts/[^/]+/metrics")
MAX_REPEATS = 64  # of a query parameter: each becomes a part of one SQL statement, whose size databases bound


class BodyLimit:
    """ASGI middleware: 413 for a body over the setting's bytes, also for one that does not say its length.

    Large bodies that are there as a whole go on one after the other: see `api/turns.py`.

    400 for one that says its length twice, by Content-Length and by Transfer-Encoding: a proxy that believes the
    other one would take the rest of it for a request of somebody else (request smuggling, RFC 9112 6.1).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and {"content-length", "transfer-encoding"} <= set(Headers(scope=scope)):
            error = BadRequest("the request has both Content-Length and Transfer-Encoding", remedy="Send one of them.")
            await problem_response(error, scope["path"])(scope, receive, send)
            return
        if scope["type"] != "http" or _STREAMED.fullmatch(f"{scope['method']} {scope['path']}"):
            await self.app(scope, receive, send)
            return
        # A batch has a bound of its own: what workers may send must not depend on a setting that they do not know.
        limit = self._limit(scope)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > limit:
            await self._refuse(limit, scope, receive, send)
            return
        size = 0
        refused = False
        turn = turns.begin()
        in_turn = not _PREDICT.fullmatch(scope["path"])  # images, which are read in other processes

        async def counted() -> Message:
            nonlocal size, refused
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit and not refused:
                refused = True
                await self._refuse(limit, scope, receive, send)
            whole = message["type"] == "http.request" and not message.get("more_body", False)
            if whole and in_turn and not refused and size > turns.LARGE:
                await scope["app"].state.turns.take(turn, size)
            # What has been answered already looks to the application like a client that went away.
            return {"type": "http.disconnect"} if refused else message

        async def unless_refused(message: Message) -> None:
            turn.end()
            if not refused:
                await send(message)

        try:
            await self.app(scope, counted, unless_refused)
        finally:
            turn.end()

    def _limit(self, scope: Scope) -> int:
        if _BATCH.fullmatch(scope["path"]):
            return MAX_BATCH_BYTES
        settings = scope["app"].state.settings
        limit: int = settings.predict_body_limit if _PREDICT.fullmatch(scope["path"]) else settings.body_limit
        return limit

    async def _refuse(self, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
        error = PayloadTooLarge(f"the body is larger than {limit} bytes", remedy="Send less at once.")
        await problem_response(error, scope["path"])(scope, receive, send)


class RateLimit:
    """A token bucket for each API token: `burst` requests at once, `per_second` on average.

    Each process counts for itself: several replicas let through as many times as much. For the event loop's thread.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._full_at: dict[str, float] = {}  # when each bucket will be full again, if nothing more is taken

    def consume(self, token: str) -> None:
        """Count one request. Raises `TooManyRequests`, which says when the next is welcome."""
        now = self._clock()
        full_at = max(self._full_at.get(token, now), now) + 1 / self._per_second
        excess = full_at - now - self._burst / self._per_second
        if excess > 1e-9:
            raise TooManyRequests(
                f"more than {self._burst} requests at once, or {self._per_second:g} a second, with one token",
                remedy="Wait as long as Retry-After says.",
                retry_after=math.ceil(excess),
            )
        self._full_at[token] = full_at

    def charge(self, token: str, requests: int) -> None:
        """Count so many further requests that one did the work of. They are let in; later ones wait for it.

        From any thread: at worst a request that comes just then is not counted.
        """
        now = self._clock()
        self._full_at[token] = max(self._full_at.get(token, now), now) + requests / self._per_second
