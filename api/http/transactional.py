"""An endpoint, its statements and its commit run on one thread without a pause: `route_class=Transactional`.

A transaction that is open while its request waits for a thread holds locks and a connection. Were there more requests
than threads, each thread could wait for such a lock, and the request that holds it for a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi.concurrency import run_in_threadpool

from api import turns
from api.database import Session
from api.http.authenticated import AuthenticatedRoute

T = TypeVar("T")


class Transactional(AuthenticatedRoute):
    """Commits the endpoint's `session` when the endpoint returns, or rolls it back."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        wrapped = _on_the_loop if iscoroutinefunction(endpoint) else _on_one_thread
        super().__init__(path, wrapped(endpoint), **options)


def _on_the_loop(endpoint: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T]]:
    @wraps(endpoint)
    async def run(**values: Any) -> T:
        turns.end()
        return await endpoint(**values)

    return run


def _on_one_thread(endpoint: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    # A coroutine function: for others FastAPI takes a thread once more, to check the answer against its model.
    @wraps(endpoint)
    async def run(**values: Any) -> Any:
        turns.end()
        work = partial(endpoint, **values)
        session: Session | None = values.get("session")
        if session is not None and not session.kept_open:
            work = partial(_committed, session, work)
        return await run_in_threadpool(work)

    return run


def _committed(session: Session, work: Callable[[], T]) -> T:
    with session:
        result = work()
        session.commit()
    return result


async def outside_pool(work: Callable[..., T], *arguments: Any) -> T:
    """Run what gives back locks or a connection; not in the pool, whose threads may all wait for just these."""
    result: T
    with CancelScope(shield=True):
        result = await to_thread.run_sync(work, *arguments, limiter=CapacityLimiter(1))
    return result
