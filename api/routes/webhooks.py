"""Webhooks: who is told of jobs, what was told, and a test call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.auth import Caller, CallerDep
from api.database import Database, DatabaseDep, ReadDep, SessionDep
from api.errors import Unavailable
from api.http.idempotent import IdempotencyDep, IdempotentRoute
from api.http.transactional import outside_pool
from api.services.webhooks import store
from wire.webhooks import CallResult, DeliveryList, NewWebhook, WebhookCreate, WebhookList

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=IdempotentRoute)

TESTS_AT_ONCE = 4  # of this process: a receiver may take its time, and holds a thread meanwhile

_tests = threading.BoundedSemaphore(TESTS_AT_ONCE)


@router.post("", status_code=HTTPStatus.CREATED, dependencies=[IdempotencyDep])
def create_webhook(
    order: WebhookCreate, request: Request, response: Response, session: SessionDep, caller: CallerDep
) -> NewWebhook:
    """Be told of the caller's jobs. The secret that signs each delivery is in this answer and nowhere else."""
    response.headers["Cache-Control"] = "no-store"
    return store.create(session, request.app.state.settings, order, caller.owner)


@router.get("")
def list_webhooks(session: ReadDep, caller: CallerDep) -> WebhookList:
    """The caller's webhooks, newest first; with the scope `admin` everybody's."""
    return store.listing(session, caller)


@router.delete("/{webhook}", status_code=HTTPStatus.NO_CONTENT)
def delete_webhook(webhook: str, session: SessionDep, caller: CallerDep) -> None:
    """Tell it nothing more, not even what was still to be told."""
    store.remove(session, webhook, caller)


@router.get("/{webhook}/deliveries")
def list_deliveries(webhook: str, session: ReadDep, caller: CallerDep) -> DeliveryList:
    """What it was told in the last seven days or is still to be told, newest first, at most 100."""
    return store.deliveries(session, webhook, caller)


@router.post("/{webhook}/test")
async def test_webhook(webhook: str, request: Request, database: DatabaseDep, caller: CallerDep) -> CallResult:
    """Send a `ping` now, once, and say what came of it. 503 while others are being tested: come back in a moment."""
    now = datetime.now(UTC)
    delivery = await run_in_threadpool(_ping, database, webhook, caller, now)
    with _test_slot():
        # Outside of any transaction and of the pool: heartbeats need its threads.
        trouble = await outside_pool(store.attempt, delivery, request.app.state.settings, now)
    return store.as_result(trouble)


def _ping(database: Database, webhook: str, caller: Caller, now: datetime) -> store.PendingDelivery:
    with database.reading() as session:
        return store.ping(store.find(session, webhook, caller), now)


@contextmanager
def _test_slot() -> Iterator[None]:
    """Raises `Unavailable`, not 429: the places are the process's, and other callers may have taken them all."""
    if not _tests.acquire(blocking=False):
        raise Unavailable(f"{TESTS_AT_ONCE} webhooks are being tested, and no more are at once")
    try:
        yield
    finally:
        _tests.release()
