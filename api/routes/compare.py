"""`/compare`: how detectors that were measured on the same images differ, and how sure that is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.database import DatabaseDep
from api.http.transactional import Transactional
from api.services.answers import compare
from api.services.files.conditional import select
from api.storage import StorageDep
from api.stores.threads import COMPARING
from wire.compare import MAX_COMPARED, MIN_COMPARED, Comparison, JobOrTeacher

router = APIRouter(tags=["results"], route_class=Transactional)


@router.get(
    "/compare",
    response_model=Comparison,
    responses={304: {"description": "`If-None-Match` names the comparison that stands."}},
)
async def compare_jobs(
    request: Request,
    database: DatabaseDep,
    storage: StorageDep,
    job: Annotated[
        list[JobOrTeacher],
        Query(
            min_length=MIN_COMPARED,
            max_length=MAX_COMPARED,
            description="A job by its id: its best student. With `:teacher` behind the id: its teacher.",
        ),
    ],
    baseline: Annotated[
        JobOrTeacher | None, Query(description="Which of them the others are compared with; default: the first.")
    ] = None,
) -> Response:
    """AP of the best students (or teachers) of jobs, and each difference from the baseline with its 95 % interval.

    All must have been measured on the same images, ground truth and classes; else the answer is 422 and names what
    differs. The interval is of a paired bootstrap: the images are drawn anew a thousand times, the same for all jobs.
    """
    state = request.app.state
    found = await run_in_threadpool(compare.find_all, database, job, baseline)
    headers = {"ETag": f'"{compare.tag_of(found)}"', "Cache-Control": "no-cache"}
    # As for a HEAD, which has no ranges: an answer is no file that parts of are asked for.
    if select("HEAD", request.headers, headers["ETag"], 0).status == 304:
        return Response(None, 304, headers)
    answer = compare.kept(state.comparisons, found)
    if answer is None:
        seconds = state.settings.compare_seconds
        answer = await COMPARING.run_if_soon(compare.compute, state.comparisons, storage, found, seconds)
    return Response(answer.model_dump_json(), media_type="application/json", headers=headers)
