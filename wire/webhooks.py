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

    id: str
    owner: str
    url: str
    events: list[Status]
    created_at: datetime
    disabled_at: datetime | None = Field(default=None, description="Its receiver answered 410: it wants no more.")


class NewWebhook(Webhook):
    """The answer to `POST /webhooks`."""

    secret: str = Field(repr=False, description="Signs every delivery (HMAC-SHA256). It is shown this once.")


class WebhookList(BaseModel):
    items: list[Webhook]


class Event(BaseModel):
    """The body of a delivery."""

    type: str = Field(description="`job.` and the new state; `ping` for a test.")
    timestamp: datetime
    data: dict[str, Any]


class Delivery(BaseModel):
    """One event on its way to one webhook."""

    id: str = Field(description="The header `webhook-id`, the same at each try.")
    type: str
    created_at: datetime
    tries: int
    status: Literal["waiting", "delivered", "given_up"]
    next_try_at: datetime | None = None
    problem: str = Field(default="", description="What came of the last try that failed.")


class DeliveryList(BaseModel):
    """`GET /webhooks/{id}/deliveries`: the newest first, at most 100."""

    items: list[Delivery]


class CallResult(BaseModel):
    """What came of a test call."""

    delivered: bool
    problem: str = ""
