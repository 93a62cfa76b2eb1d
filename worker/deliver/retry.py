"""Calls to the API that may be repeated without harm, and what becomes of those that fail."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import NoReturn

import httpx
from pydantic import ValidationError

from wire.errors import IN_FLIGHT, WRONG_OFFSET, Problem
from wire.retry_after import retry_after

logger = logging.getLogger(__name__)

FOREVER = float("inf")
BUSY = 429
LONGEST_WAIT = 60.0  # seconds, whatever a server asks for: it may be back sooner than it thinks
TRANSIENT = frozenset({IN_FLIGHT, WRONG_OFFSET})  # conflicts that pass


class ApiError(Exception):
    """A call to the API came to nothing."""


class Unreachable(ApiError):
    """No usable answer (none at all, 5xx, 429 or a proxy's 404) until the caller's patience ran out.

    Also 507, a full disk: what is sent is kept here until somebody has made room there.
    """


class Refused(ApiError):
    """The API understood and said no (4xx); repeating the call would repeat the answer."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class StaleAttempt(ApiError):
    """The attempt is no longer the job's live one: whatever works for it must stop at once."""


class Abandoned(ApiError):
    """The caller set its stop event while the call was waiting or streaming."""


class BadDownload(ApiError):
    """What arrived is not what the API announced."""


@dataclass(frozen=True)
class Retry:
    """How a failed call is repeated: waits grow from `first` to `longest` seconds, with jitter.

    `patience` is how many seconds of failures are borne, `stop` ends a wait early.
    """

    patience: float = FOREVER
    stop: Event = field(default_factory=Event)
    first: float = 0.2
    longest: float = 5.0
    on_trouble: Callable[[int | None], None] | None = None  # a new one: with its status, None where no answer came
    on_recovery: Callable[[], None] | None = None  # when an answer came after trouble

    def delay(self, tries: int, wanted: float = 0.0) -> float:
        backoff = min(self.longest, self.first * 2.0 ** min(tries, 16))
        return max(wanted, backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret


ONCE = Retry(patience=0.0)


def is_transient(response: httpx.Response) -> bool:
    """Whether the same request may be answered otherwise in a moment."""
    status = response.status_code
    if status == httpx.codes.NOT_FOUND:
        return _problem(response) is None  # a proxy's own words while it has lost the API; the API explains itself
    if status == httpx.codes.CONFLICT:
        return kind_of(response) in TRANSIENT
    return status == BUSY or status >= httpx.codes.INTERNAL_SERVER_ERROR


def _problem(response: httpx.Response) -> Problem | None:
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        return None


def kind_of(response: httpx.Response) -> str:
    """The type of the problem that it tells of, if it tells of one."""
    problem = _problem(response)
    return "" if problem is None else problem.type


def problem_text(response: httpx.Response) -> str:
    """The problem document as a sentence."""
    what = f"{response.request.method} {response.request.url.path} answered {response.status_code}"
    problem = _problem(response)
    if problem is None:
        return what
    faults = [f"{fault.pointer}: {fault.detail}" for fault in problem.errors]
    return f"{what}: " + "; ".join([problem.detail or problem.title, *faults])


def fail(response: httpx.Response) -> NoReturn:
    raise Refused(problem_text(response), response.status_code)


def send_with_retries(send: Callable[[], httpx.Response], retry: Retry) -> httpx.Response:
    """The first answer that will not pass (5xx, 429, some conflicts and a proxy's 404 do), within `retry`."""
    tries, troubled_since = 0, FOREVER
    status: int | None = None
    told: int | None = 0
    while True:
        wanted = 0.0
        try:
            response = send()
            if not is_transient(response):
                if tries and retry.on_recovery is not None:
                    retry.on_recovery()
                return response
            status = response.status_code
            trouble, wanted = problem_text(response), min(retry_after(response.headers), LONGEST_WAIT)
        except httpx.TransportError as exc:
            status, trouble = None, f"{type(exc).__name__}: {exc}"
        # Counted from the first failure: a long transfer that broke late has not used up any patience.
        troubled_since = min(troubled_since, time.monotonic())
        left = troubled_since + retry.patience - time.monotonic()
        if left <= 0:
            raise Unreachable(trouble)
        # A server that asks for more time than there is gets what there is: a caller who tries again at once would
        # give it none.
        delay = min(retry.delay(tries, wanted), left)
        if tries == 0:
            logger.warning("the API does not answer, trying again: %s", trouble)
        if status != told and retry.on_trouble is not None:
            told = status
            retry.on_trouble(status)
        if retry.stop.wait(delay):
            raise Abandoned(trouble)
        tries += 1
