"""The service in Python; `docs/sdk.md` shows more.

from client.sdk import Crosskd

client = Crosskd("http://127.0.0.1:8470")
job = client.jobs.create("demo_teacher", data="data/demo")
job = job.wait(on_progress=lambda now: print(now.status))
job.weights("student.safetensors")
job.chart("loss")
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx

from client.resources.service import Service
from client.transport.connection import DEFAULT_URL, TIMEOUT, AsyncConnection, SyncConnection


class Crosskd(Service[SyncConnection]):
    """A service at `base_url`; its methods block. `AsyncCrosskd` has the same ones to `await`.

    Every method raises an `ApiProblem` for a refusal, one of its kinds by HTTP's status, and `Unreachable` for silence.
    All of `client/errors.py` are `ClientError`s.

    Once the service has answered, a request is repeated for up to `patience` seconds while the service is away: a
    restart of the API interrupts nobody. All are safe to repeat; those that create carry an idempotency key. What the
    service says by `Retry-After` is heeded. `token` is an API token, for a service that asks for one. `timeout`, in
    seconds, is of a single request. `http` is used as it is and stays open.

    >>> with Crosskd(url) as client:
    ...     client.health().status
    'ok'
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        http: httpx.Client | None = None,
        *,
        token: str | None = None,
        patience: float = 60.0,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> None:
        super().__init__(SyncConnection(base_url, http, token, patience, timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, unless it was given."""
        self._own.close()


class AsyncCrosskd(Service[AsyncConnection]):
    """As `Crosskd`, for asyncio: methods are awaited, and what is a list there is gone through by `async for`.

    A download writes its file in a thread, by a connection of its own to the same address.

    >>> async def names():
    ...     async with AsyncCrosskd(url) as client:
    ...         return [job.name async for job in client.jobs.list(labels={"team": "vision"}, search="stud")]
    >>> asyncio.run(names())
    ['student']
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        http: httpx.AsyncClient | None = None,
        *,
        token: str | None = None,
        patience: float = 60.0,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> None:
        super().__init__(AsyncConnection(base_url, http, token, patience, timeout))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection, unless it was given."""
        await self._own.close()
