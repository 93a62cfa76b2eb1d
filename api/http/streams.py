"""Answers that stay open: how many there may be, how long a reader may take, and when they end."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import anyio
from fastapi import Request
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from api.auth import Caller
from api.database import Database
from api.errors import NotFound, TooManyRequests, Unavailable
from api.models import ApiToken
from api.services.history import events
from api.services.jobs.journal import topic
from api.settings import Settings
from wire.events import Event

log = logging.getLogger(__name__)

CONCURRENT_READS = 8  # of all streams: a crowd of readers must leave threads to the workers' reports
POLL_SECONDS = 1.0  # between two polls of the database while no notifications come from other processes
POLL_CONNECTED_SECONDS = 5.0  # ... and while they do: in case that some get lost
CLOSING_CHECK_SECONDS = 0.5  # how late a stream notices that the server is told to stop
CLOSING_GRACE_SECONDS = 10.0  # in which a stream ends by itself when the server stops: a cut-off answer is an error
MAX_SECONDS = 3600.0  # then whoever can come back does: to another replica, perhaps
TOKEN_CHECK_SECONDS = 20.0  # between two looks whether a token still opens its streams
TOKENS_SHARE = 4  # of the streams, one token may hold one part in so many

T = TypeVar("T")


class Streams:
    """The open streams of this process."""

    def __init__(self, settings: Settings, closing: threading.Event) -> None:
        self.settings = settings
        self.closing = closing
        self.open = 0
        self._of_tokens: Counter[str] = Counter()
        self._reads = anyio.Semaphore(CONCURRENT_READS)

    @contextmanager
    def slot(self, token: str | None) -> Iterator[None]:
        """Only the event loop's thread counts. Whoever needs no token has no share of his own.

        Raises:
            Unavailable: there are as many as there may be.
            TooManyRequests: as many as one token may hold.
        """
        if self.open >= self.settings.max_streams:
            raise Unavailable(
                f"{self.open} streams are open, and no more are held",
                remedy="Try again in a moment, or raise CROSSKD_MAX_STREAMS, or start another API.",
            )
        with self._share(token):
            self.open += 1
            try:
                yield
            finally:
                self.open -= 1

    @contextmanager
    def _share(self, token: str | None) -> Iterator[None]:
        if token is None:
            yield
            return
        share = max(1, self.settings.max_streams // TOKENS_SHARE)
        if self._of_tokens[token] >= share:
            raise TooManyRequests(
                f"{share} streams are open with this token, and no more are held", remedy="Close one.", retry_after=5
            )
        self._of_tokens[token] += 1
        try:
            yield
        finally:
            self._of_tokens[token] -= 1
            self._of_tokens += Counter()  # forgets those that have none

    async def read(self, work: Callable[..., T], *arguments: Any) -> T:
        async with self._reads:
            return await run_in_threadpool(work, *arguments)


class JobSubscription:
    """Waits for notifications about a job. What comes after `subscribed` began is not missed by a look after `wait`."""

    def __init__(self, database: Database, job_id: str, closing: threading.Event) -> None:
        self._notifier = database.notifier
        self._topic = topic(job_id)
        self._closing = closing
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    @contextmanager
    def subscribed(self) -> Iterator[None]:
        with self._notifier.listening(self._topic, lambda: self._loop.call_soon_threadsafe(self._woken.set)):
            yield

    @property
    def closing(self) -> bool:
        return self._closing.is_set()

    async def wait(self) -> None:
        """Until there is a notification, or it is time to poll, or the server stops."""
        began = self._loop.time()
        while not (self._woken.is_set() or self.closing):
            poll_seconds = POLL_CONNECTED_SECONDS if self._notifier.connected else POLL_SECONDS
            if self._loop.time() - began >= poll_seconds:
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), CLOSING_CHECK_SECONDS)
        self._woken.clear()


async def follow(
    streams: Streams,
    database: Database,
    job: str,
    after: int,
    kinds: Sequence[str],
    still_valid: Callable[[], bool],
    *,
    resumable: bool,
) -> AsyncGenerator[Event]:
    """The events of a job behind the number `after`, each as it comes, until the job has ended or the server stops.

    It also ends when the job is deleted or the database goes away, soon after `still_valid`, which is asked in a
    thread, says no, and after an hour if the reader can come back (`resumable`).
    """
    subscription = JobSubscription(database, job, streams.closing)
    now = asyncio.get_running_loop().time
    deadline, check_at = now() + _jittered(MAX_SECONDS), now() + TOKEN_CHECK_SECONDS
    with subscription.subscribed():
        while not subscription.closing:
            try:
                if resumable and now() >= deadline:
                    return
                if now() >= check_at:
                    if not await streams.read(still_valid):
                        return
                    check_at = now() + TOKEN_CHECK_SECONDS
                page = await streams.read(events.read, database, job, after, kinds)
            except (NotFound, SQLAlchemyError) as error:
                log.warning("a stream of job %s ends: %s", job, error)
                return
            for event in page.events:
                yield event
                after = event.id
            if page.over:
                return
            if not page.more:
                # Events of other kinds are not to be gone through again at each notification. The number is older than
                # the page: what came in between is not passed over.
                after = max(after, page.last_event)
                await subscription.wait()  # at once, if something has happened since the page was asked for


def _jittered(seconds: float) -> float:
    """Those that began together, when a server did, do not all come back together."""
    return seconds * random.uniform(0.75, 1.0)  # noqa: S311 - no secret


def is_token_valid(database: Database, caller: Caller) -> bool:
    """Whether the token that a stream began with would still be let in."""
    if caller.token_id is None:
        return True
    with database.reading() as session:
        token = session.get(ApiToken, caller.token_id)
        return token is not None and token.is_live(session.now())


def _token_id(scope: Scope) -> str | None:
    caller: Caller | None = scope.get("state", {}).get("caller")  # `authenticate` has noted it
    return None if caller is None else caller.token_id


class EventResponse(EventSourceResponse):
    """Server-sent events with comments as signs of life. The content is asked for more only when all was taken."""

    def __init__(self, streams: Streams, content: AsyncIterator[ServerSentEvent]) -> None:
        settings = streams.settings
        super().__init__(
            content, ping=settings.stream_heartbeat_seconds, send_timeout=settings.stream_stall_seconds, sep="\n",
            ping_message_factory=lambda: ServerSentEvent(comment="still here", sep="\n"),
            shutdown_grace_period=CLOSING_GRACE_SECONDS,
        )  # fmt: skip
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.slot(_token_id(scope)):
            try:
                await super().__call__(scope, receive, send)
            except SendTimeoutError:
                log.info("cut off a reader of %s who took nothing any more", scope["path"])


class TextResponse(StreamingResponse):
    """Text that comes bit by bit."""

    def __init__(self, streams: Streams, content: AsyncIterator[str], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content, media_type="text/plain", headers=headers)
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stall = self._streams.settings.stream_stall_seconds

        async def send_in_time(message: Message) -> None:
            with anyio.fail_after(stall):
                await send(message)

        with self._streams.slot(_token_id(scope)):
            try:
                await super().__call__(scope, receive, send_in_time)
            except (TimeoutError, ClientDisconnect):  # the latter is what Starlette may make of the former
                log.info("cut off a reader of %s who took nothing any more", scope["path"])


def streams_of(request: Request) -> Streams:
    streams: Streams = request.app.state.streams
    return streams
