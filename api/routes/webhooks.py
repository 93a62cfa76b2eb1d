"""Webhooks: who is told of jobs, what was told, and a test call."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from api.auth import CallerDep
from api.database import DatabaseDep, ReadDep, SessionDep
from api.routes.idempotent import IdempotencyDep, IdempotentRoute
from api.schemas.webhooks import CallResult, DeliveryList, NewWebhook, WebhookCreate, WebhookList
from api.services import webhooks
from api.services.pinned import Undeliverable

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=IdempotentRoute)


@router.post("", status_code=HTTPStatus.CREATED, dependencies=[IdempotencyDep])
def create_webhook(
    order: WebhookCreate, request: Request, response: Response, session: SessionDep, caller: CallerDep
) -> NewWebhook:
    """Be told of the caller's jobs. The secret that signs each delivery is in this answer and nowhere else."""
    response.headers["Cache-Control"] = "no-store"
    return webhooks.create(session, request.app.state.settings, order, caller.owner)


@router.get("")
def list_webhooks(session: ReadDep, caller: CallerDep) -> WebhookList:
    """The caller's webhooks, newest first; with the scope `admin` everybody's."""
    return webhooks.listing(session, caller)


@router.delete("/{webhook}", status_code=HTTPStatus.NO_CONTENT)
def delete_webhook(webhook: str, session: SessionDep, caller: CallerDep) -> None:
    """Tell it nothing more, not even what was still to be told."""
    webhooks.remove(session, webhook, caller)


@router.get("/{webhook}/deliveries")
def list_deliveries(webhook: str, session: ReadDep, caller: CallerDep) -> DeliveryList:
    """What it was told in the last seven days or is still to be told, newest first, at most 100."""
    return webhooks.deliveries(session, webhook, caller)


@router.post("/{webhook}/test")
def test_webhook(webhook: str, request: Request, database: DatabaseDep, caller: CallerDep) -> CallResult:
    """Send a `ping` now, once, and say what came of it."""
    now = datetime.now(UTC)
    with database.reading() as session:
        parcel = webhooks.ping(webhooks.find(session, webhook, caller), now)
    # Outside of any transaction: a receiver may take its time.
    trouble: Undeliverable | None = None
    try:
        webhooks.send(parcel, request.app.state.settings, now)
    except Undeliverable as error:
        trouble = error
    return webhooks.as_result(trouble)
