"""Sweeps: post, list, read, steer. Each of a sweep's jobs is a job like any other, too."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.openapi.models import Example

from api.auth import Caller, CallerDep
from api.database import ReadDep, SessionDep
from api.http.idempotent import IdempotencyDep, IdempotentRoute
from api.http.listed import IdFilter, NameFilter, OwnerFilter
from api.models import ID
from api.services.answers import sweeps as answers
from api.services.sweeps import control
from api.services.sweeps.submit import submit
from api.storage import StorageDep
from wire.sweeps import SubmittedSweep, Sweep, SweepCreate, SweepDryRun, SweepPage
from wire.tokens import ME

router = APIRouter(tags=["sweeps"], route_class=IdempotentRoute)

_DATA = {
    split: {"annotations": f"/data/coco/{split}.json", "images": f"/data/coco/{split}"} for split in ("train", "val")
}
_STUDENT = {"detector": "gfl", "backbone": {"name": "resnet18"}}
_EXAMPLES: dict[str, Example] = {
    "does it help": {
        "summary": "Does CrossKD help this student on these data?",
        "value": {
            "name": "gfl r18",
            "base": {"data": _DATA, "student": _STUDENT},
            "arms": {"alone": {"distill": None}, "crosskd": {}},
            "seeds": [0, 1, 2, 3, 4],
            "teacher": {"student": {"detector": "gfl", "backbone": {"name": "resnet50"}}},
        },
    },
    "which weight": {
        "summary": "Which weight, with a teacher that is there",
        "value": {
            "name": "weights of CrossKD",
            "base": {
                "data": _DATA,
                "student": _STUDENT,
                "teacher": {"weights": {"job": "0197c2a4b0e57c3f8d1e2a3b4c5d6e7f"}},
            },
            "arms": {"alone": {"distill": None}, "crosskd": {}},
            "seeds": [0, 1, 2],
            "grid": {"distill.crosskd.cls_weight": [0.5, 1.0, 2.0]},
        },
    },
}


@router.post(
    "/sweeps",
    status_code=HTTPStatus.CREATED,
    dependencies=[IdempotencyDep],
    responses={
        200: {"model": SweepDryRun, "description": "With `dry_run=true`: the jobs as they would be made."},
        201: {"headers": {"Location": {"schema": {"type": "string"}}}},
    },
)
def create_sweep(
    order: Annotated[SweepCreate, Body(openapi_examples=_EXAMPLES)],
    request: Request,
    response: Response,
    session: SessionDep,
    storage: StorageDep,
    caller: CallerDep,
    dry_run: Annotated[bool, Query(description="List the jobs and estimate their time, store nothing.")] = False,
) -> SubmittedSweep | SweepDryRun:
    """Submit arms to compare: all of their jobs, or none. Every fault of every arm is told at once."""
    answer = submit(session, request.app.state.settings, storage, order, caller.owner, dry_run=dry_run)
    if isinstance(answer, SweepDryRun):
        response.status_code = HTTPStatus.OK
        return answer
    _charge(request, caller, len(answer.children))
    response.headers["Location"] = f"/sweeps/{answer.id}"
    return answer


def _charge(request: Request, caller: Caller, jobs: int) -> None:
    """A request that makes many jobs counts as as many; it was itself counted as one."""
    if caller.token_id is not None and jobs > 1:
        request.app.state.rates.charge(caller.token_id, jobs - 1)


@router.get("/sweeps")
def list_sweeps(
    session: ReadDep,
    caller: CallerDep,
    owner: OwnerFilter = None,
    name: NameFilter = None,
    prefix: IdFilter = None,
    after: Annotated[
        str | None,
        Query(
            description="The id of the last sweep of the page before.",
            json_schema_extra={"pattern": f"^{ID.pattern}$"},
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Sweeps in a page.")] = 50,
) -> SweepPage:
    """Sweeps, newest first."""
    whose = caller.owner if owner == ME else owner
    return answers.page(session, after=after, limit=limit, owner=whose, name=name, prefix=prefix)


@router.get("/sweeps/{sweep}")
def get_sweep(sweep: str, session: ReadDep) -> Sweep:
    """A sweep with its jobs, what each arm has reached, and the verdicts; while jobs run, of those that have ended."""
    return answers.detail(session, answers.find(session, sweep))


@router.post("/sweeps/{sweep}/cancel")
def cancel_sweep(sweep: str, session: SessionDep) -> Sweep:
    """Discard every job that has not ended."""
    return answers.detail(session, control.cancel(session, sweep))


@router.post("/sweeps/{sweep}/pause")
def pause_sweep(sweep: str, session: SessionDep) -> Sweep:
    """Free the devices. Running trainings first publish a checkpoint."""
    return answers.detail(session, control.pause(session, sweep))


@router.post("/sweeps/{sweep}/resume")
def resume_sweep(sweep: str, session: SessionDep) -> Sweep:
    """Queue the paused jobs again."""
    return answers.detail(session, control.resume(session, sweep))


@router.post("/sweeps/{sweep}/retry", dependencies=[IdempotencyDep])
def retry_sweep(sweep: str, request: Request, session: SessionDep, caller: CallerDep) -> Sweep:
    """A new job in the place of each that failed or was cancelled, from its last checkpoint."""
    found, made = control.retry(session, request.app.state.settings, sweep, caller.owner)
    _charge(request, caller, made)
    return answers.detail(session, found)


@router.delete("/sweeps/{sweep}", status_code=HTTPStatus.NO_CONTENT)
def delete_sweep(sweep: str, session: SessionDep, storage: StorageDep) -> None:
    """Delete a sweep whose jobs have all ended, with the jobs and all that they have made."""
    control.remove(session, storage, sweep)
