"""This process's own log, and the id of the request that is being answered."""

from __future__ import annotations

import logging

import structlog

from api.settings import Settings
from wire import process_log


def configure(settings: Settings) -> None:
    """Write everything in the settings' layout, what the server says included. For the process's entry alone."""
    process_log.configure(settings.log_format, settings.log_level)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    # `routes/correlated.py` tells of requests, with their ids and without their queries.
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False


def bind(request_id: str) -> None:
    """From here on this request's lines, in whichever thread they are written, carry its id."""
    structlog.contextvars.bind_contextvars(request_id=request_id)


def current_request_id() -> str | None:
    """The id of the request that is being answered; None outside of one."""
    found: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return found
