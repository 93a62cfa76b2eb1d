"""Spans of one trace (OpenTelemetry) over the borders of our processes; without an endpoint, nothing at all.

It lies with the wire because the trace context is carried on it: by HTTP, in the job's row, in the Celery message and
in the claim, always as a W3C `traceparent`. The packages are an extra, `crosskd[otel]`, imported when they are needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal

TRACEPARENT = "traceparent"  # the header; 55 characters
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")  # what every exporter reads
FLUSH_SECONDS = 5.0
Kind = Literal["INTERNAL", "SERVER", "PRODUCER", "CONSUMER"]

_provider: Any = None


def configuration_error(endpoint: str | None) -> str:
    """Why spans that are wanted cannot be made; empty if they can be, or if nobody wants any."""
    if not _wanted(endpoint) or _installed():
        return ""
    name = "CROSSKD_OTEL_ENDPOINT" if endpoint else next(name for name in ENDPOINTS if os.environ.get(name))
    return f"{name}: OpenTelemetry is not installed; run `pip install 'crosskd[otel]'`, or unset the variable"


def _wanted(endpoint: str | None) -> bool:
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not off and bool(endpoint or any(os.environ.get(name) for name in ENDPOINTS))


def _installed() -> bool:
    try:
        return all(find_spec(f"opentelemetry.{name}") for name in ("sdk.trace", "exporter.otlp.proto.http"))
    except ModuleNotFoundError:  # of a parent
        return False


def start(service: str, endpoint: str | None) -> None:
    """Send this process's spans to `endpoint`, or where OpenTelemetry's own variables say, if either is set."""
    global _provider
    if _provider is not None or not _wanted(endpoint):
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    _provider = TracerProvider(resource=Resource.create(named))
    where = f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None
    patience = None if os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") else FLUSH_SECONDS
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(where, timeout=patience)))


def flush() -> None:
    """Send what has ended, for a process that may be killed after this; in bounded time."""
    if _provider is not None:
        _provider.force_flush(int(1000 * FLUSH_SECONDS))


def stop() -> None:
    """Send what has ended, and make no more spans."""
    global _provider
    flush()
    provider, _provider = _provider, None
    if provider is not None:
        provider.shutdown()


def begin(name: str, kind: Kind = "INTERNAL", parent: str | None = None, **attributes: object) -> Any:
    """A span below `parent`, a traceparent, or below the current one; None without an endpoint. The caller ends it."""
    if _provider is None:
        return None
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({TRACEPARENT: parent}) if parent else None
    told = {f"crosskd.{key}" if "." not in key else key: value for key, value in attributes.items() if value}
    return _provider.get_tracer("crosskd").start_span(name, context, SpanKind[kind], told)


@contextmanager
def span(name: str, kind: Kind = "INTERNAL", parent: str | None = None, **attributes: object) -> Iterator[Any]:
    """As `begin`, as the current span of the block, and ended after it. An exception becomes its error."""
    if (begun := begin(name, kind, parent, **attributes)) is None:
        yield None
        return
    from opentelemetry.trace import use_span

    with use_span(begun, end_on_exit=True):
        yield begun


def failed(span: Any, why: str) -> None:
    """Mark a span (or None) as one of something that went wrong."""
    if span is not None:
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR, why))


def traceparent() -> str:
    """The current span, for another process to go on from; empty where there is none."""
    if _provider is None:
        return ""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(TRACEPARENT, "")
