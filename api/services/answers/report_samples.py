"""Sample images of a job's report: before and after, beside the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi.concurrency import run_in_threadpool

from api.errors import ApiError
from api.services.answers import image_sources, images
from api.services.answers.images import Located, Wanted
from api.services.answers.locate_images import Images
from crosskd.spec.results.detections import SAMPLES
from report.samples import MOST, SIDE, Sample, Stage, fitting
from wire.images import ImagePage, JobImage
from wire.job_report import JobReport

_WHAT = "sample images with what was found in them"


async def samples_of(source: Images, report: JobReport) -> tuple[list[Sample], str]:
    """Up to four images with the boxes of the teacher, of the first evaluation and of the best student; and why there
    are none, or not all of them. Nothing is said of a job that has not been evaluated."""
    if not any(row.model == "student" for row in report.evaluations):
        return [], ""
    try:
        return await _samples(source, report.job.id)
    except ApiError as error:
        return [], f"{_WHAT}: {error}"


async def _samples(source: Images, job: str) -> tuple[list[Sample], str]:
    first, best = await run_in_threadpool(image_sources.sample_steps, source.database, job)
    located, _ = await source.locate(job, best)
    every = Wanted("id", None, None, SAMPLES)
    after = await run_in_threadpool(images.page, located, None, every)
    before = None
    if first != best:
        earlier, _ = await source.locate(job, first)
        before = await run_in_threadpool(images.page, earlier, None, every)
    found: list[Sample] = []
    fault = ""
    for image in chosen(after.items):
        try:
            found.append(await _sample(source, located, image, after, before))
        except ApiError as error:
            fault = f"{_WHAT}, all of them: {error}"
    return fitting(found), fault


def chosen(items: Sequence[JobImage]) -> list[JobImage]:
    """Evenly spread over the samples with boxes, whatever was found: a report shows no selection of the best."""
    known = [image for image in items if image.truth] or list(items)
    if len(known) <= MOST:
        return known
    return [known[round(place * (len(known) - 1) / (MOST - 1))] for place in range(MOST)]


async def _sample(
    source: Images, located: Located, image: JobImage, after: ImagePage, before: ImagePage | None
) -> Sample:
    stages = []
    if image.teacher is not None and after.teacher is not None:
        stages.append(Stage("Teacher", after.teacher.score, image.teacher.boxes))
    if before is not None:
        earlier = next((one for one in before.items if one.id == image.id), None)
        if earlier is not None:
            stages.append(Stage(f"Step {before.student.step}", before.student.score, earlier.student.boxes))
    stages.append(Stage(f"Step {after.student.step}, the best", after.student.score, image.student.boxes))
    picture = await (await source.thumbnail(located, image.id, SIDE)).content()
    return Sample(image.file_name, image.width, image.height, picture, stages)
