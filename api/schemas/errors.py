"""Errors on the wire: RFC 9457 problem details, `application/problem+json`."""

from __future__ import annotations

from pydantic import BaseModel, Field

MEDIA_TYPE = "application/problem+json"


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="JSON pointer (RFC 6901) into the body, or the name of a query parameter.")
    detail: str = Field(description="What is wrong.")
    remedy: str = Field(default="", description="What to do about it.")


class Problem(BaseModel):
    """RFC 9457. `errors` holds every fault at once; `status` is the HTTP status."""

    type: str = Field(default="about:blank", description="Names the kind of problem, e.g. /problems/invalid-spec.")
    title: str
    status: int
    detail: str = ""
    remedy: str = ""
    instance: str = ""
    errors: list[Fault] = []
