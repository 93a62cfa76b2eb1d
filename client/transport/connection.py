"""Requests to a service: repeated while it is away, its refusals as errors; blocking, or with `await`."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, closing
from typing import Any
from urllib.parse import urlsplit

import httpx
from httpx_sse import EventSource

from client.errors import ClientError, not_utf8
from client.transport.answers import checked, unreachable
from client.transport.download import RETRY_PAUSE, UNAVAILABLE, fetch
from client.transport.flow import Ended, Fetch, Flow, Item, Items, Next, Open, Pause, Send, Step, T, Tell, advance
from wire.errors import IDEMPOTENCY_HEADER, IN_FLIGHT, QUOTA_EXCEEDED
from wire.retry_after import retry_after

DEFAULT_URL = "http://127.0.0.1:8470"
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
READS = ("GET", "HEAD")


class Connection:
    """Where a service is, and how long it is waited for."""

    def __init__(self, base_url: str, patience: float) -> None:
        self.base_url = base_url.rstrip("/")
        self.patience = patience  # seconds
        self.reached = False  # whether it has answered before

    def options(self, token: str | None, timeout: httpx.Timeout) -> dict[str, Any]:
        """What a client of httpx is made with. Raises: `ClientError`."""
        try:
            # A proxy meant for the outside world must not stand between two processes of one machine.
            outside = urlsplit(self.base_url).hostname not in LOOPBACK
        except ValueError as error:
            raise no_address(self.base_url, error) from error
        headers = {"authorization": f"Bearer {token}"} if token else None
        return {"base_url": self.base_url, "headers": headers, "timeout": timeout, "trust_env": outside}

    def send(self, method: str, path: str, **options: Any) -> Flow[httpx.Response]:
        """The answer, once there is one that is a success. It is asked again while the trouble may pass by itself.

        Raises: `ApiProblem`, `Unreachable`, `ClientError`.
        """
        deadline = time.monotonic() + self.patience
        while True:
            wanted = 0.0
            try:
                response: httpx.Response = yield Send(method, path, options)
            except httpx.UnsupportedProtocol as error:
                remedy = "Use one like http://HOST:PORT."
                raise ClientError(f"{self.base_url!r} is no address of a service ({error}).", remedy=remedy) from error
            except UnicodeEncodeError as error:
                raise not_utf8(error) from error
            except httpx.TransportError as error:
                if not self.reached or time.monotonic() > deadline:
                    raise unreachable(self.base_url, error) from error
            else:
                self.reached = True
                if not _is_transient(response) or time.monotonic() > deadline:
                    return checked(response)
                wanted = retry_after(response.headers)
            yield Pause(max(RETRY_PAUSE, min(wanted, deadline - time.monotonic())))


class SyncConnection(Connection):
    """Does the steps of operations one after the other, and blocks meanwhile. Threads may share it."""

    def __init__(
        self,
        base_url: str,
        http: httpx.Client | None,
        token: str | None,
        patience: float,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> None:
        super().__init__(base_url, patience)
        self._owns_http = http is None
        try:
            self.http = http or httpx.Client(**self.options(token, timeout))
        except (ValueError, httpx.InvalidURL) as error:
            raise no_address(base_url, error) from error

    def close(self) -> None:
        if self._owns_http:
            self.http.close()

    def run(self, flow: Flow[T]) -> T:
        """What the operation returns."""
        with ExitStack() as opened, closing(flow):
            stream = _Stream(self.http, opened)
            outcome: Any = None
            while not isinstance(step := advance(flow, outcome), Ended):
                outcome = self._outcome(step, stream)
            return step.value

    def iterate(self, flow: Items[T]) -> Iterator[T]:
        """What the operation yields."""
        with ExitStack() as opened, closing(flow):
            stream = _Stream(self.http, opened)
            outcome: Any = None
            while not isinstance(step := advance(flow, outcome), Ended):
                if isinstance(step, Item):
                    yield step.value
                    outcome = None
                else:
                    outcome = self._outcome(step, stream)

    def _outcome(self, step: Step, stream: _Stream) -> Any:
        """What comes of a step; trouble that the operation judges itself is returned."""
        try:
            return self._do(step, stream)
        except (httpx.TransportError, UnicodeEncodeError) as trouble:
            return trouble

    def _do(self, step: Step, stream: _Stream) -> Any:
        match step:
            case Send(method, path, options):
                return self.http.request(method, path, **options)
            case Pause(seconds):
                time.sleep(seconds)
                return None
            case Tell(function):
                function()
                return None
            case Open():
                return stream.open(step)
            case Next():
                return next(stream.pieces, None)
            case Fetch(path, head, target, on_bytes):
                return fetch(self.http, path, head, target, patience=self.patience, on_bytes=on_bytes)


class _Stream:
    """The one answer that is read piece by piece."""

    def __init__(self, http: httpx.Client, opened: ExitStack) -> None:
        self.http = http
        self.opened = opened
        self.pieces: Iterator[Any] = iter(())

    def open(self, step: Open) -> httpx.Response:
        self.opened.close()
        answer = self.opened.enter_context(self.http.stream("GET", step.path, **step.options))
        if not answer.is_success:
            answer.read()
        self.pieces = EventSource(answer).iter_sse() if step.as_events else answer.iter_lines()
        return answer


class AsyncConnection(Connection):
    """Does the steps of operations with `await`, on asyncio. Downloads write their files in a thread.

    A download has a connection of its own there: one to the same address, with the same headers and timeouts.
    """

    def __init__(
        self,
        base_url: str,
        http: httpx.AsyncClient | None,
        token: str | None,
        patience: float,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> None:
        super().__init__(base_url, patience)
        self._owns_http = http is None
        try:
            self.http = http or httpx.AsyncClient(**self.options(token, timeout))
        except (ValueError, httpx.InvalidURL) as error:
            raise no_address(base_url, error) from error

    async def close(self) -> None:
        if self._owns_http:
            await self.http.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """What the operation returns."""
        async with AsyncExitStack() as opened:
            opened.enter_context(closing(flow))
            stream = _AsyncStream(self.http, await opened.enter_async_context(AsyncExitStack()))
            outcome: Any = None
            while not isinstance(step := advance(flow, outcome), Ended):
                outcome = await self._outcome(step, stream)
            return step.value

    async def iterate(self, flow: Items[T]) -> AsyncIterator[T]:
        """What the operation yields."""
        async with AsyncExitStack() as opened:
            opened.enter_context(closing(flow))
            stream = _AsyncStream(self.http, await opened.enter_async_context(AsyncExitStack()))
            outcome: Any = None
            while not isinstance(step := advance(flow, outcome), Ended):
                if isinstance(step, Item):
                    yield step.value
                    outcome = None
                else:
                    outcome = await self._outcome(step, stream)

    async def _outcome(self, step: Step, stream: _AsyncStream) -> Any:
        try:
            return await self._do(step, stream)
        except (httpx.TransportError, UnicodeEncodeError) as trouble:
            return trouble

    async def _do(self, step: Step, stream: _AsyncStream) -> Any:
        match step:
            case Send(method, path, options):
                return await self.http.request(method, path, **options)
            case Pause(seconds):
                await asyncio.sleep(seconds)
                return None
            case Tell(function):
                told = function()
                return await told if inspect.isawaitable(told) else None
            case Open():
                return await stream.open(step)
            case Next():
                return await anext(stream.pieces, None)
            case Fetch():
                return await self._fetch(step)

    async def _fetch(self, step: Fetch) -> Any:
        """In a thread, which ends soon after this is cancelled."""
        cancelled = threading.Event()

        def on_bytes(done: int, size: int) -> None:
            if cancelled.is_set():
                raise ClientError(f"The download of {step.path} was cancelled.")
            if step.on_bytes is not None:
                step.on_bytes(done, size)

        def download() -> Any:
            http = self.http
            with httpx.Client(base_url=http.base_url, headers=http.headers, timeout=http.timeout) as own:
                return fetch(own, step.path, step.head, step.target, patience=self.patience, on_bytes=on_bytes)

        try:
            return await asyncio.to_thread(download)
        except asyncio.CancelledError:
            cancelled.set()
            raise


class _AsyncStream:
    """As `_Stream`."""

    def __init__(self, http: httpx.AsyncClient, opened: AsyncExitStack) -> None:
        self.http = http
        self.opened = opened
        self.pieces: AsyncIterator[Any] = _nothing()

    async def open(self, step: Open) -> httpx.Response:
        await self.opened.aclose()
        answer = await self.opened.enter_async_context(self.http.stream("GET", step.path, **step.options))
        if not answer.is_success:
            await answer.aread()
        self.pieces = EventSource(answer).aiter_sse() if step.as_events else answer.aiter_lines()
        return answer


async def _nothing() -> AsyncIterator[Any]:
    return
    yield


def no_address(url: str, error: Exception) -> ClientError:
    return ClientError(f"{url!r} is no address ({error}).", remedy="Use one like http://HOST:PORT.")


def _is_transient(response: httpx.Response) -> bool:
    """Whether the same request may be answered otherwise in a moment."""
    if response.status_code == httpx.codes.CONFLICT:
        return IN_FLIGHT in response.text  # a former try of this request is still being answered
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return QUOTA_EXCEEDED not in response.text  # of a quota only the end of a job helps
    if response.request.method in READS or IDEMPOTENCY_HEADER in response.request.headers:
        return response.status_code in UNAVAILABLE
    return response.status_code == httpx.codes.SERVICE_UNAVAILABLE  # 502 and 504: it may have been done, who knows
