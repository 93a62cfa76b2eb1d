"""Errors on the wire: RFC 9457 problem details, `application/problem+json`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

MEDIA_TYPE = "application/problem+json"
IDEMPOTENCY_HEADER = "Idempotency-Key"
WRONG_OFFSET = "/problems/wrong-upload-offset"  # `type` of a 409 whose Upload-Offset tells the right one
DIGEST_MISMATCH = "/problems/digest-mismatch"  # `type` of a 400: none of the file is kept, all of it may be sent again
IN_FLIGHT = "/problems/request-in-flight"  # `type` of a 409 that passes: the request is being answered right now
QUOTA_EXCEEDED = "/problems/quota-exceeded"  # `type` of a 429 that does not pass by itself: jobs must end first


def _encodable(value: Any) -> Any:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


# It may quote a file or a request, and JSON can spell half a surrogate pair, which UTF-8 cannot: an answer that tells
# of a fault must not fail of it.
Text = Annotated[str, BeforeValidator(_encodable)]


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    pointer: Text = Field(description="JSON pointer (RFC 6901) into the body, or the name of a query parameter.")
    detail: Text = Field(description="What is wrong.")
    remedy: Text = Field(default="", description="What to do about it.")


class MissingField(Fault):
    """A field that has to be added: the pointer leads to where it is wanted. On the wire it is a fault like others."""


class Problem(BaseModel):
    """RFC 9457. `errors` holds every fault at once; `status` is the HTTP status."""

    type: str = Field(default="about:blank", description="Names the kind of problem, e.g. /problems/invalid-spec.")
    title: str = Field(description="The kind of problem in words; the same for all of its kind.")
    status: int = Field(description="The HTTP status, 400 to 599.")
    detail: Text = Field(default="", description="What is wrong with this request.")
    remedy: Text = Field(default="", description="What to do about it.")
    instance: Text = Field(default="", description="The path that was asked for.")
    request_id: str = Field(default="", description="As in `X-Request-ID`: by it the service's logs tell more.")
    errors: list[Fault] = Field(
        default=[], description="What is wrong, field by field: the first 100; `detail` counts all."
    )
