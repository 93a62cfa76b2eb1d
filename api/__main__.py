"""`python -m api --host 0.0.0.0 --port 8000`: uvicorn, with bounds on what connections may take."""

from __future__ import annotations

import argparse
import gc
import logging
import resource
from collections.abc import Sequence
from functools import partial
from typing import Any

import uvicorn

from api.http.deadlines import LOG_SECONDS, DeadlineProtocol, Limits, RareLog
from api.settings import Settings, SettingsError, load

RESERVED_DESCRIPTORS = 128  # for the database, the broker, files, and connections that are about to be refused
BACKLOG = 64  # connections that the kernel holds; asyncio accepts as many at once, each needs a descriptor
KEEP_ALIVE_SECONDS = 30  # longer than a worker keeps a connection that is idle: it must not break


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal. Ends the process with what is wrong if the settings are."""
    parser = argparse.ArgumentParser(prog="python -m api", description="Serve the API. Settings: docs/settings.md.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--drain-seconds", type=int, help="How long requests may take once it is told to stop.")
    given = parser.parse_args(arguments)
    gc.set_threshold(100_000, 50, 50)  # while the application is imported, a quarter faster; then as api.main sets it
    try:
        settings = load()
    except SettingsError as error:
        raise SystemExit(str(error)) from None
    logging.getLogger("asyncio").addFilter(_RareExhaustion())
    config = uvicorn.Config(
        "api.main:create_app",
        factory=True,
        host=given.host,
        port=given.port,
        http=_protocol(_limits(settings)),
        access_log=False,  # the application tells of requests itself
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=given.drain_seconds,
    )
    server = uvicorn.Server(config)
    server.run()
    if not server.started:
        raise SystemExit(3)


def _protocol(limits: Limits) -> Any:
    return partial(DeadlineProtocol, limits=limits, rare=RareLog())


def _limits(settings: Settings) -> Limits:
    """With as many connections as there are descriptors for, after this process has taken all that it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard and (soft < settings.max_connections + RESERVED_DESCRIPTORS):
        wanted = settings.max_connections + RESERVED_DESCRIPTORS
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = max(soft - RESERVED_DESCRIPTORS, soft // 4)
    return Limits(min(settings.max_connections, most), settings.header_seconds, settings.transfer_stall_seconds)


class _RareExhaustion(logging.Filter):
    """asyncio logs each connection that it has no descriptor for, thousands a second."""

    def __init__(self) -> None:
        super().__init__()
        self._due = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if "out of system resource" not in record.getMessage():
            return True
        if record.created < self._due:
            return False
        self._due = record.created + LOG_SECONDS
        return True


if __name__ == "__main__":
    main()
