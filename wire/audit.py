"""An audit on the wire: what the database and the storage say differently, line by line (`application/x-ndjson`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

MEDIA_TYPE = "application/x-ndjson"

Problem = Literal["missing", "size", "bytes", "unreadable", "unnamed", "in_flight"]


class Finding(BaseModel):
    """Something about one file.

    missing     a row names it, and it is not there
    size        it has another size than its row says
    bytes       it has another sha256 than its row says (`verify` alone looks)
    unreadable  the storage does not give it
    unnamed     it is there, and no row names it: left by a crash, which the sweep removes, or a stranger's
    in_flight   the same, of a young file: an upload whose row is about to come; no fault
    """

    event: Literal["finding"] = "finding"
    problem: Problem
    key: str = Field(description="In the storage.")
    job: str | None = Field(default=None, description="Of the row; null: no row names the file.")
    artifact: str | None = Field(default=None, description="Its name in that job.")
    expected: str | None = Field(default=None, description="Bytes or sha256, as the row says.")
    found: str | None = Field(default=None, description="Bytes, sha256 or the error, as the storage says.")
    age_seconds: float | None = Field(default=None, description="Of a file that no row names.")


class Progress(BaseModel):
    """How far it is; now and then, so that nobody takes a long audit for a dead one."""

    event: Literal["progress"] = "progress"
    rows: int = 0
    files: int = 0
    bytes_read: int = 0


class Summary(BaseModel):
    """The last line of an audit that came to its end. One without it has broken off."""

    event: Literal["summary"] = "summary"
    rows: int
    files: int
    bytes_read: int
    findings: int = Field(description="Faults; files in flight are none.")
    in_flight: int


class Aborted(BaseModel):
    """The last line of an audit that could not come to its end."""

    event: Literal["aborted"] = "aborted"
    detail: str


Line = Annotated[Finding | Progress | Summary | Aborted, Field(discriminator="event")]
LINE: TypeAdapter[Finding | Progress | Summary | Aborted] = TypeAdapter(Line)
