"""Jobs: post, list, read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.models import Example
from pydantic import Field

from api import turns
from api.auth import CallerDep
from api.database import ReadDep, SessionDep
from api.errors import InvalidSpec, invalid_request
from api.http.idempotent import IdempotencyDep, IdempotentRoute
from api.http.listed import IdFilter, NameFilter, OwnerFilter
from api.limits import MAX_REPEATS
from api.models import ID
from api.services.jobs import listing, store
from api.services.submission import validation
from api.services.submission.shared import Shared
from api.services.submission.submit import submit
from api.storage import StorageDep
from wire.faults import at_what_was_sent
from wire.jobs import LONGEST_NAME, DryRun, Job, JobCreate, JobPage, Status, SubmittedJob
from wire.kinds import Kind
from wire.tokens import ME


class SpecRoute(IdempotentRoute):
    """A body that its model refuses is still held against the files and the database: all faults in one answer.

    And each fault is told at something that was sent.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                turns.end()  # reading files may take long, and other large bodies need not wait for that
                state = request.app.state
                known = (state.database, state.settings, error.body, Shared(state.storage))
                further = await run_in_threadpool(validation.further_faults, *known)
                refused = await run_in_threadpool(invalid_request, request, error, further)
                refused.errors = at_what_was_sent(refused.errors, error.body)
                raise refused from None
            except InvalidSpec as error:
                if any(fault.pointer.startswith("/") for fault in error.errors):  # of the body, so it is JSON
                    error.errors = at_what_was_sent(error.errors, await request.json())
                raise

        return answer


router = APIRouter(tags=["jobs"], route_class=SpecRoute)

_DATA = {
    split: {"annotations": f"/data/coco/{split}.json", "images": f"/data/coco/{split}"} for split in ("train", "val")
}
_FORMER = {"job": "0197c2a4b0e57c3f8d1e2a3b4c5d6e7f", "checkpoint": "best"}
_STUDENT = {"detector": "gfl", "backbone": {"name": "resnet18"}}
_EXAMPLES: dict[str, Example] = {
    "train": {
        "summary": "Train a detector",
        "value": {"kind": "train", "name": "gfl r18", "spec": {"data": _DATA, "student": _STUDENT}},
    },
    "distill": {
        "summary": "Distil it from the best weights of a former job",
        "value": {
            "kind": "distill",
            "name": "gfl r18 under r50",
            "labels": {"team": "cells"},
            "spec": {
                "data": _DATA,
                "student": _STUDENT,
                "teacher": {"weights": _FORMER},
                "distill": {"crosskd": {}},
            },
        },
    },
    "evaluate": {
        "summary": "Evaluate the weights of a former job",
        "value": {"kind": "evaluate", "name": "once more", "spec": {"weights": _FORMER, "data": {"val": _DATA["val"]}}},
    },
    "export": {
        "summary": "Export them as ONNX",
        "value": {"kind": "export", "name": "for the device", "spec": {"weights": _FORMER}},
    },
    "import": {
        "summary": "Import a data set",
        "value": {
            "kind": "import",
            "name": "cells",
            "spec": {"source": "/data/cells", "split": {"validation": 0.2}},
        },
    },
}


@router.post(
    "/jobs",
    status_code=HTTPStatus.CREATED,
    dependencies=[IdempotencyDep],
    responses={
        200: {"model": DryRun, "description": "With `dry_run=true`: the job as it would be stored."},
        201: {"headers": {"Location": {"schema": {"type": "string"}}}},
    },
)
def create_job(
    order: Annotated[JobCreate, Body(openapi_examples=_EXAMPLES)],
    request: Request,
    response: Response,
    session: SessionDep,
    storage: StorageDep,
    caller: CallerDep,
    dry_run: Annotated[bool, Query(description="Validate, fill in every default, store nothing.")] = False,
) -> SubmittedJob | DryRun:
    """Submit a job. Every fault of the specification is told at once."""
    answer = submit(session, request.app.state.settings, storage, order, caller.owner, dry_run=dry_run)
    if isinstance(answer, DryRun):
        response.status_code = HTTPStatus.OK
    else:
        response.headers["Location"] = f"/jobs/{answer.id}"
    return answer


@router.get("/jobs")
def list_jobs(
    session: ReadDep,
    caller: CallerDep,
    status: Annotated[list[Status], Query(default_factory=list, max_length=MAX_REPEATS, description="Any of these.")],
    label: Annotated[
        list[Annotated[str, Field(json_schema_extra={"pattern": "^[^=\\x00]+=[^\\x00]*$"})]],
        Query(default_factory=list, max_length=MAX_REPEATS, description="`key=value`; all of these."),
    ],
    kind: Annotated[list[Kind], Query(default_factory=list, max_length=MAX_REPEATS, description="Any of these.")],
    owner: OwnerFilter = None,
    name: NameFilter = None,
    prefix: IdFilter = None,
    search: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=LONGEST_NAME,
            pattern=r"^[^\x00]+$",
            description="Part of the name, in capitals or small letters, or the beginning of the id.",
        ),
    ] = None,
    after: Annotated[
        str | None,
        Query(
            description="The id of the last job of the page before.", json_schema_extra={"pattern": f"^{ID.pattern}$"}
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Jobs in a page.")] = 50,
) -> JobPage:
    """Jobs, newest first."""
    wanted = listing.Wanted(status, label, caller.owner if owner == ME else owner, name, kind, search, prefix)
    return listing.page(session, wanted, after=after, limit=limit)


@router.get("/jobs/{job}")
def get_job(job: str, request: Request, session: ReadDep) -> Job:
    """A job with its transitions, attempts and progress."""
    return store.detail(session, request.app.state.settings, store.find(session, job))
