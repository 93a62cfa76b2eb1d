"""One id for each request, in its answer and in every line that is logged for it, and one line about its end."""

from __future__ import annotations

import logging
import re
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.process_log import bind
from wire import tracing
from wire.process_log import REQUEST_ID_HEADER, request_id

log = logging.getLogger("api.access")

# What comes every few seconds from every worker, every probe and whoever waits for a job; a line for each would hide
# all others. It is told at DEBUG, and makes no span.
ROUTINE = re.compile(
    r"\w+ /worker/attempts/[^/]+/(heartbeat|commands|metrics|logs)"
    r"|GET /(health|ready|metrics|workers|jobs/[^/]+(/(metrics|evaluations|logs))?)"
)


class CorrelationMiddleware:
    """ASGI middleware, the outermost.

    The id is the caller's own, from `X-Request-ID`, where that is one. Of workers it is the id of the request that has
    posted their job. The path is logged and never the query.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        own = request_id(headers.get(REQUEST_ID_HEADER))
        bind(own)  # each request has a task of its own, so nothing else inherits it
        began = time.perf_counter()
        status = 500  # of one that fails before it has answered: the answer to it is made further out

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = own
            await send(message)

        routine = ROUTINE.fullmatch(f"{scope['method']} {scope['path']}") is not None
        try:
            with nullcontext() if routine else _span(scope, headers, own) as span:
                await self.app(scope, receive, send_with_id)
                _complete_span(span, scope, status)
        finally:
            _log_end(scope, status, 1000 * (time.perf_counter() - began), routine)


def _span(scope: Scope, headers: Headers, own: str) -> AbstractContextManager[Any]:
    about = {"http.request.method": scope["method"], "url.path": scope["path"], "request_id": own}
    return tracing.span(scope["method"], "SERVER", headers.get(tracing.TRACEPARENT), **about)


def _complete_span(span: Any, scope: Scope, status: int) -> None:
    """What is known of the request once it has been answered."""
    if span is None:
        return
    if (route := getattr(scope.get("route"), "path", None)) is not None:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        tracing.failed(span, str(status))


def _log_end(scope: Scope, status: int, milliseconds: float, routine: bool) -> None:
    level = logging.DEBUG if status < 400 and routine else logging.INFO
    if not log.isEnabledFor(level):
        return
    method, path = scope["method"], scope["path"]
    caller = scope.get("state", {}).get("caller")
    fields = {
        "method": method,
        "path": path,
        "status": status,
        "milliseconds": round(milliseconds, 1),
        "caller": getattr(caller, "owner", None),
    }
    log.log(level, "%s %s %d in %.1f ms", method, path, status, milliseconds, extra=fields)
