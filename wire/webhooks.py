"""Webhooks on the wire: addresses that are told when a job changes its state, in the format of Standard Webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, StringConstraints

from crosskd.spec.bounds import AtMost
from wire.jobs import Status
from wire.request import RequestModel

# Names of headers and form of the signature: https://www.standardwebhooks.com
ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER = "webhook-id", "webhook-timestamp", "webhook-signature"
SECRET_PREFIX = "whsec_"  # noqa: S105 - the standard's mark of a secret

Url = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^https?://[\x21-\x7e]+$")]


class WebhookCreate(RequestModel):
    """`POST /webhooks`."""

    url: Url = Field(description="Where each event is posted to. No redirect is followed.")
    events: Annotated[list[Status], Field(min_length=1), AtMost(len(get_args(Status)))] = Field(
        default=["succeeded", "failed", "cancelled"], description="States of the owner's jobs to tell of."
    )


class Webhook(BaseModel):
    """A webhook as it is listed: all but its secret."""

    id: str = Field(description="Of the webhook: 32 hex digits.")
    owner: str = Field(description="Whose jobs it is told of.")
    url: str = Field(description="Where each event is posted to.")
    events: list[Status] = Field(description="The states of jobs that it is told of.")
    created_at: datetime = Field(description="When it was made, in UTC.")
    disabled_at: datetime | None = Field(default=None, description="Its receiver answered 410: it wants no more.")


class NewWebhook(Webhook):
    """The answer to `POST /webhooks`."""

    secret: str = Field(repr=False, description="Signs every delivery (HMAC-SHA256). It is shown this once.")


class WebhookList(BaseModel):
    items: list[Webhook] = Field(description="The webhooks of whoever asks; of an administrator, all.")


class Event(BaseModel):
    """The body of a delivery."""

    type: str = Field(description="`job.` and the new state; `ping` for a test.")
    timestamp: datetime = Field(description="When it happened, in UTC.")
    data: dict[str, Any] = Field(description="The job: its id, name, owner, labels, state, and what changed.")


class Delivery(BaseModel):
    """One event on its way to one webhook."""

    id: str = Field(description="The header `webhook-id`, the same at each try.")
    type: str = Field(description="`job.` and the new state; `ping` for a test.")
    created_at: datetime = Field(description="When the event happened, in UTC.")
    tries: int = Field(description="How often it was tried, from 0.")
    status: Literal["waiting", "delivered", "given_up"] = Field(
        description="waiting: for its next try; delivered: the receiver answered 2xx; given_up: it never did."
    )
    next_try_at: datetime | None = Field(default=None, description="When it is tried next, in UTC; null: it is not.")
    problem: str = Field(default="", description="What came of the last try that failed.")


class DeliveryList(BaseModel):
    """`GET /webhooks/{id}/deliveries`: the newest first, at most 100."""

    items: list[Delivery] = Field(description="The newest deliveries, 100 at most.")


class CallResult(BaseModel):
    """What came of a test call."""

    delivered: bool = Field(description="Whether the receiver answered 2xx.")
    problem: str = Field(default="", description="What came in place of that; empty: it was delivered.")
