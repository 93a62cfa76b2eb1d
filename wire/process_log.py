"""What every process of the service writes its log as, and the id by which lines of several processes belong together.

It lies with the wire because all of them must write alike: whoever reads the logs of API, relay, worker and training
together meets one format, and finds everything that came of one request by its id.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any, Literal
from uuid import uuid4

import structlog
from structlog.typing import EventDict, Processor

REQUEST_ID_HEADER = "X-Request-ID"
LogFormat = Literal["text", "json"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
OWN_LOGGERS = ("api", "client", "crosskd", "migrations", "wire", "worker")
# They tell of each request, or at their lowest level even of its headers, which hold tokens.
NOISY_LOGGERS = ("httpx", "httpcore", "urllib3")
# What a line says beside its message, in this order. Whatever else a library attaches to a record is left out.
FIELDS = ("caller", "request_id", "job", "attempt", "rank")
REQUEST_FIELDS = ("method", "path", "status", "milliseconds")  # in JSON; the text has them in its message

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTEXT = re.compile(r" \[(?:\w+=[^\s\]]+ ?)+\]$")


def request_id(given: object) -> str:
    """What was given if it can be a request's id, else a new one. None has a blank, a quote or a line's end in it."""
    return given if isinstance(given, str) and _REQUEST_ID.fullmatch(given) else str(uuid4())


def configure(layout: LogFormat, level: LogLevel, **always: object) -> None:
    """Write this process's log to its standard error; every line carries the fields of `always`.

    `level` is that of our own loggers; libraries are heard from INFO on at most.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(layout, **always))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.getLevelName(level), logging.INFO))
    logging.captureWarnings(True)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(level)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def formatter(layout: LogFormat, **always: object) -> logging.Formatter:
    """A formatter of the standard library's records."""

    def add_always(_logger: object, _method: str, event: EventDict) -> EventDict:
        return {name: value for name, value in {**always, **event}.items() if value is not None}

    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.ExtraAdder(allow=(*REQUEST_FIELDS, *FIELDS)),
        add_always,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,  # without the values of variables, which may be secret
    ]
    last: Processor = structlog.processors.JSONRenderer() if layout == "json" else _line
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
    )


def _line(_logger: object, _method: str, event: EventDict) -> str:
    """`TIME LEVEL LOGGER: MESSAGE [FIELD=VALUE ...]`, below it what was raised, indented.

    A line's end in a message or a value is escaped, so nothing that a request holds can pass for a line of its own.
    """
    fields = [f"{name}={_plain(event[name])}" for name in FIELDS if event.get(name) not in (None, "")]
    head = f"{event['timestamp']} {event['level'].upper()} {event['logger']}: {_escaped(event['event'])}"
    raised = [f"    {_escaped(line)}" for line in event.get("exception", "").splitlines()]
    return "\n".join([f"{head} [{' '.join(fields)}]" if fields else head, *raised])


def _escaped(value: object) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


def _plain(value: object) -> str:
    text = str(value)
    return text if _REQUEST_ID.fullmatch(text) else json.dumps(text)


def readable(line: str) -> str:
    """A line of either layout as text, without the fields at its end: for people who read one job's log alone."""
    if line.startswith("{"):
        try:
            event: dict[str, Any] = json.loads(line)
            return _line(None, "", {key: event[key] for key in event.keys() - set(FIELDS)})
        except (ValueError, KeyError, TypeError, AttributeError):
            return line
    return _CONTEXT.sub("", line)
