"""How long requests take and how many bytes they move, counted in this process for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class RequestMetrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.latency = Histogram(
            "crosskd_http_request_seconds",
            "From a request's arrival to the first byte of its answer.",
            ("method", "route", "status"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        moved = Counter("crosskd_http_bytes", "Bytes of bodies.", ("direction",), registry=self.registry)
        self.received, self.sent = moved.labels("received"), moved.labels("sent")


class RequestMetricsMiddleware:
    """ASGI middleware. The label `route` is the route's own text, so there are as many as routes, never as paths."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        metrics: RequestMetrics = scope["app"].state.request_metrics

        async def counted() -> Message:
            message = await receive()
            metrics.received.inc(len(message.get("body", b"")))
            return message

        def observe(status: int) -> None:
            # One that no route was found for: whoever invents paths and methods makes no new labels.
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "other"
            metrics.latency.labels(method, route, status).observe(time.perf_counter() - began)

        started = False

        async def timed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                observe(message["status"])
            else:
                metrics.sent.inc(len(message.get("body", b"")))
            await send(message)

        try:
            await self.app(scope, counted, timed)
        except Exception:
            if not started:  # the answer to it is made further out
                observe(500)
            raise
