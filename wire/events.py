"""The events of a job, `GET /jobs/{id}/events`: server-sent events whose ids count from 1 without a hole."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from wire.jobs import Progress, Transition
from wire.logs import StoredLine
from wire.reports import Evaluation, MetricRow

EventKind = Literal["transition", "metrics", "evaluation", "log"]


class MetricsEvent(BaseModel):
    """A batch of points as the worker sent it, with the progress it came with."""

    attempt: int
    points: list[MetricRow]
    progress: Progress | None = None


class LogEvent(BaseModel):
    """Lines of the log. Long after, the service may have dropped some: then `dropped` says how many."""

    attempt: int
    lines: list[StoredLine]
    dropped: int = 0


class Event(BaseModel):
    """`id:` and `event:` of the stream; `data:` is the JSON of one of the models, as the kind says."""

    id: int = Field(description="Hand it back as `Last-Event-ID`: the stream goes on behind it.")
    kind: EventKind
    data: Transition | MetricsEvent | Evaluation | LogEvent


DATA: dict[EventKind, type[BaseModel]] = {
    "transition": Transition,
    "metrics": MetricsEvent,
    "evaluation": Evaluation,
    "log": LogEvent,
}
