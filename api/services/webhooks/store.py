"""Webhooks: whoever wants to be told of jobs, and the deliveries of what they are to be told.

An event is written in the transaction that changes the job, one row for each webhook: neither is ever there without the
other. The delivery loop (`delivery_loop.py`, run by the relay) takes rows as the relay takes dispatch messages, and
tries each until its receiver has answered with success or `DELAYS` are used up. A receiver may see an event twice,
under the same id.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import secrets
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import delete, func, select, update

from api.auth import Caller
from api.database import WEBHOOKS, Session
from api.errors import Conflict, NotFound, invalid_body
from api.models import ID, Job, Webhook, WebhookDelivery
from api.services.webhooks.ssrf_safe_post import Undeliverable, is_ip_literal, permitted, post
from api.settings import Settings
from wire import webhooks as wire

PER_OWNER = 20
# On their way at once from one delivery loop: of one webhook, and of all webhooks of one owner.
MAX_CONCURRENT_PER_WEBHOOK = 2
MAX_CONCURRENT_PER_OWNER = 4
SHOWN = 100  # deliveries
KEEP = timedelta(days=7)  # of deliveries that are over
VISIBILITY_TIMEOUT = timedelta(seconds=60)  # longer than a try takes: a delivery loop that dies only delays its rows
# Seconds before each further try: the schedule that Standard Webhooks proposes, about three days in all.
DELAYS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
GONE = 410


class PendingDelivery(NamedTuple):
    """A delivery as it is posted."""

    id: str
    webhook: str
    owner: str
    url: str
    secret: str
    body: bytes
    tries: int  # with this one


# --- for their owners ------------------------------------------------------------------------------------------------


def create(session: Session, settings: Settings, order: wire.WebhookCreate, owner: str) -> wire.NewWebhook:
    """Store a new webhook; the answer alone holds its secret.

    Raises:
        InvalidSpec: the URL cannot be called, or names an address that may not be.
        Conflict: the owner has as many as may be.
    """
    _check(order.url, settings)
    count = session.scalars(select(func.count()).select_from(Webhook).where(Webhook.owner == owner)).one()
    if count >= PER_OWNER:
        raise Conflict(f"{owner} has {count} webhooks, and {PER_OWNER} may be", remedy="Delete one first.")
    webhook = Webhook(
        owner=owner,
        url=order.url,
        events=sorted(set(order.events)),
        secret=wire.SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode(),
        created_at=session.now(),
    )
    session.add(webhook)
    session.flush()
    return wire.NewWebhook.model_validate(webhook, from_attributes=True)


def _check(url: str, settings: Settings) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise invalid_body("/url", "is no address", "Use one like https://HOST/PATH.") from None
    if not host:
        raise invalid_body("/url", "names no host", "Use one like https://HOST/PATH.")
    if parts.username is not None or parts.fragment:
        raise invalid_body("/url", "holds credentials or a fragment", "Leave them out: deliveries are signed.")
    if is_ip_literal(host) and not permitted(host, settings.webhook_networks):
        raise invalid_body(
            "/url", "is not a public address", "Use a public one; CROSSKD_WEBHOOK_NETWORKS of the API allows others."
        )


def listing(session: Session, caller: Caller) -> wire.WebhookList:
    """The caller's webhooks, an administrator's view of all, newest first."""
    query = select(Webhook).order_by(Webhook.id.desc())
    if "admin" not in caller.scopes:
        query = query.where(Webhook.owner == caller.owner)
    found = session.scalars(query)
    return wire.WebhookList(items=[wire.Webhook.model_validate(row, from_attributes=True) for row in found])


def find(session: Session, webhook_id: str, caller: Caller) -> Webhook:
    """Raises `NotFound`, also for another owner's."""
    webhook = session.get(Webhook, webhook_id) if ID.fullmatch(webhook_id) else None
    if webhook is None or not (webhook.owner == caller.owner or "admin" in caller.scopes):
        raise NotFound("there is no such webhook", remedy="GET /webhooks lists them with their ids.")
    return webhook


def remove(session: Session, webhook_id: str, caller: Caller) -> None:
    """Delete a webhook with all that it was still to be told."""
    session.delete(find(session, webhook_id, caller))


def deliveries(session: Session, webhook_id: str, caller: Caller) -> wire.DeliveryList:
    """What it was told lately, and what it is still to be told."""
    webhook = find(session, webhook_id, caller)
    query = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook.id)
    return wire.DeliveryList(
        items=[_delivery(row) for row in session.scalars(query.order_by(WebhookDelivery.id.desc()).limit(SHOWN))]
    )


def _delivery(row: WebhookDelivery) -> wire.Delivery:
    over = "delivered" if row.delivered else "given_up"
    return wire.Delivery(
        id=row.id,
        type=row.event["type"],
        created_at=row.created_at,
        tries=row.tries,
        status="waiting" if row.due_at is not None else over,
        next_try_at=row.due_at,
        problem=row.problem,
    )


def ping(webhook: Webhook, now: datetime) -> PendingDelivery:
    """A test call, which no row remembers."""
    event = wire.Event(type="ping", timestamp=now, data={"webhook": webhook.id})
    return _pending(f"ping-{secrets.token_hex(8)}", webhook, event, 1)


def _pending(name: str, webhook: Webhook, event: wire.Event, tries: int) -> PendingDelivery:
    body = event.model_dump_json().encode()
    return PendingDelivery(name, webhook.id, webhook.owner, webhook.url, webhook.secret, body, tries)


# --- for the delivery loop --------------------------------------------------------------------------------------------


def enqueue_deliveries(session: Session, job_id: str, from_status: str | None, to_status: str, reason: str) -> None:
    """Put the change of a job's state among the deliveries of every webhook that wants to know it."""
    wanted = select(Webhook, Job).join(Job, Job.owner == Webhook.owner)
    now: datetime | None = None
    for webhook, job in session.execute(wanted.where(Job.id == job_id, Webhook.disabled_at.is_(None))).all():
        if to_status not in webhook.events:
            continue
        now = now or session.now()
        data: dict[str, Any] = {
            "job": job.id,
            "kind": job.kind,
            "name": job.name,
            "owner": job.owner,
            "labels": job.labels,
        }
        data |= {"from_status": from_status, "to_status": to_status, "reason": reason}
        event = wire.Event(type=f"job.{to_status}", timestamp=now, data=data).model_dump(mode="json")
        session.add(WebhookDelivery(webhook_id=webhook.id, event=event, created_at=now, due_at=now))
    if now is not None:
        session.notify(WEBHOOKS)


def any_due(session: Session) -> bool:
    due = select(WebhookDelivery.id).where(WebhookDelivery.due_at <= session.now()).limit(1)
    return session.scalar(due) is not None


def take(session: Session, limit: int, in_progress: Iterable[PendingDelivery] = ()) -> list[PendingDelivery]:
    """Due deliveries beside those that are `in_progress`; another delivery loop does not see them meanwhile.

    Each time one of whoever has the fewest on their way, among them of whoever has waited longest: neither a long
    backlog nor many receivers that never answer come in the way of others.
    """
    now = session.now()
    waiting = _waiting(session, now)
    owners = Counter(delivery.owner for delivery in in_progress)
    hooks = Counter(delivery.webhook for delivery in in_progress)
    taken: list[PendingDelivery] = []
    while waiting and len(taken) < limit:
        webhook = min(waiting, key=lambda one: (owners[one.owner], hooks[one.id]))
        full = hooks[webhook.id] >= MAX_CONCURRENT_PER_WEBHOOK or owners[webhook.owner] >= MAX_CONCURRENT_PER_OWNER
        row = None if full else _next(session, webhook, now)
        if row is None:
            waiting.remove(webhook)
            continue
        row.due_at = now + VISIBILITY_TIMEOUT
        row.tries += 1
        owners[webhook.owner] += 1
        hooks[webhook.id] += 1
        taken.append(_pending(row.id, webhook, wire.Event(**row.event), row.tries))
    return taken


def _waiting(session: Session, now: datetime) -> list[Webhook]:
    """Webhooks that something is due for, the one that has waited longest first."""
    due = (
        select(WebhookDelivery.webhook_id, func.min(WebhookDelivery.due_at).label("since"))
        .where(WebhookDelivery.due_at <= now)
        .group_by(WebhookDelivery.webhook_id)
        .subquery()
    )
    found = select(Webhook).join(due, due.c.webhook_id == Webhook.id)
    return list(session.scalars(found.order_by(due.c.since, Webhook.id)))


def _next(session: Session, webhook: Webhook, now: datetime) -> WebhookDelivery | None:
    due = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.due_at <= now)
    oldest = due.order_by(WebhookDelivery.due_at, WebhookDelivery.id).limit(1)
    return session.scalar(oldest.with_for_update(skip_locked=True))


def attempt(delivery: PendingDelivery, settings: Settings, now: datetime) -> Undeliverable | None:
    """Post it, signed; what came in the way."""
    try:
        send(delivery, settings, now)
    except Undeliverable as error:
        return error
    return None


def send(delivery: PendingDelivery, settings: Settings, now: datetime) -> None:
    """Post it, signed. Raises: `Undeliverable`."""
    timestamp = str(int(now.timestamp()))
    headers = {
        "content-type": "application/json",
        "user-agent": "crosskd-webhook",
        wire.ID_HEADER: delivery.id,
        wire.TIMESTAMP_HEADER: timestamp,
        wire.SIGNATURE_HEADER: sign(delivery.secret, delivery.id, timestamp, delivery.body),
    }
    status = post(delivery.url, headers, delivery.body, settings.webhook_networks)
    if not 200 <= status < 300:
        raise Undeliverable(f"the receiver answered {status}", status)


def sign(secret: str, delivery: str, timestamp: str, body: bytes) -> str:
    """`v1,` and the HMAC-SHA256 over id, time and body in base64, as Standard Webhooks has it."""
    key = base64.b64decode(secret.removeprefix(wire.SECRET_PREFIX))
    content = f"{delivery}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def record_outcome(session: Session, delivery: PendingDelivery, trouble: Undeliverable | None) -> None:
    """Record what came of a try: it is over, or due again later. Old ones go.

    A try that took so long that another delivery loop has taken the row since is not the row's try any more.
    """
    # One at a time of each webhook: below, one ends the others.
    webhook = session.scalar(select(Webhook).where(Webhook.id == delivery.webhook).with_for_update())
    row = session.get(WebhookDelivery, delivery.id)
    if webhook is None or row is None:
        return  # deleted meanwhile
    if row.delivered or row.tries != delivery.tries:
        return
    now = session.now()
    row.delivered = trouble is None
    row.problem = str(trouble or "")
    gone = trouble is not None and trouble.status == GONE
    if trouble is None or gone or webhook.disabled_at is not None or row.tries > len(DELAYS):
        row.due_at = None
    else:
        jitter = random.uniform(1.0, 1.2)  # noqa: S311 - no secret: it keeps receivers from being called all at once
        row.due_at = now + timedelta(seconds=DELAYS[row.tries - 1] * jitter)
    if gone:
        webhook.disabled_at = now
        waiting = update(WebhookDelivery).where(WebhookDelivery.webhook_id == row.webhook_id)
        session.execute(waiting.where(WebhookDelivery.due_at.is_not(None)).values(due_at=None, problem=row.problem))
    over = delete(WebhookDelivery).where(WebhookDelivery.webhook_id == row.webhook_id, WebhookDelivery.due_at.is_(None))
    session.execute(over.where(WebhookDelivery.created_at < now - KEEP))


def as_result(trouble: Undeliverable | None) -> wire.CallResult:
    return wire.CallResult(delivered=trouble is None, problem=str(trouble or ""))
