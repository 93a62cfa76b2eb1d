"""What a request is made of, and what its answer says: the wire's models, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel, ValidationError

from client.errors import ClientError, Unreachable, problem_of
from wire.errors import IDEMPOTENCY_HEADER, MEDIA_TYPE, Problem

COMPUTED = httpx.Timeout(300.0, connect=10.0)  # of what the service computes once: others may be computed first
PAGE = 100  # jobs, or sweeps, asked for at once

ModelT = TypeVar("ModelT", bound=BaseModel)


def parse(model: type[ModelT], response: httpx.Response) -> ModelT:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise ClientError(
            f"{response.request.url} answered with something that is no {model.__name__}.",
            remedy="Check the address, and that service and client are of one version.",
        ) from error


def checked(response: httpx.Response) -> httpx.Response:
    """The answer, if it is a success. Raises: `ApiProblem`."""
    if response.is_success:
        return response
    if response.headers.get("content-type", "").startswith(MEDIA_TYPE):
        try:
            raise problem_of(Problem.model_validate_json(response.content))
        except ValidationError:
            pass  # not a problem after all: told in its own words below
    text = "" if response.request.method == "HEAD" else response.text[:500]
    title = response.reason_phrase or "no success"
    raise problem_of(Problem(title=title, status=response.status_code, detail=text))


def unreachable(url: str, error: httpx.TransportError) -> Unreachable:
    return Unreachable(
        f"No answer from {url} ({error or type(error).__name__}).",
        remedy="Start the service with `crosskd up`, or name its address with --url or CROSSKD_URL.",
    )


def body(job: BaseModel | Mapping[str, Any]) -> Any:
    # Only what was set travels: the service fills in the defaults of its own version.
    return job.model_dump(mode="json", exclude_unset=True) if isinstance(job, BaseModel) else dict(job)


def given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def idempotency_header(key: str | None) -> dict[str, str]:
    """The header of a request that creates."""
    return {IDEMPOTENCY_HEADER: key or str(uuid4())}


def segment(text: str) -> str:
    return quote(text, safe="")
