"""Bounds on requests: JSON bodies, before anything reads them, and how often a query repeats a parameter.

Uploads (PUT) stream and are bounded where they are written.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import PayloadTooLarge, problem_response

MAX_REPEATS = 64  # of a query parameter: each becomes a part of one SQL statement, whose size databases bound


class BodyLimit:
    """ASGI middleware: 413 for a body over `limit` bytes, also for one that does not say its length."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "PUT":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self.limit:
            await self._refuse(scope, receive, send)
            return
        size = 0
        refused = False

        async def counted() -> Message:
            nonlocal size, refused
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.limit and not refused:
                refused = True
                await self._refuse(scope, receive, send)
            # What has been answered already looks to the application like a client that went away.
            return {"type": "http.disconnect"} if refused else message

        async def unless_refused(message: Message) -> None:
            if not refused:
                await send(message)

        await self.app(scope, counted, unless_refused)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = PayloadTooLarge(f"the body is larger than {self.limit} bytes", remedy="Send less at once.")
        await problem_response(error, scope["path"])(scope, receive, send)
