"""What operators look at: whether the service is ready, who its workers are, and figures for Prometheus."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.database import DatabaseDep, ReadDep
from api.http.transactional import Transactional
from api.services.lifecycle import workers
from api.services.operations import readiness
from api.storage import StorageDep
from wire.system import Part, Ready
from wire.workers import WorkerList

router = APIRouter(tags=["system"], route_class=Transactional)

_FIGURES: dict[int | str, dict[str, Any]] = {
    200: {"description": "In Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get("/ready")
def get_ready(
    request: Request,
    database: DatabaseDep,
    storage: StorageDep,
    part: Annotated[list[Part] | None, Query(description="Try only these; without it, all.")] = None,
) -> Ready:
    """Whether everything works that the service needs: database and its revision, broker, storage; 503 says what not.

    Each call tries all of it anew, so the answer turns by itself when a part comes back. A load balancer asks for
    `part=database&part=migrations`: what all replicas lack together is no reason to send nobody a request, since
    without a broker or with a full storage they still answer most of them.
    """
    asked = tuple(name for name in get_args(Part) if part is None or name in part)
    return readiness.check(database, request.app.state.settings, storage, asked)


@router.get("/workers")
def list_workers(request: Request, session: ReadDep) -> WorkerList:
    """The workers that were heard of within a week, with their devices, versions and what each is at."""
    return workers.listing(session, request.app.state.settings.data_roots)


@router.get("/metrics", response_class=Response, responses=_FIGURES)
def get_figures(request: Request) -> Response:
    """Metrics for Prometheus. Latency, bytes and streams are this process's, all others the service's."""
    return Response(generate_latest(request.app.state.request_metrics.registry), media_type=CONTENT_TYPE_LATEST)
