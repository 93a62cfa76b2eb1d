"""The log of a job on the wire, line by line: what workers hand in while they train, and what a client reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from crosskd.spec.bounds import AtMost
from wire.reports import Moment
from wire.request import RequestModel
from wire.scalars import Count

LINE_CHARACTERS = 2000
MAX_LINES = 500  # of one batch

Level = Literal["debug", "info", "warning", "error", "critical"]


class LogLine(BaseModel):
    """One line; a message of several lines is several of these."""

    model_config = ConfigDict(extra="forbid")

    at: Moment = Field(description="When it was written; without a zone, UTC.")
    level: Level = Field(default="info", description="How grave it is.")
    text: Annotated[str, Field(max_length=LINE_CHARACTERS, pattern=r"^[^\x00]*$")] = Field(
        description="The line, without its end."
    )


class LogBatch(RequestModel):
    """`POST /worker/attempts/{attempt}/logs`: the same `sequence` again changes nothing."""

    sequence: Count = Field(description="Number of the batch within the attempt.")
    lines: Annotated[list[LogLine], Field(min_length=1), AtMost(MAX_LINES, fields=16)] = Field(
        description="Up to 500 lines, in their order."
    )


class StoredLine(BaseModel):
    """A line as a client reads it. `number` counts from 1 over all attempts of a job."""

    number: int = Field(description="Its place in the job's log, from 1.")
    attempt: int = Field(description="Number of the attempt that wrote it, from 1.")
    at: AwareDatetime = Field(description="When it was written, in UTC.")
    level: Level = Field(description="How grave it is.")
    text: str = Field(description="The line, without its end.")

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S}  {self.level.upper():<7}  {self.text}"


class LogPage(BaseModel):
    """`GET /jobs/{id}/logs`: the last lines. Older than `oldest` the service keeps none; `log.txt` has them all."""

    items: list[StoredLine] = Field(description="The lines of this page, oldest first.")
    oldest: int = Field(description="Number of the oldest line that is kept, from 1: that while none was dropped.")
    total: int = Field(description="Lines reported so far, from 0.")
    last_event: int = Field(description="The event, from 0, up to which this is the log: what to follow it from.")
