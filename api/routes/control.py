"""What a client may do to a job that there is."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from api.auth import CallerDep
from api.database import SessionDep
from api.http.idempotent import IdempotencyDep, IdempotentRoute
from api.services.jobs import store
from api.services.lifecycle import control
from api.storage import StorageDep
from wire.jobs import Job

router = APIRouter(tags=["jobs"], route_class=IdempotentRoute)


@router.post("/jobs/{job}/cancel")
def cancel_job(job: str, request: Request, session: SessionDep) -> Job:
    """Discard a job. One that nobody works on is cancelled at once, a running one as soon as its worker has stopped."""
    return store.detail(session, request.app.state.settings, control.cancel(session, job))


@router.post("/jobs/{job}/stop")
def stop_job(job: str, request: Request, session: SessionDep) -> Job:
    """End a training early as a success: after its step it is evaluated, and its best student delivered."""
    return store.detail(session, request.app.state.settings, control.stop(session, job))


@router.post("/jobs/{job}/pause")
def pause_job(job: str, request: Request, session: SessionDep) -> Job:
    """Free the device. A running training first publishes a checkpoint; a queued one is paused at once."""
    return store.detail(session, request.app.state.settings, control.pause(session, job))


@router.post("/jobs/{job}/resume")
def resume_job(job: str, request: Request, session: SessionDep) -> Job:
    """Queue a paused job again: it goes on from its checkpoint."""
    return store.detail(session, request.app.state.settings, control.resume(session, job))


@router.post(
    "/jobs/{job}/retry",
    status_code=HTTPStatus.CREATED,
    dependencies=[IdempotencyDep],
    responses={201: {"headers": {"Location": {"schema": {"type": "string"}}}}},
)
def retry_job(job: str, request: Request, response: Response, session: SessionDep, caller: CallerDep) -> Job:
    """A new job like a failed or cancelled one, from its last checkpoint. Once retried, the answer is the same job."""
    again = control.retry(session, request.app.state.settings, job, caller.owner)
    response.headers["Location"] = f"/jobs/{again.id}"
    return store.detail(session, request.app.state.settings, again)


@router.delete("/jobs/{job}", status_code=HTTPStatus.NO_CONTENT)
def delete_job(job: str, session: SessionDep, storage: StorageDep) -> None:
    """Delete a job that is at its end, with its reports and artifacts."""
    control.remove(session, storage, job)
