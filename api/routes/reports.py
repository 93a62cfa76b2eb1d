"""The answer of a job, or of a sweep, in one document: as JSON, a page, or a model card."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool

from api.database import DatabaseDep
from api.errors import Unavailable
from api.http.representations import HTML, JSON, MARKDOWN, negotiate
from api.http.transactional import Transactional
from api.services.answers import sweeps
from api.services.answers.job_report import job_report
from api.services.answers.locate_images import ImagesDep
from api.services.answers.report_samples import samples_of
from crosskd.spec.inputs import real_path
from report.charts import vega
from report.model_card import model_card
from report.samples import Sample
from wire.job_report import JobReport
from wire.sweeps import Sweep

log = logging.getLogger(__name__)

router = APIRouter(tags=["reports"], route_class=Transactional)

_PAGE: dict[int | str, dict[str, Any]] = {
    200: {"description": "As `Accept` asks.", "content": {HTML: {"schema": {"type": "string"}}}}
}
_FORMS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "As `Accept` asks.",
        "content": {HTML: {"schema": {"type": "string"}}, MARKDOWN: {"schema": {"type": "string"}}},
    }
}


@router.get("/jobs/{job}/report", response_model=JobReport, responses=_FORMS)
async def get_report(
    job: str,
    source: ImagesDep,
    alone: Annotated[
        str | None, Query(description="The job that trained the same student without the teacher, to compare with.")
    ] = None,
    accept: Annotated[str, Header()] = "",
) -> Any:
    """What became of a job, most important first.

    `text/html`: one file that works without the service and without a network. `text/markdown`: a model card in
    Hugging Face's form, the `README.md` beside the weights.
    """
    media_type = negotiate(accept, (JSON, HTML, MARKDOWN))
    found = await run_in_threadpool(job_report, source.database, source.storage, source.settings, job, alone)
    headers = {"Vary": "Accept"}
    if media_type == JSON:
        return Response(found.model_dump_json(), media_type=JSON, headers=headers)
    if media_type == MARKDOWN:
        roots = [form for root in source.settings.data_roots for form in (root, real_path(root))]
        return Response(model_card(found, roots), media_type=MARKDOWN, headers=headers)
    samples, fault = await samples_of(source, found)
    missing = [*found.missing, *([fault] if fault else [])]
    return await run_in_threadpool(_drawn, found.model_copy(update={"missing": missing}), samples)


@router.get("/sweeps/{sweep}/report", response_model=Sweep, responses=_PAGE)
def get_sweep_report(sweep: str, database: DatabaseDep, accept: Annotated[str, Header()] = "") -> Any:
    """What the arms of a sweep reached, the verdicts first; while jobs run, of those that have ended.

    `text/html`: one file that works without the service and without a network. As JSON it is `GET /sweeps/{id}`.
    """
    media_type = negotiate(accept, (JSON, HTML))
    with database.reading() as session:  # not held while the page is drawn, which may wait for its scripts
        found = sweeps.detail(session, sweeps.find(session, sweep))
    if media_type == JSON:
        return Response(found.model_dump_json(), media_type=JSON, headers={"Vary": "Accept"})
    return _drawn(found)


def _drawn(found: JobReport | Sweep, samples: Sequence[Sample] = ()) -> Response:
    from report import page  # draws: its libraries take a third of a second to import, which others need not wait for

    try:
        text = page.job_page(found, samples) if isinstance(found, JobReport) else page.sweep_page(found)
    except vega.ScriptsMissing as error:
        log.error("no page of a report: %s", error)
        raise Unavailable(
            "the scripts of the charts cannot be made now",
            remedy="Try again in a moment, or take the report as JSON. The log of the API says why.",
        ) from error
    headers = {"Vary": "Accept", "Content-Security-Policy": page.CONTENT_SECURITY_POLICY}
    return Response(text, media_type=HTML, headers=headers)
