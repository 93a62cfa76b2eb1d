"""The series of a job: metrics and evaluations."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response

from api.database import DatabaseDep, ReadDep
from api.http.file_response import FileResponse, file_response
from api.http.representations import CSV, negotiate, to_csv
from api.http.transactional import Transactional
from api.limits import MAX_REPEATS
from api.services.files import artifacts
from api.services.history import downsampling, evaluations, series
from api.storage import StorageDep
from wire.reports import (
    Curves,
    EvaluationList,
    MetricBucket,
    MetricBuckets,
    MetricKey,
    MetricPage,
    MetricRow,
    Model,
)

router = APIRouter(tags=["metrics"], route_class=Transactional)

Step = Annotated[int, Query(ge=0, le=2**53)]


@router.get(
    "/jobs/{job}/metrics",
    response_model=MetricPage | MetricBuckets,
    responses={200: {"content": {CSV: {"schema": {"type": "string"}}}, "description": "As `Accept` asks."}},
)
def get_metrics(
    job: str,
    request: Request,
    session: ReadDep,
    key: Annotated[
        list[MetricKey], Query(default_factory=list, max_length=MAX_REPEATS, description="Only these keys.")
    ],
    since_step: Annotated[Step, Query(description="The first optimizer step.")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Points in a page.")] = 1000,
    attempt: Annotated[int | None, Query(ge=1, lt=2**31, description="One attempt's points, replaced or not.")] = None,
    buckets: Annotated[
        int | None,
        Query(ge=1, le=downsampling.MAX_BUCKETS, description="Not points, but at most so many summaries of each key."),
    ] = None,
    until_step: Annotated[int, Query(ge=0, le=2**53, description="With `buckets`: the last step.")] = 2**53,
    accept: Annotated[str, Header()] = "",
) -> Any:
    """Metric points by step and key, whole steps only; `Link` leads to the next page.

    With `buckets` the whole series at once: count, min, max and last of as many steps each as it takes, so spikes and
    values that are not finite survive; at most 4,000 over all keys, and then fewer of each.

    After a resume the new attempt's points stand in place of earlier ones behind the checkpoint's step.
    """
    media_type = negotiate(accept)
    if buckets is not None:
        found = downsampling.read(
            session, job, keys=key, since_step=since_step, until_step=until_step, buckets=buckets, attempt=attempt
        )
        body = to_csv(MetricBucket, found.items) if media_type == CSV else found.model_dump_json()
        return Response(body, media_type=media_type, headers={"Vary": "Accept"})
    page = series.page(session, job, keys=key, since_step=since_step, limit=limit, attempt=attempt)
    headers = {"Vary": "Accept"}
    if page.next_step is not None:
        following = request.url.include_query_params(since_step=page.next_step)
        headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    body = to_csv(MetricRow, page.items) if media_type == CSV else page.model_dump_json()
    return Response(body, media_type=media_type, headers=headers)


@router.get("/jobs/{job}/evaluations")
def get_evaluations(
    job: str,
    request: Request,
    response: Response,
    session: ReadDep,
    since_step: Annotated[Step, Query(description="The first optimizer step.")] = 0,
    limit: Annotated[
        int, Query(ge=1, le=evaluations.LONGEST_PAGE, description="Evaluations in a page.")
    ] = evaluations.LONGEST_PAGE,
) -> EvaluationList:
    """The 12 COCO numbers and those of each class, per evaluated step of student and teacher.

    By step, whole steps only. A page holds 8 million characters at most, which is 6 evaluations of 10,000 classes or
    800 of 80; `Link` leads to the next.
    """
    page = evaluations.page(session, job, since_step=since_step, limit=limit)
    if page.next_step is not None:
        following = request.url.include_query_params(since_step=page.next_step)
        response.headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    return page


@router.head("/jobs/{job}/evaluations/{step}/curves", include_in_schema=False, response_class=FileResponse)
@router.get(
    "/jobs/{job}/evaluations/{step}/curves",
    response_class=FileResponse,
    status_code=200,
    responses={200: {"model": Curves}, 304: {"description": "`If-None-Match` names the version that stands."}},
)
def get_curves(
    job: str,
    step: Annotated[int, Path(ge=0, le=2**53)],
    request: Request,
    database: DatabaseDep,
    storage: StorageDep,
    model: Annotated[Model, Query(description="Whose evaluation.")] = "student",
) -> FileResponse:
    """Precision over recall of one evaluation: per class, and their mean, at IoU 0.50, 0.75 and over 0.50:0.95."""
    return file_response(request, artifacts.open_curves(database, storage, job, model, step))
